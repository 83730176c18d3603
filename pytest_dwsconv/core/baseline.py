"""What models cost when somebody last agreed to it: numbers that a run is compared with."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.jsonio import OMITTED, Document, Seconds

_DOCUMENT = Document("baseline", 1, "use the release that wrote it")


@dataclass(frozen=True)
class Entry:
    """The cost of one model.

    ``latency`` is median seconds by the conditions that they were measured under. ``reported_by``
    is a test or target that reported the model, empty where that is not known. It tells models of
    one class and input apart.
    """

    params: int
    macs: int | None
    latency: Mapping[str, Seconds] = field(default_factory=dict, metadata=OMITTED)
    reported_by: str = field(default="", metadata=OMITTED)

    @property
    def cost(self) -> tuple[int, int]:
        return self.params, self.macs or 0


class Current(NamedTuple):
    """A model of this run.

    ``kind`` is its class and input, ``name`` what messages call it, ``users`` who reported it, in
    order.
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
    """Name the models of a run by class and input, and where that is not enough by reporter.

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
            # reason: models of one class, input and cost are taken for one model
            reports = costs[cost]
            users = sorted(user for report in reports for user in run[report])
            name = _unused(kind if len(costs) == 1 else f"{kind}, in {users[0]}", found)
            latency: dict[str, float] = {}
            for report in reports:
                latency |= latencies.get(report, {})
            entry = Entry(reports[0].params, reports[0].macs, latency, users[0])
            found[name] = Current(kind, name, tuple(users), entry)
    return list(found.values())


def _name(report: ReportData) -> str:
    shapes = " and ".join(" x ".join(map(str, shape)) for shape in report.input_shapes)
    return f"{report.model}, {f'input {shapes}' if shapes else 'no input'}"


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """The name, numbered where one test reports several models of a class and input."""
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
        """What grew by more than ``percent``, what shrank, and what is not in the baseline.

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
        """The baseline with these models as they are now, and one line for each change."""
        entries, changes = dict(self.entries), []
        known = self._matched(models, self._may_be_replaced)
        for model in models:
            name = known.get(model.name) or _free_name(model, entries)
            old = entries.get(name)
            entries[name] = model.entry if old is None else _renewed(old, model)
            if old is None:
                changes.append(f"{name}: new")
            elif old != entries[name]:
                changes.append(f"{name}: {_difference(old, model.entry)}")
        return Baseline(entries), changes

    def _matched(self, models: Sequence[Current], may_be: _Alike) -> dict[str, str]:
        """The entry of each model that has one, by their names; no entry is that of two models.

        ``may_be`` decides where neither the reporter nor the cost tells.
        """
        # reason: of several that may be each other the largest are, so that growth is seen
        largest_first = sorted(models, key=lambda model: model.entry.cost, reverse=True)
        names = sorted(self.entries, key=lambda name: self.entries[name].cost, reverse=True)
        found: dict[str, str] = {}
        # reason: the reporter goes before the cost, for a model that grew is still the same
        for alike in (_is_certain, _has_reporter, _costs_the_same, may_be):
            for model in largest_first:
                if model.name in found:
                    continue
                for name in names:
                    free = name not in found.values() and _is_of(name, model.kind)
                    if free and alike(model, self._with_reporter(name, model.kind)):
                        found[model.name] = name
                        break
        return found

    def _with_reporter(self, name: str, kind: str) -> Entry:
        """An entry with its reporter, which older files have in the name only."""
        entry = self.entries[name]
        if entry.reported_by or name == kind:
            return entry
        in_name = re.sub(r" \(\d+\)$", "", name.removeprefix(f"{kind}, in "))
        return replace(entry, reported_by=in_name)

    def _may_be_replaced(self, model: Current, entry: Entry) -> bool:
        """Whether an update takes a model for that of an entry which somebody else reported.

        It does where there is one model and one entry of the kind, as after a test was renamed, and
        where nobody knows who reported the entry. Any other entry may be of a test that did not
        run, and is kept.
        """
        of_this_kind = [name for name in self.entries if _is_of(name, model.kind)]
        alone = model.name == model.kind and len(of_this_kind) == 1
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
    # reason: a comparison lets no growth pass as a new model while an entry may be the model's
    return True


def _is_of(name: str, kind: str) -> bool:
    """Whether an entry is of this class and input; of several the names say who reported them."""
    return name == kind or name.startswith(f"{kind}, in ")


def _free_name(model: Current, taken: Mapping[str, object]) -> str:
    if model.kind not in taken:
        return model.kind
    return _unused(f"{model.kind}, in {model.entry.reported_by}", taken)


def _renewed(old: Entry, model: Current) -> Entry:
    """The entry of a model that is as this run found it.

    Latencies under conditions that this run did not meet stay. So does the reporter while it still
    reports the model, for one of several is as good as another, and the file changes less.
    """
    new = model.entry
    reporter = old.reported_by if old.reported_by in model.users else new.reported_by
    return Entry(new.params, new.macs, {**old.latency, **new.latency}, reporter)


def _difference(old: Entry, new: Entry) -> str:
    pairs = [pair for pair in _pairs(old, new, latency=True) if pair[1] != pair[2]]
    changes = [_change(*pair) for pair in pairs]
    return ", ".join(changes) or "what was not known before, or who reports it"


def _pairs(
    before: Entry, after: Entry, latency: bool
) -> Iterator[tuple[str, Decimal | int, Decimal | int]]:
    """Quantities that both entries know, by their nouns, with latency or without."""
    yield "parameters", before.params, after.params
    if before.macs is not None and after.macs is not None:
        yield "MACs", before.macs, after.macs
    if not latency:
        return
    for conditions in sorted(before.latency.keys() & after.latency.keys()):
        # reason: a float as it is written, so that a percentage of it is exact
        old, new = (Decimal(str(entry.latency[conditions])) * 1000 for entry in (before, after))
        yield f"ms median latency ({conditions})", old, new


def _change(noun: str, old: Decimal | int, new: Decimal | int) -> str:
    difference = new - old
    share = f", {100 * difference / old:+.2f} %" if old else ""
    form = ",.3f" if isinstance(new, Decimal) else ","
    return f"{new:{form}} {noun}, {old:{form}} in the baseline ({difference:+{form}}{share})"
