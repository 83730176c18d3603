"""The command ``dwsconv-rewrite``: make the convolutions of source files depthwise separable."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from pytest_dwsconv._version import __version__
from pytest_dwsconv.command.interrupts import Interrupts
from pytest_dwsconv.command.streams import (
    OutputError,
    complain,
    drop_unwritten,
    flush_stdout,
    output,
    read_stdin,
    write_stdout,
)
from pytest_dwsconv.core.interrupts import uninterrupted
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import DwsconvError, InputError, SourceError

if TYPE_CHECKING:
    from pytest_dwsconv.command.evidence import FileModel
    from pytest_dwsconv.configuration import Config
    from pytest_dwsconv.source.edit import Rewrite
    from pytest_dwsconv.source.files import SourceText
    from pytest_dwsconv.source.sites import SourceSite

_DESCRIPTION = """\
Find the convolutions that a PyTorch source file makes, and replace those that could be depthwise
separable. Files are rewritten in place; what is changed and what is left alone, and why, is
printed."""

_EPILOG = """\
exit status: 0 nothing to do, or done; 1 --check or --diff found something; 2 a file, an option or
a standard stream cannot be used; 130 interrupted; 141 what read the output stopped reading.
A line that ends in '# dws: skip' is left alone. Settings are read from [tool.dwsconv] in
pyproject.toml."""

_INTERRUPTED, _BROKEN_PIPE = 130, 141
"""What the shell reports for a command ended by Ctrl-C, and for one that wrote to a closed pipe."""


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
    except KeyboardInterrupt:
        # pressed once more, it ends the process without a word
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        complain("interrupted")
        status = _INTERRUPTED
    except Exception:
        traceback.print_exc()
        complain("this is a fault of the command itself; please report it")
        status = 2
    if status in (2, _INTERRUPTED, _BROKEN_PIPE):
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
    parser = _parser()
    # reason: options may stand between paths, but argparse loses what follows a -- then
    parse = parser.parse_args if "--" in arguments else parser.parse_intermixed_args
    try:
        options = parse(arguments)
    except SystemExit as exit_:  # reason: argparse has printed the help, or what is wrong
        flush_stdout()
        return exit_.code if isinstance(exit_.code, int) else 2
    return _Command(options, interrupts).run()


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
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


@dataclass(frozen=True)
class _Input:
    """One file, or standard input (``path`` is None), by the name it is reported under."""

    path: Path | None
    name: str
    config: Config


class _Command:
    """One run. Messages go to standard error where a result goes to standard output."""

    def __init__(self, options: argparse.Namespace, interrupts: Interrupts) -> None:
        if sys.stdout is None:
            raise InputError(
                "standard output is closed: send it to a file, or to /dev/null if nobody reads it"
            )
        self._options = options
        self._interrupts = interrupts
        if options.output == "/dev/stdout":
            # reason: where a shell sends it to a file, that file is not ours to replace
            options.output = "-"
        self._failed = False
        self._unwritable = False  # whether a standard stream could not take a line
        self._written: list[str] = []  # names of files
        self._counts = {"read": 0, "changed": 0, "alone": 0, "files": 0}
        result_on_stdout = options.diff or options.output == "-" or "-" in options.paths
        self._messages: TextIO = sys.stderr if result_on_stdout else sys.stdout

    def run(self) -> int:
        inputs = list(self._inputs())
        if self._options.output == "":
            raise InputError(
                "-o is given an empty name: give that of a file, or - for standard output"
            )
        if self._options.output is not None and len(inputs) > 1:
            raise InputError(f"-o takes the result of one file, and there are {len(inputs)}")
        model = self._model(inputs)
        try:
            for each in inputs:
                try:
                    self._process(each, model)
                except SourceError as error:
                    self._interrupts.check()
                    self._fail(f"{each.name}: {error}")
                except OutputError as error:
                    self._interrupts.check()
                    self._fail_to_print(error)
        finally:
            self._finish()
        found = self._counts["changed"] and (self._options.check or self._options.diff)
        return 2 if self._failed else int(bool(found))

    def _finish(self) -> None:
        """Print the summary; where it gets lost, what was written is told on standard error."""
        if self._counts["read"]:
            self._say(self._summary())
        try:
            flush_stdout()
        except OutputError as error:
            self._fail_to_print(error)
        if self._unwritable:
            for name in self._written:
                complain(f"{name} was written")

    # -- input

    def _inputs(self) -> Iterator[_Input]:
        """Every file once, in the order given; what cannot be one is reported and fails the run."""
        seen: set[Path] = set()
        for name in self._options.paths:
            for found in self._found(name):
                if found.path is not None:
                    # reason: resolve() raises on a loop before Python 3.13
                    real = Path(os.path.realpath(found.path))
                    if real in seen:
                        continue
                    seen.add(real)
                yield found

    def _found(self, name: str) -> list[_Input]:
        from pytest_dwsconv.configuration import load_config
        from pytest_dwsconv.source.files import python_files

        if name == "-":
            return [_Input(None, "<stdin>", load_config(Path.cwd()))]
        path = _path(name)
        # reason: unlike Path.is_dir, it answers for a name that is too long as well
        if not os.path.isdir(path):
            return [_Input(path, name, load_config(path.parent))]
        config, files = load_config(path), list(python_files(path, self._fail_to_read))
        if not files:
            self._fail(f"{name}: there are no Python files in this folder")
        left = [_Input(file, str(file), config) for file in files if not config.excludes(file)]
        if files and not left:
            self._say(
                f"{name}: nothing to look at, exclude in {config.root / 'pyproject.toml'} leaves "
                "out every file"
            )
        return left

    def _fail_to_read(self, error: OSError) -> None:
        self._fail(f"{error.filename}: it cannot be read: {error.strerror}")

    def _model(self, inputs: Sequence[_Input]) -> FileModel | None:
        """The model of ``--model``, built by the one file."""
        options = self._options
        if options.model is None:
            if options.input_size is not None:
                raise InputError(
                    "--input-size is the input of a model: name the model with --model"
                )
            return None
        path = inputs[0].path if len(inputs) == 1 else None
        if path is None:
            raise InputError("--model names something in a file: give the path of that one file")
        from pytest_dwsconv.command.evidence import model_of_file
        from pytest_dwsconv.targets import parse_input_size

        shapes = None if options.input_size is None else parse_input_size(options.input_size)
        with redirect_stdout(self._messages):  # reason: the file may print
            return model_of_file(path, options.model, shapes, inputs[0].config.policy)

    # -- output

    def _process(self, source: _Input, model: FileModel | None) -> None:
        from pytest_dwsconv.source.edit import rewrite_text
        from pytest_dwsconv.source.files import decode, read

        old = decode(read_stdin()) if source.path is None else read(source.path)
        rewrite = rewrite_text(old.text, source.config.policy, model.evidence if model else {})
        self._interrupts.check()  # reason: without one that came in a callback it may be wrong
        if model is not None:
            for line in str(model.report_after_rewrite(rewrite.sites)).split("\n"):
                self._say(line)
        options = self._options
        if source.path is None or options.check or options.diff or options.output is not None:
            self._deliver(source, old, rewrite)
            self._list(source, rewrite)
        else:
            self._rewrite_in_place(source, source.path, old, rewrite)

    def _rewrite_in_place(
        self, source: _Input, path: Path, old: SourceText, rewrite: Rewrite
    ) -> None:
        from pytest_dwsconv.source.files import write

        # what is written is listed, unless it is to a pipe: that may block, and Ctrl-C helps out
        with uninterrupted() if os.path.isfile(path) else nullcontext():
            if rewrite.text != old.text:
                write(path, old.encode(rewrite.text))
                self._written.append(source.name)
            self._list(source, rewrite)

    def _deliver(self, source: _Input, old: SourceText, rewrite: Rewrite) -> None:
        """Put the result where the options say."""
        from pytest_dwsconv.source.files import write

        options = self._options
        if options.diff:
            write_stdout(old.diff(rewrite.text, source.name))
        elif not options.check and options.output in (None, "-"):
            write_stdout(old.encode(rewrite.text))
        elif not options.check:
            try:
                write(_path(options.output), old.encode(rewrite.text))
            except SourceError as error:
                raise InputError(f"-o {options.output}: {error}") from error
            self._written.append(options.output)

    def _list(self, source: _Input, rewrite: Rewrite) -> None:
        for site in rewrite.sites:
            self._say(f"{source.name}:{_describe(site, rewrite)}")
        changed = sum(site.is_candidate for site in rewrite.sites)
        self._counts["read"] += 1
        self._counts["changed"] += changed
        self._counts["alone"] += len(rewrite.sites) - changed
        self._counts["files"] += bool(changed)

    def _summary(self) -> str:
        from pytest_dwsconv.render.table import count

        changed, alone, files = (
            self._counts["changed"],
            self._counts["alone"],
            self._counts["files"],
        )
        if not changed:
            return f"nothing to rewrite, {alone} left alone" if alone else "no convolutions found"
        verb = "would be rewritten" if self._options.check or self._options.diff else "rewritten"
        return (
            f"{count(changed, 'convolution')} {verb} in {count(files, 'file')}, {alone} left alone"
        )

    def _say(self, message: str) -> None:
        """Print a line; control characters in it, from a file or its name, are spelled out."""
        name = "standard output" if self._messages is sys.stdout else "standard error"
        try:
            with output(name):
                print(plain(message), file=self._messages)
        except OutputError as error:
            self._fail_to_print(error)

    def _fail_to_print(self, error: OutputError) -> None:
        """Go on without the stream, for the other files; it is complained of once."""
        if not self._unwritable:
            self._fail(str(error))
        self._unwritable = True

    def _fail(self, message: str) -> None:
        self._failed = True
        complain(message)


def _describe(site: SourceSite, rewrite: Rewrite) -> str:
    place = f"{site.place.line}:{site.place.column}: {site.place.code}"
    if not site.is_candidate:
        return f"{place} left alone, {site.judgement.code}: {site.judgement.reason}"
    saving, exact = site.saving
    amount = f"{saving:.1f}x" if exact else f"at most {saving:.1f}x"
    name = rewrite.class_names[site.place.spec.rank]
    return f"{place} -> {name}, {site.judgement.reason}, saves {amount}"


def _path(name: str) -> Path:
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise InputError(f"{name} cannot be a file: its name cannot be encoded") from error
    if "\0" in name:
        raise InputError(f"{name} cannot be a file: there is a NUL in its name")
    return Path(name)
