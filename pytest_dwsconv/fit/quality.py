"""How good a fitted network is: figures, and what to do where they are bad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.render.table import count

USELESS = 0.9
"""From this share of the error of its mean on an output is hardly better than that."""
SHOWN = 3
"""Layers that a warning names."""
FEW = 8
"""Samples below which their errors, and their mean, are those of chance."""


@dataclass(frozen=True)
class Refinement:
    """What refining all layers together brought on the held-out outputs.

    Attributes:
        passes: passes over the calibration data; of few samples more than were asked for.
        kept_passes: after how many of them the weights were best, which are kept; 0 where none
            were better than before.
        error_before: the largest relative error of an output before.
        error_after: the same of the weights that were kept.
    """

    passes: int
    kept_passes: int
    error_before: float
    error_after: float

    @property
    def kept(self) -> bool:
        return self.kept_passes > 0


class Remedies(NamedTuple):
    """What would help a fit; each surface words it in its own terms.

    Attributes:
        batches: which calibration batches.
        params: parameters of the whole model to allow, where it needs more.
        multiplier: the depth multiplier that has them; None where the layers have several.
        layers: those with the largest errors, to be left out.
    """

    batches: str
    params: int | None = None
    multiplier: int | None = None
    layers: Sequence[str] = ()

    def for_python(self) -> str:
        """By the arguments of ``rewrite``."""
        found = [f"pass {self.batches} as calibration"]
        if self.multiplier is not None:
            found.append(f"depth_multiplier={self.multiplier} or budget={self.params}")
        elif self.params is not None:
            found.append(f"a budget of more than {self.params:,} parameters")
        if self.layers:
            found.append(f"leave out the worst layers, ignore={list(self.layers)!r}")
        return ", or ".join(found)

    def for_command(self) -> str:
        """By the options of ``dwsconv-rewrite``."""
        found = [f"give --fit {self.batches}"]
        if self.multiplier is not None:
            found.append(f"--depth-multiplier {self.multiplier} or --budget {self.params}")
        elif self.params is not None:
            found.append(f"a --budget of more than {self.params} parameters")
        if self.layers:
            skipped = ", ".join(self.layers)
            found.append(f"leave out the worst layers by '# dws: skip' on their lines: {skipped}")
        return ", or ".join(found)


class Fault(NamedTuple):
    """What is wrong with a fitted network, and what would help."""

    fact: str
    remedies: Remedies
    worthless: bool = True
    """Whether an output is, or tells nothing; else only the figures are."""


@dataclass(frozen=True)
class FitQuality:
    """How the network that a fit returns does on the batches held out.

    Attributes:
        output_errors: by output, the root of the squared error over the squared variation of what
            the original gives; 1 is what the mean alone would have. A tensor in which some channels
            are in another unit than the others has an entry for either.
        mean_errors: by output, the error of the mean of what the original gives for these samples,
            which knows nothing of the input: 1, or less where the numbers of an output differ from
            each other more than from sample to sample.
        agreement: the share of samples for which both networks give the highest score to the same
            class; None where they give anything but one tensor of class scores.
        samples: how many samples ``agreement`` is of.
        held_out: how many samples were held out, in all processes.
        layer_errors: by layer, the relative error where the next nonlinearity reads it.
        refinement: what refining brought; None where nothing was refined.
        nearest_error: the largest error of an output with the nearest kernels, those of
            ``init="svd"``.
        nearest: whether these are what the network has, because the fit was worse.
    """

    output_errors: Mapping[str, float]
    mean_errors: Mapping[str, float] = field(default_factory=dict)
    agreement: float | None = None
    samples: int = 0
    layer_errors: Mapping[str, float] = field(default_factory=dict)
    refinement: Refinement | None = None
    nearest_error: float | None = None
    nearest: bool = False
    held_out: int = 0

    @property
    def output_error(self) -> float:
        """The largest of the errors of outputs."""
        return max(self.output_errors.values())

    def lines(self) -> Iterator[str]:
        """What a result says of it."""
        others = (
            "" if self.nearest_error is None else f" ({self.nearest_error:.3f} with init='svd')"
        )
        yield f"relative error of the outputs, held-out data: {self.output_error:.3f}{others}"
        if len(self.output_errors) > 1:
            each = (f"{name} {error:.3f}" for name, error in self.output_errors.items())
            yield f"by output: {', '.join(each)}"
        if self.agreement is not None:
            share = f"{self.agreement:.2%}".replace("%", " %")
            yield f"same class as the original: {share} of {self.samples} held-out samples"
        if self.nearest:
            yield "the nearest kernels did better than any that were fitted, so these were taken"
        elif self.refinement is not None:
            yield _refined(self.refinement)

    def faults(self, plan: Plan, params: int) -> Iterator[Fault]:
        """Each output that is worthless, and figures of too few samples.

        ``params`` are those of the network that has them.
        """
        for name, error in self.output_errors.items():
            mean = self.mean_errors.get(name, 1.0)
            if error > 0 and mean == 0:
                yield Fault(
                    f"{name} of the original is the same for every sample held out, so its error "
                    "tells nothing of other inputs",
                    Remedies("batches that differ as those to come do"),
                )
            elif error >= USELESS * mean > 0:
                yield Fault(
                    f"{name} has a relative error of {error:.2g} on held-out data, where its mean "
                    f"alone has {mean:.2g}",
                    self._remedies(plan, params),
                )
        if 0 < self.held_out < FEW:
            yield Fault(
                f"the errors are those of {count(self.held_out, 'sample')} held out, which may be "
                "chance (every eighth batch is held out)",
                Remedies("eight batches or more of eight samples"),
                worthless=False,
            )

    def _remedies(self, plan: Plan, params: int) -> Remedies:
        multipliers = [entry.depth_multiplier or 0 for entry in plan.entries]
        larger = 2 * max(multipliers, default=0)
        worst = sorted(self.layer_errors, key=lambda name: self.layer_errors[name])[::-1][:SHOWN]
        layers = worst if len(plan.entries) > 1 else []
        if not all(multipliers) or not larger:
            return Remedies("more batches", params, None, layers)
        for entry in plan.entries:
            wider = PlanEntry.of(entry.name, entry.spec, entry.form, larger)
            params += wider.params_after - entry.params_after
        return Remedies("more batches", params, larger, layers)


def _refined(found: Refinement) -> str:
    if not found.kept:
        return f"refined in {found.passes} passes, without a gain on held-out data: undone"
    gain = f"{found.error_before:.3f} -> {found.error_after:.3f}"
    return f"refined, largest error of an output {gain} after {found.kept_passes} passes"
