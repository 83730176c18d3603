"""LiteRT: networks are exported, here by a stand-in, and timed in turns by the worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from standin import fails
from standin_runtime import python_with, write_runtime
from torch import nn

from pytest_dwsconv.core.conv import ConvSpec, Form
from pytest_dwsconv.core.latency.comparison import Conditions, MemoryFormat, Runtime
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.edgetpu.device import measure_in_turns
from pytest_dwsconv.edgetpu.hosts import Host
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.latency import compare_networks, layers, litert, time_layers
from pytest_dwsconv.latency.benchmark import measure_exported
from pytest_dwsconv.latency.machine import Machine

CONDITIONS = Conditions(2, runtime=Runtime.LITERT)
X = torch.rand(1, 3, 8, 8)


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A host with a runtime that computes nothing."""
    write_runtime(tmp_path, "ai_edge_litert", "2.3.0")
    monkeypatch.setenv("STANDIN_INVOKE", "100")
    return python_with(tmp_path)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Runtime]:
    """What networks were exported for."""
    found: list[Runtime] = []

    def export(networks: Sequence[tuple[nn.Module, tuple[int, ...]]], *, int8: bool) -> list[bytes]:
        found.append(Runtime.LITERT_INT8 if int8 else Runtime.LITERT)
        return [b"broken" if isinstance(one, nn.Linear) else b"model" for one, _ in networks]

    monkeypatch.setattr(litert, "export_for_timing", export)
    return found


@pytest.mark.parametrize("runtime", [Runtime.LITERT, Runtime.LITERT_INT8])
def test_exported_networks_are_compared(
    python: str, exports: list[Runtime], runtime: Runtime
) -> None:
    conditions = Conditions(2, runtime=runtime)
    one, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5)
    found = compare_networks(one, other, X, conditions, host=python, seconds=0)
    assert exports == [runtime]
    assert found.rounds == 8
    assert found.first_ms > 0.1
    assert f"{runtime.value}, 2 threads, channels_last, batch 1" in str(found)


def test_a_network_is_measured_beside_the_reference(python: str, exports: list[Runtime]) -> None:
    found = measure_exported(nn.Conv2d(3, 4, 3), (1, 3, 8, 8), Runtime.LITERT, python, seconds=0)
    assert len(found.samples) == len(found.reference) == 8
    assert found.host == python
    assert found.runtime.startswith("ai_edge_litert 2.3.0, LiteRT float, ")


def test_every_model_is_timed_in_every_round(python: str) -> None:
    with Host(python) as host:
        timed = measure_in_turns(host, [b"one", b"three"], 0, seconds=60, rounds=5)
    assert [len(times) for times in timed.turns] == [5, 5]
    assert len(timed.first_invokes) == 2
    assert timed.threads == timed.cores


def test_a_model_that_the_runtime_refuses_is_an_error(python: str, exports: list[Runtime]) -> None:
    with fails("model", match="a model that is broken"):
        compare_networks(nn.Linear(3, 3), nn.ReLU(), X, CONDITIONS, host=python)


def test_a_host_without_a_python_is_an_error(tmp_path: Path, exports: list[Runtime]) -> None:
    host = f"python={tmp_path / 'python'}"
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with fails("python"):
        compare_networks(nn.ReLU(), nn.ReLU(), X, CONDITIONS, host=host)


def test_images_are_channels_last_there() -> None:
    assert CONDITIONS.memory_format is MemoryFormat.CHANNELS_LAST


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"inputs": X, "host": "ssh=pi"}, "PyTorch is timed on this host only"),
        ({"inputs": [X, X], "conditions": CONDITIONS}, "an export takes one input"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare_networks(nn.ReLU(), nn.ReLU(), **arguments)  # type: ignore[arg-type]


@pytest.mark.usefixtures("own_cache")
def test_convolutions_are_exported_several_at_once_and_kept(
    python: str, exports: list[Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "this_machine", lambda _: Machine("here", 1, "LiteRT 1"))
    monkeypatch.setattr(litert, "Host", lambda _: Host(python))
    candidates = []
    for outputs in range(16, 16 + layers.TOGETHER + 1):
        spec = ConvSpec(
            *(2, 8, outputs, (3, 3), (1, 1), (1, 1), (1, 1), 1, True, "zeros"),
            input_shape=(1, 8, 6, 6),
        )
        candidates.append((spec, PlanEntry.of("a", spec, Form.DEPTHWISE_FIRST, 1)))
    found = time_layers(candidates, CONDITIONS, seconds=0)
    assert len(exports) == 2
    assert {each.conditions for each in found} == {CONDITIONS}
    time_layers(candidates, CONDITIONS, seconds=0)
    assert len(exports) < 4
