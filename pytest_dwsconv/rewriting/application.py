"""Carrying out a plan: every replacement made, then all put in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pytest_dwsconv.analysis.sites import module_spec
from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.rewriting.duplicate import check_own, duplicate
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.separable.exchange import held_by_functions, swap
from pytest_dwsconv.separable.modules import CONVS, TRANSPOSED, SeparableConvNd
from pytest_dwsconv.separable.replacement import check_init, initial, replacement
from pytest_dwsconv.tracing.inventory import check_hashable


@torch.inference_mode(False)  # reason: weights made under inference mode can never be trained
def apply_plan(
    model: nn.Module, plan: Plan, *, init: str = "fresh", inplace: bool = False
) -> nn.Module:
    """Carry out a plan on a model, usually a new one.

    It is then given the weights of a rewritten network::

        network = apply_plan(Network(), Plan.from_json(text))
        network.load_state_dict(weights)

    On the meta device nothing is initialised, whatever ``init`` says.

    Raises:
        InputError: a layer of the plan is missing or is another convolution; the model is left as
            found.
    """
    check_init(init)
    check_plan(plan)
    check_fits(plan, model)
    check_hashable(model)
    target = model if inplace else duplicate(model)
    if not inplace:
        check_own(target, model, [entry.name for entry in plan.entries])
    swaps, _ = replacements(target, plan, init, inplace)
    return swap(target, swaps)


def check_plan(plan: object) -> None:
    if not isinstance(plan, Plan):
        raise InputError(f"the plan must be a Plan, not {_described(plan)}")


def check_fits(plan: Plan, model: nn.Module) -> None:
    """Raise InputError where a layer of the plan is missing or is another convolution."""
    for entry in plan.entries:
        entry.check(module_spec(convolution(model, entry.name)))


def _described(given: object) -> str:
    """What was given in place of a plan, and how to get one from it."""
    if isinstance(given, RewriteResult):
        return "the result of a rewrite: pass its .plan"
    if isinstance(given, ReportData):
        return "a report, which says what could be replaced: pass the .plan of what rewrite returns"
    if isinstance(given, (str, bytes)):
        return "text: pass Plan.from_json(text)"
    if isinstance(given, Path):
        return "a path: pass Plan.from_json(path.read_text())"
    if isinstance(given, Mapping):
        return "a mapping: pass Plan.from_json(json.dumps(mapping))"
    return f"{given!r}: pass result.plan or Plan.from_json(text)"


class FittedLayer(Protocol):
    """A replacement that was fitted to data, and the relative error of its kernel."""

    module: SeparableConvNd
    weight_error: float


def replacements(
    model: nn.Module,
    plan: Plan,
    init: str,
    inplace: bool,
    fitted: Mapping[str, FittedLayer] | None = None,
) -> tuple[dict[nn.Module, nn.Module], dict[str, float]]:
    """All replacements of a plan, made before the first is put in place, and their weight errors.

    Layers in ``fitted`` have theirs already.
    """
    swaps: dict[nn.Module, nn.Module] = {}
    errors: dict[str, float] = {}
    held = held_by_functions(model) if plan.entries else set()
    for entry in plan.entries:
        conv = convolution(model, entry.name)
        if conv in swaps:
            raise InputError(
                f"{entry.name} is a convolution that the plan replaces under another name already"
            )
        if inplace and conv is model:
            raise InputError(
                "a model that is itself the convolution cannot be replaced in place; pass "
                "inplace=False"
            )
        if fitted and entry.name in fitted:
            found = fitted[entry.name]
            swaps[conv] = found.module.train(conv.training)
            errors[entry.name] = found.weight_error
        else:
            factors, error = initial(conv.weight, entry, init)
            swaps[conv] = replacement(conv, entry, factors)
            if error is not None:
                errors[entry.name] = error
        if id(conv) in held:
            raise out_of_reach(entry.name)
    return swaps, errors


def out_of_reach(name: str) -> InputError:
    """The error for a convolution that something holds where no replacement can be put."""
    return InputError(
        f"{name}: the forward or a hook reaches it other than as a module of the model (by a "
        "closure, a bound method, a partial or a compiled part, say), so its replacement would not "
        f"run; leave it out with ignore=[{name!r}]"
    )


_CONVOLUTIONS = (*CONVS.values(), *TRANSPOSED.values())


def convolution(model: nn.Module, name: str) -> Any:
    """The convolution of that name, with a weight and bias of its own, and of the usual shape.

    Raises:
        InputError: there is no such layer, or it is not such a convolution.
    """
    shown = name or "the model itself"
    try:
        conv = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"{type(model).__name__} has no layer {name!r}") from error
    if not isinstance(conv, _CONVOLUTIONS):
        raise InputError(
            f"{shown} is a {type(conv).__name__}, not a convolution that can be replaced"
        )
    for part in ("weight", "bias"):
        if part not in conv._parameters:
            raise InputError(
                f"the {part} of {shown} is computed from other parameters; remove the "
                "parametrization"
            )
    if conv._parameters["weight"] is None:
        raise InputError(
            f"{shown} has no weight, so it cannot be replaced; take it out of the plan"
        )
    shape = tuple(conv.weight.shape)
    ends = conv.out_channels, conv.in_channels
    rows, columns = reversed(ends) if conv.transposed else ends
    usual = (rows, columns // conv.groups, *conv.kernel_size)
    if shape != usual:
        raise InputError(
            f"the weight of {shown} is {shape}, not {usual}, so {type(conv).__name__} cannot be "
            "replaced"
        )
    return conv
