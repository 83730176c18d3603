"""The reports of a whole test run, with what reported them, and how a form is to show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.render.view import View


@dataclass
class Reporters:
    """What reported a model, and the limits that the model was held to.

    ``targets`` are models named as ``module:factory``, ``tests`` are node ids.
    """

    targets: set[str] = field(default_factory=set)
    tests: set[str] = field(default_factory=set)
    checks: list[AnyCheck] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [*sorted(self.targets), *sorted(self.tests)]

    @property
    def file(self) -> str | None:
        """The file of the first test, with / between its parts; None if no test reported it."""
        for nodeid in sorted(self.tests):
            file = nodeid.partition("::")[0]
            if file:
                return file.replace("\\", "/")
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


class Style(NamedTuple):
    """How much text shows, and on what.

    Below verbosity 0 that is one line per model, above 0 everything. ``width`` is that of a
    terminal, None for a file. ``view`` is which convolutions are shown.
    """

    verbosity: int = 0
    width: int | None = None
    colour: bool = False
    view: View = View()

    def paint(self, text: str, code: str) -> str:
        """The text in this colour, by its number in ECMA-48."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text


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
    names = sorted(reporters.targets | reporters.tests)
    return not reporters.targets, names, report.model, repr(report.input_shapes)
