"""What each layer of a model costs, convolution or not."""

from __future__ import annotations

from collections import Counter

from pytest_dwsconv.core.findings import Layer
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.trace import Trace


def layers_of(inventory: Inventory, recorded: Trace | None) -> tuple[Layer, ...]:
    """The modules without children, and others with parameters or MACs of their own.

    They are in the order of registration. Their parameters add up to those of the model, and their
    MACs to those of the forward: a parameter is counted where it is registered first, an operator
    in the innermost module that was running.
    """
    params: Counter[str] = Counter()
    for parameter in inventory.parameters:
        first = inventory.parameter_names[id(parameter)][0]
        params[first.rpartition(".")[0]] += parameter.numel()
    macs: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    outputs: dict[str, tuple[int, ...]] = {}
    if recorded is not None:
        calls.update(call.name for call in recorded.calls)
        for step in recorded.steps:
            name = str(step.target) if step.op == "call_module" else step.owner or ""
            if step.counted is not None:
                macs[name] += step.counted.macs
            if step.layout is not None:
                outputs[name] = tuple(step.layout.shape)
    found = []
    for name, module in inventory.modules.items():
        is_leaf = not any(child is not None for child in module._modules.values())
        if is_leaf or params[name] or macs[name]:
            # reason: the last operator of a module with children need not make its output
            output = outputs.get(name) if is_leaf else None
            counted = None if recorded is None else macs[name]
            kind = type(module).__name__
            found.append(Layer(name, kind, params[name], counted, calls[name], output))
    return tuple(found)
