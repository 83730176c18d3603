"""Jobs that run the user's file: its checkpoint converted, and what the rewritten file builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.analysis.inputs import forward_arguments
from pytest_dwsconv.command.trial.weights import (
    read_batches,
    read_checkpoint,
    state_dicts,
    with_state_dict,
    without_optimizers,
    write_checkpoint,
)
from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.errors import FitWarning, InputError
from pytest_dwsconv.fit.calibration import Preparation
from pytest_dwsconv.fit.planning import allocate, estimate, parse_budgets
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.outputs import Inputs, Outputs, outputs
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.targets import build_by_import, text_of
from pytest_dwsconv.tracing.inventory import without_compiler

Shapes = Sequence[Sequence[int]] | None

Groups = Sequence[Sequence[str]]
"""Names of layers, of which those that one call builds are together."""

_OUTPUTS = "outputs.pt"


@dataclass(frozen=True)
class Conversion:
    """A checkpoint to be converted, into a file in a folder that lasts until all is proved.

    ``data`` is a file of batches to fit the weights to.
    """

    given: Path
    target: Path
    folder: Path
    data: Path | None = None


@dataclass(frozen=True)
class Proof:
    """What the rewritten file builds; the relative errors of its outputs, by state dict.

    An error is negative where there is no input, or nothing to compare with.
    """

    params: int
    macs: int | None
    errors: dict[str, float]


def convert(path: Path, name: str, shapes: Shapes, plan: Plan, conversion: Conversion) -> list[str]:
    """Convert the checkpoint of the model that the file builds by now; what was left out of it.

    Without entries in the plan, the file was rewritten before.

    Raises:
        TargetError, InputError, TracingError: the model cannot be built, the checkpoint does not
            fit it, or its forward fails.
    """
    if conversion.data is not None and not plan.entries:
        raise InputError(
            f"{path}: nothing of this model is rewritten now, and --fit needs the file as it was "
            "before"
        )
    model = without_compiler(build_by_import(path, name, text_of(path)))
    file = str(conversion.given)
    content, left_out = without_optimizers(read_checkpoint(conversion.given))
    batches = None if conversion.data is None else read_batches(conversion.data)
    inputs = _random_inputs(model, shapes) if batches is None else _arguments(batches[-1])
    references = {}
    for found in state_dicts(content, model, file):
        if not plan.entries:
            content = with_state_dict(content, found.place, found.factorised(model, file))
            continue
        found.load_into(model, file)
        if batches is None:
            rewritten = apply_plan(model, plan, init="svd")
        else:
            rewritten = _fitted(model, plan, batches)
        entries = found.converted(model, rewritten, plan)
        content = with_state_dict(content, found.place, entries)
        if inputs is not None:
            references[found.label] = dict(outputs(model, inputs))
    write_checkpoint(content, conversion.target)
    torch.save((inputs, references), conversion.folder / _OUTPUTS)
    return left_out


def _fitted(model: nn.Module, plan: Plan, batches: Sequence[Any]) -> nn.Module:
    with catch_warnings():
        # reason: its advice is in terms of Python
        simplefilter("ignore", FitWarning)
        found = rewrite(model, plan=plan, init="fit", calibration=batches)
    for fault in found.faults:
        print(f"warning: {fault.fact}: {fault.remedies.for_command()}")
    return found.model


def plan_within(
    path: Path,
    name: str,
    report: Report,
    alike: Groups,
    budget: str,
    given: Path,
    data: Path,
    forms: Sequence[Form],
) -> Plan:
    """Which of the report's candidates to replace, and how, for the least predicted loss.

    All of a group are replaced alike.

    Raises:
        TargetError, InputError, FormatError, TracingError: the model cannot be built or run, the
            checkpoint does not fit it, or no choice keeps the budget.
    """
    model = without_compiler(build_by_import(path, name, text_of(path)))
    content, _ = without_optimizers(read_checkpoint(given))
    # reason: of raw and averaged weights, either tells which layers can be spared
    state_dicts(content, model, str(given))[0].load_into(model, str(given))
    options = estimate(Preparation(model, read_batches(data)), report.candidates, forms)
    return allocate(report, options, parse_budgets(budget), alike)


def prove(
    path: Path, text: bytes, name: str, shapes: Shapes, conversion: Conversion | None
) -> Proof:
    """Build the model of the rewritten file, load the converted checkpoint strictly, and run it.

    Raises:
        TargetError, InputError, TracingError: one of these fails, or the outputs are not alike.
    """
    model = without_compiler(build_by_import(path, name, text))
    report = analyze(model, shapes)
    errors = {}
    if conversion is not None:
        content = read_checkpoint(conversion.target)
        inputs, references = torch.load(conversion.folder / _OUTPUTS, weights_only=True)
        for found in state_dicts(content, model, str(conversion.target)):
            found.load_into(model, str(conversion.target))
            errors[found.label] = -1.0
            if found.label in references:
                errors[found.label] = _error(outputs(model, inputs), references[found.label])
    return Proof(report.params, report.macs, errors)


def _arguments(batch: Any) -> Inputs:
    found = forward_arguments([], None, batch)
    assert found is not None  # reason: that is for no batch
    return found


def _random_inputs(model: nn.Module, shapes: Shapes) -> Inputs | None:
    """Random inputs of these shapes, the same in every run."""
    arguments = forward_arguments(list(model.parameters()), shapes, None)
    if arguments is None:
        return None
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(each.shape, generator=generator).to(each.dtype) for each in arguments[0]]
    return tuple(given), {}


def _error(found: Outputs, wanted: Outputs) -> float:
    """The norm of the difference of all outputs together, over the norm of those wanted."""
    apart = whole = 0.0
    for place, before in wanted.items():
        after = found.get(place)
        if not isinstance(before, Tensor):
            continue
        if not isinstance(after, Tensor) or after.shape != before.shape:
            shape = tuple(after.shape) if isinstance(after, Tensor) else after
            raise InputError(
                f"the rewritten model gives an output of shape {shape} in place of "
                f"{tuple(before.shape)}; nothing is written"
            )
        apart += float((after.double() - before.double()).square().sum())
        whole += float(before.double().square().sum())
    return sqrt(apart / whole) if whole else sqrt(apart)
