"""What models cost before and after: the data that every form and ``compare`` show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import NamedTuple

from pytest_dwsconv.core.suite.costs import Current, Entry, Layer
from pytest_dwsconv.errors import FormatError

Number = int | float


class Tolerance(NamedTuple):
    """The growth that is no fault: a share of what was there, or an amount, whichever is more."""

    percent: Decimal = Decimal(0)
    amount: int = 0

    @classmethod
    def parsed(cls, text: str) -> Tolerance:
        """The percentage that is written so, as in ``2.5`` or ``2.5%``.

        Raises:
            FormatError: it is not a number from 0.
        """
        try:
            percent = Decimal(text.strip().removesuffix("%"))
        except InvalidOperation:
            percent = Decimal(-1)
        if not (percent.is_finite() and percent >= 0):
            raise FormatError(f"{text!r} is not a percentage: write a number from 0, as in 2.5")
        return cls(percent)

    def exceeded(self, before: Number, after: Number) -> bool:
        # reason: a float as it is written, so that a percentage of it is exact
        old, new = Decimal(str(before)), Decimal(str(after))
        return new - old > self.amount and new * 100 > old * (100 + self.percent)


@dataclass(frozen=True)
class Change:
    """A quantity before and after, ``None`` where it is not known or not there.

    ``name`` is ``params``, ``macs``, ``size`` (of the parameters in float32, in bytes),
    ``candidates`` or ``latency`` (in milliseconds). ``too_much`` is a growth beyond what is
    tolerated.
    """

    name: str
    noun: str
    before: Number | None
    after: Number | None
    too_much: bool = False

    @property
    def difference(self) -> Number | None:
        if self.before is None or self.after is None:
            return None
        return self.after - self.before

    def cells(self) -> tuple[str, str, str]:
        """Before, after and the difference, as they are written in a table."""
        return _written(self.before), _written(self.after), self._by() if self.difference else ""

    def _by(self) -> str:
        """``+36, +6.25 %``"""
        if self.before is None or self.after is None:
            return ""
        before, after = Decimal(str(self.before)), Decimal(str(self.after))
        share = f", {100 * (after - before) / before:+.2f} %" if before else ""
        form = "+,.3f" if isinstance(self.after, float) else "+,"
        return f"{after - before:{form}}{share}"

    def __str__(self) -> str:
        return (
            f"{_written(self.after)} {self.noun}, {_written(self.before)} in the baseline "
            f"({self._by()})"
        )


def _written(number: Number | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.3f}" if isinstance(number, float) else f"{number:,}"


class ChangeStatus(str, Enum):
    """How a model of this run stands to those before it."""

    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"
    SAME = "unchanged"


@dataclass(frozen=True)
class LayerChange:
    """A layer's parameters and MACs before and after."""

    name: str
    params: Change
    macs: Change


@dataclass(frozen=True)
class ModelChange:
    """What a model cost before and after.

    ``reported_by`` are its tests and targets. ``layers`` are those that changed, where the layers
    of both sides are known.
    """

    name: str
    status: ChangeStatus
    quantities: tuple[Change, ...]
    reported_by: tuple[str, ...] = ()
    layers: tuple[LayerChange, ...] = ()

    @property
    def too_much(self) -> list[Change]:
        """The quantities that grew by more than is tolerated."""
        return [change for change in self.quantities if change.too_much]

    def increases(self) -> Iterator[str]:
        for change in self.too_much:
            yield f"{self.name} has {change}."

    def decreases(self) -> Iterator[str]:
        for change in self.quantities:
            # reason: no two measurements are equal, so one that was faster says little
            if change.name in ("params", "macs") and (change.difference or 0) < 0:
                yield f"{self.name} has {change}."


@dataclass(frozen=True)
class Changes:
    """Every model of a run or file beside what it cost before; ``compared_with`` says where."""

    compared_with: str
    models: tuple[ModelChange, ...]

    def of(self, *statuses: ChangeStatus) -> list[ModelChange]:
        return [model for model in self.models if model.status in statuses]

    @property
    def shown(self) -> list[ModelChange]:
        """The models with a difference, those that grew too much first."""
        changed = [model for model in self.models if model.status is not ChangeStatus.SAME]
        return sorted(changed, key=_place)

    @property
    def increases(self) -> list[str]:
        return _sentences(self.models, ModelChange.increases)

    @property
    def decreases(self) -> list[str]:
        return _sentences(self.models, ModelChange.decreases)

    def summary(self) -> str:
        """``Models: 2 changed, 1 new, 7 unchanged, compared with main.json``."""
        counts = []
        for status in ChangeStatus:
            if number := len(self.of(status)):
                counts.append(f"{number:,} {status.value}")
        return f"Models: {', '.join(counts) or 'none'}, compared with {self.compared_with}"


class Outcome(NamedTuple):
    """What the checks at the end of a run found, for its reports.

    ``changes`` are what the models cost beside a baseline, if there is one. ``unknown`` are
    sentences on what could not be analysed, measured or compared, with its tests on a second line.
    """

    changes: Changes | None = None
    unknown: tuple[str, ...] = ()


def _place(model: ModelChange) -> tuple[bool, int, str]:
    return not model.too_much, list(ChangeStatus).index(model.status), model.name


def _sentences(
    models: tuple[ModelChange, ...], say: Callable[[ModelChange], Iterator[str]]
) -> list[str]:
    return [sentence for model in models for sentence in say(model)]


# ------------------------------------------------------------------ from what is known


def changed_model(model: Current, before: Entry | None, tolerance: Tolerance | None) -> ModelChange:
    after = at_the_input(model, before)
    found = tuple(quantities(before, after, tolerance))
    if before is None:
        return ModelChange(model.name, ChangeStatus.NEW, found, model.users)
    layers = tuple(_layers(before.layers, after.layers))
    same = not layers and not any(change.difference for change in found)
    status = ChangeStatus.SAME if same else ChangeStatus.CHANGED
    return ModelChange(model.name, status, found, model.users, layers)


def at_the_input(model: Current, before: Entry | None) -> Entry:
    """The model's entry, with its MACs for the input of an earlier entry if that has any."""
    if before is None or before.macs is None:
        return model.entry
    return replace(model.entry, input=before.input, macs=model.macs.get(before.input))


_COUNTS: tuple[tuple[str, str, Callable[[Entry], int | None], bool], ...] = (
    ("params", "parameters", lambda entry: entry.params, True),
    ("macs", "MACs", lambda entry: entry.macs, True),
    ("size", "bytes of float32 parameters", lambda entry: 4 * entry.params, False),
    ("candidates", "candidates", lambda entry: entry.candidates, False),
)
"""What is shown of a model: its name, its noun, its value, and whether it may grow too much."""


def quantities(
    before: Entry | None, after: Entry | None, tolerance: Tolerance | None = None
) -> Iterator[Change]:
    """What is known of a model on either side."""
    for name, noun, value, limited in _COUNTS:
        old = None if before is None else value(before)
        new = None if after is None else value(after)
        if old is not None or new is not None:
            too_much = limited and _exceeded(tolerance, old, new)
            yield Change(name, noun, old, new, too_much)
    if before is None or after is None:
        return
    for conditions in sorted(before.latency.keys() & after.latency.keys()):
        # reason: milliseconds of a float as it is written
        was, took = (
            float(Decimal(str(entry.latency[conditions])) * 1000) for entry in (before, after)
        )
        # reason: no two measurements are equal, so without a percentage each would be too much
        too_much = bool(tolerance and tolerance.percent) and _exceeded(tolerance, was, took)
        yield Change("latency", f"ms median latency ({conditions})", was, took, too_much)


def _exceeded(tolerance: Tolerance | None, old: Number | None, new: Number | None) -> bool:
    if tolerance is None or old is None or new is None:
        return False
    return tolerance.exceeded(old, new)


def _layers(before: Mapping[str, Layer], after: Mapping[str, Layer]) -> Iterator[LayerChange]:
    """The layers that are not as they were, those that are gone last."""
    if not before or not after:
        return
    absent = Layer(None, None)
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name, absent), after.get(name, absent)
        if old != new:
            params = Change("params", "parameters", old.params, new.params)
            yield LayerChange(name, params, Change("macs", "MACs", old.macs, new.macs))
