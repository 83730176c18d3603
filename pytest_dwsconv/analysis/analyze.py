"""``analyze``: a model's convolutions, each judged and costed, with the model's totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, jit, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.analysis.inputs import advice_on_shapes, forward_arguments
from pytest_dwsconv.analysis.layers import layers_of
from pytest_dwsconv.analysis.sites import find_sites, operator_name
from pytest_dwsconv.analysis.targets import with_targets
from pytest_dwsconv.analysis.verdicts import finding_of
from pytest_dwsconv.core.findings import Memory, Origin
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.errors import InputError, TracingError
from pytest_dwsconv.report import Report
from pytest_dwsconv.separable.modules import SEPARABLE_CONVS
from pytest_dwsconv.separable.transposed import SEPARABLE_TRANSPOSED
from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.inventory import Inventory, without_compiler
from pytest_dwsconv.tracing.peak import peak_activation_bytes
from pytest_dwsconv.tracing.trace import ADVICE, Trace, trace

_CONTAINERS: tuple[type[nn.Module], ...] = (
    nn.Sequential,
    nn.ModuleList,
    *SEPARABLE_CONVS.values(),
    *SEPARABLE_TRANSPOSED.values(),
)
_ARITHMETIC = frozenset("add sub mul truediv floordiv mod pow and or xor matmul".split())


def analyze(
    model: nn.Module,
    input_size: Sequence[Any] | str | None = None,
    *,
    example_inputs: Any = None,
    policy: Policy = Policy(),
    target: str | Sequence[str] | None = None,
) -> Report:
    """Report what each convolution of ``model`` is and costs, and what a separable one would save.

    The forward runs once in evaluation mode, on meta tensors where the model allows it. The model
    is left as found.

    Args:
        model: any module; its own device, dtype and mode do not matter.
        input_size: the shape of the input, ``(N, C, *sides)``, or several shapes for several
            inputs; also as text, ``"1,3,224,224"``. The inputs take the dtype of the model's first
            floating-point parameter.
        example_inputs: instead of ``input_size``: a tensor, a tuple of positional arguments, a
            mapping of keyword arguments, or both kinds as ``inspect.BoundArguments``. Their values
            are used only by a model that needs data; ``()`` is a forward without inputs.
        policy: the replacement to reckon with, and what to leave alone.
        target: the machine, or several, for which the report tells what the replacements gain:
            ``"edgetpu"``, predicted, where ``"edgetpu:desktop_usb3"`` names another host than a
            Raspberry Pi 4, or ``"cpu"``, ``"torch_compile"``, ``"litert"`` or ``"litert_int8"``,
            measured on this machine, layer by layer.

    Without inputs the report has everything but shapes and MACs.

    Raises:
        InputError: ``model``, an input or a target is not what it must be.
        TracingError: the forward fails on these inputs.
    """
    if not isinstance(policy, Policy):
        raise InputError(f"policy is a Policy, such as Policy(depth_multiplier=2), not {policy!r}")
    inventory = _checked(model)
    parameters = inventory.parameters
    inputs = forward_arguments(parameters, input_size, example_inputs)
    recorded = None if inputs is None else _traced(inventory, *inputs)
    params = sum(parameter.numel() for parameter in parameters)
    macs = None if recorded is None else _macs(recorded)
    sites = find_sites(inventory, recorded)
    report = Report(
        model=type(inventory.root).__name__,
        findings=tuple(finding_of(site, policy, params, macs) for site in sites),
        params=params,
        macs=macs,
        origin=Origin.ATTRIBUTES if recorded is None else recorded.origin,
        input_shapes=() if recorded is None else recorded.input_shapes,
        depth_multiplier=policy.depth_multiplier,
        order=policy.order,
        memory=None if recorded is None else _memory(recorded),
        not_counted=() if recorded is None else _not_counted(recorded),
        peak_activations=None if recorded is None else peak_activation_bytes(recorded),
        output_elements=None if recorded is None else recorded.output_elements,
        all_layers=layers_of(inventory, recorded),
    )
    return report if target is None else with_targets(report, model, target)


def _checked(model: Any) -> Inventory:
    """What the model is made of, if its forward can be recorded."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"analyze takes a torch.nn.Module, not {type(model).__name__}; build the model first"
        )
    inventory = Inventory(without_compiler(model))
    for name, module in inventory.modules.items():
        if isinstance(module, jit.ScriptModule):
            which = f"{name} is a ScriptModule and" if name else "a ScriptModule"
            raise InputError(
                f"{which} has no Python forward to record; analyze the model before scripting it"
            )
    for lazy in filter(is_lazy, inventory.parameters):
        name = inventory.parameter_names[id(lazy)][0].rpartition(".")[0]
        raise InputError(
            f"{name or type(inventory.root).__name__} is lazy: run one forward to fix its shape, "
            "then analyze"
        )
    return inventory


def _traced(inventory: Inventory, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    try:
        return trace(inventory, args, kwargs)
    except TracingError as error:
        tensors = [item for item in tree_leaves((args, dict(kwargs))) if isinstance(item, Tensor)]
        advice = advice_on_shapes(
            [tuple(tensor.shape) for tensor in tensors],
            [site.spec for site in find_sites(inventory, None)],
        )
        if not advice:
            raise
        raise TracingError(str(error).removesuffix(ADVICE) + advice) from error.__cause__


def _macs(recorded: Trace) -> int:
    return sum(step.counted.macs for step in recorded.steps if step.counted is not None)


def _memory(recorded: Trace) -> Memory:
    # reason: a model that is one layer has no part whose outputs could stand for its own
    alone = len(recorded.inventory.modules) == 1
    outputs = 0
    for call in recorded.calls:
        if not issubclass(call.type, _CONTAINERS) and (call.name != "" or alone):
            outputs += call.output_bytes
    parameters = recorded.inventory.parameters
    params = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return Memory(inputs=recorded.input_bytes, activations=2 * outputs, params=params)


def _not_counted(recorded: Trace) -> tuple[tuple[str, int], ...]:
    """Operators that ran and are in no total, by name, the most frequent first."""
    counts: Counter[str] = Counter()
    for step in recorded.steps:
        if step.counted is not None:
            if step.counted.uncounted:  # to update with nothing takes longer than all the rest
                counts.update(step.counted.uncounted)
        elif step.op.startswith("call_"):
            name = _plain_name(operator_name(step, recorded.inventory))
            if name not in operators.MOVES:
                counts[name] += 1
    return tuple(counts.most_common())


def _plain_name(name: str) -> str:
    """The operator's word without the marks of a method or of in place: add for ``__iadd__``."""
    if name in operators.MOVES or not name.endswith("_"):
        return name
    plain = name.strip("_")
    is_in_place = name.startswith("__") and plain[1:] in _ARITHMETIC
    return plain[1:] if is_in_place else plain
