"""The model of ``--model``, and its checkpoint: looked at, converted and proved in processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_dwsconv.command.trial.child import Child
from pytest_dwsconv.command.trial.evidence import FileModel, model_of_file
from pytest_dwsconv.command.trial.proof import (
    Conversion,
    Proof,
    Shapes,
    convert,
    plan_within,
    prove,
)
from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.core.plan import Plan, plan_of
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.edgetpu.process import LONGEST
from pytest_dwsconv.errors import InputError, TargetError
from pytest_dwsconv.report import Report
from pytest_dwsconv.source.sites import SourceSite


class Trial:
    """Runs the file as it is and as it will be; what it prints, and what is found, goes to ``say``.

    Raises:
        TargetError, InputError, TracingError: the file gives no such model, or it does not run.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        shapes: Shapes,
        policy: Policy,
        say: Callable[[str], None],
        quiet: bool = False,
    ) -> None:
        self._path = path
        self._name = name
        self._shapes = shapes
        self._say = say
        self._child = Child(path, say)
        self._long_child = Child(path, say, LONGEST, tells_progress=not quiet)
        self._wanted: Plan | None = None
        self._needs_all = False
        self.model: FileModel = self._child.call(model_of_file, path, name, shapes, policy)

    def limit_to(self, plan: Plan) -> None:
        """Leave all layers as they are that are not in the plan."""
        self._wanted = plan
        self.model = self.model.limited_to(plan)

    def limit_to_budget(
        self,
        sites: Sequence[SourceSite],
        budget: str,
        given: Path,
        data: Path,
        forms: Sequence[Form],
    ) -> None:
        """Plan which calls to replace, and by which of the forms, so that a budget is kept.

        Raises:
            TargetError, InputError, FormatError: the checkpoint or the data do not suit the model,
                or the file cannot have what keeps the budget.
        """
        report = self.model.report_after_rewrite(sites)
        alike = self.model.together(sites)
        arguments = self._path, self._name, report, alike, budget, given, data, forms
        plan: Plan = self._long_child.call(plan_within, *arguments)
        if not plan.entries:
            raise InputError(
                f"the model has {report.params:,} parameters, which --budget {budget} allows: "
                "there is nothing to replace"
            )
        self.limit_to(plan)
        self._needs_all = True

    def report(self, sites: Sequence[SourceSite]) -> Report:
        """The table of the model with the file's verdicts, which is printed."""
        report = self.model.report_after_rewrite(sites)
        for line in str(report).split("\n"):
            self._say(line)
        if self._wanted is not None:
            self._compare_with_plan(report, self._wanted)
        return report

    def _compare_with_plan(self, report: Report, wanted: Plan) -> None:
        """Say which layers of the plan the file cannot have.

        Raises:
            InputError: those are all, or it needs all for a budget.
        """
        reasons = {found.name: found.reason for found in report.findings}
        left = {entry.name for entry in wanted.entries}
        left -= {found.name for found in report.candidates}
        beside = {self.model.built_at[name]: name for name in self.model.left_out}
        for entry in wanted.entries:
            if entry.name not in left:
                continue
            reason = reasons[entry.name]
            if self.model.built_at.get(entry.name) in beside:
                other = beside[self.model.built_at[entry.name]]
                reason = f"its call also builds {plain(other)}, which the plan leaves as it is"
            self._say(f"the plan's {plain(entry.name)} is left as it is: {reason}")
        if len(left) == len(wanted.entries):
            raise InputError(
                "the file can have no layer of the plan: carry it out on the live model, with "
                "rewrite(model, plan=plan)"
            )
        if left and self._needs_all:
            raise InputError(
                "without these the model exceeds the budget: keep it on the live model, with "
                "rewrite(model, budget=...)"
            )

    def check(self, report: Report, text: bytes) -> None:
        """Build the model of the rewritten file, and compare it with what the report predicts.

        Raises:
            TargetError, InputError, TracingError: it cannot be built, or is not as predicted.
        """
        self._compare(report, self._prove(text, None))

    @contextmanager
    def converted(
        self, report: Report, text: bytes, given: Path, target: Path, data: Path | None = None
    ) -> Iterator[Callable[[], None]]:
        """Convert a checkpoint, and prove it on the rewritten file; what puts it into its place.

        With ``data``, a file of batches, the weights are fitted to what the model makes of them.

        Raises:
            TargetError, InputError: the checkpoint cannot be converted, or the proof fails.
        """
        plan = self.plan(report)
        with _folder_beside(target) as folder:
            conversion = Conversion(given, folder / f"weights{target.suffix}", folder, data)
            child = self._child if data is None else self._long_child
            left_out = child.call(convert, self._path, self._name, self._shapes, plan, conversion)
            proof = self._prove(text, conversion)
            self._compare(report, proof)
            for key in left_out:
                self._say(
                    f"{target}: without {plain(key)}, the state of an optimizer of old weights"
                )
            given_to_it = "random input" if data is None else f"the last batch of {data}"
            for label, error in proof.errors.items():
                run = f"; on {given_to_it} the outputs differ by {error:.1%}"
                self._say(f"{target}: {plain(label)} loads strictly{run if error >= 0 else ''}")
            yield lambda: os.replace(conversion.target, target)

    def plan(self, report: Report) -> Plan:
        """What the rewritten file makes of the model."""
        if self._wanted is not None:
            names = {found.name for found in report.candidates}
            return Plan(tuple(each for each in self._wanted.entries if each.name in names))
        return plan_of(report, report.candidates)

    def _prove(self, text: bytes, conversion: Conversion | None) -> Proof:
        try:
            return self._child.call(prove, self._path, text, self._name, self._shapes, conversion)
        except TargetError as error:
            raise TargetError(f"once rewritten, it fails: {error}; nothing is written") from error

    def _compare(self, report: Report, proof: Proof) -> None:
        for what, found, predicted in (
            ("parameters", proof.params, report.separable_params),
            ("MACs", proof.macs, report.separable_macs),
        ):
            if found != predicted:
                raise TargetError(
                    f"{self._path}: the rewritten file builds a model of {found:,} {what}, and "
                    f"{predicted:,} were predicted; nothing is written. Does it build the same "
                    "model every time?"
                )
        amount = f"{proof.params:,} parameters"
        if proof.macs is not None:
            amount += f" and {proof.macs:,} MACs"
        begins = "rewritten, it builds" if report.candidates else "left as it is, it builds"
        self._say(f"{self._path}: {begins} a model of {amount}, as predicted")


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A new folder in that of the target, so that a file in it can become the target at once."""
    try:
        folder = tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".dwsconv-")
    except OSError as error:
        raise InputError(
            f"--weights-out {quoted(str(target))} cannot be written: {error.strerror or error}"
        ) from error
    with folder as name:
        yield Path(name)
