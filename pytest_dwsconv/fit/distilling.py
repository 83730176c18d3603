"""Distillation: a rewritten network learns from its original, on inputs without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from math import inf
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pytest_dwsconv.errors import InputError, TracingError
from pytest_dwsconv.fit.locating import NORMS
from pytest_dwsconv.fit.matching import Seen, holders, mean_mismatch, mismatch, restore, seen, snapshot, watching
from pytest_dwsconv.fit.moments import place_in_group
from pytest_dwsconv.fit.recovery import BETAS, warm_cosine
from pytest_dwsconv.preserving import as_found
from pytest_dwsconv.separable import SeparableConvNd

Batches = Iterable[Any]

INNER = 0.3
"""What activations count for at first, beside the outputs; it falls to 0, for in the end only the outputs matter."""
SETTLED = 0.75
"""The part of the steps after which the statistics of batch normalisation stay as they are, as they will in use."""


@dataclass(frozen=True)
class Distilled:
    """How it went: the steps taken, the step whose weights were kept, the error of the held-out outputs by step."""

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

    The loss compares the outputs, and the outputs of every module that holds a separable convolution, with the same
    module's in the teacher: squared error over squared variation. The mean over modules counts for 0.3 of the outputs
    at first, and less with every step, down to nothing.
    Adam, with a learning rate that rises over the first tenth of the steps and then falls along a cosine. For the last
    quarter of the steps batch normalisation computes with its running statistics, as it will in use. Under
    ``torchrun``, with a process group initialised, each process passes its own batches and gradients are averaged by
    ``DistributedDataParallel``.

    Args:
        student: a rewritten network; trained in place, as far as its parameters require gradients.
        teacher: the original; left as found.
        batches: tensors, tuples or mappings of inputs, without labels; gone through again as often as needed. A
            generator can be gone through but once: it has to give as many as there are steps.
        steps: batches to train on.
        learning_rate: the largest.
        held_out: batches to judge by. Every ``check_every`` steps the error of the outputs on them is taken; the
            weights with the least are kept, and after ``patience`` checks without a new least training stops.
        check_every: steps between checks, and between checkpoints.
        patience: checks without improvement before training stops.
        checkpoint: a file that is written at every check; if it is there already, training goes on from it. With the
            same batches in the same order, and a student that draws no random numbers, the end is that of a training
            that was never stopped.

    An interrupted or failed training leaves the student with the best weights checked so far, which with ``held_out``
    are never worse than those it came with, and without with the latest. What is raised below, except for batches
    that end too early, is raised before any training, with student and teacher as found.

    Returns:
        The steps taken, the step whose weights the student has, and the held-out errors.

    Raises:
        InputError: an argument cannot be used; the student has nothing to train, or gives other tensors than the
            teacher; the checkpoint is of another student, or cannot be written; there are no batches, or they ended
            before ``steps`` and cannot be gone through again.
        TracingError: a network fails on the first of the batches.
    """
    _check_numbers(learning_rate, steps=steps, check_every=check_every, patience=patience)
    _check_networks(student, teacher)
    _check_batches("batches", batches)
    _check_batches("held_out", held_out)
    path = _writable(checkpoint)
    names = holders(_separable(student))
    held = list(held_out)
    stream = _cycle(batches, steps)
    first = next(stream)
    for what, batch in (("batches", first), *(("held_out", one) for one in held[:1])):
        _check_alike(student, teacher, names, what, batch)
    held_wanted = seen(teacher, names, held)
    flags = {module: module.training for module in student.modules()}
    with ExitStack() as stack:
        stack.enter_context(as_found(list(teacher.modules())))
        theirs = stack.enter_context(watching(teacher, names))
        ours = stack.enter_context(watching(student, names))
        stack.callback(_set_training, flags)
        training = _Training(student, teacher, (ours, theirs), (names, held, held_wanted), learning_rate, steps)
        if path is not None and path.exists():
            training.load(path)
        return _train(training, chain([first], stream), check_every, patience, path)


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
        self.norms = [module for module in student.modules() if isinstance(module, (*NORMS, nn.SyncBatchNorm))]
        self.optimiser = torch.optim.Adam(self.parameters, lr=learning_rate, betas=BETAS)
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
        if self.step >= SETTLED * self.steps:
            for norm in self.norms:
                norm.eval()
        self.optimiser.zero_grad()
        self.loss(batch).backward()
        self.optimiser.step()
        self.schedule.step()
        self.step += 1

    def check(self) -> None:
        """Note the held-out loss, and the weights where it is the least so far; NaN never is."""
        loss = mean_mismatch(self.student, self.names, self.held, self.held_wanted, inner=0.0)
        if loss is None:
            return
        least = inf if self.best is None else self.history[self.best_step]
        self.history[self.step] = loss
        if loss < least:
            self.best_step, self.best = self.step, snapshot(self.student.state_dict())

    @property
    def waited(self) -> int:
        """Checks since the least held-out loss."""
        return sum(step > self.best_step for step in self.history)

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
        found = snapshot(self.student.state_dict())
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.student.load_state_dict(state["student"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            self.step, self.best_step = state["step"], state["best_step"]
            self.history, self.best = state["history"], state["best"]
        except Exception as error:  # whatever a file that is no checkpoint makes torch raise
            self.student.load_state_dict(found)
            raise InputError(f"{path} is not a checkpoint of this student: {error}; remove it to start anew") from error


def _train(
    training: _Training, batches: Iterator[Any], check_every: int, patience: int, path: Path | None
) -> Distilled:
    if not training.step:
        training.check()
    ended = training.step >= training.steps or training.waited >= patience
    stream = () if ended else islice(batches, training.step, training.steps)
    try:
        with tqdm(stream, initial=training.step, total=training.steps, disable=None, unit="step") as bar:
            for batch in bar:
                training.train(batch)
                if training.step % check_every and training.step < training.steps:
                    continue
                training.check()
                if path is not None:
                    training.save(path)
                if training.history:
                    bar.set_postfix(held_out=f"{training.history[training.step]:.4f}")
                if training.waited >= patience:
                    break
    finally:  # an interrupted training has the best weights to show, too
        if training.best is not None:
            training.student.load_state_dict(training.best)
    return Distilled(training.step, training.best_step if training.best else training.step, dict(training.history))


def _cycle(batches: Batches, steps: int) -> Iterator[Any]:
    """The batches over and over, as long as going through them again gives any."""
    count = passed = 0
    while not count or count > passed:
        passed = count
        for batch in batches:
            yield batch
            count += 1
        if not count:
            raise InputError("batches gives none: pass a list or a data loader of the student's inputs")
    raise InputError(
        f"batches ended after {count} of {steps} steps: what is gone through but once, as a generator, has to give "
        "one for every step; pass a list or a data loader, which start again"
    )


def _check_batches(name: str, batches: Any) -> None:
    if isinstance(batches, Tensor):
        raise InputError(f"{name} is one tensor, not batches: pass {name}=images.split(128)")
    if isinstance(batches, (str, Mapping)) or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        raise InputError(f"{name} must be batches, as a list or a data loader gives them, not {type(batches).__name__}")


def _check_numbers(learning_rate: Any, **counts: Any) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise InputError(f"{name} must be a whole number from 1, not {value!r}")
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, Real) or not 0 < float(learning_rate) < inf:
        raise InputError(f"learning_rate must be a finite number above 0, not {learning_rate!r}")


def _check_networks(student: Any, teacher: Any) -> None:
    for name, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network, nn.Module):
            raise InputError(f"{name} must be a torch.nn.Module, not {type(network).__name__}: rewrite gives .model")
    if not _separable(student):
        raise InputError(
            f"student, a {type(student).__name__}, has no separable convolution: pass what was rewritten as student, "
            "and the original as teacher"
        )
    theirs = {id(parameter) for parameter in teacher.parameters()}
    if any(id(parameter) in theirs for parameter in student.parameters()):
        raise InputError("student and teacher share parameters, so that both would be trained: rewrite a copy")
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise InputError("student has no parameter that can be trained: call student.requires_grad_(True) first")
    missing = set(holders(_separable(student))) - dict(teacher.named_modules()).keys()
    if missing:
        raise InputError(
            f"teacher, a {type(teacher).__name__}, has no module {min(missing)!r}, whose outputs the student has to "
            "give: pass the network that was rewritten"
        )


def _separable(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, SeparableConvNd)]


def _writable(checkpoint: str | PathLike[str] | None) -> Path | None:
    if checkpoint is None:
        return None
    try:
        path = Path(checkpoint)
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        if not place_in_group()[0]:
            trial = path.with_name(path.name + ".partial")
            trial.touch()
            trial.unlink()
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint must be a file that can be written, not {checkpoint!r}: {error}") from error
    return path


def _check_alike(student: nn.Module, teacher: nn.Module, names: Sequence[str], what: str, batch: Any) -> None:
    """Both networks on one batch, as training will run them: what cannot be compared is found before it starts."""
    wanted = _shapes("teacher", teacher, names, what, batch, training=False)
    found = _shapes("student", student, names, what, batch, training=what == "batches")
    if not wanted["outputs"]:
        raise InputError("teacher gives no output of floating point, so there is nothing to learn from")
    for place, shapes in wanted.items():
        if found.get(place) != shapes:
            raise InputError(
                f"student and teacher must give tensors of the same shapes, but the {place} on the first of {what} "
                f"are {found.get(place)} and {shapes}: pass the network that was rewritten as teacher"
            )


def _shapes(
    role: str, network: nn.Module, names: Sequence[str], what: str, batch: Any, *, training: bool
) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the outputs, and of what the named modules give; the network is left as it was."""
    buffers = dict(network.named_buffers())
    saved = snapshot(buffers)
    with as_found(list(network.modules())), torch.no_grad(), watching(network, names) as see:
        network.train(training)
        try:
            given = see(network, batch)
        except Exception as error:  # whatever the user's own forward raises
            raise TracingError(
                f"{role} failed on the first of {what}: {type(error).__name__}: {error}; {what} must give inputs of "
                "the network, without labels"
            ) from error
        finally:
            restore(buffers, saved)
    inner = {f"outputs of {name}": tensors for name, tensors in given.inner.items()}
    return {place: [tuple(one.shape) for one in ones] for place, ones in {"outputs": given.outputs, **inner}.items()}
