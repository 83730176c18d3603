"""Where in the repository a finding is: its line of source where that is known, else the test that reported it."""

from __future__ import annotations

from typing import NamedTuple

from pytest_dwsconv.render.run import Users
from pytest_dwsconv.report import Finding, Origin


class Place(NamedTuple):
    """A file, with / between its parts, and a line and column from 1 where they are known."""

    path: str
    line: int | None = None
    column: int | None = None


def place_of_finding(finding: Finding, users: Users) -> Place | None:
    """The place written in a finding made from source, else that of the model's users."""
    if finding.origin is Origin.SOURCE:
        path, _, position = finding.name.partition(".py:")
        line, _, column = position.partition(":")
        if line.isdigit() and column.isdigit():
            return Place(_posix(f"{path}.py"), int(line), int(column))
    return place_of_users(users)


def place_of_users(users: Users) -> Place | None:
    """The file of the first test that reported the model; None where only targets did."""
    files = (nodeid.partition("::")[0] for nodeid in sorted(users.tests))
    return next((Place(_posix(file)) for file in files if file), None)


def _posix(path: str) -> str:
    return path.replace("\\", "/")
