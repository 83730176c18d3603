"""What a run reported: its reports with what reported them, and the architectures among them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pytest_dwsconv.core.budget import per_sample_of
from pytest_dwsconv.core.conv import Trait
from pytest_dwsconv.core.findings import Finding, ReportData, inputs_of
from pytest_dwsconv.core.limits import AnyCheck, PredictionCheck
from pytest_dwsconv.core.plaintext import plain


class Place(NamedTuple):
    """Where a test stands: a file with / between its parts, and the line, from 1, if it is known.

    The file is relative to the repository where a job of GitHub or GitLab tells its folder, and
    else to the root folder of the test run.
    """

    file: str
    line: int | None = None


@dataclass
class Reporters:
    """What reported a model, and the limits that the model was held to.

    ``targets`` are models named as ``module:factory``, ``tests`` are node ids; ``places`` are those
    of the tests.
    """

    targets: set[str] = field(default_factory=set)
    tests: set[str] = field(default_factory=set)
    checks: list[AnyCheck] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [*sorted(self.targets), *sorted(self.tests)]

    @property
    def place(self) -> Place | None:
        """The place of the first test, by its node id if that is all; None if there is none."""
        for nodeid in sorted(self.tests):
            if file := nodeid.partition("::")[0]:
                return self.places.get(nodeid) or Place(file.replace("\\", "/"))
        return None

    def line(self, verbosity: int) -> str:
        """A line that names the first three, or all with -v; empty where nobody is known."""
        names = [plain(name) for name in self.names]
        if not names:
            return ""
        if verbosity > 0 or len(names) <= 3:
            return f"Reported by {', '.join(names)}"
        return f"Reported by {', '.join(names[:3])} and {len(names) - 3} more (-v shows all)"


SuiteRun = Mapping[ReportData, Reporters]


def in_order(run: SuiteRun) -> dict[ReportData, Reporters]:
    """Named targets first, then by what reported a model, and exceeded limits first.

    The order does not depend on which came first, so workers do not change it.
    """
    ordered = {}
    for report, reporters in sorted(run.items(), key=_place):
        checks = sorted(reporters.checks, key=_check_place)
        ordered[report] = replace(reporters, checks=checks)
    return ordered


def _check_place(check: AnyCheck) -> tuple[bool, str, str, float, float]:
    return not check.exceeded, check.name, check.noun, check.limit, check.actual


def _place(row: tuple[ReportData, Reporters]) -> tuple[bool, list[str], str, str]:
    report, reporters = row
    return not reporters.targets, reporters.names, report.model, repr(report.input_shapes)


Shapes = tuple[tuple[int, ...], ...]
"""Of all inputs of a forward; empty where no input was given."""


@dataclass(frozen=True)
class Architecture:
    """One network of a run, whatever inputs it was reported for.

    ``name`` is its class, with what tells it from others of the class. ``reports`` has one report
    or more per input; the first is the one to show, for the input with the most MACs per sample.
    ``reporters`` are those of all its reports, with the worst check of each limit.
    """

    name: str
    reports: tuple[ReportData, ...]
    reporters: Reporters

    @property
    def report(self) -> ReportData:
        return self.reports[0]

    @property
    def inputs(self) -> dict[Shapes, int | None]:
        """MACs by the shapes of each input, in the order of ``reports``; those without left out."""
        return {one.input_shapes: one.macs for one in self.reports if one.input_shapes}

    @property
    def other_inputs(self) -> dict[Shapes, int | None]:
        """Those besides the input of ``report``."""
        own = self.report.input_shapes
        return {shapes: macs for shapes, macs in self.inputs.items() if shapes != own}

    @property
    def exceeded(self) -> bool:
        """Whether it is over one of its limits."""
        return any(check.exceeded for check in self.reporters.checks)


def architectures(run: SuiteRun) -> list[Architecture]:
    """The architectures of a run: those over a limit first, named ones next, largest savings first.

    Reports are of one architecture if their model's class, parameters and layers are the same and
    so is everything else that does not follow from the input. Two networks may have all that in
    common and still differ in MACs for the same input, by a pooling for instance. They are kept
    apart then, the one with fewer MACs for each input first.

    Neither the result nor a name in it depends on the order of ``run``.
    """
    groups: dict[object, list[ReportData]] = defaultdict(list)
    for report in run:
        groups[_structure(report)].append(report)
    by_class: dict[str, list[Architecture]] = defaultdict(list)
    for reports in groups.values():
        for part in _kept_apart(reports):
            merged = Architecture("", tuple(part), _merged(part, run))
            by_class[merged.report.model].append(merged)
    found: list[Architecture] = []
    for model, alike in by_class.items():
        found += _named(model, alike)
    return sorted(found, key=_rank)


def _rank(found: Architecture) -> tuple[bool, bool, int, str]:
    report = found.report
    saved = report.params - report.separable_params
    return not found.exceeded, not found.reporters.targets, -saved, found.name


def _structure(report: ReportData) -> object:
    """All that reports of one architecture have in common."""
    layers = frozenset(map(_layer, report.findings))
    return report.model, report.params, report.depth_multiplier, report.order, layers


def _layer(finding: Finding) -> object:
    spec = finding.spec
    # reason: a function may be given a padding that was computed from the input's sides
    padding = None if Trait.FUNCTIONAL in spec.traits else spec.padding
    return (
        finding.name,
        finding.type_name,
        finding.params,
        replace(spec, padding=padding, input_shape=None, output_shape=None),
    )


def _kept_apart(reports: Sequence[ReportData]) -> list[list[ReportData]]:
    """The reports of each architecture among those of one structure, the one to show first."""
    by_input: dict[object, dict[_Outcome, list[ReportData]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for report in reports:
        by_input[report.input_shapes][_outcome(report)].append(report)
    parts: dict[int, list[ReportData]] = defaultdict(list)
    for outcomes in by_input.values():
        for place, outcome in enumerate(sorted(outcomes)):
            parts[place] += outcomes[outcome]
    return [sorted(part, key=_prominence) for part in parts.values()]


_Outcome = tuple[int, tuple[tuple[str, str], ...]]


def _outcome(report: ReportData) -> _Outcome:
    """What one network has only one of for an input: its MACs, and the verdicts."""
    return report.macs or 0, tuple(sorted((one.name, one.code) for one in report.findings))


def _prominence(report: ReportData) -> tuple[bool, float, int, str]:
    samples = report.batch_size or 1
    macs = report.macs or 0
    # reason: two reports for one input may still differ in what the dtype decides, as memory does
    rest = repr((report.input_shapes, report.memory, report.peak_activations, report.not_counted))
    return report.macs is None, -macs / samples, samples, rest


def _merged(reports: Sequence[ReportData], run: SuiteRun) -> Reporters:
    """Who reported any of these; of checks that differ by the input alone the largest."""
    merged = Reporters()
    worst: dict[object, AnyCheck] = {}
    for report in reports:
        reporters = run[report]
        merged.targets |= reporters.targets
        merged.tests |= reporters.tests
        merged.places |= reporters.places
        for check in sorted(reporters.checks, key=_check_place):
            limit = _limit(check, report)
            if check.actual > worst.setdefault(limit, check).actual:
                worst[limit] = check
    merged.checks = sorted(worst.values(), key=_check_place)
    return merged


def _limit(check: AnyCheck, report: ReportData) -> object:
    """What was limited, whatever the input."""
    noun = check.noun.removesuffix(per_sample_of(report))
    if isinstance(check, PredictionCheck):  # its noun has figures
        noun = check.prediction.host
    return check.name, noun, check.limit


# ------------------------------------------------------------------------------ names


def _named(model: str, alike: Sequence[Architecture]) -> list[Architecture]:
    """The architectures of one class with names that tell them apart."""
    if len(alike) == 1:
        return [replace(alike[0], name=model)]
    alike = sorted(alike, key=_size)
    for told_by in (_targets(alike), _widths(alike), _tests(alike), _inputs(alike)):
        if all(told_by) and len(set(told_by)) == len(alike):
            return [
                replace(one, name=f"{model}, {words}")
                for one, words in zip(alike, told_by, strict=True)
            ]
    return _numbered(model, alike)


def _targets(alike: Sequence[Architecture]) -> list[str]:
    return [min(one.reporters.targets, default="") for one in alike]


def _widths(alike: Sequence[Architecture]) -> list[str]:
    """The outputs of the first layer that has another number of them in each."""
    outputs = []
    for one in alike:
        outputs.append({layer.name: layer.spec.out_channels for layer in one.report.findings})
    for name in outputs[0]:
        widths = [each.get(name) for each in outputs]
        if None not in widths and len(set(widths)) == len(alike):
            layer = f"in {name}" if name else "wide"
            return [f"{width} channels {layer}" for width in widths]
    return [""] * len(alike)


def _tests(alike: Sequence[Architecture]) -> list[str]:
    """The first test of each: its function where that is enough, or else its node id."""
    nodeids = [min(one.reporters.tests, default="") for one in alike]
    functions = list(map(_function, nodeids))
    chosen = functions if len(set(functions)) == len(alike) else nodeids
    return [f"in {name}" if name else "" for name in chosen]


def _function(nodeid: str) -> str:
    path, bracket, parameters = nodeid.partition("[")
    return path.rpartition("::")[2] + bracket + parameters


def _inputs(alike: Sequence[Architecture]) -> list[str]:
    return [f"input {inputs_of(one.report)}" if one.report.input_shapes else "" for one in alike]


def _numbered(model: str, alike: Sequence[Architecture]) -> list[Architecture]:
    """By their tests, and numbered where a test has several, from small to large."""
    named = []
    counts: Counter[str] = Counter()
    for one, words in zip(alike, _tests(alike), strict=True):
        name = f"{model}, {words}" if words else model
        counts[name] += 1
        number = f" ({counts[name]})" if counts[name] > 1 else ""
        named.append(replace(one, name=f"{name}{number}"))
    return named


def _size(one: Architecture) -> tuple[int, int, list[str], list[tuple[str, int, str]]]:
    report = one.report
    layers = []
    for finding in report.findings:
        spec = finding.spec
        sides = f"{spec.kernel_size} {spec.stride} {spec.padding} {spec.dilation} {spec.groups}"
        layers.append((finding.name, finding.macs or 0, sides))
    return report.params, report.macs or 0, one.reporters.names, layers
