"""The reports of a whole test run, with those who made them, and how a form is to show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

from pytest_dwsconv.core.budget import Held
from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.render.view import View


@dataclass
class Users:
    """Who reported a model: ``module:factory`` targets, and tests by node id; and the limits it was
    held to.
    """

    targets: set[str] = field(default_factory=set)
    tests: set[str] = field(default_factory=set)
    held: list[Held] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [*sorted(self.targets), *sorted(self.tests)]

    @property
    def file(self) -> str | None:
        """The file of the first test, with / between its parts; None where only targets reported
        the model.
        """
        files = (nodeid.partition("::")[0] for nodeid in sorted(self.tests))
        return next((file.replace("\\", "/") for file in files if file), None)


Run = Mapping[ReportData, Users]


class Style(NamedTuple):
    """How much is shown: below 0 one line a model, above 0 everything; and, on a terminal, its
    width and colours.

    ``view`` is which convolutions text shows.
    """

    verbosity: int = 0
    width: int | None = None
    colour: bool = False
    view: View = View()

    def paint(self, text: str, code: str) -> str:
        """The text in this colour, by its number in ECMA-48."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text


def in_order(run: Run) -> dict[ReportData, Users]:
    """Models named as targets first, then by who reported them, and exceeded limits first.

    The order does not depend on which came first, so workers do not change it.
    """
    return {
        report: replace(users, held=sorted(users.held, key=_rank))
        for report, users in sorted(run.items(), key=_place)
    }


def _rank(held: Held) -> tuple[bool, Held]:
    return not held.violation, held


def _place(row: tuple[ReportData, Users]) -> tuple[bool, list[str], str, str]:
    report, users = row
    return (
        not users.targets,
        sorted(chain(users.targets, users.tests)),
        report.model,
        repr(report.input_shapes),
    )


def users_line(users: Users, verbosity: int) -> str:
    """Who reported a model, the first three unless more is asked for; empty where nobody is known."""
    names = [plain(name) for name in users.names]
    shown = names if verbosity > 0 else names[:3]
    more = f" and {len(names) - len(shown)} more (-v shows all)" if len(names) > len(shown) else ""
    return f"Reported by {', '.join(shown)}{more}" if names else ""
