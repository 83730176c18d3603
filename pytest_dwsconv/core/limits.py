"""How a model stands to one limit, as plain data that says itself in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from pytest_dwsconv.core.jsonio import OMITTED
from pytest_dwsconv.core.measurement import (
    LatencyLimit,
    LatencyPrediction,
    Measurement,
    milliseconds,
)
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.quantities import (
    Unit,
    digits_telling,
    humanize,
    parse_share,
    rounded_up,
    scale_of,
    written,
)
from pytest_dwsconv.errors import InputError


@dataclass(frozen=True)
class LimitCheck:
    """One limit that a model was held to, and what the model has; ``str()`` says both.

    ``name`` is the argument of ``Budget``; ``noun`` says in words what ``limit`` and ``actual``
    count. ``layers`` is the pattern of the convolutions that are counted, empty where the whole
    model is. Over the limit, ``replacements`` are the fewest candidates whose replacement brings
    the model under it, the largest saving first, and ``attainable`` is what it would then have.
    Where ``attainable`` is still above ``limit`` they are all that help.
    """

    model: str
    name: str
    noun: str
    unit: Unit
    limit: float
    actual: float
    replacements: tuple[str, ...]
    attainable: float
    layers: str = field(default="", metadata=OMITTED)

    @property
    def exceeded(self) -> bool:
        return self.actual > self.limit

    def __str__(self) -> str:
        return plain(self._sentences())

    def _sentences(self) -> str:
        if not self.exceeded:
            actual, limit = (humanize(number, self.unit) for number in (self.actual, self.limit))
            return f"{self.model} has {actual} {self.noun}, the budget is {limit}."
        digits = digits_telling(self.actual, self.limit, self.unit)
        scale = scale_of(self.actual, self.unit)
        actual = written(self.actual, scale, digits)
        over = written(self.actual - self.limit, scale, digits)
        limit = written(self.limit, scale_of(self.limit, self.unit), digits)
        noun = _singular(self.noun) if actual == "1" else self.noun
        budget = f"the budget is {limit} ({over} over). {self._advice()}"
        return f"{self.model} has {actual} {noun}, {budget}"

    def _advice(self) -> str:
        if not self.replacements:
            return "No convolution in it that could be made separable would lower that."
        if self.attainable > self.limit:
            return f"Making every candidate separable would only bring it to {self._reached()}."
        names = _listed(list(map(_spoken, self.replacements)))
        return f"Making {names} separable would bring it to {self._reached()}."

    def _reached(self) -> str:
        if self.attainable == self.limit:
            return humanize(self.attainable, self.unit)
        digits = digits_telling(self.attainable, self.limit, self.unit)
        return written(self.attainable, scale_of(self.attainable, self.unit), digits)


@dataclass(frozen=True)
class Remedy:
    """Replacements that measured faster on the machine that measured the model.

    They are the fewest that bring the model under its limit, or all where ``attainable``, the
    seconds that the model would then take, is above it. Of ``noisy`` others nobody can tell.
    """

    replacements: tuple[str, ...]
    attainable: float
    noisy: int = 0


@dataclass(frozen=True)
class LatencyCheck:
    """As ``LimitCheck``, of the latency that was measured on a target, in seconds.

    ``remedy`` is None where no replacements were measured.
    """

    target: str
    held_to: LatencyLimit
    measurement: Measurement
    remedy: Remedy | None = None

    name: ClassVar[str] = "latency"
    layers: ClassVar[str] = ""
    unit: ClassVar[Unit] = Unit.SECONDS

    @property
    def noun(self) -> str:
        percent = self.held_to.percent
        if percent == 50:
            return f"median latency measured on {self.target}"
        return f"latency measured on {self.target} at the percentile {percent:g}"

    @property
    def limit(self) -> float:
        """With its tolerance."""
        return self.held_to.allowed(self.measurement)

    @property
    def actual(self) -> float:
        return self.held_to.actual(self.measurement)

    @property
    def exceeded(self) -> bool:
        return self.actual > self.limit

    def __str__(self) -> str:
        target = plain(self.target)
        if self.exceeded:
            excess = f"On {target} {self.held_to.excess(self.measurement)}"
            return excess if self.remedy is None else f"{excess} {self._advice(self.remedy)}"
        took = f"On {target} {plain(self.measurement.model)} took {milliseconds(self.actual)}"
        return f"{took}, the limit is {self.held_to.sentence(self.measurement)}."

    def _advice(self, remedy: Remedy) -> str:
        noise = ""
        if remedy.noisy:
            noise = f" Times of {remedy.noisy} were too noisy to tell: run it on an idle machine."
        if not remedy.replacements:
            return f"No replacement of a convolution measured faster here.{noise}"
        reached = f"{milliseconds(remedy.attainable)}, by what was measured of each"
        if remedy.attainable > self.limit:
            return plain(
                f"All replacements that measured faster would only bring it to {reached}.{noise}"
            )
        names = _listed(list(map(_spoken, remedy.replacements)))
        return plain(f"Making {names} separable would bring it to {reached}.")


@dataclass(frozen=True)
class PredictionCheck:
    """As ``LimitCheck``, of a latency that is predicted, in seconds.

    The limit is exceeded where the whole interval is above it, and ``may_be_exceeded`` where the
    predicted latency is above it and the interval begins below.
    """

    model: str
    limit: float
    prediction: LatencyPrediction

    name: ClassVar[str] = "latency_predicted"
    layers: ClassVar[str] = ""
    unit: ClassVar[Unit] = Unit.SECONDS

    @property
    def noun(self) -> str:
        low, high = self.prediction.low, self.prediction.high
        doubt = ", which may be over" if self.may_be_exceeded else ""
        return f"predicted on {self.prediction.host}, {low:.2f} to {high:.2f} ms{doubt}"

    @property
    def actual(self) -> float:
        return self.prediction.ms / 1000

    @property
    def exceeded(self) -> bool:
        return self.prediction.low / 1000 > self.limit

    @property
    def may_be_exceeded(self) -> bool:
        return self.actual > self.limit and not self.exceeded

    def __str__(self) -> str:
        limit = f"{self.model}: {self.prediction.figures}, the limit is {milliseconds(self.limit)}"
        if self.exceeded:
            verdict = "the whole interval is over it"
        elif self.may_be_exceeded:
            verdict = "the prediction is over it, its interval is not: measure it on a device"
        else:
            verdict = "the prediction keeps it"
        return plain(f"{limit}: {verdict} ({self.prediction.reason}).")


AnyCheck = LimitCheck | LatencyCheck | PredictionCheck


def doubts(checks: Iterable[AnyCheck]) -> list[str]:
    """A sentence for each limit of which a prediction does not tell whether it is kept."""
    return [
        str(check)
        for check in checks
        if isinstance(check, PredictionCheck) and check.may_be_exceeded
    ]


SLACK = 0.5
"""A limit that nothing uses this share of is too slack to notice growth."""


def slack(held: Iterable[Iterable[AnyCheck]]) -> list[str]:
    """A sentence for each model that uses less than ``SLACK`` of its limits.

    Where several models are held to one limit, it is told of the one that uses most of it.

    Args:
        held: the limits that each model was held to.
    """
    most: dict[tuple[str, str, float], tuple[int, LimitCheck]] = {}
    for place, checks in enumerate(held):
        for check in checks:
            if isinstance(check, LimitCheck):
                key = check.name, check.layers, check.limit
                if key not in most or check.actual > most[key][1].actual:
                    most[key] = place, check
    loose: dict[int, list[LimitCheck]] = {}
    for place, check in most.values():
        if check.actual < SLACK * check.limit:
            loose.setdefault(place, []).append(check)
    return [_tighten(checks) for _, checks in sorted(loose.items())]


def _tighten(checks: Sequence[LimitCheck]) -> str:
    shares, limits = [], []
    for check in checks:
        shares.append(f"{100 * check.actual / check.limit:.0f} %")
        limits.append(f"{rounded_up(check.actual, check.unit)} {check.noun}")
    model = checks[0].model
    return plain(f"{model} uses {_listed(shares)} of its budget, tighten to {_listed(limits)}.")


class AgreementLimits(NamedTuple):
    """How far a network is to do what another does, as shares from 0 to 1."""

    min_top1: float | None
    max_error: float | None

    @classmethod
    def of(cls, min_top1: float | str | None, max_error: float | str | None) -> AgreementLimits:
        """The limits as they are written.

        Raises:
            InputError: there is none, or one is not a share.
        """
        if min_top1 is None and max_error is None:
            raise InputError(
                'dws_agreement without a limit checks nothing: give min_top1, as in "98%", or '
                "max_error, as in 0.05"
            )
        top1 = None if min_top1 is None else parse_share("min_top1", min_top1, "98%")
        if max_error is not None:
            max_error = parse_share("max_error", max_error, "5%")
        return cls(top1, max_error)


def _singular(noun: str) -> str:
    """``MAC for input 1 x 8`` of ``MACs for input 1 x 8``."""
    counted, *rest = noun.split(" ")
    return " ".join([counted.removesuffix("s"), *rest])


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _spoken(name: str) -> str:
    """A layer's name in a sentence: in a Sequential it is a number, of the model itself empty."""
    if not name:
        return "the model itself"
    return f"layer {name}" if name[0].isdigit() else name
