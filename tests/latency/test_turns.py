from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from pytest_dwsconv.core.latency.comparison import Comparison, Conditions, Speed
from pytest_dwsconv.latency import turns
from pytest_dwsconv.latency.turns import compare, time_in_turns


class Clock:
    """A clock that stands still unless a function takes time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.called: list[float] = []
        monkeypatch.setattr(turns, "perf_counter", lambda: self.now)

    def function(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.called.append(seconds)
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def compared(first: list[float], second: list[float]) -> Comparison:
    return compare(first, second, Conditions(2), 1)


def test_every_function_is_timed_in_every_round(clock: Clock) -> None:
    times = time_in_turns([clock.function(s) for s in (0.004, 0.002, 0.008)], 1)
    assert [len(each) for each in times] == [turns.FEWEST_ROUNDS] * 3
    for each, seconds in zip(times, (0.004, 0.002, 0.008), strict=True):
        assert each == pytest.approx([seconds] * turns.FEWEST_ROUNDS)


def test_orders_vary_and_every_second_round_goes_backwards(clock: Clock) -> None:
    time_in_turns([clock.function(s) for s in (0.004, 0.002, 0.008)], 1)
    called = clock.called[6:]  # reason: two calls of each warm it up and tell how long it takes
    rounds = [called[start : start + 3] for start in range(0, len(called), 3)]
    assert len(rounds) == turns.FEWEST_ROUNDS
    assert [there[::-1] for there in rounds[::2]] == rounds[1::2]
    assert len(set(map(tuple, rounds[::2]))) > 1


def test_a_short_function_is_timed_many_times_at_once(clock: Clock) -> None:
    times = time_in_turns([clock.function(1e-5), clock.function(1e-2)], 1)
    assert times[0] == pytest.approx([1e-5] * turns.FEWEST_ROUNDS)
    assert clock.called.count(1e-5) == 2 + 50 * turns.FEWEST_ROUNDS


def test_rounds_go_on_while_ratios_vary_and_end_when_the_time_is_up(clock: Clock) -> None:
    waits = iter([0.001, 0.001, *[0.001, 0.003] * 500])

    def varying() -> None:
        clock.now += next(waits)

    few = time_in_turns([clock.function(0.002), varying], 0.1)
    assert turns.FEWEST_ROUNDS < len(few[0]) < 40
    assert time_in_turns([clock.function(0.002), varying], 0.0)[0] == pytest.approx([0.002] * 6)


def test_what_is_far_slower_need_not_be_known_precisely(clock: Clock) -> None:
    waits = iter([0.01, 0.01, *[0.01, 0.03] * 500])

    def varying() -> None:
        clock.now += next(waits)

    times = time_in_turns([clock.function(0.002), varying], 1)
    assert len(times[0]) == turns.FEWEST_ROUNDS


def test_what_is_known_precisely_is_not_called_any_more(clock: Clock) -> None:
    waits = iter([0.001, 0.001, *[0.001, 0.003] * 500])

    def varying() -> None:
        clock.now += next(waits)

    first, known, other = time_in_turns([clock.function(s) for s in (0.002, 0.004)] + [varying], 1)
    assert len(first) == len(other) > len(known) == turns.FEWEST_ROUNDS
    assert compared(first, known).ratio == pytest.approx(0.5)


def test_the_garbage_collector_waits_and_is_as_before(clock: Clock) -> None:
    seen = []
    time_in_turns([clock.function(1), lambda: seen.append(gc.isenabled())], 0)
    assert seen[-1] is False
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("first", "second", "verdict", "claim"),
    [
        ([2.0, 2.1, 2.0, 1.9], [1.0, 1.0, 1.0, 1.0], Speed.FASTER, "2x faster"),
        ([1.0, 1.0, 1.0, 1.0], [4.0, 4.1, 4.0, 3.9], Speed.SLOWER, "4x slower"),
        ([1.0, 1.01, 1.0, 1.0], [1.0, 1.0, 1.02, 1.0], Speed.SAME, "no difference"),
        ([1.02] * 4, [1.0] * 4, Speed.SAME, "no difference"),
        ([1.0, 3.0, 1.0, 3.0], [2.0, 1.0, 2.0, 1.0], Speed.UNDECIDED, "too noisy"),
    ],
)
def test_the_verdict_is_on_the_second(
    first: list[float], second: list[float], verdict: Speed, claim: str
) -> None:
    found = compared(first, second)
    assert found.verdict is verdict
    assert found.claim == claim


def test_a_disturbance_of_both_leaves_their_ratio() -> None:
    found = compared([2.0, 20.0, 2.0, 10.0], [1.0, 10.0, 1.0, 5.0])
    assert (found.ratio, found.low, found.high) == (2, 2, 2)
    assert found.is_busy
    assert "the machine was busy" in str(found)


@pytest.mark.parametrize(("again", "is_busy"), [([2.0, 2.1, 2.0, 2.0], False), ([2.2] * 4, True)])
def test_a_network_that_is_not_as_fast_as_itself_tells_of_a_busy_machine(
    again: list[float], is_busy: bool
) -> None:
    found = compare([2.0] * 4, [1.0] * 4, Conditions(2), 1, again)
    assert found.is_busy == is_busy
    assert ("the first was 0.91x as fast as itself" in str(found)) == is_busy


def test_a_comparison_says_its_conditions() -> None:
    found = compared([0.008] * 4, [0.004] * 4)
    assert str(found) == (
        "2x faster (2.00 to 2.00x; 8.00 to 4.00 ms; measured, PyTorch, 2 threads, contiguous, "
        "batch 1)"
    )
    assert found.saved_ms == pytest.approx(4)


def test_the_same_times_give_the_same_interval() -> None:
    times = [1.0, 1.3, 1.1, 0.9, 1.2]
    assert compared(times, times[::-1]) == compared(times, times[::-1])
