"""Recovering accuracy without labels: normalisation statistics re-estimated, and distillation from the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.locating import NORMS
from pytest_dwsconv.moments import all_reduce, place_in_group
from pytest_dwsconv.preserving import as_found
from pytest_dwsconv.replaying import arguments, floating
from pytest_dwsconv.separable import SeparableConvNd

# -- normalisation


@torch.no_grad()
def reestimate_normalisation(
    model: nn.Module, batches: Sequence[Any], held_out: Sequence[Any], wanted: Sequence[Sequence[Tensor]]
) -> bool:
    """Give batch normalisation the statistics that its inputs have now, if that brings held-out outputs nearer.

    Args:
        model: the converted network, changed in place.
        batches: inputs to take the statistics of.
        held_out: inputs to judge by.
        wanted: the original network's outputs for them.

    Returns:
        Whether the new statistics were kept.
    """
    norms: list[Any] = [
        module for module in model.modules() if type(module) in NORMS and module.running_var is not None
    ]
    saved = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    before = output_error(model, held_out, wanted)
    if not norms or before is None:
        return False
    try:
        _measure(model, norms, batches)
        after = output_error(model, held_out, wanted)
    except BaseException:
        _restore(norms, saved)
        raise
    if after is not None and after < before:
        for norm, old in zip(norms, saved, strict=True):
            norm.num_batches_tracked.copy_(old["num_batches_tracked"])
        return True
    _restore(norms, saved)
    return False


def _measure(model: nn.Module, norms: Sequence[Any], batches: Sequence[Any]) -> None:
    """Set the running statistics to their mean over the batches, of all processes."""
    with as_found(model):
        for norm in norms:
            norm.training, norm.momentum = True, None  # None: the plain mean over batches
            norm.num_batches_tracked.zero_()
        for batch in batches:
            args, kwargs = arguments(batch)
            model(*args, **kwargs)
    count = torch.tensor(float(len(batches)))
    all_reduce(count)
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            statistic.mul_(len(batches))
            all_reduce(statistic)
            statistic.div_(float(count))


def _restore(norms: Sequence[nn.Module], saved: Sequence[Mapping[str, Tensor]]) -> None:
    for norm, old in zip(norms, saved, strict=True):
        for name, value in norm.named_buffers():
            value.copy_(old[name])


@torch.no_grad()
def output_error(model: nn.Module, batches: Sequence[Any], wanted: Sequence[Sequence[Tensor]]) -> float | None:
    """Squared error of the outputs over their squared size, over all processes; None without data."""
    sums = torch.zeros(2, dtype=torch.float64)
    with as_found(model):
        for batch, targets in zip(batches, wanted, strict=True):
            args, kwargs = arguments(batch)
            for found, target in zip(floating(model(*args, **kwargs)), targets, strict=True):
                error = (found - target).double().square().sum()
                sums += torch.stack([error, target.double().square().sum()]).cpu()
    all_reduce(sums)
    return float(sums[0] / sums[1]) if float(sums[1]) > 0 else None


# -- distillation

Batches = Iterable[Any]


@dataclass(frozen=True)
class Distilled:
    """How a distillation went: the steps taken, the step whose weights were kept, and the held-out loss by step."""

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
    module's in the teacher: squared error over squared variation, outputs and the mean over modules counting alike.
    Adam, with a learning rate that rises over the first tenth of the steps and then falls along a cosine. Under
    ``torchrun``, with a process group initialised, each process passes its own batches and gradients are averaged by
    ``DistributedDataParallel``.

    Args:
        student: a rewritten network; trained in place.
        teacher: the original; left as found.
        batches: tensors, tuples or mappings of inputs; gone through again as often as needed.
        steps: batches to train on.
        learning_rate: the largest.
        held_out: batches to judge by. Every ``check_every`` steps the loss on them is taken; the weights with the
            least are kept, and after ``patience`` checks without a new least training stops.
        check_every: steps between checks, and between checkpoints.
        patience: checks without improvement before training stops.
        checkpoint: a file that is written at every check; if it is there already, training goes on from it.

    Raises:
        InputError: there are no batches, or the checkpoint is of another student.
    """
    names = [name for name in _holders(student) if name]
    held = list(held_out)
    flags = {module: module.training for module in student.modules()}
    with ExitStack() as stack:
        stack.enter_context(as_found(teacher))
        theirs = stack.enter_context(_outputs_of(teacher, names))
        ours = stack.enter_context(_outputs_of(student, names))
        stack.callback(_set_training, flags)
        training = _Training(student, teacher, ours, theirs, learning_rate, steps)
        if checkpoint is not None and Path(checkpoint).exists():
            training.load(Path(checkpoint))
        return _train(training, batches, held, check_every, patience, None if checkpoint is None else Path(checkpoint))


def _set_training(flags: Mapping[nn.Module, bool]) -> None:
    for module, flag in flags.items():
        module.training = flag


def _holders(student: nn.Module) -> list[str]:
    """The modules that directly hold separable convolutions."""
    found = {name.rpartition(".")[0]: None for name, m in student.named_modules() if isinstance(m, SeparableConvNd)}
    return list(found)


@contextmanager
def _outputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """A dictionary that fills with the outputs of these modules, call after call, until it is cleared."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, out: seen.setdefault(name, []).extend(floating(out))

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Training:
    """Student, optimiser and schedule, with the weights that did best so far; what a checkpoint holds."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, ours: Any, theirs: Any, learning_rate: float, steps: int
    ) -> None:
        self.student, self.teacher, self.ours, self.theirs = student, teacher, ours, theirs
        self.parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, learning_rate, total_steps=max(steps, 2), pct_start=0.1
        )
        self.steps, self.step, self.best_step = steps, 0, 0
        self.history: dict[int, float] = {}
        self.best: dict[str, Tensor] | None = None
        self.run: nn.Module = student
        if place_in_group()[1] > 1:
            self.run = nn.parallel.DistributedDataParallel(student)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        args, kwargs = arguments(batch)
        self.ours.clear()
        self.theirs.clear()
        with torch.no_grad():
            wanted = floating(self.teacher(*args, **kwargs))
        found = floating(model(*args, **kwargs))
        total = _distance(found, wanted)
        inner = [_distance(self.ours[name], self.theirs[name]) for name in self.ours]
        return total + torch.stack(inner).mean() if inner else total

    def train(self, batch: Any) -> None:
        self.student.train()
        self.optimiser.zero_grad()
        self.loss(self.run, batch).backward()
        self.optimiser.step()
        self.schedule.step()
        self.step += 1

    @torch.no_grad()
    def check(self, held: Sequence[Any]) -> bool:
        """Note the held-out loss; whether it is the least so far."""
        sums = torch.zeros(2, dtype=torch.float64)
        with as_found(self.student):
            for batch in held:
                sums += torch.tensor([float(self.loss(self.student, batch)), 1.0], dtype=torch.float64)
        all_reduce(sums)
        if not float(sums[1]):
            return True
        loss = self.history[self.step] = float(sums[0] / sums[1])
        if loss > min(self.history.values()):
            return False
        self.best_step = self.step
        self.best = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
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


def _train(
    training: _Training, batches: Batches, held: Sequence[Any], check_every: int, patience: int, path: Path | None
) -> Distilled:
    waited = 0
    if not training.step:
        training.check(held)
    stream = islice(_cycle(batches), training.step, training.steps)
    with tqdm(stream, initial=training.step, total=training.steps, disable=None, unit="step") as bar:
        for batch in bar:
            training.train(batch)
            if training.step % check_every and training.step < training.steps:
                continue
            waited = 0 if training.check(held) else waited + 1
            if path is not None:
                training.save(path)
            if training.history:
                bar.set_postfix(held_out=f"{training.history[training.step]:.4f}")
            if waited >= patience:
                break
    if training.best is not None:
        training.student.load_state_dict(training.best)
    return Distilled(training.step, training.best_step if held else training.step, dict(training.history))


def _cycle(batches: Batches) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise InputError("distill has no batches: give an iterable that can be gone through, of the model's inputs")


def _distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared error over squared variation, averaged over tensors."""
    parts = [
        (a - b).square().mean() / (b - b.mean()).square().mean().clamp(min=1e-12)
        for a, b in zip(found, wanted, strict=True)
    ]
    return torch.stack(parts).mean()
