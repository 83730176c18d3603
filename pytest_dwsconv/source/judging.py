"""The verdict on one place in source: the common rules, and what only spelling or a run can add to
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_dwsconv.core.conv import ConvSpec, Cost
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULES, Judgement, Policy, Verdict, judge

_RULES = {rule.code: rule for rule in RULES}
_OPEN = (CANDIDATE_CODE, "DWS202", "DWS203", "DWS204", "DWS205")
"""What more than the call's own arguments can settle."""


def judge_site(
    spec: ConvSpec, policy: Policy, proved: Judgement | None = None, built: Sequence[ConvSpec] = ()
) -> Judgement:
    """Judge by the rules; then by what the file's text proves, then by what a run built here.

    ``proved`` holds whatever the missing numbers are.
    """
    judgement = judge(spec, policy)
    if judgement.code not in _OPEN:
        return judgement
    if proved is not None:
        return proved
    if built:
        return _judge_built(judgement, [judge(each, policy) for each in built])
    return judgement


def by_rule(code: str, reason: str | None = None) -> Judgement:
    """What the rule of this code says, with its own reason or a closer one."""
    rule = _RULES[code]
    return Judgement(rule.verdict, rule.code, reason or rule.reason)


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


def total_params(
    specs: Sequence[ConvSpec], cost_of: Callable[[ConvSpec], Cost | None]
) -> int | None:
    """Parameters of all of them, None where one is not known."""
    costs = [cost_of(spec) for spec in specs]
    known = [each.params for each in costs if each is not None]
    return sum(known) if len(known) == len(costs) else None
