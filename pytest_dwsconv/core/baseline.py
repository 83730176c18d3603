"""What models cost when somebody last agreed to it: a file of plain numbers that a run is compared
with.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.jsonio import OMITTED, Document, Seconds

_DOCUMENT = Document("baseline", 1, "use the release that wrote it")


@dataclass(frozen=True)
class Entry:
    """The cost of one model; ``latency`` is median seconds by the conditions they were measured
    under.

    ``reported_by`` is a test or target that reported the model, empty where that is not known. It
    tells models of one class and input apart.
    """

    params: int
    macs: int | None
    latency: Mapping[str, Seconds] = field(default_factory=dict, metadata=OMITTED)
    reported_by: str = field(default="", metadata=OMITTED)

    @property
    def cost(self) -> tuple[int, int]:
        return self.params, self.macs or 0


class Current(NamedTuple):
    """A model of this run: its class and input, its name in messages, who reported it in order, and
    its cost.
    """

    kind: str
    name: str
    users: tuple[str, ...]
    entry: Entry


class Comparison(NamedTuple):
    """One sentence for each model and quantity that is not as the baseline says."""

    increases: list[str]
    decreases: list[str]
    missing: list[str]


def current(
    run: Mapping[ReportData, Sequence[str]], latencies: Mapping[ReportData, Mapping[str, float]]
) -> list[Current]:
    """Name the models of a run by class and input shapes, and where that is not enough by who
    reported them first.

    Args:
        run: the reports, each with its targets and tests in order.
        latencies: median seconds by conditions, of reports that have any.
    """
    groups: dict[str, dict[tuple[int, int], list[ReportData]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for report in run:
        groups[_name(report)][report.params, report.macs or 0].append(report)
    found: dict[str, Current] = {}
    for kind, costs in groups.items():
        for cost in sorted(costs):
            reports = costs[cost]
            users = sorted(user for report in reports for user in run[report])
            name = _unused(kind if len(costs) == 1 else f"{kind}, in {users[0]}", found)
            measured = {
                key: value for report in reports for key, value in latencies.get(report, {}).items()
            }
            found[name] = Current(
                kind, name, tuple(users), Entry(*_cost(reports[0]), measured, users[0])
            )
    return list(found.values())


def _cost(report: ReportData) -> tuple[int, int | None]:
    return report.params, report.macs


def _name(report: ReportData) -> str:
    shapes = " and ".join(" x ".join(map(str, shape)) for shape in report.input_shapes)
    return f"{report.model}, {f'input {shapes}' if shapes else 'no input'}"


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """The name, numbered where a test reports several models that nothing else tells apart."""
    count = sum(1 for other in taken if other == name or other.startswith(f"{name} ("))
    return f"{name} ({count + 1})" if count else name


@dataclass(frozen=True)
class Baseline:
    """Entries by name."""

    entries: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Baseline:
        """The baseline that ``to_json`` wrote.

        Raises:
            FormatError: ``text`` is not JSON, of another schema version, or not a baseline.
        """
        return cls(_DOCUMENT.from_json(text, _StoredBaseline).models)

    def to_json(self) -> str:
        """Sorted, so that a change shows as a change of few lines."""
        plain = _DOCUMENT.to_dict(_StoredBaseline(self.entries))
        return json.dumps(plain, indent=2, sort_keys=True) + "\n"

    def compared(self, models: Sequence[Current], percent: Decimal) -> Comparison:
        """What grew by more than ``percent``, what shrank, and which models are not in the
        baseline.

        Latencies are compared where the conditions are the same and ``percent`` is above 0, for no
        two measurements are equal.
        """
        result = Comparison([], [], [])
        known = self._matched(models, _may_be)
        for model in models:
            before = self.entries.get(known.get(model.name, ""))
            if before is None:
                result.missing.append(f"{model.name} is not in the baseline")
                continue
            for noun, old, new in _pairs(before, model.entry, percent > 0):
                if new * 100 > old * (100 + percent):
                    result.increases.append(f"{model.name} has {_change(noun, old, new)}.")
                elif new < old and isinstance(new, int):
                    result.decreases.append(f"{model.name} has {_change(noun, old, new)}.")
        return result

    def updated(self, models: Sequence[Current]) -> tuple[Baseline, list[str]]:
        """The baseline with these models as they are now, and what that changes, a line for each."""
        entries, changes = dict(self.entries), []
        known = self._matched(models, self._is_rewritten)
        for model in models:
            free = (
                model.kind
                if model.kind not in entries
                else f"{model.kind}, in {model.entry.reported_by}"
            )
            name = known.get(model.name) or _unused(free, entries)
            old, new = entries.get(name), model.entry
            latencies = {**(old.latency if old else {}), **new.latency}
            reporter = (
                old.reported_by if old and old.reported_by in model.users else new.reported_by
            )
            entries[name] = Entry(new.params, new.macs, latencies, reporter)
            if old is None:
                changes.append(f"{name}: new")
            elif old != entries[name]:
                pairs = _pairs(old, new, latency=True)
                words = [
                    _change(noun, before, after) for noun, before, after in pairs if before != after
                ]
                changes.append(
                    f"{name}: {', '.join(words) or 'what was not known before, or who reports it'}"
                )
        return Baseline(entries), changes

    def _matched(self, models: Sequence[Current], else_: _Alike) -> dict[str, str]:
        """The entry of each model that has one, by their names; no entry is that of two models.

        Who reported a model goes before what it costs, for a model that grew is still the same.
        Where neither tells, ``else_`` decides, and of several the largest are taken for the same.
        """
        found: dict[str, str] = {}
        largest_first = sorted(models, key=lambda model: model.entry.cost, reverse=True)
        names = sorted(self.entries, key=lambda name: self.entries[name].cost, reverse=True)
        for alike in (_is_certain, _has_reporter, _costs_the_same, else_):
            for model in largest_first:
                fitting = (
                    name
                    for name in names
                    if name not in found.values()
                    and _is_of(name, model.kind)
                    and alike(model, self._entry(name, model.kind))
                )
                if model.name not in found and (name := next(fitting, None)) is not None:
                    found[model.name] = name
        return found

    def _entry(self, name: str, kind: str) -> Entry:
        """An entry with its reporter, which older files have in the name only, and where it is
        needed there.
        """
        entry = self.entries[name]
        written = (
            re.sub(r" \(\d+\)$", "", name.removeprefix(f"{kind}, in ")) if name != kind else ""
        )
        return entry if entry.reported_by else replace(entry, reported_by=written)

    def _is_rewritten(self, model: Current, entry: Entry) -> bool:
        """Whether an update replaces an entry whose reporter is not among the model's, and not
        keeps it.
        """
        alone = (
            model.name == model.kind and sum(_is_of(name, model.kind) for name in self.entries) == 1
        )
        return alone or not entry.reported_by


@dataclass(frozen=True)
class _StoredBaseline:
    """A baseline as its file calls it."""

    models: Mapping[str, Entry]


_Alike = Callable[[Current, Entry], bool]


def _has_reporter(model: Current, entry: Entry) -> bool:
    return entry.reported_by in model.users


def _costs_the_same(model: Current, entry: Entry) -> bool:
    return entry.cost == model.entry.cost


def _is_certain(model: Current, entry: Entry) -> bool:
    return _has_reporter(model, entry) and _costs_the_same(model, entry)


def _may_be(model: Current, entry: Entry) -> bool:
    """A comparison lets nothing pass for new while an entry may be its own."""
    return True


def _is_of(name: str, kind: str) -> bool:
    return name == kind or name.startswith((f"{kind}, in ", f"{kind} ("))


def _pairs(
    before: Entry, after: Entry, latency: bool
) -> Iterable[tuple[str, Decimal | int, Decimal | int]]:
    """Quantities that both know, by their nouns."""
    yield "parameters", before.params, after.params
    if before.macs is not None and after.macs is not None:
        yield "MACs", before.macs, after.macs
    for conditions in sorted(before.latency.keys() & after.latency.keys()) if latency else ():
        seconds = (Decimal(str(entry.latency[conditions])) for entry in (before, after))
        yield f"ms median latency ({conditions})", *(second * 1000 for second in seconds)  # type: ignore[misc]


def _change(noun: str, old: Decimal | int, new: Decimal | int) -> str:
    difference = new - old
    share = f", {100 * difference / old:+.2f} %" if old else ""
    form = ",.3f" if isinstance(new, Decimal) else ","
    return f"{new:{form}} {noun}, {old:{form}} in the baseline ({difference:+{form}}{share})"
