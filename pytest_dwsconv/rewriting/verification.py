"""Whether a rewritten network still runs as the original does, and which replacement does not.

A forward or a hook can depend on what a convolution is: by ``isinstance``, by an attribute that its
replacement does not have, by a reference that nothing else knows of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pytest_dwsconv.core.conv import ORDERS, Form, Trait, full_size
from pytest_dwsconv.core.findings import Origin, ReportData
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.errors import InputError, TracingError
from pytest_dwsconv.rewriting.application import convolution
from pytest_dwsconv.rewriting.events import Event, Events
from pytest_dwsconv.rewriting.outputs import Inputs, outputs, unlike
from pytest_dwsconv.separable.exchange import swap
from pytest_dwsconv.separable.replacement import initial, replacement
from pytest_dwsconv.tracing.inventory import Inventory, without_compiler
from pytest_dwsconv.tracing.trace import ADVICE, sample, trace

SHAPES, EXACT = "shapes", "exact"

Swaps = Mapping[nn.Module, nn.Module]


def check_verify(verify: object, has_inputs: bool) -> None:
    """Check the argument ``verify``.

    Raises:
        InputError: there is no such way, or it needs inputs and there are none.
    """
    if verify not in (SHAPES, EXACT) and verify is not False:
        raise InputError(f"verify must be 'shapes', 'exact' or False, not {verify!r}")
    if verify == EXACT and not has_inputs:
        raise InputError("verify='exact' runs the network: pass input_size or example_inputs")


def check_runs_as_before(
    verify: str | bool,
    model: nn.Module,
    swaps: Swaps,
    plan: Plan,
    before: ReportData,
    inputs: Inputs | None,
) -> None:
    """Check ``model``, which has no replacement in place yet, in the way of ``verify``.

    ``before`` is the report on it; without inputs nothing is checked.

    Raises:
        InputError: a replacement makes a difference, or the network cannot be compared.
        TracingError: the forward fails without any replacement.
    """
    if verify is False or inputs is None or not swaps:
        return
    # reason: compiled code calls operators where no recorder sees them
    model = without_compiler(model)
    # reason: a forward that needs values lets them decide about operators and shapes
    if before.origin is Origin.META:
        _check_events(model, swaps, plan, before, inputs)
    if verify == EXACT:
        _check_exact(model, plan, inputs)


def check_apart(copied: nn.Module, original: nn.Module, inputs: Inputs | None) -> None:
    """Check that the forward of a copy reads no parameter of the original.

    A registry that is a global variable or an attribute of a class leads there, and back to
    convolutions that are not replaced.

    Raises:
        InputError: it reads one.
    """
    if inputs is None or copied is original:
        return
    recorded = trace(without_compiler(copied), *inputs)
    read = set(map(id, recorded.constants.values()))
    for name, parameter in original.named_parameters():
        if id(parameter) in read:
            raise InputError(
                f"{name}: the forward of a copy of the model still reads that of the original (by "
                "a global variable or an attribute of a class, say); pass inplace=True"
            )


def _check_events(
    model: nn.Module, swaps: Swaps, plan: Plan, before: ReportData, inputs: Inputs
) -> None:
    """Compare the operators of two recorded forwards, their order, and shapes and types."""
    lossy = {found.name for found in before.findings if Trait.SUBCLASS in found.spec.traits}
    parts_of_layers = {entry.name: [part.name for part in entry.parts] for entry in plan.entries}
    events = Events(parts_of_layers, lossy)

    def outcome(some: Swaps) -> list[Event] | str:
        with swapped(model, some) as changed:
            try:
                return events.of(trace(changed, *inputs))
            except TracingError as error:
                return str(error).removesuffix(ADVICE).rstrip(" .")

    # reason: the model was recorded before, but a forward that keeps results outside of it does
    # less from the second time on
    wanted, found = outcome({}), outcome(swaps)
    if found != wanted:
        again = outcome({})
        if again != wanted:
            raise _unsteady(model, _difference(wanted, again))
        alone = [old for old, new in swaps.items() if outcome({old: new}) != wanted]
        raise _refusal(model, alone or list(swaps), _difference(wanted, found))


def _check_exact(model: nn.Module, plan: Plan, inputs: Inputs) -> None:
    """Run with replacements of the exact multiplier, which leave nothing to differ but rounding.

    Of the inputs, tensors on the meta device become random ones.
    """
    swaps = dict(_exact(model, entry) for entry in plan.entries)
    device = Inventory(model).device()

    def with_values(value: Tensor) -> Tensor:
        return sample(tuple(value.shape), value.dtype, device) if value.is_meta else value

    given = tree_map_only(Tensor, with_values, inputs)
    wanted = outputs(model, given)
    if not wanted:
        raise InputError(
            f"{type(model).__name__} gives no tensors that could be compared; use verify='shapes'"
        )
    rounding = max(torch.finfo(conv.weight.dtype).eps for conv in swaps)  # type: ignore[arg-type]  # all are convolutions

    def difference(some: Swaps) -> str:
        with swapped(model, some) as changed:
            try:
                return unlike(outputs(changed, given), wanted, rounding)
            except TracingError as error:
                return str(error)

    if found := difference(swaps):
        if between_runs := difference({}):
            raise _unsteady(model, between_runs)
        alone = [old for old, new in swaps.items() if difference({old: new})]
        raise _refusal(model, alone or list(swaps), f"at the exact multiplier, {found}")


@contextmanager
def swapped(model: nn.Module, swaps: Swaps) -> Iterator[nn.Module]:
    """The model with these replacements in place, for the block."""
    try:
        yield swap(model, swaps)
    finally:
        swap(swaps.get(model, model), {new: old for old, new in swaps.items()})


def _refusal(model: nn.Module, convs: Sequence[nn.Module], what: str) -> InputError:
    names = {module: name for name, module in model.named_modules()}
    layers = [names[conv] for conv in convs]
    shown = ", ".join(layer or "the model itself" for layer in layers)
    return InputError(
        f"{shown}: the forward does something else with a replacement ({what}), so it depends on "
        f"the very convolution; leave it out with ignore={layers!r}, or pass verify=False"
    )


def _unsteady(model: nn.Module, what: str) -> InputError:
    return InputError(
        f"the forward of {type(model).__name__} differs from run to run ({what}), so it cannot be "
        "compared; pass verify=False"
    )


def _difference(wanted: list[Event] | str, found: list[Event] | str) -> str:
    if isinstance(found, str) or isinstance(wanted, str):
        return found if isinstance(found, str) else "it did not run before"
    for one, other in zip_longest(wanted, found):
        if one is not None and other is not None and one[:-1] == other[:-1]:
            if one.reads != other.reads:
                return f"{_described(other)} {_of(other)} in place of one {_of(one)}"
        elif one != other:
            return f"{_described(other)} in place of {_described(one)}"
    return "nothing"


def _described(event: Event | None) -> str:
    if event is None:
        return "the end"
    sides = "" if event.shape is None else f" of shape {event.shape}"
    place = f" in {event.owner}" if event.owner else ""
    constants = f" with {', '.join(event.constants)}" if event.constants else ""
    return f"{event.operator}{place}{sides}{constants}"


def _of(event: Event) -> str:
    """What an event reads; of a long constant, its beginning."""
    return "of " + (", ".join(read[:80] for read in event.reads) or "no tensor")


# -- the network at the multiplier that is exact


def _exact(model: nn.Module, entry: PlanEntry) -> tuple[nn.Module, nn.Module]:
    """A convolution, and its replacement that equals it."""
    conv = convolution(model, entry.name)
    if conv.weight.is_meta:
        raise InputError(
            f"{entry.name}: the kernel is on the meta device, so nothing can be computed; use "
            "verify='shapes'"
        )
    # reason: no size of ``grouped`` need be exact, and that of a bottleneck is very large
    form = entry.form if entry.form in ORDERS else Form.DEPTHWISE_FIRST
    full = replace(entry, form=form, size=full_size(entry.spec, form))
    factors, _ = initial(conv.weight, full, "svd")
    return conv, replacement(conv, full, factors)
