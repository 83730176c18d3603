"""Distillation: a rewritten network learns from its original, on inputs without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.matching import Seen, holders, mean_mismatch, mismatch, seen, snapshot, watching
from pytest_dwsconv.fit.moments import place_in_group
from pytest_dwsconv.fit.recovery import warm_cosine
from pytest_dwsconv.preserving import as_found
from pytest_dwsconv.separable import SeparableConvNd

Batches = Iterable[Any]

INNER = 0.3
"""What activations count for at first, beside the outputs; it falls to 0, for in the end only the outputs matter."""


@dataclass(frozen=True)
class Distilled:
    """How it went: the steps taken, the step whose weights were kept, the error of the held-out outputs by step."""

    steps: int
    best_step: int
    held_out_loss: Mapping[int, float]


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

    The loss compares the outputs, and the outputs of every module that holds a separable convolution, with the same
    module's in the teacher: squared error over squared variation. The mean over modules counts for 0.3 of the outputs
    at first, and less with every step, down to nothing.
    Adam, with a learning rate that rises over the first tenth of the steps and then falls along a cosine. Under
    ``torchrun``, with a process group initialised, each process passes its own batches and gradients are averaged by
    ``DistributedDataParallel``.

    Args:
        student: a rewritten network; trained in place.
        teacher: the original; left as found.
        batches: tensors, tuples or mappings of inputs; gone through again as often as needed.
        steps: batches to train on.
        learning_rate: the largest.
        held_out: batches to judge by. Every ``check_every`` steps the error of the outputs on them is taken; the
            weights with the least are kept, and after ``patience`` checks without a new least training stops.
        check_every: steps between checks, and between checkpoints.
        patience: checks without improvement before training stops.
        checkpoint: a file that is written at every check; if it is there already, training goes on from it.

    Raises:
        InputError: there are no batches, or the checkpoint is of another student.
    """
    names = holders([name for name, module in student.named_modules() if isinstance(module, SeparableConvNd)])
    held = list(held_out)
    held_wanted = seen(teacher, names, held)
    flags = {module: module.training for module in student.modules()}
    with ExitStack() as stack:
        stack.enter_context(as_found(list(teacher.modules())))
        theirs = stack.enter_context(watching(teacher, names))
        ours = stack.enter_context(watching(student, names))
        stack.callback(_set_training, flags)
        training = _Training(student, teacher, (ours, theirs), (names, held, held_wanted), learning_rate, steps)
        if checkpoint is not None and Path(checkpoint).exists():
            training.load(Path(checkpoint))
        return _train(training, batches, check_every, patience, None if checkpoint is None else Path(checkpoint))


def _set_training(flags: Mapping[nn.Module, bool]) -> None:
    for module, flag in flags.items():
        module.training = flag


class _Training:
    """Student, optimiser and schedule, with the weights that did best so far; what a checkpoint holds."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        see: tuple[Callable[..., Seen], Callable[..., Seen]],
        held: tuple[Sequence[str], Sequence[Any], Sequence[Seen]],
        learning_rate: float,
        steps: int,
    ) -> None:
        self.student, self.teacher, (self.ours, self.theirs) = student, teacher, see
        self.names, self.held, self.held_wanted = held
        self.parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.schedule = warm_cosine(self.optimiser, steps)
        self.steps, self.step, self.best_step = steps, 0, 0
        self.history: dict[int, float] = {}
        self.best: dict[str, Tensor] | None = None
        self.run: nn.Module = student
        if place_in_group()[1] > 1:
            self.run = nn.parallel.DistributedDataParallel(student)

    def loss(self, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = self.theirs(self.teacher, batch)
        return mismatch(self.ours(self.run, batch), wanted, INNER * (1 - self.step / self.steps))

    def train(self, batch: Any) -> None:
        self.student.train()
        self.optimiser.zero_grad()
        self.loss(batch).backward()
        self.optimiser.step()
        self.schedule.step()
        self.step += 1

    def check(self) -> bool:
        """Note the held-out loss; whether it is the least so far."""
        loss = mean_mismatch(self.student, self.names, self.held, self.held_wanted, inner=0.0)
        if loss is None:
            return True
        self.history[self.step] = loss
        if loss > min(self.history.values()):
            return False
        self.best_step, self.best = self.step, snapshot(self.student.state_dict())
        return True

    def save(self, path: Path) -> None:
        """Write everything needed to go on, by way of a second file, so that there is always a whole one."""
        if place_in_group()[0]:
            return
        names = ("step", "best_step", "history", "best")
        state = {name: getattr(self, name) for name in names} | {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.student.load_state_dict(state["student"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            self.step, self.best_step = state["step"], state["best_step"]
            self.history, self.best = state["history"], state["best"]
        except Exception as error:  # whatever a file that is no checkpoint makes torch raise
            raise InputError(f"{path} is not a checkpoint of this student: {error}; remove it to start anew") from error


def _train(training: _Training, batches: Batches, check_every: int, patience: int, path: Path | None) -> Distilled:
    waited = 0
    if not training.step:
        training.check()
    stream = islice(_cycle(batches), training.step, training.steps)
    with tqdm(stream, initial=training.step, total=training.steps, disable=None, unit="step") as bar:
        for batch in bar:
            training.train(batch)
            if training.step % check_every and training.step < training.steps:
                continue
            waited = 0 if training.check() else waited + 1
            if path is not None:
                training.save(path)
            if training.history:
                bar.set_postfix(held_out=f"{training.history[training.step]:.4f}")
            if waited >= patience:
                break
    if training.best is not None:
        training.student.load_state_dict(training.best)
    return Distilled(training.step, training.best_step if training.best else training.step, dict(training.history))


def _cycle(batches: Batches) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise InputError("distill has no batches: give an iterable that can be gone through, of the model's inputs")
