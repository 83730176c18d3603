"""What models cost when somebody last agreed to it: a file of plain numbers that a run is compared with."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from pytest_dwsconv.errors import FormatError
from pytest_dwsconv.report import Report

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """The cost of one model; ``latencies`` are median seconds by the conditions they were measured under."""

    params: int
    macs: int | None
    latencies: Mapping[str, float] = field(default_factory=dict)


class Current(NamedTuple):
    """A model of this run: the name it has in a baseline, others it may have there, and its cost."""

    name: str
    others: tuple[str, ...]
    entry: Entry


class Comparison(NamedTuple):
    """One sentence for each model and quantity that is not as the baseline says."""

    increases: list[str]
    decreases: list[str]
    missing: list[str]


def current(run: Mapping[Report, Sequence[str]], latencies: Mapping[Report, Mapping[str, float]]) -> list[Current]:
    """Name the models of a run by class and input shapes, and where that is not enough by who reported them first.

    Args:
        run: the reports, each with its targets and tests in order.
        latencies: median seconds by conditions, of reports that have any.
    """
    groups: dict[str, dict[tuple[int, int], list[Report]]] = defaultdict(lambda: defaultdict(list))
    for report in run:
        groups[_name(report)][report.params, report.macs or 0].append(report)
    found: dict[str, Current] = {}
    for name, costs in groups.items():
        for cost in sorted(costs):
            reports = costs[cost]
            users = [f"{name}, in {user}" for user in sorted(user for report in reports for user in run[report])]
            chosen = _unused(name if len(costs) == 1 else users[0], found)
            measured = {key: value for report in reports for key, value in latencies.get(report, {}).items()}
            entry = Entry(reports[0].params, reports[0].macs, measured)
            found[chosen] = Current(chosen, tuple(users), entry)
    return list(found.values())


def _name(report: Report) -> str:
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
        try:
            data = json.loads(text)
            version = data["schema_version"]
            if version == SCHEMA_VERSION:
                return cls({name: _entry(row) for name, row in data["models"].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FormatError(f"not a baseline: {type(error).__name__}: {error}") from error
        raise FormatError(f"a baseline of schema version {version!r}, and this release reads version {SCHEMA_VERSION}")

    def to_json(self) -> str:
        """Sorted, so that a change shows as a change of few lines."""
        models = {
            name: {"params": entry.params, "macs": entry.macs}
            | ({"latency": dict(entry.latencies)} if entry.latencies else {})
            for name, entry in self.entries.items()
        }
        return json.dumps({"schema_version": SCHEMA_VERSION, "models": models}, indent=2, sort_keys=True) + "\n"

    def compared(self, models: Iterable[Current], percent: Decimal) -> Comparison:
        """What grew by more than ``percent``, what shrank, and which models are not in the baseline.

        Latencies are compared where the conditions are the same and ``percent`` is above 0, for no two measurements
        are equal.
        """
        result = Comparison([], [], [])
        for model in models:
            before = next((self.entries[name] for name in (model.name, *model.others) if name in self.entries), None)
            if before is None:
                result.missing.append(f"{model.name} is not in the baseline")
                continue
            for noun, old, new in _pairs(before, model.entry, percent > 0):
                if new * 100 > old * (100 + percent):
                    result.increases.append(f"{model.name} has {_change(noun, old, new)}.")
                elif new < old and isinstance(new, int):
                    result.decreases.append(f"{model.name} has {_change(noun, old, new)}.")
        return result

    def updated(self, models: Iterable[Current]) -> tuple[Baseline, list[str]]:
        """The baseline with these models as they are now, and what that changes, a line for each."""
        entries, changes = dict(self.entries), []
        for name, _, new in models:
            old = entries.get(name)
            latencies = {**(old.latencies if old else {}), **new.latencies}
            entries[name] = Entry(new.params, new.macs, latencies)
            if old is None:
                changes.append(f"{name}: new")
            elif old != entries[name]:
                pairs = _pairs(old, new, latency=True)
                words = [_change(noun, before, after) for noun, before, after in pairs if before != after]
                changes.append(f"{name}: {', '.join(words) or 'quantities that were not known before'}")
        return Baseline(entries), changes


def _pairs(before: Entry, after: Entry, latency: bool) -> Iterable[tuple[str, Decimal | int, Decimal | int]]:
    """Quantities that both know, by their nouns."""
    yield "parameters", before.params, after.params
    if before.macs is not None and after.macs is not None:
        yield "MACs", before.macs, after.macs
    for conditions in sorted(before.latencies.keys() & after.latencies.keys()) if latency else ():
        seconds = (Decimal(str(entry.latencies[conditions])) for entry in (before, after))
        yield f"ms median latency ({conditions})", *(second * 1000 for second in seconds)  # type: ignore[misc]


def _change(noun: str, old: Decimal | int, new: Decimal | int) -> str:
    difference = new - old
    share = f", {100 * difference / old:+.2f} %" if old else ""
    return f"{new:,} {noun}, {old:,} in the baseline ({difference:+,}{share})"


def _entry(row: Any) -> Entry:
    if set(row) - {"params", "macs", "latency"}:
        raise ValueError(f"unknown keys in {row!r}")
    params, macs, latencies = row["params"], row["macs"], row.get("latency", {})
    for number in (params, 0 if macs is None else macs):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"{number!r} is not a whole number from 0")
    return Entry(params, macs, {str(key): float(value) for key, value in latencies.items()})
