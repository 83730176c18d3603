from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.latency import benchmark, turns
from pytest_dwsconv.latency.benchmark import measure_network

QUIET, LOUD, LOUDER = [1.0] * 4, [1.0, 3.0] * 2, [1.0, 9.0] * 2


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Times of the reference, per attempt; those of the network are the attempt's number."""
    left: list[list[float]] = []
    number = 0

    def time_in_turns(
        calls: Sequence[Callable[[], object]], seconds: float, rounds: int
    ) -> list[list[float]]:
        nonlocal number
        number += 1
        assert len(calls) == 2
        return [[float(number)], left.pop(0)]

    monkeypatch.setattr(benchmark, "time_in_turns", time_in_turns)
    return left


@pytest.mark.parametrize(
    ("references", "counted", "unused"),
    [
        ([QUIET, LOUD, LOUD], 1, 2),
        ([LOUD, QUIET, LOUD], 2, 1),
        ([LOUDER, LOUD, LOUDER], 2, 0),
    ],
)
def test_where_the_machine_was_busy_it_is_measured_again_and_the_quietest_counts(
    attempts: list[list[float]], references: list[list[float]], counted: int, unused: int
) -> None:
    attempts += references
    found = measure_network(nn.ReLU(), (1, 3))
    assert found.median == counted
    assert len(attempts) == unused
    assert found.is_busy == (QUIET not in references[:counted])


def test_a_machine_that_is_evenly_busy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "thread_time", lambda: 0.0)  # it never ran
    found = measure_network(nn.ReLU(), (1, 3), seconds=0)
    assert found.waited == 1
    assert found.is_busy


def test_a_network_is_measured_in_the_memory_format_it_has_and_that_is_said() -> None:
    seen = set()

    class Second(nn.Conv2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.add(image.is_contiguous())
            return super().forward(image)

    network = nn.Sequential(nn.Conv2d(3, 4, 3), Second(4, 4, 3)).bfloat16()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = measure_network(network, (1, 3, 8, 8), seconds=0)
    assert seen == {False}
    assert str(found.conditions).endswith("channels_last, bfloat16")
    assert Measurement.from_json(found.to_json()) == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_is_measured_in_its_own_type_and_stays_as_it_is(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(dtype)
    before, random = network[1].state_dict(), torch.get_rng_state()
    found = measure_network(network, (2, 3, 8, 8), seconds=0)
    assert isinstance(found, Measurement)
    assert found.model == "Sequential"
    assert len(found.samples) == len(found.reference) >= turns.FEWEST_LATE
    assert found.first_invoke > 0
    assert found.runtime == f"torch {torch.__version__}"
    assert network.training
    assert network[1].state_dict().keys() == before.keys()
    assert network[1].num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_that_fails_is_refused() -> None:
    with pytest.raises(InputError, match="Linear cannot be timed with PyTorch"):
        measure_network(nn.Linear(3, 3), (1, 4), seconds=0)
