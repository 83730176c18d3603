"""The model of a source file: which call built which convolution, and what a rewrite makes."""

from __future__ import annotations

import linecache
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn
from torch.nn.modules import conv

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.analysis.sites import module_spec
from pytest_dwsconv.analysis.verdicts import rejudged
from pytest_dwsconv.core.conv import ConvSpec, Form, Trait
from pytest_dwsconv.core.findings import Finding
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.core.rules import Judgement, Verdict
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.report import Report
from pytest_dwsconv.source.sites import (
    SHARED_LINE,
    BuildEvidence,
    Place,
    Position,
    SourceSite,
    by_position,
    by_rule,
    judge_inserted,
    shared_lines,
)
from pytest_dwsconv.source.template import Inserted
from pytest_dwsconv.targets import build_by_import, text_of
from pytest_dwsconv.tracing.inventory import Inventory, without_compiler
from pytest_dwsconv.tracing.operators import CONVOLUTIONS

_BUILT_AT = "_dwsconv_built_at"
"""The attribute that holds a convolution's Position; a deep copy, of a repeated layer, has it."""


@dataclass(frozen=True)
class FileModel:
    """A model that a source file builds, its report, and what each call in the file built."""

    report: Report
    evidence: BuildEvidence
    built_at: Mapping[str, Position]
    """By the convolution's name in the model; without those that no call in the file built."""
    policy: Policy = Policy()
    left_out: tuple[str, ...] = ()
    """Convolutions that could be replaced, and that a plan leaves as they are."""

    def limited_to(self, plan: Plan) -> FileModel:
        """The same, with what a plan makes of its layers, and all others left out.

        Raises:
            InputError: the plan is for another model.
        """
        found = {finding.name: finding.spec for finding in self.report.findings}
        planned: dict[Position, set[Inserted]] = defaultdict(set)
        names = set()
        for entry in plan.entries:
            if entry.name not in found:
                raise InputError(f"the plan is for another model: this has no layer {entry.name!r}")
            entry.check(found[entry.name])
            names.add(entry.name)
            if entry.name in self.built_at:
                planned[self.built_at[entry.name]].add(Inserted(entry.form, entry.size))
        left_out = []
        all_built = {position: [*specs] for position, specs in self.evidence.built.items()}
        for name, position in self.built_at.items():
            # reason: of a layer with several names, one is in the report
            if name in names or name not in found:
                continue
            spec, built = found[name], all_built[position]
            # reason: what is no candidate does not keep a call from being decided when it runs
            judged = [
                judge_inserted(spec, self.policy, each) for each in planned[position] or [None]
            ]
            if any(each.verdict is Verdict.CANDIDATE for each in judged):
                built[built.index(spec)] = replace(spec, traits=(*spec.traits, Trait.IGNORED))
                left_out.append(name)
        evidence = BuildEvidence(all_built, planned)
        return replace(self, evidence=evidence, left_out=tuple(left_out))

    def together(self, sites: Sequence[SourceSite]) -> list[list[str]]:
        """The candidates that the same call builds, by call."""
        places = by_position([site.place for site in sites])
        groups: dict[Place, list[str]] = defaultdict(list)
        for found in self.report_after_rewrite(sites).candidates:
            groups[places[self.built_at[found.name]]].append(found.name)
        return list(groups.values())

    def report_after_rewrite(self, sites: Sequence[SourceSite]) -> Report:
        """The report with the file's verdicts: a candidate is what the rewritten file replaces."""
        places = [site.place for site in sites]
        unclear = {(line, None) for line in shared_lines(places)}
        by_place = {site.place: site for site in sites}
        at = {position: by_place[place] for position, place in by_position(places).items()}

        def site_of(finding: Finding) -> SourceSite | None:
            position = self.built_at.get(finding.name)
            return None if position is None else at.get(position)

        def judge_finding(finding: Finding) -> Judgement:
            if finding.name in self.left_out:
                return by_rule("DWS101")
            own = Judgement(finding.verdict, finding.code, finding.reason)
            site = site_of(finding)
            if site is not None and site.guarded:
                return judge_inserted(finding.spec, site.policy, site.inserted)
            ours = _BUILT_ELSEWHERE if site is None else site.judgement
            if self.built_at.get(finding.name) in unclear:
                ours = SHARED_LINE
            # if neither is a candidate, the model's own reason is the closer one
            return ours if Verdict.CANDIDATE in (own.verdict, ours.verdict) else own

        def replacement_of(finding: Finding) -> tuple[Form, int]:
            site = site_of(finding)
            return Inserted.of(self.policy) if site is None else site.inserted

        return rejudged(self.report, judge_finding, replacement_of)


_BUILT_ELSEWHERE = by_rule("DWS201", "no call of its class in this file builds it")


def model_of_file(
    path: Path,
    name: str,
    input_size: Sequence[Sequence[int]] | None = None,
    policy: Policy = Policy(),
) -> FileModel:
    """Import the file, build the model that ``name`` gives, and analyse it.

    Raises:
        TargetError: the file gives no such model, or cannot be read.
        InputError, TracingError: the model does not take the input.
    """
    with noting_built(path) as built:
        model = build_by_import(path, name, text_of(path))
    # reason: of a compiled model, the report names the parts of this one
    inventory = Inventory(without_compiler(model))
    parts = {}
    for module in inventory.modules.values():
        if _BUILT_AT in vars(module):
            parts.update(dict.fromkeys(inventory.names[id(module)], module))
    # reason: the inserted class runs depthwise first; which calls it suits is the file's to judge
    report = analyze(model, input_size, policy=replace(policy, few_channels=True))
    specs = {
        id(parts[finding.name]): finding.spec
        for finding in report.findings
        if finding.name in parts
    }
    return FileModel(
        report,
        _evidence([*built, *parts.values()], specs),
        {name: _place(parts[name]) for name in parts},
        policy,
    )


def _evidence(modules: Sequence[nn.Module], specs: Mapping[int, ConvSpec]) -> BuildEvidence:
    """What was built at each position, as it is in the finished model if it is part of that.

    There its weight may be tied or computed.
    """
    found: dict[Position, list[ConvSpec]] = defaultdict(list)
    for key, module in {id(module): module for module in modules}.items():
        found[_place(module)].append(specs[key] if key in specs else module_spec(module))
    return BuildEvidence(found)


def _place(module: nn.Module) -> Position:
    position: Position = vars(module)[_BUILT_AT]
    return position


@contextmanager
def noting_built(path: Path) -> Iterator[list[nn.Module]]:
    """Note every convolution that a call in this file builds; PyTorch is as before afterwards.

    Those that other files build for this one, and subclasses, are not noted: no call here names
    them.
    """
    built: list[nn.Module] = []
    own = os.path.realpath(path)
    original = conv._ConvNd.__init__

    def init(module: Any, *args: Any, **kwargs: Any) -> None:
        original(module, *args, **kwargs)
        caller = _caller()
        if (
            type(module) in CONVOLUTIONS
            and caller is not None
            and os.path.realpath(caller.f_code.co_filename) == own
        ):
            vars(module)[_BUILT_AT] = _position(caller)
            built.append(module)

    conv._ConvNd.__init__ = init  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield built
    finally:
        conv._ConvNd.__init__ = original  # type: ignore[method-assign]  # as it was


def _caller() -> FrameType | None:
    """The frame that called ``nn.Conv2d(...)``: the first one outside torch.nn and this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, conv.__name__):
        frame = frame.f_back
    return frame


def _position(frame: FrameType) -> Position:
    if sys.version_info >= (3, 11):
        instruction = frame.f_lasti // 2
        line, _, column, _ = next(islice(frame.f_code.co_positions(), instruction, None))
        if line is not None and column is not None:
            before = linecache.getline(frame.f_code.co_filename, line).encode()[:column]
            # positions count UTF-8 bytes, columns count characters
            return line, len(before.decode()) + 1
    return frame.f_lineno, None
