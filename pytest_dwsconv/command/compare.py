"""``python -m pytest_dwsconv compare``: what models cost before and after, without a test run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size

from pytest_dwsconv.command.cli import Parser
from pytest_dwsconv.command.streams import complain, write_stdout
from pytest_dwsconv.core.suite.baseline import Baseline, stored_models
from pytest_dwsconv.core.suite.changes import Outcome, Tolerance
from pytest_dwsconv.core.suite.costs import Current
from pytest_dwsconv.errors import DwsconvError, FormatError, InputError
from pytest_dwsconv.render import render_run

_PROG = "python -m pytest_dwsconv compare"

_FORMS = ("text", "markdown", "json", "github", "gitlab")

_EPILOG = """\
examples:
  git show main:.dwsconv/baseline.json > main.json
  python -m pytest_dwsconv compare main.json .dwsconv/baseline.json --format markdown
  python -m pytest_dwsconv compare main.json report.json --fail-on-increase 2.5
exit status: 0 compared; 1 a model has grown by more than --fail-on-increase; 2 a file or an option
cannot be used."""


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _compare(options)
    except DwsconvError as error:
        complain(str(error), _PROG)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROG,
        description="Show what the models of two baselines or JSON reports cost, before and after. "
        "No test runs, and PyTorch is not needed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    file = "a baseline (.dwsconv/baseline.json), or what --dws-report=json:PATH wrote"
    parser.add_argument("old", metavar="OLD", help=file)
    parser.add_argument("new", metavar="NEW", help="the same, from after the change")
    parser.add_argument(
        "--format", choices=_FORMS, default="text", help="the form of the table (%(default)s)"
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="show in text the layers that changed, as the other forms do; JSON reports have them",
    )
    parser.add_argument(
        "--fail-on-increase",
        metavar="PERCENT",
        help="exit with 1 if a model has more parameters or MACs, by more than this share: 0 for "
        "any growth",
    )
    return parser


def _compare(options: argparse.Namespace) -> int:
    tolerance = None
    if options.fail_on_increase is not None:
        try:
            tolerance = Tolerance.parsed(options.fail_on_increase)
        except FormatError as error:
            raise InputError(f"--fail-on-increase {error}") from error
    old, new = _read(options.old), _read(options.new)
    if options.layers and not all(any(one.entry.layers for one in side) for side in (old, new)):
        complain("layers are compared between two JSON reports, baselines have none", _PROG)
    compared = Baseline.of(old).compared(
        new, lambda model: tolerance, lambda reporter: True, Path(options.old).name
    )
    width = get_terminal_size().columns if os.isatty(1) else None
    outcome = Outcome(compared.changes, tuple(compared.escaped))
    text = render_run(options.format, {}, int(options.layers), width=width, outcome=outcome)
    write_stdout(f"{text}\n".encode(errors="backslashreplace"))
    return int(bool(compared.changes.increases))


def _read(name: str) -> list[Current]:
    try:
        return stored_models(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{name} cannot be compared: {reason}; give a baseline or a JSON report"
        ) from error
