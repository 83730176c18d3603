"""Distillation: a rewritten network learns from its original, on inputs without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from math import inf, isfinite
from os import PathLike
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.comparison import (
    Seen,
    autocast_off,
    buffers_as_found,
    compared,
    mean_mismatch,
    mismatch,
    seen,
    snapshot,
    variation,
    watching,
)
from pytest_dwsconv.fit.error_points import NORMS
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.preconditions import (
    check_alike,
    check_batches,
    check_networks,
    check_numbers,
    separable_names,
)
from pytest_dwsconv.fit.training.checkpoint import START_ANEW, Checkpoint, fingerprint, writable
from pytest_dwsconv.fit.training.recovery import trainable, warm_cosine
from pytest_dwsconv.fit.training.soap import SOAP
from pytest_dwsconv.fit.variation import Variation
from pytest_dwsconv.progress import Progress
from pytest_dwsconv.tracing.preserving import as_found

Batches = Iterable[Any]

BETAS = (0.9, 0.95)
"""Decay of the means of gradients and of their squares.

It is short, for in a few hundred steps much changes.
"""
INNER = 0.3
"""What activations count for at first, beside the outputs; it falls to 0 at the end."""
SETTLED = 0.75
"""The part of the steps after which the statistics of batch normalisation stay, as in use."""
NOTED = ("step", "best_step", "history", "best")
"""What a checkpoint holds beside the states of student, optimiser and schedule."""


@dataclass(frozen=True)
class Distilled:
    """The steps taken, the step whose weights were kept, and the held-out error by step."""

    steps: int
    best_step: int
    held_out_loss: Mapping[int, float]


@torch.inference_mode(False)  # reason: nothing made under inference mode can be trained
@torch.enable_grad()
def distill(  # noqa: PLR0913  # each keyword is a decision of the caller's, and all have defaults
    student: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    *,
    steps: int = 400,
    learning_rate: float = 1e-3,
    held_out: Batches = (),
    check_every: int = 50,
    patience: int = 4,
    checkpoint: str | PathLike[str] | None = None,
) -> Distilled:
    """Train ``student`` to give what ``teacher`` gives, on unlabelled inputs.

    The loss compares the outputs, and the outputs of the modules that hold every second separable
    convolution, with those of the teacher: squared error over squared variation. The mean over
    these modules counts for 0.3 of the outputs at first, and less with every step, down to nothing.
    The optimiser is SOAP (Vyas et al. 2024), with a learning rate that rises over the first tenth
    of the steps and then falls along a cosine. For the last quarter of the steps batch
    normalisation computes with its running statistics, as it will in use. Under ``torchrun``, with
    a process group initialised, each process passes its own batches and gradients are averaged by
    ``DistributedDataParallel``.

    Args:
        student: a rewritten network; trained in place, as far as its parameters require gradients.
        teacher: the original; left as found.
        batches: tensors, tuples or mappings of inputs, without labels; gone through again as often
            as needed. A generator can be gone through but once: it has to give as many as there are
            steps.
        steps: batches to train on.
        learning_rate: the largest.
        held_out: batches to judge by. Every ``check_every`` steps the error of the outputs on them
            is taken; the weights with the least are kept, and after ``patience`` checks without a
            new least training stops.
        check_every: steps between checks, and between checkpoints.
        patience: checks without improvement before training stops.
        checkpoint: a file that is written at every check; if it is there already, training goes on
            from it, whatever weights the student came with. With the same batches in the same
            order, and a student that draws no random numbers, the end is that of a training that
            was never stopped. Teacher, ``steps`` and ``learning_rate`` have to be those it was
            written with, and ``held_out`` given or not as then.

    An interrupted or failed training leaves the student with the best weights checked so far, which
    with ``held_out`` are never worse than those it came with, and without with the latest; where
    these are of no use, as the loss is NaN or infinite, with those it came with. What is raised
    below, except for such a loss and for batches that end too early, is raised before any training,
    with student and teacher as found.

    Returns:
        The steps taken, the step whose weights the student has, and the held-out errors.

    Raises:
        InputError: an argument cannot be used; the student has nothing to train, or gives other
            tensors than the teacher; the checkpoint is of another training, or cannot be written;
            there are no batches, or they ended before ``steps`` and cannot be gone through again;
            the loss of a step is NaN or infinite.
        TracingError: a network fails on the first of the batches.
    """
    check_numbers(learning_rate, steps=steps, check_every=check_every, patience=patience)
    check_networks(student, teacher)
    check_batches("batches", batches)
    check_batches("held_out", held_out)
    path = writable(checkpoint)
    terms = {"steps": int(steps), "learning_rate": float(learning_rate)}
    file = (
        Checkpoint(path, {"teacher": fingerprint(teacher), **terms}) if path is not None else None
    )
    names = compared(student, separable_names(student))
    held = list(held_out)
    stream = _cycle(batches, steps)
    first = next(stream)
    for what, batch in (("batches", first), *(("held_out", one) for one in held[:1])):
        check_alike(student, teacher, names, what, batch)
    flags = {module: module.training for module in student.modules()}
    with ExitStack() as stack:
        stack.enter_context(autocast_off(student))
        stack.enter_context(_gradients_as_found(student))
        stack.enter_context(buffers_as_found(teacher))
        stack.enter_context(as_found(list(teacher.modules())))
        theirs = stack.enter_context(watching(teacher, names))
        ours = stack.enter_context(watching(student, names))
        stack.callback(_set_training, flags)
        held_wanted = seen(teacher, names, held)
        judged = _Judged(
            names, held, held_wanted, variation((*held_wanted, *seen(teacher, names, [first])))
        )
        training = _Training(student, teacher, (ours, theirs), judged, learning_rate, steps)
        return _train(training, chain([first], stream), check_every, patience, file)


@contextmanager
def _gradients_as_found(network: nn.Module) -> Iterator[None]:
    found = [(parameter, parameter.grad) for parameter in network.parameters()]
    try:
        yield
    finally:
        for parameter, gradient in found:
            parameter.grad = gradient


def _set_training(flags: Mapping[nn.Module, bool]) -> None:
    for module, flag in flags.items():
        module.training = flag


class _Judged(NamedTuple):
    """The modules compared, what is held out, and how much the teacher's tensors vary."""

    names: Sequence[str]
    batches: Sequence[Any]
    wanted: Sequence[Seen]
    varying: Variation


class _Training:
    """Student, optimiser and schedule, with the best weights so far: what a checkpoint holds."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        see: tuple[Callable[..., Seen], Callable[..., Seen]],
        judged: _Judged,
        learning_rate: float,
        steps: int,
    ) -> None:
        self.student, self.teacher, (self.ours, self.theirs) = student, teacher, see
        self.judged = judged
        self.parameters = [
            parameter for parameter in student.parameters() if parameter.requires_grad
        ]
        self.norms = [
            module for module in student.modules() if isinstance(module, (*NORMS, nn.SyncBatchNorm))
        ]
        self.optimiser = SOAP(self.parameters, lr=learning_rate, betas=BETAS)
        self.schedule = warm_cosine(self.optimiser, steps)
        self.steps, self.step, self.best_step = steps, 0, 0
        self.history: dict[int, float] = {}
        self.came = snapshot(student.state_dict())
        self.best: dict[str, Any] | None = None
        self.run: nn.Module = student
        if place_in_group()[1] > 1:
            self.run = nn.parallel.DistributedDataParallel(student)

    def loss(self, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = self.theirs(self.teacher, batch)
        found, inner = self.ours(self.run, batch), INNER * (1 - self.step / self.steps)
        return mismatch(found, wanted, self.judged.varying, inner)

    def train(self, batch: Any) -> None:
        self.student.train()
        if self.step >= SETTLED * self.steps:
            for norm in self.norms:
                norm.eval()
        self.optimiser.zero_grad()
        with trainable("student", "leave that out of its forward"):
            loss = self.loss(batch)
            self._check_finite(loss)
            loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.step += 1

    def _check_finite(self, loss: Tensor) -> None:
        """Stop, in all processes or none, before a loss that is not finite is learned from."""
        total = loss.detach().float().clone()
        all_reduce(total)
        if not isfinite(float(total)):
            self._stop(f"the loss of step {self.step + 1} is {float(total)}")

    def _stop(
        self,
        reason: str,
        advice: str = "lower learning_rate, take NaN and infinity out of the batches, or use "
        "float32",
    ) -> NoReturn:
        self.student.load_state_dict(self.came)
        raise InputError(f"{reason}: {advice}")

    def begin(self) -> None:
        """Check the student as it came: what cannot be judged then, never can."""
        self.check()
        if not all(isfinite(loss) for loss in self.history.values()):
            self._stop(
                f"the error of the outputs on held_out is {self.history[0]} before any training"
            )

    def check(self) -> None:
        """Note the held-out loss, and the weights where it is the least so far; NaN never is."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            self._stop(f"the student's weights are not finite after {self.step} steps")
        _share_buffers(self.student)
        loss = self.held_out_loss()
        if loss is None:
            return
        least = inf if self.best is None else self.history[self.best_step]
        self.history[self.step] = loss
        if loss < least:
            self.best_step, self.best = self.step, snapshot(self.student.state_dict())

    def held_out_loss(self) -> float | None:
        return mean_mismatch(self.student, *self.judged, inner=0.0)

    @property
    def waited(self) -> int:
        """Checks since the least held-out loss."""
        return sum(step > self.best_step for step in self.history)

    def conclude(self) -> None:
        """Give the student the best weights, if any were found to be."""
        if self.best is not None:
            self.student.load_state_dict(self.best)
        elif self.step == 0:  # a first step that failed may have moved statistics
            self.student.load_state_dict(self.came)

    def save(self, checkpoint: Checkpoint) -> None:
        parts = {
            name: getattr(self, name).state_dict() for name in ("student", "optimiser", "schedule")
        }
        checkpoint.write({name: getattr(self, name) for name in NOTED} | parts)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from what was saved, if anything was.

        It is called once ``begin`` has judged the student as it came.
        """
        state = checkpoint.read()
        if state is None:
            return
        if bool(state["history"]) != bool(self.history):
            had, again = (
                ("with", "pass them again") if state["history"] else ("without", "pass none")
            )
            raise InputError(
                f"{checkpoint.path} is the checkpoint of a training {had} held_out batches: "
                f"{again}, or {START_ANEW}"
            )
        try:
            self._take(state)
        except Exception as error:  # whatever the state of something else makes torch raise
            self.student.load_state_dict(self.came)
            raise InputError(
                f"{checkpoint.path} is not a checkpoint of this student: {START_ANEW}"
            ) from error

    def _take(self, state: Mapping[str, Any]) -> None:
        """Take over a state, and note nothing of it before all of it was found to fit."""
        step, best_step, history, best = (state[name] for name in NOTED)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if best is not None:
            # judged by what is held out now, beside the weights that came
            self.student.load_state_dict(best)
            loss = self.held_out_loss()
            if loss is not None and loss <= self.history[0]:
                history[best_step] = loss
            else:
                history[0], best_step, best = self.history[0], 0, self.came
        self.student.load_state_dict(state["student"])
        self.step, self.best_step, self.history, self.best = step, best_step, history, best


@torch.no_grad()
def _share_buffers(network: nn.Module) -> None:
    """Give all processes those of the first, so that all judge what the checkpoint has."""
    if place_in_group()[1] > 1:
        for buffer in network.buffers():
            shared = buffer.contiguous()
            dist.broadcast(shared, 0)
            buffer.copy_(shared)


def _train(
    training: _Training,
    batches: Iterator[Any],
    check_every: int,
    patience: int,
    checkpoint: Checkpoint | None,
) -> Distilled:
    try:
        training.begin()
        if checkpoint is not None:
            training.load(checkpoint)
        ended = training.step >= training.steps or training.waited >= patience
        stream = () if ended else islice(batches, training.step, training.steps)
        error: float | None = None
        with Progress("distilling", training.steps, "step", training.step) as progress:
            for batch in stream:
                training.train(batch)
                progress.advance(held_out=error)
                if training.step % check_every and training.step < training.steps:
                    continue
                training.check()
                if checkpoint is not None:
                    training.save(checkpoint)
                error = training.history.get(training.step)
                if training.waited >= patience:
                    break
    finally:  # an interrupted training has the best weights to show, too
        training.conclude()
    return Distilled(
        training.step,
        training.best_step if training.best else training.step,
        dict(training.history),
    )


def _cycle(batches: Batches, steps: int) -> Iterator[Any]:
    """The batches over and over, as long as going through them again gives any."""
    count = passed = 0
    while not count or count > passed:
        passed = count
        for batch in batches:
            yield batch
            count += 1
        if not count:
            raise InputError(
                "batches gives none: pass a list or a data loader of the student's inputs"
            )
    raise InputError(
        f"batches ended after {count} of {steps} steps: what is gone through but once, as a "
        "generator, has to give "
        "one for every step; pass a list or a data loader, which start again"
    )
