"""The command ``dwsconv-rewrite``: make the convolutions of source files depthwise separable."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from pytest_dwsconv._version import __version__
from pytest_dwsconv.errors import DwsconvError, InputError, SourceError

if TYPE_CHECKING:
    from pytest_dwsconv.command.evidence import FileModel
    from pytest_dwsconv.command.settings import Config
    from pytest_dwsconv.source.edit import Rewrite
    from pytest_dwsconv.source.files import SourceText
    from pytest_dwsconv.source.sites import SourceSite

_DESCRIPTION = """\
Find the convolutions that a PyTorch source file makes, and replace those that could be depthwise separable.
Files are rewritten in place; what is changed and what is left alone, and why, is printed."""

_EPILOG = """\
exit status: 0 nothing to do, or done; 1 --check or --diff found something; 2 a file or an option cannot be used;
141 what read the output stopped reading.
A line that ends in '# dws: skip' is left alone. Settings are read from [tool.dwsconv] in pyproject.toml."""

_BROKEN_PIPE = 141
"""What the shell reports for a command that wrote to a closed pipe."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a disk says that holds no more."""


def entry() -> NoReturn:
    """Run the command and exit with its status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # reason: code is quoted, in any language
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        status = _BROKEN_PIPE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        _complain(f"standard output cannot be written: {error.strerror}")
        status = 2
    except Exception:
        traceback.print_exc()
        print(
            "dwsconv-rewrite: this is a fault of the command itself; please report it",
            file=sys.stderr,
        )
        status = 2
    raise SystemExit(status)


def _drop_output() -> None:
    """Let what is still to be written go: the exit flushes once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments; the exit status."""
    given, parser = sys.argv[1:] if argv is None else argv, _parser()
    try:
        # reason: options may stand between paths, but argparse loses what follows a -- then
        options = parser.parse_args(given) if "--" in given else parser.parse_intermixed_args(given)
    except SystemExit as exit_:  # reason: argparse has printed the help, or what is wrong
        return exit_.code if isinstance(exit_.code, int) else 2
    try:
        return _Command(options).run()
    except DwsconvError as error:
        _complain(str(error))
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
        "arguments in "
        "parentheses if it needs any, show its table, and let what each call built settle what its "
        "text leaves open",
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

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        if options.output == "/dev/stdout":
            # reason: where a shell sends it to a file, that file is not ours to replace
            options.output = "-"
        self._failed = False
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
        for each in inputs:
            try:
                self._process(each, model)
            except SourceError as error:
                self._fail(f"{each.name}: {error}")
        if self._counts["read"]:
            self._say(self._summary())
        found = self._counts["changed"] and (self._options.check or self._options.diff)
        return 2 if self._failed else int(bool(found))

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
        from pytest_dwsconv.command.settings import load_config
        from pytest_dwsconv.source.files import python_files

        if name == "-":
            return [_Input(None, "<stdin>", load_config(Path.cwd()))]
        path = Path(name)
        if not path.is_dir():
            return [_Input(path, name, load_config(path.parent))]
        config, files = load_config(path), list(python_files(path))
        if not files:
            self._fail(f"{name}: there are no Python files in this folder")
        left = [_Input(file, str(file), config) for file in files if not config.excludes(file)]
        if files and not left:
            self._say(
                f"{name}: nothing to look at, exclude in {config.root / 'pyproject.toml'} leaves "
                "out every file"
            )
        return left

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

        old = decode(sys.stdin.buffer.read()) if source.path is None else read(source.path)
        rewrite = rewrite_text(old.text, source.config.policy, model.evidence if model else {})
        if model is not None:
            self._say(str(model.report_after_rewrite(rewrite.sites)))
        self._deliver(source, old, rewrite)
        for site in rewrite.sites:
            self._say(f"{source.name}:{_describe(site, rewrite)}")
        self._counts["read"] += 1
        changed = sum(site.is_candidate for site in rewrite.sites)
        self._counts["changed"] += changed
        self._counts["alone"] += len(rewrite.sites) - changed
        self._counts["files"] += bool(changed)

    def _deliver(self, source: _Input, old: SourceText, rewrite: Rewrite) -> None:
        from pytest_dwsconv.source.files import write

        options, data = self._options, old.encode(rewrite.text)
        target = options.output or ("-" if source.path is None else None)
        if options.check:
            return
        if options.diff:
            _write_stdout(old.diff(rewrite.text, source.name))
        elif target == "-":
            _write_stdout(data)
        elif target is not None:
            try:
                write(Path(target), data)
            except SourceError as error:
                raise InputError(f"-o {target}: {error}") from error
        elif source.path is not None and rewrite.text != old.text:
            write(source.path, data)

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
        print(message, file=self._messages)

    def _fail(self, message: str) -> None:
        self._failed = True
        _complain(message)


def _describe(site: SourceSite, rewrite: Rewrite) -> str:
    place = f"{site.place.line}:{site.place.column}: {site.place.code}"
    if not site.is_candidate:
        return f"{place} left alone, {site.judgement.code}: {site.judgement.reason}"
    saving, exact = site.saving
    amount = f"{saving:.1f}x" if exact else f"at most {saving:.1f}x"
    name = rewrite.class_names[site.place.spec.rank]
    return f"{place} -> {name}, {site.judgement.reason}, saves {amount}"


def _write_stdout(data: bytes) -> None:
    """As bytes: a result keeps its own encoding and line ends."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _complain(message: str) -> None:
    print(f"dwsconv-rewrite: {message}", file=sys.stderr)
