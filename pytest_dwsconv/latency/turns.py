"""Functions timed in turns, and what their times say of each other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from math import ceil
from random import Random
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from pytest_dwsconv.core.latency.comparison import Comparison, Conditions

LEAST_SECONDS = 0.5e-3
"""A shorter call is timed several times at once, or the clock would be part of its time."""
FEWEST_ROUNDS = 8
FEWEST_LATE = 6
"""Where the time is up before that: with fewer the interval would not hold 95 % of the time."""
MOST_ROUNDS = 200
PRECISION = 1.05
"""Rounds end where the interval of every ratio is as narrow: its high over its low."""
FAR_SLOWER = 0.8
"""A function with a ratio below this is slower for certain, by however much."""
RESAMPLES = 400

Times = list[list[float]]
"""Seconds per call: one list per function, with one time per round, from the first round on."""


def time_in_turns(
    calls: Sequence[Callable[[], object]], seconds: float, rounds: int = FEWEST_ROUNDS
) -> Times:
    """Seconds of each function, called in turns.

    What else the machine does, its clock and its caches then affect all of them alike, and a round
    can be compared function by function. Each round has another order, and every second the reverse
    of the one before. A function whose ratio to the first is precise is not called any more; rounds
    end when all are, or the time is up.

    Args:
        calls: the functions; the others are compared with the first.
        seconds: how long to go on, for at least ``FEWEST_LATE`` rounds.
        rounds: how many there are at least, if the time suffices.
    """
    repeats = [_repeats(call) for call in calls]
    times: Times = [[] for _ in calls]
    deadline = perf_counter() + seconds
    going = list(range(len(calls)))
    enabled = gc.isenabled()
    gc.disable()  # as timeit does: a collection would be part of one function's time
    try:
        for number in range(MOST_ROUNDS):
            for place in _order(going, number):
                times[place].append(_seconds(calls[place], repeats[place]))
            done = number + 1
            # reason: asked after every round, chance would end them where an interval is too narrow
            if done >= rounds and done % 4 == 0:
                going = [place for place in going if not _is_precise(times[0], times[place])]
                going = [0, *going] if going else []
            is_late = done >= FEWEST_LATE and perf_counter() > deadline
            if is_late or not going:
                break
    finally:
        if enabled:
            gc.enable()
    return times


def _repeats(call: Callable[[], object]) -> int:
    """How often a round calls a function; it is warm afterwards."""
    call()
    return max(1, ceil(LEAST_SECONDS / _seconds(call, 1)))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call()
    return max(perf_counter() - start, 1e-9) / repeats


def _order(going: Sequence[int], number: int) -> list[int]:
    """The functions of one round, by their places.

    By chance, or one would always find the caches as the same other left them.
    """
    places = list(going)
    Random(number // 2).shuffle(places)
    return places[::-1] if number % 2 else places


def _is_precise(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the ratio is known, or it is known that nobody will want the second function."""
    low, high = _interval(_ratios(first, second))
    return high < PRECISION * low or high < FAR_SLOWER


def compare(
    first: Sequence[float],
    second: Sequence[float],
    conditions: Conditions,
    batch: int,
    again: Sequence[float] = (),
) -> Comparison:
    """What the times of two functions, round by round, say of the second.

    ``again`` are other times of the first in the same rounds, where there are any: a control.
    """
    ratios = _ratios(first, second)
    low, high = _interval(ratios)
    control = float(np.median(_ratios(first, again))) if again else None
    first = first[: len(second)]
    return Comparison(
        first_ms=float(np.median(first)) * 1000,
        second_ms=float(np.median(second)) * 1000,
        ratio=float(np.median(ratios)),
        low=low,
        high=high,
        spread=max(_spread(first), _spread(second)),
        rounds=len(ratios),
        conditions=conditions,
        batch=batch,
        control=control,
    )


def _ratios(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    return np.divide(first[: len(second)], second, dtype=np.float64)


def _interval(ratios: NDArray[np.float64]) -> tuple[float, float]:
    """Where the median of the ratios is expected, with 95 % (percentile bootstrap, Efron 1979)."""
    random = np.random.default_rng(0)  # the same times give the same interval
    resamples = ratios[random.integers(0, len(ratios), (RESAMPLES, len(ratios)))]
    low, high = np.percentile(np.median(resamples, axis=1), (2.5, 97.5))
    return float(low), float(high)


def _spread(times: Sequence[float]) -> float:
    low, middle, high = np.percentile(times, (10, 50, 90))
    return float((high - low) / middle)
