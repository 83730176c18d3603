"""One run of ``dwsconv-rewrite``: every file examined, listed, and written where asked for."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pytest_dwsconv.command.examination import Examination, Examine, examinations, examine
from pytest_dwsconv.command.inputs import Input, Search, file_path
from pytest_dwsconv.command.interrupts import Interrupts
from pytest_dwsconv.command.listing import Listing
from pytest_dwsconv.command.progress import Progress
from pytest_dwsconv.command.streams import (
    OutputError,
    complain,
    flush_stdout,
    output,
    write_stdout,
)
from pytest_dwsconv.configuration import (
    Config,
    ImportedClass,
    Selection,
    checked_codes,
    imported_classes,
)
from pytest_dwsconv.core.conv import Form, Order
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.errors import FormatError, InputError, SourceError
from pytest_dwsconv.interrupts import uninterrupted
from pytest_dwsconv.source.files import AccessError, write
from pytest_dwsconv.source.sites import BuildEvidence

if TYPE_CHECKING:
    from pytest_dwsconv.command.trial.model import Trial


class Run:
    """Messages go to standard error where a result goes to standard output."""

    def __init__(self, options: argparse.Namespace, interrupts: Interrupts) -> None:
        if sys.stdout is None:
            raise InputError(
                "standard output is closed: send it to a file, or to /dev/null if nobody reads it"
            )
        if options.output == "/dev/stdout":
            # reason: where a shell sends it to a file, that file is not ours to replace
            options.output = "-"
        self._options = options
        self._plan = _read_plan(options.plan) if options.plan else None
        self._interrupts = interrupts
        self._failed = False
        self._unwritable = False  # whether a standard stream could not take a line
        self._skipped = 0  # files found in folders that are not Python
        self._written: list[str] = []  # names of files
        result_on_stdout = options.diff or options.output == "-" or "-" in options.paths
        is_document = options.output_format == "json"
        if result_on_stdout and is_document:
            raise InputError(
                "--output-format json is written to standard output, where the result goes: ask "
                "for it with --check, in a run of its own"
            )
        self._messages: TextIO = sys.stdout
        if result_on_stdout or is_document:
            self._messages = sys.stderr
        self._progress = Progress(wanted=not options.quiet)
        self._listing = Listing(options.output_format, options.verbose, self._list_line)

    def execute(self) -> int:
        """Examine every file; the exit status."""
        inputs = self._inputs()
        trial = self._trial(inputs)
        evidence = BuildEvidence() if trial is None else trial.model.evidence
        try:
            with examinations(inputs, evidence, self._options.jobs) as examined:
                pairs = zip(inputs, examined, strict=True)
                for source, examine in self._progress.over(pairs, len(inputs)):
                    self._process(source, examine, trial)
        finally:
            self._finish()
        if self._failed:
            return 2
        found = self._listing.changed and (self._options.check or self._options.diff)
        return int(bool(found) and not self._options.exit_zero)

    def _finish(self) -> None:
        """Print the summary; where it gets lost, what was written is told on standard error."""
        options = self._options
        if self._listing.read_files:
            if options.output_format == "json":
                self._print(self._listing.document(), sys.stdout)
            if options.statistics:
                for line in self._listing.statistics():
                    self._print(line, self._messages)
            summary = self._listing.summary(would=options.check or options.diff)
            self._say(f"{summary}, {self._skipped} skipped" if self._skipped else summary)
        try:
            flush_stdout()
        except OutputError as error:
            self._fail_to_print(error)
        if self._unwritable:
            for name in self._written:
                complain(f"{name} was written")

    # -- input

    def _inputs(self) -> list[Input]:
        options = self._options
        select = checked_codes("--select", options.select)
        ignore = checked_codes("--ignore", options.ignore)
        classes = imported_classes(options.class_from)
        search = Search(options.stdin_filename, self._fail, self._say)
        inputs = []
        for each in search.inputs(options.paths):
            config = _overridden(each.config, select, ignore, classes)
            config = replace(
                config,
                guards=not options.no_guards,
                depth_multiplier=options.depth_multiplier,
                order=Order(options.order or Order.DEPTHWISE_FIRST),
            )
            inputs.append(replace(each, config=config))
        if options.output == "":
            raise InputError(
                "-o is given an empty name: give that of a file, or - for standard output"
            )
        if options.output is not None and len(inputs) > 1:
            raise InputError(f"-o takes the result of one file, and there are {len(inputs)}")
        return inputs

    def _trial(self, inputs: Sequence[Input]) -> Trial | None:
        """The model of ``--model``, built by the one file."""
        options = self._options
        self._check_weights(inputs)
        if options.model is None:
            if options.input_size is not None:
                raise InputError(
                    "--input-size is the input of a model: name the model with --model"
                )
            return None
        path = inputs[0].path if len(inputs) == 1 else None
        if path is None:
            raise InputError("--model names something in a file: give the path of that one file")
        from pytest_dwsconv.command.trial.model import Trial
        from pytest_dwsconv.targets import parse_input_size

        shapes = None if options.input_size is None else parse_input_size(options.input_size)
        policy = inputs[0].config.policy
        trial = Trial(path, options.model, shapes, policy, self._say, options.quiet)
        if self._plan is not None:
            trial.limit_to(self._plan)
        if options.budget is not None:
            sites = examine(inputs[0], trial.model.evidence).rewrite.sites
            weights, data = file_path(options.weights), file_path(options.fit)
            forms = tuple(Form) if options.order is None else (Form(options.order),)
            trial.limit_to_budget(sites, options.budget, weights, data, forms)
        return trial

    def _check_weights(self, inputs: Sequence[Input]) -> None:
        """Raise InputError where the options on a checkpoint do not go together."""
        options = self._options
        given, target = options.weights, options.weights_out
        plain_class = options.depth_multiplier == 1 and options.order is None
        faults = {
            "--depth-multiplier and --order are for a model: name it with --model": (
                options.model is None and not plain_class
            ),
            "--plan and --plan-out are for a model: name it with --model": (
                (options.plan or options.plan_out) and not options.model
            ),
            "--plan has the order and the multiplier: leave out --order and --depth-multiplier": (
                options.plan and not plain_class
            ),
            "--budget plans the multipliers: leave out --plan and --depth-multiplier": (
                options.budget and (options.plan or options.depth_multiplier > 1)
            ),
            "--budget needs trained weights and data: give --weights, --weights-out and --fit": (
                options.budget and not (given and options.fit)
            ),
            "--plan-out is written, with --check and --diff nothing is": (
                options.plan_out and (options.check or options.diff)
            ),
            "--fit is data to fit --weights to: name these, too": options.fit and not given,
            "--weights names a trained checkpoint and --weights-out the file for the converted "
            "one: give both": bool(given) != bool(target),
            "--weights are those of a model: name it with --model": given and not options.model,
            "--weights-out is written, with --check and --diff nothing is": (
                given and (options.check or options.diff)
            ),
            "--weights, --plan, --order and --depth-multiplier are for the class that is inserted, "
            "not for your --class-from": (
                bool(given or options.plan or not plain_class)
                and any(each.config.classes for each in inputs)
            ),
            f"--weights-out {target} is a folder: name a file": target and os.path.isdir(target),
            "--weights-out would replace the trained weights: name another file": (
                given and target and os.path.realpath(given) == os.path.realpath(target)
            ),
        }
        for fault, is_there in faults.items():
            if is_there:
                raise InputError(fault)

    # -- output

    def _process(self, source: Input, examine: Examine, trial: Trial | None) -> None:
        try:
            examination = examine()
            self._interrupts.check()  # reason: without one that came in a callback it may be wrong
            if trial is None:
                self._deliver(source, examination)
            else:
                self._deliver_proved(source, examination, trial)
        except AccessError as error:
            self._interrupts.check()
            self._fail(f"{source.name}: {error}")
        except SourceError as error:
            self._interrupts.check()
            self._skip(source, error)
        except OutputError as error:
            self._interrupts.check()
            self._fail_to_print(error)

    def _skip(self, source: Input, error: SourceError) -> None:
        """Tell of a file that is not Python; only one that is named has to be."""
        if source.is_named:
            self._fail(f"{source.name}: {error}")
        else:
            self._skipped += 1
            self._complain(f"{source.name} is skipped: {error}")

    def _deliver_proved(self, source: Input, examination: Examination, trial: Trial) -> None:
        """Deliver the result, and the checkpoint, once the rewritten file has built the model."""
        options = self._options
        report = trial.report(examination.rewrite.sites)
        text = examination.old.encode(examination.rewrite.text)
        is_changed = examination.rewrite.text != examination.old.text
        if options.weights and report.candidates and not is_changed:
            raise InputError("nothing is rewritten, as --select and --ignore leave out DWS001")
        if options.weights:
            conversion = trial.converted(
                report,
                text,
                file_path(options.weights),
                file_path(options.weights_out),
                file_path(options.fit) if options.fit else None,
            )
            with conversion as put_in_place, uninterrupted():
                self._deliver(source, examination)
                put_in_place()
                self._written.append(options.weights_out)
        else:
            if is_changed and not (options.check or options.diff or source.config.classes):
                trial.check(report, text)
            self._deliver(source, examination)
        if options.plan_out:
            write(file_path(options.plan_out), f"{trial.plan(report).to_json()}\n".encode())
            self._written.append(options.plan_out)

    def _tell_of_loads(self, source: Input, examination: Examination) -> None:
        """Say that the file loads weights which fit no more, and what converts them."""
        options, line = self._options, examination.rewrite.loads_at
        is_changed = examination.rewrite.text != examination.old.text
        if line is None or options.weights or not is_changed:
            return
        name = shlex.quote(source.name)
        model = shlex.quote(options.model or "MODEL")
        self._say(
            f"{source.name}:{line}: loads weights, and those of the network before do "
            f"not fit: dwsconv-rewrite --model {model} --weights OLD.pt --weights-out NEW.pt "
            f"{name} converts them, before or after"
        )

    def _deliver(self, source: Input, examination: Examination) -> None:
        """Put the result where the options say."""
        options = self._options
        old, new = examination.old, examination.rewrite.text
        if options.diff:
            self._progress.clear()
            write_stdout(old.diff(new, source.name))
        elif options.check:
            pass
        elif options.output not in (None, "-"):
            try:
                write(file_path(options.output), old.encode(new))
            except SourceError as error:
                raise InputError(f"-o {options.output}: {error}") from error
            self._written.append(options.output)
        elif source.path is None or options.output == "-":
            write_stdout(old.encode(new))
        else:
            self._rewrite_in_place(source, source.path, examination)
            return
        self._listing.add(source, examination)
        self._tell_of_loads(source, examination)

    def _rewrite_in_place(self, source: Input, path: Path, examination: Examination) -> None:
        old, new = examination.old, examination.rewrite.text
        # what is written is listed, unless it is to a pipe: that may block, and Ctrl-C helps out
        with uninterrupted() if os.path.isfile(path) else nullcontext():
            if new != old.text:
                write(path, old.encode(new))
                self._written.append(source.name)
            self._listing.add(source, examination)
            self._tell_of_loads(source, examination)

    # -- messages

    def _say(self, message: str) -> None:
        """Print a line; control characters in it, from a file or its name, are spelled out."""
        if not self._options.quiet:
            self._print(plain(message), self._messages)

    def _list_line(self, text: str) -> None:
        """Print what the listing says, which has spelled out such characters itself."""
        if not self._options.quiet:
            self._print(text, self._messages)

    def _print(self, text: str, stream: TextIO) -> None:
        self._progress.clear()
        name = "standard output" if stream is sys.stdout else "standard error"
        try:
            with output(name):
                print(text, file=stream)
        except OutputError as error:
            self._fail_to_print(error)

    def _fail_to_print(self, error: OutputError) -> None:
        """Go on without the stream, for the other files; it is complained of once."""
        if not self._unwritable:
            self._fail(str(error))
        self._unwritable = True

    def _fail(self, message: str) -> None:
        self._failed = True
        self._complain(message)

    def _complain(self, message: str) -> None:
        self._progress.clear()
        complain(message)


def _read_plan(name: str) -> Plan:
    try:
        plan = Plan.from_json(file_path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--plan {name} cannot be read: {error.strerror}") from error
    except (FormatError, UnicodeDecodeError) as error:
        raise InputError(f"--plan {name}: {error}") from error
    if not plan.entries:
        raise InputError(f"--plan {name} replaces nothing")
    return plan


def _overridden(
    config: Config,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    classes: dict[int, ImportedClass],
) -> Config:
    """The settings, where the command line does not say otherwise."""
    selection = Selection(select or config.selection.select, ignore or config.selection.ignore)
    return replace(config, selection=selection, classes=classes or config.classes)
