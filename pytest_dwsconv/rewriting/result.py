"""What a rewrite gives back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from math import isfinite
from statistics import median
from typing import Any

from torch import nn

from pytest_dwsconv.core.conv import ORDERS
from pytest_dwsconv.core.findings import inputs_of
from pytest_dwsconv.core.latency.evidence import EDGETPU
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.rules import CANDIDATE_CODE
from pytest_dwsconv.fit.layers.choice import is_too_wide
from pytest_dwsconv.fit.quality import Fault, FitQuality, Refinement
from pytest_dwsconv.render.table import count
from pytest_dwsconv.report import Report


@dataclass(frozen=True)
class Trial:
    """One plan of a search, fitted: the model's parameters with it, and what it was judged by.

    Attributes:
        params: parameters of the whole model.
        output_error: see ``RewriteResult``.
        agreement: see ``RewriteResult``.
        evaluation: what ``evaluate`` gave, if that was passed.
        kept: whether all that was asked for was kept.
    """

    params: int
    output_error: float | None
    agreement: float | None
    evaluation: float | None
    kept: bool


@dataclass(frozen=True)
class Acceptance:
    """How the smallest plan was found that keeps what was asked for.

    Attributes:
        condition: what that was.
        kept: whether any plan keeps it; if none does the original is returned.
        evaluation_before: what ``evaluate`` gave for the original, if that was passed.
        trials: the plans that were tried, in turn.
    """

    condition: str
    kept: bool
    evaluation_before: float | None
    trials: tuple[Trial, ...]

    def line(self) -> str:
        """What a result says of it."""
        tried = f"{count(len(self.trials), 'plan')} tried"
        if self.kept:
            return f"the smallest plan that keeps {self.condition} ({tried})"
        if not self.trials:
            return f"the original: there is nothing to replace that keeps {self.condition}"
        largest = max(self.trials, key=lambda trial: trial.params)
        figures = {
            "output error": largest.output_error,
            "agreement": largest.agreement,
            "evaluation": largest.evaluation,
        }
        told = [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]
        return (
            f"the original, for no plan keeps {self.condition} ({tried}; the largest, of "
            f"{largest.params:,} parameters, has {', '.join(told) or 'no figures'}): ask for less, "
            "or pass more calibration data"
        )


@dataclass(frozen=True)
class RewriteResult:
    """A rewritten model, the plan that was carried out, and the reports before and after.

    Attributes:
        model: the rewritten network: a copy, or the model itself with ``inplace=True``.
        plan: what was replaced by what, per layer.
        report_before: the analysis of the model as it was.
        report_after: the analysis of the rewritten network.
        errors: for each replaced layer the relative error of its kernel,
            sqrt(sum (W - W')^2 / sum W^2); empty for ``init="fresh"``, which keeps nothing of it.
        calibration_errors: for ``init="fit"``, for each fitted layer the relative error of its
            output on the batches it was fitted on: the root of the squared error where the next
            nonlinearity, or the next thing that is not a normalisation or an addition, reads it,
            over the squared variation of what the layer contributes there.
        held_out_errors: the same on the batches that were held out, as soon as a layer was fitted,
            before anything was refined.
        renormalised: whether re-estimated statistics of batch normalisation were kept.
        quality: how the network as returned does on the batches held out; None without a fit, and
            where nothing was held out.
        acceptance: how the smallest plan was found that keeps what was asked for; None where
            nothing was.
    """

    model: nn.Module
    plan: Plan
    report_before: Report
    report_after: Report
    errors: Mapping[str, float]
    calibration_errors: Mapping[str, float] = field(default_factory=dict)
    held_out_errors: Mapping[str, float] = field(default_factory=dict)
    renormalised: bool = False
    quality: FitQuality | None = None
    acceptance: Acceptance | None = None

    @property
    def output_error(self) -> float | None:
        """The relative error of the network's outputs on the batches held out, end to end.

        It is the root of the squared error over the squared variation, of several outputs the
        largest; 1 is what the mean alone would have.
        """
        return self.quality.output_error if self.quality else None

    @property
    def output_errors(self) -> Mapping[str, float]:
        """The same by output."""
        return self.quality.output_errors if self.quality else {}

    @property
    def agreement(self) -> float | None:
        """The share of held-out samples that get the same class as from the original.

        None where the network gives anything but one tensor of class scores.
        """
        return self.quality.agreement if self.quality else None

    @property
    def refined_errors(self) -> Mapping[str, float]:
        """By layer, the relative output error on the batches held out, of the network as returned.

        Layers make up for each other once they are refined, so one of them may be larger than that
        in ``held_out_errors`` while the outputs are nearer.
        """
        return self.quality.layer_errors if self.quality else {}

    @property
    def refinement(self) -> Refinement | None:
        """What refining all layers together brought; None where nothing was refined."""
        return self.quality.refinement if self.quality else None

    @property
    def last_part_only(self) -> tuple[str, ...]:
        """Layers of which only the last part was fitted.

        The second moments of all that one of their outputs sees would take too much memory.
        """
        fitted = [entry for entry in self.plan.entries if entry.name in self.calibration_errors]
        return tuple(entry.name for entry in fitted if is_too_wide(entry))

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each of the ``faults``, with what would help."""
        return tuple(f"{one.fact}: {one.remedies.for_python()}" for one in self.faults)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Outputs that are as wrong as their mean alone, and figures of too few samples."""
        if self.quality is None:
            return ()
        return tuple(self.quality.faults(self.plan, self.report_after.params))

    def to_dict(self) -> dict[str, Any]:
        """All but the model, as plain data for JSON."""
        quality = None
        if self.quality is not None:
            quality = {"output_error": self.output_error, **asdict(self.quality)}
        return {
            "plan": json.loads(self.plan.to_json()),
            "report_before": self.report_before.to_dict(),
            "report_after": self.report_after.to_dict(),
            "errors": dict(self.errors),
            "calibration_errors": dict(self.calibration_errors),
            "held_out_errors": dict(self.held_out_errors),
            "renormalised": self.renormalised,
            "quality": quality,
            "acceptance": asdict(self.acceptance) if self.acceptance else None,
            "warnings": list(self.warnings),
        }

    def to_json(self) -> str:
        """The same as text; a number that JSON does not have, as infinity, becomes null."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False)

    def __str__(self) -> str:
        return "\n".join(map(plain, self._lines()))

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return f"<pre>{escape(str(self))}</pre>"

    def _lines(self) -> Iterator[str]:
        before, after = self.report_before, self.report_after
        replaced = len(self.plan.entries)
        yield f"{before.model}: {replaced} of {len(before.findings)} convolutions replaced"
        forms = Counter(entry.form for entry in self.plan.entries)
        if not forms.keys() <= {*ORDERS}:
            yield "forms: " + ", ".join(f"{n} {form.value}" for form, n in forms.most_common())
        if self.acceptance is not None:
            yield self.acceptance.line()
        yield from self._left_alone()
        yield _change("parameters of the model", before.params, after.params)
        if replaced:
            what = "parameters of the replaced layers"
            yield _change(what, self.plan.params_before, self.plan.params_after)
        if before.macs is not None and after.macs is not None:
            shapes = inputs_of(before)
            inputs = f" (input {shapes})" if shapes else ""
            yield _change(f"MACs of the model{inputs}", before.macs, after.macs)
        yield from self._evidence()
        yield from self._fit_lines()

    def _fit_lines(self) -> Iterator[str]:
        """How near the replacements are."""
        yield from _errors("relative weight error", self.errors)
        yield from _errors("relative output error, calibration data", self.calibration_errors)
        yield from _errors("relative output error, held-out data", self.held_out_errors)
        yield from _errors("the same of the network as returned", self.refined_errors)
        if self.last_part_only:
            layers = ", ".join(self.last_part_only)
            yield f"only the last part was fitted, as the moments of all inputs are large: {layers}"
        if self.quality is not None:
            yield from self.quality.lines()
        for warning in self.warnings:
            yield f"warning: {warning}"
        if self.calibration_errors and not self.held_out_errors:
            yield "nothing was held out to judge by, so nothing was refined: pass several batches"

    def _evidence(self) -> Iterator[str]:
        known = self.report_before.evidence
        yield from map(str, known)
        if self.plan.entries and any(one.target == EDGETPU for one in known):
            yield "not in these figures is what int8 loses: edgetpu.compare_int8 measures it"

    def _left_alone(self) -> Iterator[str]:
        """Why convolutions were not replaced: one line per reason, the most frequent first."""
        planned = {entry.name for entry in self.plan.entries}
        reasons: Counter[str] = Counter()
        for found in self.report_before.findings:
            if found.name in planned:
                continue
            # reason: a budget or a given plan leaves candidates out, nothing else does
            is_candidate = found.code == CANDIDATE_CODE
            reasons["not in the plan" if is_candidate else f"{found.code}: {found.reason}"] += 1
        for reason, times in reasons.most_common():
            yield f"not replaced: {times} ({reason})"


def _errors(what: str, errors: Mapping[str, float]) -> Iterator[str]:
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        middle, layer = median(errors.values()), worst or "the model itself"
        yield f"{what}: median {middle:.3f}, largest {errors[worst]:.3f} ({layer})"


def _change(what: str, before: int, after: int) -> str:
    saving = f" ({before / after:.2f}x)" if after else ""
    return f"{what}: {before:,} -> {after:,}{saving}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
