"""The command ``dwsconv-rewrite``: make the convolutions of source files depthwise separable."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from pytest_dwsconv._version import __version__
from pytest_dwsconv.command.explanation import codes_to_explain, explanation
from pytest_dwsconv.command.interrupts import Interrupts
from pytest_dwsconv.command.streams import complain, drop_unwritten, flush_stdout
from pytest_dwsconv.core.conv import Order
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import DwsconvError

FORMATS = ("concise", "full", "github", "json")

_DESCRIPTION = """\
Find the convolutions that a PyTorch source file makes, and replace those that could be depthwise
separable. Files are rewritten in place; what is changed and what is left alone, and why, is
printed."""

_EPILOG = """\
exit status: 0 nothing to do, or done; 1 --check or --diff found something; 2 a file, an option or
a standard stream cannot be used; 130 interrupted; 141 what read the output stopped reading.
A line that ends in '# dws: skip' is left alone, with '# noqa: DWS001' without a word. Settings are
read from [tool.dwsconv] in pyproject.toml. dwsconv-rewrite explain CODE says what a code means."""

_BY_SIGNAL = 128
"""What the shell adds to the number of the signal that ended a command."""
_BROKEN_PIPE = _BY_SIGNAL + 13
"""What it reports for one that wrote to a closed pipe."""


def entry(command: Callable[[], int] | None = None) -> NoReturn:
    """Run a command, by default ``main``, and exit with its status."""
    if sys.stderr is None:
        # reason: else print(file=None) would write complaints to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the exit
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # reason: code is quoted, in any language
    try:
        status = (command or main)()
    except BrokenPipeError:
        status = _BROKEN_PIPE
    except KeyboardInterrupt as error:
        # pressed once more, it ends the process without a word
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        complain("interrupted")
        number: int = error.args[0] if error.args else signal.SIGINT
        status = _BY_SIGNAL + number
    except Exception:
        traceback.print_exc()
        complain("this is a fault of the command itself; please report it")
        status = 2
    if status == 2 or status > _BY_SIGNAL:
        drop_unwritten()
    raise SystemExit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments; the exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; files are whole, and those rewritten are listed.
        BrokenPipeError: what read the output stopped reading.
    """
    with Interrupts() as interrupts:
        try:
            return _run(sys.argv[1:] if argv is None else argv, interrupts)
        except DwsconvError as error:
            interrupts.check()
            complain(str(error))
            return 2


def _run(arguments: Sequence[str], interrupts: Interrupts) -> int:
    codes = codes_to_explain(arguments)
    if codes:
        print("\n\n".join(map(explanation, codes)))
        flush_stdout()
        return 0
    parser = _parser()
    # reason: options may stand between paths, but argparse loses what follows a -- then
    parse = parser.parse_args if "--" in arguments else parser.parse_intermixed_args
    try:
        options = parse(arguments)
    except SystemExit as exit_:  # reason: argparse has printed the help, or what is wrong
        flush_stdout()
        return exit_.code if isinstance(exit_.code, int) else 2
    from pytest_dwsconv.command.run import Run

    return Run(options, interrupts).execute()


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(plain(message))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dwsconv-rewrite",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a file, a folder, or - for standard input"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--diff", action="store_true", help="show the change as a diff and write nothing"
    )
    action.add_argument("--check", action="store_true", help="only tell what would change")
    action.add_argument(
        "-o", "--output", metavar="FILE", help="write the result there, not in place"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="run the file, build the model that this class, function or instance gives, with its "
        "arguments in parentheses if it needs any, show its table, and let what each call built "
        "settle what its text leaves open",
    )
    parser.add_argument(
        "--input-size",
        metavar="SHAPE",
        help="input shape of the model: 1,3,224,224; several inputs are separated by ;",
    )
    _add_checkpoint_options(parser.add_argument_group("a checkpoint of that model"))
    parser.add_argument(
        "--no-guards",
        action="store_true",
        help="leave alone what the arguments leave open, as in a helper that takes the kernel "
        "size, and do not let the inserted class decide when the code runs",
    )
    _add_listing_options(parser.add_argument_group("what is listed"))
    parser.add_argument(
        "--class-from",
        metavar="MODULE:CLASS",
        action="append",
        default=[],
        help="import this class of your own in place of inserting one, for the dimensions that its "
        "name ends in (Separable2d); may be given once for each of 1d, 2d, 3d",
    )
    parser.add_argument(
        "--stdin-filename", metavar="FILE", help="the name under which standard input is reported"
    )
    parser.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=_jobs,
        default=1,
        help="work in so many processes; 0 is one for each processor",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _add_checkpoint_options(group: argparse._ArgumentGroup) -> None:
    for option, effect in (
        ("--weights", "trained weights, .pt or .safetensors, to convert for the rewritten file"),
        ("--weights-out", "where the converted weights are written"),
        ("--fit", "batches of inputs, .pt: fit the weights to what the model makes of them"),
        ("--plan", "replace the layers of this plan, as pytest --dws-fix-plan writes one"),
        ("--plan-out", "write which layers are replaced, and by what"),
    ):
        group.add_argument(option, metavar="FILE", help=effect)
    group.add_argument(
        "--budget",
        metavar="N",
        help="in place of a multiplier, with --fit: parameters that the model may have, as in 5M; "
        "which layers are replaced, by which forms, is chosen for the least predicted loss",
    )
    group.add_argument(
        "--depth-multiplier",
        metavar="N",
        type=_from_one,
        default=1,
        help="depthwise filters for each channel; more are closer to the original, and save less",
    )
    group.add_argument(
        "--order",
        choices=[order.value for order in Order],
        help=f"which part runs first; {Order.DEPTHWISE_FIRST.value} if not given, but any form "
        "with --budget",
    )


def _from_one(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _add_listing_options(group: argparse._ArgumentGroup) -> None:
    for option, effect in (
        ("--select", "rewrite and list only these codes, as in DWS001,DWS2"),
        ("--ignore", "neither rewrite nor list these codes"),
    ):
        group.add_argument(option, metavar="CODES", action="append", default=[], help=effect)
    group.add_argument(
        "--output-format", choices=FORMATS, default="concise", help="concise if not given"
    )
    group.add_argument(
        "--statistics", action="store_true", help="say how many convolutions have each code"
    )
    amount = group.add_mutually_exclusive_group()
    amount.add_argument("-q", "--quiet", action="store_true", help="print errors and results alone")
    amount.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="list pointwise convolutions (DWS104) and silenced ones, too",
    )
    group.add_argument("--exit-zero", action="store_true", help="exit with 0 where it would be 1")


def _jobs(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)
