"""What a rewrite gives back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

from torch import nn

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.rules import CANDIDATE_CODE
from pytest_dwsconv.report import Report


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
        held_out_errors: the same on the batches that were held out.
        renormalised: whether re-estimated statistics of batch normalisation were kept.
    """

    model: nn.Module
    plan: Plan
    report_before: Report
    report_after: Report
    errors: Mapping[str, float]
    calibration_errors: Mapping[str, float] = field(default_factory=dict)
    held_out_errors: Mapping[str, float] = field(default_factory=dict)
    renormalised: bool = False

    def __str__(self) -> str:
        return "\n".join(map(plain, self._lines()))

    def _lines(self) -> Iterator[str]:
        before, after = self.report_before, self.report_after
        replaced = len(self.plan.entries)
        yield f"{before.model}: {replaced} of {len(before.findings)} convolutions replaced"
        yield from self._left_alone()
        yield _change("parameters of the model", before.params, after.params)
        if replaced:
            what = "parameters of the replaced layers"
            yield _change(what, self.plan.params_before, self.plan.params_after)
        if before.macs is not None and after.macs is not None:
            shapes = " and ".join(" x ".join(map(str, shape)) for shape in before.input_shapes)
            inputs = f" (input {shapes})" if shapes else ""
            yield _change(f"MACs of the model{inputs}", before.macs, after.macs)
        yield from _errors("relative weight error", self.errors)
        yield from _errors("relative output error, calibration data", self.calibration_errors)
        yield from _errors("relative output error, held-out data", self.held_out_errors)
        if self.calibration_errors and not self.held_out_errors:
            yield "nothing was held out to judge by, so nothing was refined: pass several batches"

    def _left_alone(self) -> Iterator[str]:
        """Why convolutions were not replaced: one line per reason, the most frequent first."""
        planned = {entry.name for entry in self.plan.entries}
        reasons: Counter[tuple[str, str]] = Counter()
        for found in self.report_before.findings:
            if found.name in planned:
                continue
            # reason: a budget or a given plan leaves candidates out, nothing else does
            reason = "it is not in the plan" if found.code == CANDIDATE_CODE else found.reason
            reasons[found.code, reason] += 1
        for (code, reason), count in reasons.most_common():
            yield f"not replaced: {count} ({code}: {reason})"


def _errors(what: str, errors: Mapping[str, float]) -> Iterator[str]:
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        middle, layer = median(errors.values()), worst or "the model itself"
        yield f"{what}: median {middle:.3f}, largest {errors[worst]:.3f} ({layer})"


def _change(what: str, before: int, after: int) -> str:
    saving = f" ({before / after:.2f}x)" if after else ""
    return f"{what}: {before:,} -> {after:,}{saving}"
