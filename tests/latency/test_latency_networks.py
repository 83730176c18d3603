from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.core.latency.comparison import Conditions, MemoryFormat, Runtime, Speed
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.latency import compare_networks
from pytest_dwsconv.latency.runs import conditions_of


class Seen(nn.Module):
    """Notes under which circumstances it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> Tensor:
        weight = self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        given = image.is_contiguous(memory_format=torch.channels_last)
        SEEN.add((torch.get_num_threads(), self.training, weight, given))
        out: Tensor = self.norm(self.conv(image))
        return out


SEEN: set[tuple[int, bool, bool, bool]] = set()
X = torch.rand(2, 4, 8, 8)


@pytest.mark.parametrize("memory_format", MemoryFormat)
def test_networks_run_as_the_conditions_say_and_stay_as_they_are(
    memory_format: MemoryFormat,
) -> None:
    SEEN.clear()
    first, second = Seen(), Seen()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    threads = torch.get_num_threads()
    found = compare_networks(first, second, X, Conditions(3, memory_format), seconds=0)
    channels_last = memory_format is MemoryFormat.CHANNELS_LAST
    assert {(3, False, channels_last, channels_last)} == SEEN
    assert torch.get_num_threads() == threads
    assert first.training
    assert first.conv.weight.is_contiguous()
    for name, value in first.state_dict().items():
        assert torch.equal(value, before[name])
    assert found.batch == 2
    assert found.conditions.memory_format is memory_format


def test_a_network_is_as_fast_as_itself_or_it_cannot_be_told() -> None:
    network = nn.Conv2d(8, 8, 3)
    found = compare_networks(network, network, torch.rand(1, 8, 16, 16), seconds=0.05)
    assert found.conditions == Conditions(torch.get_num_threads())
    assert found.low <= found.ratio <= found.high
    assert found.verdict in (Speed.SAME, Speed.UNDECIDED) or found.is_busy or found.ratio < 2


@pytest.mark.parametrize(
    ("network", "dtype"), [(nn.ReLU(), torch.float32), (nn.Embedding(2, 2), torch.int64)]
)
def test_inputs_on_the_meta_device_stand_for_any_values(
    network: nn.Module, dtype: torch.dtype
) -> None:
    before = torch.get_rng_state()
    shape = torch.empty(2, 4, dtype=dtype, device="meta")
    assert compare_networks(network, network, shape, seconds=0).batch == 2
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("network", "inputs", "said"),
    [
        (nn.Linear(3, 3, device="meta"), torch.rand(1, 3), "Linear is on meta"),
        (nn.Linear(3, 3), torch.rand(1, 4), "Linear cannot be timed with PyTorch"),
        (nn.LazyLinear(3), torch.rand(1, 4), "parameters that are made in its first forward"),
        (nn.Linear(3, 3), [], "inputs must be a tensor"),
        (nn.Linear(3, 3), (1, 3), "inputs must be a tensor"),
    ],
)
def test_what_cannot_be_timed_is_refused(network: nn.Module, inputs: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare_networks(network, network, inputs)


def test_a_scripted_network_is_measured_in_evaluation_mode_only() -> None:
    scripted = torch.jit.script(nn.BatchNorm2d(4))
    with pytest.raises(InputError, match=r"scripted part in training mode, .*: call its eval\(\)"):
        compare_networks(nn.ReLU(), scripted, X)
    scripted.eval()
    assert compare_networks(nn.ReLU(), scripted, X, seconds=0).control
    assert scripted.num_batches_tracked == 0


def test_threads_are_a_whole_number() -> None:
    with pytest.raises(InputError, match="threads must be a whole number from 1, not 0"):
        Conditions(0)


@pytest.mark.nightly
def test_a_compiled_network_is_compiled() -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    networks = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5)
    conditions = Conditions(1, runtime=Runtime.COMPILED)
    try:
        found = compare_networks(*networks, X, conditions, seconds=0)
    except InputError as error:
        pytest.skip(str(error))
    assert counters["stats"]["unique_graphs"] == 2
    assert "torch.compile, 1 thread" in str(found)


def test_a_compiled_network_is_never_called_one_that_is_not() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert conditions_of(network).runtime is Runtime.EAGER
    assert conditions_of(network, Runtime.LITERT).runtime is Runtime.LITERT
    compiled: Any = torch.compile(network)
    assert conditions_of(compiled).runtime is Runtime.COMPILED
    network.compile()
    assert conditions_of(network).runtime is Runtime.COMPILED
