"""The places of one file with their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dwsconv.conv import ConvSpec, cost, separable_cost
from pytest_dwsconv.report import Finding, Origin
from pytest_dwsconv.rules import Judgement, Policy, Verdict, most_saving
from pytest_dwsconv.source.finder import Place
from pytest_dwsconv.source.judging import judge_site, total_params

Evidence = Mapping[tuple[int, int | None], Sequence[ConvSpec]]
"""What was built by the call at a line and column, both from 1; the column is None where it was not recorded."""


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

    def finding(self, path: str) -> Finding:
        """The site as one row of a report; with evidence, the costs are those of all that was built."""
        before, after = self._params()
        return Finding(
            name=f"{path}:{self.place.line}:{self.place.column}",
            spec=self.place.spec,
            verdict=self.judgement.verdict,
            code=self.judgement.code,
            reason=self.judgement.reason,
            params=before,
            macs=None,
            separable_params=after if self.is_candidate else None,
            separable_macs=None,
            origin=Origin.SOURCE,
            type_name=self.place.type_name,
        )


def judge_places(places: Sequence[Place], policy: Policy, evidence: Evidence) -> tuple[Site, ...]:
    """Judge each place, with what was built there where that is known."""
    calls_on_line = Counter(place.line for place in places if place.is_call)
    sites = []
    for place in places:
        built = _built(place, evidence, alone=calls_on_line[place.line] == 1) if place.is_call else ()
        sites.append(Site(place, judge_site(place.spec, policy, place.proved, built), built))
    return tuple(sites)


def _built(place: Place, evidence: Evidence, alone: bool) -> tuple[ConvSpec, ...]:
    """A line alone tells which call it was only where the line begins one call."""
    exact = tuple(evidence.get((place.line, place.column), ()))
    return exact + (tuple(evidence.get((place.line, None), ())) if alone else ())
