"""The places of one file with their verdicts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dwsconv.core.conv import ConvSpec, cost, separable_cost
from pytest_dwsconv.core.rules import Judgement, Policy, Verdict, most_saving
from pytest_dwsconv.source.finder import Place
from pytest_dwsconv.source.judging import by_rule, judge_site, total_params

Position = tuple[int, int | None]
"""Line and column of a call, both from 1; the column is None where the interpreter does not record
it.
"""

Evidence = Mapping[Position, Sequence[ConvSpec]]
"""What was built by the call at each position."""

SHARED_LINE = by_rule(
    "DWS205",
    "several calls begin on this line, and this Python does not record which of them built what: "
    "give each a line",
)


@dataclass(frozen=True)
class Site:
    """A place, the verdict on it, and what a run was seen to build there."""

    place: Place
    judgement: Judgement
    built: tuple[ConvSpec, ...] = ()

    @property
    def is_candidate(self) -> bool:
        return self.judgement.verdict is Verdict.CANDIDATE

    @property
    def saving(self) -> tuple[float, bool]:
        """Original over replacement in parameters, and whether that is exact or an upper bound."""
        before, after = self._params()
        if before is None or after is None:
            return most_saving(self.place.spec), False
        return before / after, True

    def _params(self) -> tuple[int | None, int | None]:
        specs = self.built or (self.place.spec,)
        return total_params(specs, cost), total_params(specs, separable_cost)


def by_position(places: Sequence[Place]) -> dict[Position, Place]:
    """The calls, each by line and column, and by the line alone where that begins one call only."""
    calls = [place for place in places if place.is_call]
    shared = shared_lines(places)
    found: dict[Position, Place] = {(place.line, place.column): place for place in calls}
    return found | {(place.line, None): place for place in calls if place.line not in shared}


def shared_lines(places: Sequence[Place]) -> set[int]:
    """The lines that begin several calls."""
    on_line = Counter(place.line for place in places if place.is_call)
    return {line for line, count in on_line.items() if count > 1}


def judge_places(places: Sequence[Place], policy: Policy, evidence: Evidence) -> tuple[Site, ...]:
    """Judge each place, with what was built there where that is known."""
    calls = by_position(places)
    built: dict[Place, list[ConvSpec]] = defaultdict(list)
    for position, specs in evidence.items():
        if position in calls:
            built[calls[position]] += specs
    unclear = {line for line, column in evidence if column is None} & shared_lines(places)
    proved = {place: SHARED_LINE if place.line in unclear else place.proved for place in places}
    return tuple(
        Site(
            place, judge_site(place.spec, policy, proved[place], built[place]), tuple(built[place])
        )
        for place in places
    )
