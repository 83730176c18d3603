"""Every model of the catalogue: analysed, counted as PyTorch counts, left as found, rewritten."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv import Report, analyze, rewrite
from pytest_dwsconv.core.findings import Origin
from zoo.catalogue import Entry, Inputs, entries

pytestmark = pytest.mark.filterwarnings("ignore")

SUBSET_STEP = 40
"""In the representative subset is every fortieth model of timm, and every fourth of the others."""


def parameters() -> Iterator[Any]:
    for index, entry in enumerate(entries()):
        step = SUBSET_STEP if entry.library == "timm" else SUBSET_STEP // 10
        yield pytest.param(
            entry, id=str(entry), marks=() if index % step == 0 else pytest.mark.nightly
        )


@pytest.mark.parametrize("entry", list(parameters()))
def test_model(entry: Entry, record_property: Callable[[str, object], None]) -> None:
    model, inputs = entry.build()
    before = state_of(model)
    start = time.perf_counter()
    report = analyze(model, example_inputs=inputs)
    record_property("seconds", time.perf_counter() - start)
    record_property("library", entry.library)
    record_property("origin", report.origin.value)
    assert state_of(model) == before
    assert report.params == sum(parameter.numel() for parameter in model.parameters())
    called, counter, out = forward(model, inputs, report.origin is Origin.REAL)
    check_rows(report, model, called)
    check_macs(report, counter)
    result = rewrite(
        model, example_inputs=inputs, init="fresh", order="depthwise_first", inplace=True
    )
    assert (
        sum(parameter.numel() for parameter in result.model.parameters()) == report.separable_params
    )
    record_property("replaced", len(result.plan.entries))
    if result.plan.entries:
        real = report.origin is Origin.REAL
        # reason: how many boxes a detector selects depends on its weights, which are drawn afresh
        assert shapes_of(forward(result.model, inputs, real)[2], ranks=real) == shapes_of(
            out, ranks=real
        )


def state_of(model: nn.Module) -> dict[str, Any]:
    """What analysis must not change, as far as it can be compared."""
    modules = dict(model.named_modules())
    return {
        "keys": [
            (key, id(value), value._version)
            for key, value in model.state_dict(keep_vars=True).items()
        ],
        "training": [module.training for module in modules.values()],
        "grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules.values()],
        "attributes": [list(vars(module)) for module in modules.values()],
        "random": (torch.get_rng_state().tolist(), random.getstate()),
    }


@contextmanager
def countable_attention() -> Iterator[None]:
    """Attention by plain matrix products, as PyTorch's counter needs it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def forward(model: nn.Module, inputs: Inputs, real: bool) -> tuple[list[str], FlopCounterMode, Any]:
    """Names of the convolutions that ran, PyTorch's count, and the output, of one forward.

    On meta tensors if that is enough: PyTorch itself then needs no values, of which analysis knows
    a few.
    """
    if not real:
        try:
            return _forward(model, inputs, "meta")
        except RuntimeError:
            if any(parameter.is_meta for parameter in model.parameters()):
                raise
    return _forward(model, inputs, "cpu")


def _forward(
    model: nn.Module, inputs: Inputs, device: str
) -> tuple[list[str], FlopCounterMode, Any]:
    # reason: PyTorch's counter fails on a parameter that is passed to a module and requires a
    # gradient
    model = copy.deepcopy(model).to(device).requires_grad_(False)
    inputs = tree_map(lambda x: _on(x, device) if isinstance(x, Tensor) else x, inputs)
    called: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.register_forward_pre_hook(lambda m, i, name=name: called.append(name))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), countable_attention():
        out = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return called, counter, out


def _on(tensor: Tensor, device: str) -> Tensor:
    return (
        torch.zeros(tensor.shape, dtype=tensor.dtype)
        if tensor.is_meta and device == "cpu"
        else tensor.to(device)
    )


def check_rows(report: Report, model: nn.Module, called: list[str]) -> None:
    """Every convolution has a row, which says whether it ran."""
    rows = {finding.name: finding for finding in report.findings}
    ran = set(called)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            assert name in rows, name
            assert (rows[name].calls > 0) == (name in ran), name


def check_macs(report: Report, counter: FlopCounterMode) -> None:
    """Both totals, of convolutions and of everything, are half of PyTorch's."""
    counts = counter.get_flop_counts().get("Global", {})
    convolutions = sum(flops for packet, flops in counts.items() if "convolution" in str(packet))
    assert sum(finding.macs or 0 for finding in report.findings) * 2 == convolutions
    assert (report.macs or 0) * 2 == counter.get_total_flops()


def shapes_of(value: Any, ranks: bool) -> Any:
    """Structure and shapes of an output, or only the ranks."""
    if isinstance(value, Tensor):
        return value.dim() if ranks else tuple(value.shape)
    if isinstance(value, dict):
        return {key: shapes_of(item, ranks) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [shapes_of(item, ranks) for item in value]
    return type(value).__name__
