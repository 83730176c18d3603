"""What models cost when somebody last agreed to it: numbers that a run is compared with."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.jsonio import Document, from_plain
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.suite.architectures import Reporters, architectures
from pytest_dwsconv.core.suite.changes import (
    Changes,
    ChangeStatus,
    ModelChange,
    Tolerance,
    at_the_input,
    changed_model,
    quantities,
)
from pytest_dwsconv.core.suite.costs import Current, Entry, current, unused_name
from pytest_dwsconv.errors import FormatError

_DOCUMENT = Document("baseline", 1, "use the release that wrote it")


class Comparison(NamedTuple):
    """The table of changes, and one sentence for each model that could not be compared.

    ``missing`` are models that are not in the baseline. ``escaped`` are models, or their MACs, that
    an entry which was not seen may have been of.
    """

    changes: Changes
    missing: list[str]
    escaped: list[str]


Gone = Callable[[str], bool]
"""Whether a run that did not see an entry with this reporter would have, if it were still there."""


@dataclass(frozen=True)
class Baseline:
    """Entries by name: a class, and where several have it, who reported the model."""

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
        stored = {name: replace(entry, layers={}) for name, entry in self.entries.items()}
        plain = _DOCUMENT.to_dict(_StoredBaseline(stored))
        return json.dumps(plain, indent=2, sort_keys=True) + "\n"

    @classmethod
    def of(cls, models: Sequence[Current]) -> Baseline:
        """The baseline of these models, with their layers, to compare others with."""
        return cls({model.name: model.entry for model in models})

    def models(self) -> list[Current]:
        """The entries as the models of a run, to compare them with another baseline."""
        models = []
        for name, entry in self._by_architecture().items():
            users = (entry.reported_by,) if entry.reported_by else ()
            kind = name.partition(", in ")[0]
            models.append(Current(kind, name, users, entry, {entry.input: entry.macs}))
        return models

    def compared(
        self,
        models: Sequence[Current],
        tolerance: Callable[[Current], Tolerance | None],
        gone: Gone,
        called: str = "the baseline",
    ) -> Comparison:
        """How models stand to their entries.

        Latencies are compared where the conditions are the same, and are too much where a
        percentage is tolerated only, for no two measurements are equal.

        Args:
            models: those of a run.
            tolerance: by how much a model may grow; None is by any amount.
            gone: whether an entry with this reporter, which no model is of, should have been seen.
            called: what the baseline is called in the table.
        """
        entries = self._by_architecture()
        known = _matched(entries, models, _may_be)
        users = {user for model in models for user in model.users}
        taken = {*known.values()}
        names = {model.name for model in models}
        unseen: dict[str, Entry] = {}
        for name, entry in entries.items():
            if name not in taken and gone(entry.reported_by):
                # reason: alone in its run, another model of the class has the bare name
                unseen[f"{name}, in {entry.reported_by}" if name in names else name] = entry
        found = Comparison(Changes(called, ()), [], [])
        changes = []
        for model in models:
            before = entries.get(known.get(model.name, ""))
            changes.append(changed_model(model, before, tolerance(model)))
            if before is None:
                others = _unseen_for(model, unseen, users)
                sentences = found.escaped if others else found.missing
                sentences.append(f"{model.name} is not in the baseline{others}")
            # reason: a run without the entry's own test may have another input of the model
            elif before.reported_by in model.users or gone(before.reported_by):
                found.escaped.extend(_unseen_input(model, before))
        for name, entry in unseen.items():
            by = (entry.reported_by,) if entry.reported_by else ()
            changes.append(ModelChange(name, ChangeStatus.GONE, tuple(quantities(entry, None)), by))
        return found._replace(changes=Changes(called, tuple(changes)))

    def unseen(self, models: Sequence[Current], gone: Gone) -> list[str]:
        """The entries that an update may remove: no model is of them, and one would be."""
        entries = self._by_architecture()
        known = {*_matched(entries, models, _may_be_replaced).values()}
        return [
            name for name, entry in entries.items() if name not in known and gone(entry.reported_by)
        ]

    def updated(
        self, models: Sequence[Current], removed: Collection[str] = (), commit: str = ""
    ) -> tuple[Baseline, list[str]]:
        """The baseline with these models as they are now, and one line for each change.

        Args:
            models: those of a run.
            removed: entries to remove, of those that ``unseen`` tells.
            commit: what is checked out.
        """
        entries = self._by_architecture()
        known = _matched(entries, models, _may_be_replaced)
        changes = []
        for name in removed:
            del entries[name]
            changes.append(f"{name}: removed, this run did not see it")
        for model in models:
            name = known.get(model.name) or _free_name(model, entries)
            old = entries.get(name)
            new = _renewed(old, model)
            if new == old:
                continue
            changes.append(f"{name}: {_difference(old, model) if old else 'new'}")
            entries[name] = replace(new, commit=commit)
        return (Baseline(entries), changes) if changes else (self, [])

    def _by_architecture(self) -> dict[str, Entry]:
        """The entries, where those of the first releases, one for each input, become one."""
        entries: dict[str, Entry] = {}
        merged: dict[tuple[str, int], Entry] = {}
        for name, entry in self.entries.items():
            if (old := None if entry.input else _BY_INPUT.fullmatch(name)) is None:
                entries[name] = entry
                continue
            own = replace(
                entry,
                input=old["input"] or "",
                reported_by=entry.reported_by or old["reporter"] or "",
            )
            same = old["kind"], entry.params
            kept = merged.setdefault(same, own)
            # reason: as for a model of the run, the smallest input stands for all
            if (own.macs is None, own.cost) < (kept.macs is None, kept.cost):
                merged[same] = own
        alike = Counter(kind for kind, _ in merged)
        for (kind, _), entry in merged.items():
            name = kind
            if alike[kind] > 1 or kind in entries:
                name = unused_name(f"{kind}, in {entry.reported_by}", entries)
            entries[name] = entry
        return entries


def stored_models(text: str) -> list[Current]:
    """The models in a baseline, in the JSON of a run, or in that of one report.

    Raises:
        FormatError: the text is not JSON, or none of these.
    """
    data = _DOCUMENT.parsed(text)
    rows = data.get("models") if isinstance(data, Mapping) else None
    if isinstance(rows, list):
        run = dict(_reported(row) for row in rows)
    elif isinstance(data, Mapping) and "findings" in data:
        run = {ReportData.from_dict(data): Reporters()}
    else:
        return Baseline.from_json(text).models()
    return current(architectures(run), {})


def _reported(row: object) -> tuple[ReportData, Reporters]:
    """A model in the JSON of a run, which may have keys that this release does not know."""
    if not isinstance(row, Mapping) or not isinstance(row.get("report"), Mapping):
        raise FormatError(f"not the JSON of a run: {quoted(row)} has no report")
    tests, targets = (
        from_plain(tuple[str, ...], row.get(key, []), f"run: {key}") for key in ("tests", "targets")
    )
    return ReportData.from_dict(row["report"]), Reporters({*targets}, {*tests})


@dataclass(frozen=True)
class _StoredBaseline:
    """A baseline as its file calls it."""

    models: Mapping[str, Entry]


_BY_INPUT = re.compile(
    r"(?P<kind>.*?), (?:input (?P<input>(?:\d| x | and )*)|no input)"
    r"(?:, in (?P<reporter>.*?))?(?: \(\d+\))?",
    re.DOTALL,
)
"""The name of an entry of the first releases, which had one for each input of a model."""


# ------------------------------------------------------------------ whose entry is whose


_Alike = Callable[[Current, Entry, bool], bool]
"""Whether an entry may be a model's; True if there are no others of the class on either side."""


def _matched(
    entries: Mapping[str, Entry], models: Sequence[Current], may_be: _Alike
) -> dict[str, str]:
    """The entry of each model that has one, by their names; no entry is that of two models.

    ``may_be`` decides where neither the reporter nor the cost tells.
    """
    # reason: of several that may be each other the largest are, so that growth is seen
    largest_first = sorted(models, key=lambda model: model.entry.cost, reverse=True)
    names = sorted(entries, key=lambda name: entries[name].cost, reverse=True)
    of_class: dict[str, list[str]] = {}
    for kind in {model.kind for model in models}:
        of_class[kind] = [name for name in names if _is_of(name, kind)]
    found: dict[str, str] = {}
    taken: set[str] = set()
    # reason: the reporter goes before the cost, for a model that grew is still the same
    for alike in (_is_certain, _has_reporter, _costs_the_same, _has_the_params, may_be):
        for model in largest_first:
            if model.name in found:
                continue
            alone = model.name == model.kind and len(of_class[model.kind]) == 1
            for name in of_class[model.kind]:
                if name not in taken and alike(model, entries[name], alone):
                    found[model.name] = name
                    taken.add(name)
                    break
    return found


def _is_of(name: str, kind: str) -> bool:
    """Whether an entry is of this class; of several the names say who reported them."""
    return name == kind or name.startswith(f"{kind}, in ")


def _has_reporter(model: Current, entry: Entry, alone: bool) -> bool:
    return entry.reported_by in model.users


def _has_the_params(model: Current, entry: Entry, alone: bool) -> bool:
    return entry.params == model.entry.params


def _costs_the_same(model: Current, entry: Entry, alone: bool) -> bool:
    return entry.params == model.entry.params and model.macs.get(entry.input, -1) == entry.macs


def _is_certain(model: Current, entry: Entry, alone: bool) -> bool:
    return _has_reporter(model, entry, alone) and _costs_the_same(model, entry, alone)


def _may_be(model: Current, entry: Entry, alone: bool) -> bool:
    # reason: a comparison lets no growth pass as a new model while an entry may be the model's,
    # but two networks of a class such as Sequential that take other inputs are two networks
    return entry.input in model.macs


def _may_be_replaced(model: Current, entry: Entry, alone: bool) -> bool:
    """Whether an update takes a model for that of an entry which somebody else reported.

    It does where there is one model and one entry of the class, as after a test was renamed,
    and where nobody knows who reported the entry. Any other entry may be of a test that did not
    run, and is kept.
    """
    return (alone or not entry.reported_by) and _may_be(model, entry, alone)


def _free_name(model: Current, taken: Mapping[str, object]) -> str:
    if model.kind not in taken:
        return model.kind
    return unused_name(f"{model.kind}, in {model.entry.reported_by}", taken)


def _renewed(old: Entry | None, model: Current) -> Entry:
    """The entry of a model that is as this run found it.

    Latencies under conditions that this run did not meet stay. So do the input and the reporter
    while the model still has them, for one of several is as good as another, and the file changes
    less.
    """
    new = replace(model.entry, layers={})
    if old is None:
        return new
    if old.macs is not None and old.input in model.macs:
        new = replace(new, input=old.input, macs=model.macs[old.input])
    return replace(
        new,
        latency={**old.latency, **new.latency},
        reported_by=old.reported_by if old.reported_by in model.users else new.reported_by,
        commit=old.commit,
    )


def _difference(old: Entry, model: Current) -> str:
    """How an entry changes, in words; the size in bytes says nothing that parameters do not."""
    changes = []
    for change in quantities(old, at_the_input(model, old)):
        if change.difference and change.name != "size":
            changes.append(str(change))
    return ", ".join(changes) or "its input, who reports it, or what was not known before"


# -------------------------------------------------------------------- what was not seen


def _unseen_for(model: Current, unseen: Mapping[str, Entry], users: Collection[str]) -> str:
    """``, and Net of the baseline was not seen``, of entries that the model may have escaped."""
    names = []
    for name, entry in unseen.items():
        # reason: an entry whose own test ran, and has not this model, is of another
        if entry.reported_by in model.users or entry.reported_by not in users:
            names.append(name)
    if not names:
        return ""
    verb = "was" if len(names) == 1 else "were"
    return f", and {' and '.join(names)} of the baseline {verb} not seen"


def _unseen_input(model: Current, before: Entry) -> Iterator[str]:
    if before.macs is not None and before.input not in model.macs:
        seen = model.entry.input or "none"
        yield (
            f"{model.name} was not seen with input {before.input} of the baseline, but "
            f"with {seen}: its MACs are not compared"
        )
