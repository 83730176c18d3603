"""The places of one file where convolutions are made, and the verdict on each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import NamedTuple

from pytest_dwsconv.core.conv import (
    ORDERS,
    ConvSpec,
    Cost,
    Form,
    Order,
    Trait,
    cost,
    separable_cost,
)
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULES, Judgement, Verdict, judge, most_saving
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.source.reading.spans import Span
from pytest_dwsconv.source.template import PLAIN, Inserted

Position = tuple[int, int | None]
"""Line and column of a call, from 1; the column is None if the interpreter does not record it."""


class BuildEvidence(NamedTuple):
    """What the call at each position built, and what a plan, if there is one, makes of that."""

    built: Mapping[Position, Sequence[ConvSpec]] = {}
    planned: Mapping[Position, Set[Inserted]] = {}


_SKIPPED = "DWS101"

_RULES = {rule.code: rule for rule in RULES}

_BY_ARGUMENTS = frozenset({"DWS202", "DWS203", "DWS204"})
"""Verdicts that the values of the call's arguments would settle."""

_OPEN = _BY_ARGUMENTS | {CANDIDATE_CODE, "DWS205"}
"""Verdicts that more than the call's own arguments can settle."""

_LEFT_BY_GUARDS = frozenset({CANDIDATE_CODE, "DWS104", "DWS105", "DWS111", "DWS115"})
"""Verdicts on what was built that a guard comes to as well."""


def by_rule(code: str, reason: str | None = None) -> Judgement:
    """What the rule of this code says, with its own reason or a closer one."""
    rule = _RULES[code]
    return Judgement(rule.verdict, rule.code, reason or rule.reason)


class Fusion(NamedTuple):
    """What another file does to an attribute of objects; ``classes`` is empty where of any."""

    attribute: str
    classes: frozenset[str]
    judgement: Judgement


SHARED_LINE = by_rule(
    "DWS205",
    "several calls begin on this line, and this Python does not record which of them built what: "
    "give each a line",
)


_SEVERAL_PLANNED = by_rule(
    _SKIPPED, "its call builds layers that the plan gives different forms or sizes"
)


@dataclass(frozen=True)
class Place:
    """One place: the call, or the class handed on. ``line`` and ``column`` count from 1.

    ``specs`` has one for each of the values that the file gives its kernel size and groups.
    ``proved`` is what the file's text settles whatever the numbers are; ``callee`` is what a
    rewrite replaces; a guard goes around each of the ``calls``. ``noqa`` are codes, or their
    beginnings, that a comment beside it silences. ``called_at`` is where the calls of a ``partial``
    of it begin.
    """

    line: int
    column: int
    specs: tuple[ConvSpec, ...]
    code: str
    calls: tuple[Span, ...]
    callee: Span
    proved: Judgement | None = None
    noqa: tuple[str, ...] = ()
    called_at: tuple[tuple[int, int], ...] = ()

    @property
    def builds_at(self) -> tuple[tuple[int, int], ...]:
        """The line and column of each call that builds a convolution of this place."""
        return self.called_at or ((self.line, self.column),)

    @property
    def spec(self) -> ConvSpec:
        return self.specs[0]

    @property
    def is_call(self) -> bool:
        return Trait.REFERENCE not in self.spec.traits

    def settled(
        self,
        traits: Sequence[Trait],
        proved: Judgement | None,
        noqa: tuple[str, ...],
    ) -> Place:
        """With what the rest of the file says of it."""
        specs = tuple(replace(spec, traits=(*spec.traits, *traits)) for spec in self.specs)
        return replace(self, specs=specs, proved=proved, noqa=noqa)


@dataclass(frozen=True)
class SourceSite:
    """A place, the verdict on it, and what of the convolutions built there a rewrite replaces.

    At a ``guarded`` candidate it is decided when the code runs, for each that it builds.
    """

    place: Place
    judgement: Judgement
    guarded: bool = False
    replaced: tuple[ConvSpec, ...] = ()
    policy: Policy = Policy()
    inserted: Inserted = PLAIN

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
    def saving(self) -> tuple[float, bool] | None:
        """Parameters of original over replacement, and whether that is exact or an upper bound.

        None where the kernel or the groups are known when the code runs, and no run was seen.
        """
        spec = self.place.spec
        if not self.replaced and (None in (spec.kernel_size, spec.groups) or self.place.specs[1:]):
            return None
        specs = self.replaced or (spec,)
        before = _total_params(specs, cost)
        after = _total_params(specs, lambda spec: separable_cost(spec, *self.inserted))
        if before is None or after is None:
            return most_saving(spec, self.policy), False
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
    shared = shared_lines(places)
    found: dict[Position, Place] = {}
    for place in places:
        for line, column in place.builds_at if place.is_call else ():
            found[line, column] = place
            if line not in shared:
                found[line, None] = place
    return found


def shared_lines(places: Sequence[Place]) -> set[int]:
    """The lines that begin several calls."""
    calls = [position for place in places if place.is_call for position in place.builds_at]
    on_line = Counter(line for line, _ in calls)
    return {line for line, count in on_line.items() if count > 1}


def judge_places(
    places: Sequence[Place],
    policy: Policy,
    evidence: BuildEvidence,
    guarded_ranks: frozenset[int] = frozenset(),
) -> tuple[SourceSite, ...]:
    """Judge each place, with what was built there if that is known.

    With as many dimensions as ``guarded_ranks`` have, what the arguments leave open is decided when
    the code runs. The policy has the form where no other is planned.
    """
    calls = by_position(places)
    built: dict[Place, list[ConvSpec]] = defaultdict(list)
    planned: dict[Place, set[Inserted]] = defaultdict(set)
    for position, place in calls.items():
        built[place] += evidence.built.get(position, ())
        planned[place] |= evidence.planned.get(position, set())
    unclear = {line for line, column in evidence.built if column is None} & shared_lines(places)
    sites = []
    for place in places:
        known = place
        if any(line in unclear for line, _ in place.builds_at):
            known = replace(place, proved=SHARED_LINE)
        elif len(planned[place]) > 1:
            known = replace(place, proved=_SEVERAL_PLANNED)
        inserted = planned[place].pop() if len(planned[place]) == 1 else Inserted.of(policy)
        guards = place.spec.rank in guarded_ranks
        judged = partial(judge_inserted, policy=policy, inserted=inserted)
        site = _judge_site(known, judged, built[place], guards)
        sites.append(replace(site, policy=policy, inserted=inserted))
    return tuple(sites)


_Judge = Callable[[ConvSpec], Judgement]


def _judge_site(
    place: Place, judged: _Judge, built: Sequence[ConvSpec], guards: bool
) -> SourceSite:
    """Judge by the rules, then by what the file's text proves, then by what a run built here."""
    judgement = _judge_alternatives([judged(each) for each in place.specs])
    if judgement.code not in _OPEN:
        return SourceSite(place, judgement)
    if place.proved is not None:
        return SourceSite(place, place.proved)
    if guards and place.calls:
        reason = _why_guarded(place, judged, judgement, built)
        guarded = [judged(each) for each in built or map(_most_promising, place.specs)]
        taken = [each.verdict is Verdict.CANDIDATE for each in guarded]
        if reason and any(taken) and {each.code for each in guarded} <= _LEFT_BY_GUARDS:
            judgement = Judgement(
                Verdict.CANDIDATE, CANDIDATE_CODE, f"{reason}: decided when it runs"
            )
            return SourceSite(
                place, judgement, guarded=True, replaced=tuple(compress(built, taken))
            )
    if built:
        judgement = _judge_built(judgement, [judged(each) for each in built])
    return SourceSite(place, judgement, replaced=tuple(built))


def _why_guarded(
    place: Place, judged: _Judge, judgement: Judgement, built: Sequence[ConvSpec]
) -> str | None:
    """Why it is better decided when the code runs, if it is."""
    if judgement.code in _BY_ARGUMENTS:
        return judgement.reason
    if len(place.specs) > 1 and judgement.code == "DWS205" and built:
        return "with one of the values that the file gives here it would stay as it is"
    if judgement.code != CANDIDATE_CODE:
        return None
    against = [each for each in built if judged(each).verdict is not Verdict.CANDIDATE]
    if against:
        reason = judged(against[0]).reason
        return f"{reason} for {len(against)} of the {len(built)} built here"
    if any(None in (each.in_channels, each.out_channels) for each in place.specs):
        return "its channels are not constants here, and may be too few"
    return None


def _judge_alternatives(judgements: Sequence[Judgement]) -> Judgement:
    """One judgement on a call to which the file gives several kernel sizes or groups."""
    first = judgements[0]
    for each in judgements:
        if each.verdict is Verdict.CANNOT_TELL:
            return each
        if each.verdict is not first.verdict:
            against = first if each.verdict is Verdict.CANDIDATE else each
            return by_rule(
                "DWS205",
                f"with one of the values that the file gives here, {against.reason}: give each a "
                "call of its own",
            )
    return first


def _most_promising(spec: ConvSpec) -> ConvSpec:
    """A convolution with the arguments that are known, and others that speak for a replacement."""
    traits = tuple(each for each in spec.traits if each is not Trait.UNPACKED_ARGUMENTS)
    kernel_size = spec.kernel_size or (7,) * spec.rank
    return replace(spec, kernel_size=kernel_size, groups=spec.groups or 1, traits=traits)


def judge_inserted(spec: ConvSpec, policy: Policy, inserted: Inserted | None = None) -> Judgement:
    """Judge by the rules, for the class that is inserted; a guard decides the same.

    Without another, it has the order and the multiplier of the policy.
    """
    form, size = inserted or Inserted.of(policy)
    if inserted is not None:
        # reason: the rules reckon with an order; a bottleneck may mix few inputs as pointwise first
        nearest = Order.DEPTHWISE_FIRST if form is Form.GROUPED else Order.POINTWISE_FIRST
        order, multiplier = (Order(form), size) if form in ORDERS else (nearest, 1)
        policy = replace(policy, order=order, depth_multiplier=multiplier)
    # reason: the class that is inserted is not a transposed convolution
    judgement = judge(spec, replace(policy, transposed=False) if spec.transposed else policy)
    if judgement.code == CANDIDATE_CODE and policy.order_for(spec) is not policy.order:
        return _POINTWISE_FIRST
    if form in ORDERS or judgement.code not in (CANDIDATE_CODE, "DWS111"):
        return judgement
    saving = _saving(spec, form, size)
    if saving is None:
        return judgement
    if saving > policy.min_saving:
        return Judgement(Verdict.CANDIDATE, CANDIDATE_CODE, f"{spec.kind.value} convolution")
    return by_rule("DWS111")


def _saving(spec: ConvSpec, form: Form, size: int) -> float | None:
    """Parameters before over those after; None where a number is not known."""
    try:
        before, after = cost(spec), separable_cost(spec, form, size)
    except InputError:
        return 0.0  # reason: there is no such size for its groups, so a guard keeps it
    if before is None or after is None:
        return None
    return before.params / max(1, after.params)


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
    # reason: what a plan leaves out would else be told as a fault of another layer built here
    first = min(against, key=lambda each: each.code != _SKIPPED)
    alike = sum(each.code == first.code for each in against)
    share = f"{alike} of the {len(built)} built here"
    if len(against) == len(built) or judgement.code == CANDIDATE_CODE:
        return Judgement(first.verdict, first.code, f"{first.reason} ({share})")
    return Judgement(
        judgement.verdict, judgement.code, f"{judgement.reason}; for {share}, {first.reason}"
    )
