"""``python -m pytest_dwsconv report``: the report of a model, without a test."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from shutil import get_terminal_size

from pytest_dwsconv.command.cli import Parser
from pytest_dwsconv.command.streams import complain, write_stdout
from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.forms import FILES_ONLY, FORMS
from pytest_dwsconv.errors import DwsconvError, InputError
from pytest_dwsconv.progress import Progress
from pytest_dwsconv.render import Reporters, SuiteRun, View, render_run, write_run

_PROG = "python -m pytest_dwsconv report"

_EPILOG = """\
examples:
  python -m pytest_dwsconv report torchvision:resnet18 --input-size 1,3,224,224
  python -m pytest_dwsconv report net.py:Net --input-size 1,3,64,64 --format html --output net.html
  python -m pytest_dwsconv report 'mynet.models:build(width=8)' --format json
exit status: 0 done; 2 a model, an option or a file cannot be used."""


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _report(options)
    except DwsconvError as error:
        complain(str(error), _PROG)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROG,
        description="Show the convolutions of a model, what they cost, and what it would cost with "
        "separable ones. The model is built and its forward runs once; it needs no test.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="module:factory, file.py:Net, timm:NAME or torchvision:NAME, with arguments in "
        "parentheses if it needs any",
    )
    parser.add_argument(
        "--input-size",
        metavar="N,C,H,W",
        help="the input shape; several inputs are separated by ;. Without it no MACs are counted",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="MACHINE",
        help="tell what the replacements gain there: edgetpu or edgetpu:HOST, predicted, or cpu, "
        "torch_compile, litert or litert_int8, measured on this machine; may be repeated",
    )
    parser.add_argument(
        "--format", choices=FORMS, default="text", help="the form of the report (%(default)s)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write it to this file, not to standard output"
    )
    return parser


def _report(options: argparse.Namespace) -> None:
    if options.format in FILES_ONLY and not options.output:
        raise InputError(
            f"{options.format} goes to a file: name it, as in --output report.{options.format}"
        )
    with redirect_stdout(sys.stderr):  # reason: the model's code may print
        run = _run(options)
    if options.output:
        _write(options.format, run, Path(options.output))
        return
    width = get_terminal_size().columns if os.isatty(1) else None
    verbosity = 0 if width else 1
    text = render_run(options.format, run, verbosity, width=width, view=View(top=len(run)))
    write_stdout(f"{text}\n".encode(errors="backslashreplace"))


def _run(options: argparse.Namespace) -> SuiteRun:
    from pytest_dwsconv.analysis.analyze import analyze
    from pytest_dwsconv.targets import load_target, parse_input_size

    size = options.input_size
    shapes = None if size is None else parse_input_size(size)
    run: dict[ReportData, Reporters] = {}
    with Progress("analysing", len(options.targets), "model", delay=1.0, leave=False) as progress:
        for target in options.targets:
            progress.at(target)
            report = analyze(load_target(target), shapes, target=options.target)
            run.setdefault(report, Reporters()).targets.add(target)
            progress.advance()
    return run


def _write(form: str, run: SuiteRun, path: Path) -> None:
    try:
        write_run(form, run, path, view=View(top=len(run)))
    except OSError as error:
        raise InputError(f"--output {path} cannot be written: {error.strerror}") from error
