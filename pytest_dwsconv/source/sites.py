"""The places of one file where convolutions are made, and the verdict on each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_dwsconv.core.conv import ConvSpec, Cost, Trait, cost, separable_cost
from pytest_dwsconv.core.rules import (
    CANDIDATE_CODE,
    RULES,
    Judgement,
    Policy,
    Verdict,
    judge,
    most_saving,
)
from pytest_dwsconv.source.spans import Span

Position = tuple[int, int | None]
"""Line and column of a call, from 1; the column is None if the interpreter does not record it."""

Evidence = Mapping[Position, Sequence[ConvSpec]]
"""What was built by the call at each position."""

_SKIPPED = "DWS101"

_RULES = {rule.code: rule for rule in RULES}

_OPEN = (CANDIDATE_CODE, "DWS202", "DWS203", "DWS204", "DWS205")
"""Verdicts that more than the call's own arguments can settle."""


def by_rule(code: str, reason: str | None = None) -> Judgement:
    """What the rule of this code says, with its own reason or a closer one."""
    rule = _RULES[code]
    return Judgement(rule.verdict, rule.code, reason or rule.reason)


SHARED_LINE = by_rule(
    "DWS205",
    "several calls begin on this line, and this Python does not record which of them built what: "
    "give each a line",
)


@dataclass(frozen=True)
class Place:
    """One place: the call, or the class handed on. ``line`` and ``column`` count from 1.

    ``proved`` is what the file's text settles whatever the numbers are; ``callee`` is what a
    rewrite replaces; ``noqa`` are codes, or their beginnings, that a comment beside it silences.
    """

    line: int
    column: int
    spec: ConvSpec
    code: str
    callee: Span
    type_name: str
    proved: Judgement | None = None
    noqa: tuple[str, ...] = ()

    @property
    def is_call(self) -> bool:
        return Trait.REFERENCE not in self.spec.traits


@dataclass(frozen=True)
class SourceSite:
    """A place, the verdict on it, and what a run was seen to build there."""

    place: Place
    judgement: Judgement
    built: tuple[ConvSpec, ...] = ()

    @property
    def is_candidate(self) -> bool:
        return self.judgement.verdict is Verdict.CANDIDATE

    @property
    def is_silenced(self) -> bool:
        """Whether a ``# noqa`` asks not to hear of it, or to leave a candidate alone."""
        code, silenced = self.judgement.code, self.place.noqa
        if code == _SKIPPED and CANDIDATE_CODE.startswith(silenced):
            return True
        return code.startswith(silenced)

    @property
    def saving(self) -> tuple[float, bool]:
        """Parameters of original over replacement, and whether that is exact or an upper bound."""
        specs = self.built or (self.place.spec,)
        before, after = _total_params(specs, cost), _total_params(specs, separable_cost)
        if before is None or after is None:
            return most_saving(self.place.spec), False
        return before / after, True


def _total_params(
    specs: Sequence[ConvSpec], cost_of: Callable[[ConvSpec], Cost | None]
) -> int | None:
    """Parameters of all of them, None if one is not known."""
    total = 0
    for spec in specs:
        each = cost_of(spec)
        if each is None:
            return None
        total += each.params
    return total


def by_position(places: Sequence[Place]) -> dict[Position, Place]:
    """The calls by line and column, and by the line alone if it begins a single call."""
    calls = [place for place in places if place.is_call]
    shared = shared_lines(places)
    found: dict[Position, Place] = {(place.line, place.column): place for place in calls}
    return found | {(place.line, None): place for place in calls if place.line not in shared}


def shared_lines(places: Sequence[Place]) -> set[int]:
    """The lines that begin several calls."""
    on_line = Counter(place.line for place in places if place.is_call)
    return {line for line, count in on_line.items() if count > 1}


def judge_places(
    places: Sequence[Place], policy: Policy, evidence: Evidence
) -> tuple[SourceSite, ...]:
    """Judge each place, with what was built there if that is known."""
    calls = by_position(places)
    built: dict[Place, list[ConvSpec]] = defaultdict(list)
    for position, specs in evidence.items():
        if position in calls:
            built[calls[position]] += specs
    unclear = {line for line, column in evidence if column is None} & shared_lines(places)
    sites = []
    for place in places:
        proved = SHARED_LINE if place.line in unclear else place.proved
        judgement = _judge_site(place.spec, policy, proved, built[place])
        sites.append(SourceSite(place, judgement, tuple(built[place])))
    return tuple(sites)


def _judge_site(
    spec: ConvSpec, policy: Policy, proved: Judgement | None, built: Sequence[ConvSpec]
) -> Judgement:
    """Judge by the rules, then by what the file's text proves, then by what a run built here."""
    judgement = _judge(spec, policy)
    if judgement.code not in _OPEN:
        return judgement
    if proved is not None:
        return proved
    if built:
        return _judge_built(judgement, [_judge(each, policy) for each in built])
    return judgement


def _judge(spec: ConvSpec, policy: Policy) -> Judgement:
    """Judge by the rules, for a class that runs depthwise first."""
    judgement = judge(spec, policy)
    if judgement.code == CANDIDATE_CODE and policy.order_for(spec) is not policy.order:
        return _POINTWISE_FIRST
    return judgement


_POINTWISE_FIRST = by_rule(
    "DWS115",
    "with so few input channels the class that is inserted, which runs depthwise first, makes all "
    "outputs mixtures of the same few maps; rewrite() on the live model puts pointwise first",
)


def _judge_built(judgement: Judgement, built: Sequence[Judgement]) -> Judgement:
    """A candidate if every one built is; what cannot be told stays so when they differ."""
    against = [each for each in built if each.verdict is not Verdict.CANDIDATE]
    if not against:
        return Judgement(Verdict.CANDIDATE, CANDIDATE_CODE, built[0].reason)
    first, share = against[0], f"{len(against)} of the {len(built)} built here"
    if len(against) == len(built) or judgement.code == CANDIDATE_CODE:
        return Judgement(first.verdict, first.code, f"{first.reason} ({share})")
    return Judgement(
        judgement.verdict, judgement.code, f"{judgement.reason}; for {share}, {first.reason}"
    )
