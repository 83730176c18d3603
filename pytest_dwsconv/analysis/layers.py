"""What each layer of a model costs, convolution or not."""

from __future__ import annotations

from collections import defaultdict

from pytest_dwsconv.core.findings import Layer
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.steps import Layout
from pytest_dwsconv.tracing.trace import Trace


def layers_of(inventory: Inventory, recorded: Trace | None) -> tuple[Layer, ...]:
    """The modules without children, and others with parameters or MACs of their own.

    They are in the order of registration. Their parameters add up to those of the model, and their
    MACs to those of the forward: a parameter is counted where it is registered first, an operator
    in the innermost module that was running.
    """
    params = _params(inventory)
    macs, outputs = _macs_and_outputs(recorded)
    calls: dict[str, int] = defaultdict(int)
    for call in () if recorded is None else recorded.calls:
        calls[call.name] += 1
    found = []
    for name, module in inventory.modules.items():
        is_leaf = not module._modules
        if is_leaf or name in params or macs.get(name):
            # reason: the last operator of a module with children need not make its output
            output = outputs.get(name) if is_leaf else None
            shape = None if output is None else tuple(output.shape)
            counted = None if recorded is None else macs.get(name, 0)
            kind = type(module).__name__
            found.append(Layer(name, kind, params.get(name, 0), counted, calls.get(name, 0), shape))
    return tuple(found)


def _params(inventory: Inventory) -> dict[str, int]:
    """Parameters by the name of the module that registers them first."""
    params: dict[str, int] = defaultdict(int)
    for parameter in inventory.parameters:
        first = inventory.parameter_names[id(parameter)][0]
        params[first.rpartition(".")[0]] += parameter.numel()
    return params


def _macs_and_outputs(recorded: Trace | None) -> tuple[dict[str, int], dict[str, Layout]]:
    """MACs, and the last result, by the name of the innermost module that was running."""
    macs: dict[str, int] = defaultdict(int)
    outputs: dict[str, Layout] = {}
    for step in () if recorded is None else recorded.steps:
        name = step.target if step.op == "call_module" else step.owner or ""
        if step.counted is not None:
            macs[name] += step.counted.macs
        if step.layout is not None:
            outputs[name] = step.layout
    return macs, outputs
