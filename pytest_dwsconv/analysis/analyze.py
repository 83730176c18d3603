"""``analyze``: a model's convolutions, each judged and costed, with the model's totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import BoundArguments
from math import prod
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pytest_dwsconv.analysis.sites import Site, find_sites, operator_name
from pytest_dwsconv.core.conv import (
    ConvSpec,
    Cost,
    Order,
    Trait,
    cost,
    separable_cost,
    separable_traffic,
    traffic,
)
from pytest_dwsconv.core.findings import Finding, Memory, Origin
from pytest_dwsconv.core.rules import Judgement, Policy, Verdict, judge
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.report import Report
from pytest_dwsconv.separable.modules import SeparableConv1d, SeparableConv2d, SeparableConv3d
from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.peak import peak_activation_bytes
from pytest_dwsconv.tracing.trace import Trace, trace

_CONTAINERS = (nn.Sequential, nn.ModuleList, SeparableConv1d, SeparableConv2d, SeparableConv3d)
_LARGEST = 2**63 - 1
"""Bytes: PyTorch counts them in 64 bits."""


def analyze(
    model: nn.Module,
    input_size: Sequence[Any] | None = None,
    *,
    example_inputs: Any = None,
    policy: Policy = Policy(),
) -> Report:
    """Report every convolution of ``model``: what it is, what it costs, whether it could be
    separable, what that saves.

    The forward runs once in evaluation mode, on meta tensors where the model allows it. The model
    is left as found.

    Args:
        model: any module; its own device, dtype and mode do not matter.
        input_size: the shape of the input, ``(N, C, *sides)``, or several shapes for several
            inputs. The inputs take the dtype of the model's first floating-point parameter.
        example_inputs: instead of ``input_size``: a tensor, a tuple of positional arguments, a
            mapping of keyword arguments, or both kinds as ``inspect.BoundArguments``. Their values
            are used only by a model that needs data; ``()`` is a forward without inputs.
        policy: the replacement to reckon with, and what to leave alone.

    Without inputs the report has everything but shapes and MACs.

    Raises:
        InputError: ``model`` or an input is not what it must be.
        TracingError: the forward fails on these inputs.
    """
    if not isinstance(policy, Policy):
        raise InputError(f"policy is a Policy, such as Policy(depth_multiplier=2), not {policy!r}")
    inventory = _checked(model)
    parameters = inventory.parameters
    inputs = _inputs(parameters, input_size, example_inputs)
    recorded = None if inputs is None else trace(inventory, *inputs)
    sites = find_sites(inventory, recorded)
    params = sum(parameter.numel() for parameter in parameters)
    macs = None if recorded is None else _macs(recorded)
    return Report(
        model=type(inventory.root).__name__,
        findings=tuple(_finding(site, policy, params, macs) for site in sites),
        params=params,
        macs=macs,
        origin=Origin.ATTRIBUTES if recorded is None else recorded.origin,
        input_shapes=() if recorded is None else recorded.input_shapes,
        depth_multiplier=policy.depth_multiplier,
        order=policy.order,
        memory=None if recorded is None else _memory(parameters, recorded),
        not_counted=() if recorded is None else _not_counted(recorded),
        peak_activations=None if recorded is None else peak_activation_bytes(recorded),
    )


def _checked(model: Any) -> Inventory:
    if not isinstance(model, nn.Module):
        raise InputError(
            f"analyze takes a torch.nn.Module, not {type(model).__name__}; build the model first"
        )
    compiled_from = getattr(model, "_orig_mod", None)
    try:
        inventory = Inventory(model if compiled_from is None else compiled_from)
    except AttributeError as error:  # reason: what every module has is made by nn.Module's __init__
        raise InputError(
            f"{type(error.obj).__name__} has no parts yet: call super().__init__() in its __init__"
        ) from error
    kinds = {type(module) for module in inventory.modules.values()}
    if any(issubclass(kind, torch.jit.ScriptModule) for kind in kinds):
        name = next(
            name
            for name, module in inventory.modules.items()
            if isinstance(module, torch.jit.ScriptModule)
        )
        which = f"{name} is a ScriptModule and" if name else "a ScriptModule"
        raise InputError(
            f"{which} has no Python forward to record; analyze the model before scripting it"
        )
    if any(map(is_lazy, inventory.parameters)):
        lazy = next(parameter for parameter in inventory.parameters if is_lazy(parameter))
        name = inventory.parameter_names[id(lazy)][0].rpartition(".")[0]
        raise InputError(
            f"{name or type(model).__name__} is lazy: run one forward to fix its shape, then "
            "analyze"
        )
    return inventory


# -- from sites to the report


def _finding(site: Site, policy: Policy, model_params: int, model_macs: int | None) -> Finding:
    if policy.leaves_out(site.name, *site.aliases):
        site.add_trait(Trait.IGNORED)
    spec = site.spec
    if site.calls:
        spec = spec.shaped(*site.calls[0])
    judgement, before = judge(spec, policy), cost(spec)
    one = after = None
    if judgement.verdict is Verdict.CANDIDATE:
        one = separable_cost(spec, policy.order, policy.depth_multiplier)
        after = None if one is None else _over_calls(one, site, spec, policy)
    params = None if before is None else before.params
    if Trait.NO_PARAMETER in spec.traits:
        params = 0
    macs = None if site.origin is Origin.ATTRIBUTES else site.macs
    return Finding(
        name=site.name,
        spec=spec,
        verdict=judgement.verdict,
        code=judgement.code,
        reason=judgement.reason,
        params=params,
        macs=macs,
        separable_params=None if after is None else after.params,
        separable_macs=None if after is None else after.macs,
        origin=site.origin,
        type_name=site.type_name,
        calls=len(site.calls),
        aliases=site.aliases,
        input_bytes=_bytes(spec.input_shape, site.element_size),
        output_bytes=_bytes(spec.output_shape, site.element_size),
        arithmetic_intensity=_intensity(before, traffic(spec, params or 0), site.element_size),
        separable_intensity=None
        if one is None
        else _separable_intensity(
            one, spec, policy.order, policy.depth_multiplier, site.element_size
        ),
        params_share=_share(params, model_params),
        macs_share=_share(macs, model_macs),
        followed_by=site.followed_by,
    )


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def _bytes(shape: tuple[int, ...] | None, element_size: int | None) -> int | None:
    return None if shape is None or element_size is None else prod(shape) * element_size


def _intensity(one: Cost | None, elements: int | None, element_size: int | None) -> float | None:
    """MACs per byte moved, of one call."""
    if one is None or one.macs is None or not elements or not element_size:
        return None
    return one.macs / (elements * element_size)


def _separable_intensity(
    one: Cost, spec: ConvSpec, order: Order, depth_multiplier: int, element_size: int | None
) -> float | None:
    return _intensity(
        one, separable_traffic(spec, one.params, order, depth_multiplier), element_size
    )


def _over_calls(first: Cost, site: Site, spec: ConvSpec, policy: Policy) -> Cost:
    """Cost of the replacement, of which ``first`` is that of the first call: its MACs summed over
    the calls.
    """
    if site.origin is Origin.ATTRIBUTES:
        return first
    macs = 0
    for shapes in site.calls:
        each: Cost | None = first
        if shapes != site.calls[0]:
            each = separable_cost(spec.shaped(*shapes), policy.order, policy.depth_multiplier)
        macs += (each and each.macs) or 0
    return Cost(first.params, macs)


def rejudged(report: Report, judge_finding: Callable[[Finding], Judgement]) -> Report:
    """The report with other verdicts; a convolution that becomes a candidate gets the cost of its
    replacement.
    """

    def again(finding: Finding) -> Finding:
        new = judge_finding(finding)
        if new == Judgement(finding.verdict, finding.code, finding.reason):
            return finding
        separable = _replacement(finding, report) if new.verdict is Verdict.CANDIDATE else None
        return replace(
            finding,
            verdict=new.verdict,
            code=new.code,
            reason=new.reason,
            separable_params=None if separable is None else separable.params,
            separable_macs=None if separable is None else separable.macs,
            separable_intensity=None if separable is None else _replaced_intensity(finding, report),
        )

    return replace(report, findings=tuple(again(finding) for finding in report.findings))


def _replacement(finding: Finding, report: Report) -> Cost | None:
    """Cost of a replacement; its MACs scaled from the first call, whose shapes are known, to all of
    them.
    """
    before, after = (
        cost(finding.spec),
        separable_cost(finding.spec, report.order, report.depth_multiplier),
    )
    if before is None or after is None or not (finding.macs and before.macs and after.macs):
        return None if after is None else Cost(after.params, None)
    return Cost(after.params, finding.macs * after.macs // before.macs)


def _replaced_intensity(finding: Finding, report: Report) -> float | None:
    if not finding.input_shape or not finding.input_bytes:
        return None
    one = separable_cost(finding.spec, report.order, report.depth_multiplier)
    element_size = finding.input_bytes // prod(finding.input_shape)
    return one and _separable_intensity(
        one, finding.spec, report.order, report.depth_multiplier, element_size
    )


def _memory(parameters: list[nn.Parameter], recorded: Trace) -> Memory:
    alone = len(recorded.inventory.modules) == 1
    outputs = sum(
        call.output_bytes
        for call in recorded.calls
        if not issubclass(call.type, _CONTAINERS) and (call.name != "" or alone)
    )
    params = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return Memory(inputs=recorded.input_bytes, activations=2 * outputs, params=params)


def _macs(recorded: Trace) -> int:
    return sum(step.counted.macs for step in recorded.steps if step.counted is not None)


def _not_counted(recorded: Trace) -> tuple[tuple[str, int], ...]:
    """Operators that ran and are in no total, by name, the most frequent first."""
    counts: Counter[str] = Counter()
    for step in recorded.steps:
        if step.counted is not None:
            if step.counted.uncounted:
                counts.update(step.counted.uncounted)
        elif step.op.startswith("call_"):
            name = _plain_name(operator_name(step, recorded.inventory))
            if name not in operators.MOVES:
                counts[name] += 1
    return tuple(counts.most_common())


def _plain_name(name: str) -> str:
    """The operator's word without what marks it as in place or as a method: add for ``add_``,
    ``__iadd__``.
    """
    if name in operators.MOVES or not name.endswith("_"):
        return name
    plain = name.strip("_")
    return plain[1:] if name.startswith("__") and plain[1:] in _ARITHMETIC else plain


_ARITHMETIC = frozenset("add sub mul truediv floordiv mod pow and or xor matmul".split())
