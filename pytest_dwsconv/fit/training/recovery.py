"""What follows the fit of single layers: normalisation re-estimated, all layers refined together.

Both are judged on the outputs for held-out batches, and undone where these get no better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.fit.comparison import (
    Seen,
    alike,
    buffers_as_found,
    fast_layout,
    mismatch,
    restore,
    snapshot,
    watching,
)
from pytest_dwsconv.fit.error_points import NORMS
from pytest_dwsconv.fit.held_out import Reference, Scores, samples_of
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.quality import Refinement
from pytest_dwsconv.fit.replay import arguments
from pytest_dwsconv.fit.training.samples import (
    PLAIN_PASSES,
    Mixer,
    Mixtures,
    Pieces,
    Source,
)
from pytest_dwsconv.fit.training.soap import SOAP
from pytest_dwsconv.progress import Progress
from pytest_dwsconv.tracing.preserving import as_found

LEARNING_RATE, BETAS = 1e-2, (0.9, 0.99)
"""The learning rate at most; see ``_rate``."""
PACE, PROBED = 0.5, 8
"""The share of the loss that a step may promise, and the pieces that tell."""
FEW_SAMPLES, GENTLY = 256, 0.1
"""So few samples are overfitted within some passes: first they are gone through at a part of the
learning rate, which gains more from a few dozen, and less from some hundred.
"""
CHECKED = 4
"""Passes from one look at the held-out outputs to the next; the best weights are kept."""


@torch.no_grad()
def reestimate_normalisation(model: nn.Module, reference: Reference) -> bool:
    """Give batch normalisation the statistics that its inputs have now; whether they were kept."""
    norms: list[Any] = [
        m for m in model.modules() if type(m) in NORMS and m.running_var is not None
    ]
    before = reference.scores(model)
    if not norms or before is None:
        return False
    buffers = {
        f"{i}.{name}": value for i, norm in enumerate(norms) for name, value in norm.named_buffers()
    }
    saved = snapshot(buffers)
    _measure(model, norms, reference.batches)
    after = reference.scores(model)
    kept = after is not None and after.better_than(before)
    counts = {
        name: value for name, value in buffers.items() if name.endswith("num_batches_tracked")
    }
    restore(counts if kept else buffers, saved)
    return kept


def _measure(model: nn.Module, norms: Sequence[Any], batches: Sequence[Any]) -> None:
    """Set the running statistics to their mean over the batches, of all processes."""
    with as_found(list(model.modules())):
        for norm in norms:
            norm.training, norm.momentum = True, None  # None: the plain mean over batches
            norm.num_batches_tracked.zero_()
        for batch in batches:
            args, kwargs = arguments(batch)
            model(*args, **kwargs)
    count = torch.tensor(float(len(batches)), device="cpu")
    all_reduce(count)
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            statistic.mul_(len(batches))
            all_reduce(statistic)
            statistic.div_(float(count))


def refine(
    model: nn.Module, original: nn.Module, reference: Reference, passes: int
) -> Refinement | None:
    """Improve all replacements together by ``passes`` over the calibration batches.

    Least squares fits one layer after the other; each knows what those before it did wrong, and
    none what those after it cannot mend. Descending on the mismatch of outputs and activations lets
    them settle together. Only the replacements and the scales and shifts of batch normalisation
    move, its statistics do not.

    Few samples are gone through twice, at first at a lower learning rate and half as often. After
    ``PLAIN_PASSES`` passes the network is overfitted to the samples. Those that follow mix them and
    ask ``original``; where they cannot be mixed, they are gone through as they are.

    The held-out outputs are looked at every few passes. The weights for which they are nearest to
    the original's are kept, which may be those from before; activations, and outputs of batches
    that were trained on, have no say.

    Returns:
        What it brought; None where nothing can move or nothing is held out.

    Raises:
        InputError: the original fails on mixed samples, which it did not at first, or the forward
            cannot be trained.
    """
    tensors, before = _moving(model, reference.replaced), reference.scores(model)
    if not tensors or before is None or not passes:
        return None
    pieces = Pieces(reference.batches, reference.wanted)
    best = _Best(tensors, before)
    rate = _rate(model, reference, tensors, pieces)
    # reason: a lower rate is gentle by itself
    if samples_of(reference.batches) <= FEW_SAMPLES and rate > GENTLY:
        half = -(-min(passes, PLAIN_PASSES) // 2)
        _improve(model, reference, best, half, pieces, "refining gently", GENTLY)
    if passes <= PLAIN_PASSES:
        _improve(model, reference, best, passes, pieces, "refining", rate)
        return best.told(before)
    modules = list(original.modules())
    with buffers_as_found(original), as_found(modules), watching(original, reference.names) as see:
        mixtures = _mixtures(reference, partial(see, original))
        plain = passes if mixtures is None else PLAIN_PASSES
        _improve(model, reference, best, plain, pieces, "refining", rate)
        if mixtures is not None:
            _improve(model, reference, best, passes - plain, mixtures, "refining on mixtures", rate)
    return best.told(before)


class _Best:
    """The weights whose held-out outputs are best so far, and after how many passes that was."""

    def __init__(self, tensors: dict[str, Tensor], scores: Scores) -> None:
        self.tensors, self.scores, self.passes, self.gone = tensors, scores, 0, 0
        self.saved = snapshot(tensors)

    def look(self, found: Scores | None) -> None:
        if found is not None and found.better_than(self.scores):
            self.scores, self.passes, self.saved = found, self.gone, snapshot(self.tensors)

    def told(self, before: Scores) -> Refinement:
        return Refinement(self.gone, self.passes, before.error, self.scores.error)


def _mixtures(reference: Reference, see: Callable[[Any], Seen]) -> Mixtures | None:
    """The samples of this process mixed; None if those of any process cannot be."""
    mixer = Mixer.of(reference.batches, reference.wanted)
    own = Mixtures(mixer, see) if mixer is not None and _as_before(see, reference) else None
    without = torch.tensor(float(own is None or not own.usable()), device="cpu")
    all_reduce(without)
    return None if float(without) else own


@torch.no_grad()
def _as_before(see: Callable[[Any], Seen], reference: Reference) -> bool:
    """Whether the original, or its copy, gives what it gave.

    A copy may run modules of the rewritten network.
    """
    return alike(tree_leaves(see(reference.batches[0])), tree_leaves(reference.wanted[0]))


def _improve(
    model: nn.Module,
    reference: Reference,
    best: _Best,
    passes: int,
    source: Source,
    stage: str,
    rate: float,
) -> None:
    """Descend at this part of the learning rate, and leave the model with the best weights met.

    These may be those it came with.
    """
    tensors = list(best.tensors.values())
    with (
        as_found(list(model.modules())),
        _requiring_gradients(model, best.tensors),
        Progress(stage, passes, "pass") as progress,
    ):

        def judge(number: int) -> None:
            best.gone += 1
            if number % CHECKED == 0 or number == passes:
                best.look(reference.scores(model))
            progress.advance(error=best.scores.error)

        _descend(model, reference, tensors, source, passes, rate, judge)
    restore(best.tensors, best.saved)


def _moving(model: nn.Module, replaced: Sequence[str]) -> dict[str, Tensor]:
    modules = {name: model.get_submodule(name) for name in replaced}
    modules |= {name: module for name, module in model.named_modules() if type(module) in NORMS}
    found = {
        f"{name}.{part}": p
        for name, module in modules.items()
        for part, p in module.named_parameters()
    }
    return {name: parameter for name, parameter in found.items() if parameter.is_floating_point()}


@contextmanager
def _requiring_gradients(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Gradients for these tensors and no others in the block; flags and gradients are put back."""
    found = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()
    ]
    moving = {id(tensor) for tensor in tensors.values()}
    try:
        for parameter, _, _ in found:
            parameter.requires_grad_(id(parameter) in moving)
            parameter.grad = None
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag, gradient in found:
            parameter.requires_grad_(flag)
            parameter.grad = gradient


def _descend(
    model: nn.Module,
    reference: Reference,
    tensors: list[Tensor],
    source: Source,
    passes: int,
    rate: float,
    judge: Callable[[int], None],
) -> None:
    """Train for so many passes; ``judge`` is called after each with its number."""
    world = place_in_group()[1]
    shuffle = torch.Generator().manual_seed(0)
    own = len(source.order(torch.Generator()))
    count = torch.tensor(float(own), device="cpu")
    all_reduce(count)
    steps = -(-int(count) // world)  # a pass, the same number in every process
    optimiser = SOAP(tensors, lr=rate * LEARNING_RATE, betas=BETAS)
    schedule = warm_cosine(optimiser, passes * steps)
    with watching(model, reference.names) as see:
        backward = _backward(model, reference, source, see)
        for number in range(passes):
            order = source.order(shuffle)
            for step in range(steps):
                optimiser.zero_grad()
                if own:
                    piece = source.take(order[step % own], shuffle)
                    backward(piece, number / passes)
                _average_gradients(tensors, world)
                optimiser.step()
                schedule.step()
            judge(number + 1)


def _backward(
    model: nn.Module, reference: Reference, source: Source, see: Callable[[nn.Module, Any], Seen]
) -> Callable[[tuple[Any, Seen], float], float]:
    """Adds the gradients of a piece's mismatch, which it returns, at a share of the passes."""
    lay_out: Callable[[Any], Any] | None = None

    def backward(piece: tuple[Any, Seen], done: float) -> float:
        nonlocal lay_out
        batch, wanted = piece
        lay_out = lay_out or fast_layout(model, batch)
        with trainable(type(model).__name__, "pass refine=0, which trains nothing"):
            found = see(model, lay_out(batch))
            loss = mismatch(found, wanted, reference.varying, source.inner(done))
            loss.backward()
        return float(loss.detach())

    return backward


def _rate(
    model: nn.Module, reference: Reference, tensors: Mapping[str, Tensor], pieces: Pieces
) -> float:
    """The share of ``LEARNING_RATE`` that suits the network, at most 1.

    A step of Adam moves every number by about the learning rate, by which the loss falls by at most
    the rate times the sum of the gradient's absolute values. A step that promises more than there
    is to gain goes too far (as in Polyak's step size, 1987).
    """
    sums = torch.zeros(2, dtype=torch.float64, device="cpu")
    with (
        as_found(list(model.modules())),
        _requiring_gradients(model, tensors),
        watching(model, reference.names) as see,
    ):
        backward = _backward(model, reference, pieces, see)
        for piece in pieces.pieces[:PROBED]:
            loss = backward(piece, 0.0)
            slope = 0.0
            for tensor in tensors.values():
                if tensor.grad is not None:
                    slope += float(tensor.grad.abs().sum(dtype=torch.float64))
                    tensor.grad = None
            sums += torch.tensor([loss, slope], dtype=torch.float64, device="cpu")
    all_reduce(sums)
    loss, slope = sums.tolist()
    # reason: nothing to descend on, or NaN, is for the descent itself to find
    return min(1.0, PACE * loss / (slope * LEARNING_RATE)) if slope > 0 else 1.0


@contextmanager
def trainable(name: str, advice: str) -> Iterator[None]:
    """Refuse a forward that cannot be differentiated.

    It computes without gradients, or writes where PyTorch needs what was there before.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = first_line(error)
        if "does not require grad" in reason:
            reason = "it computes without gradients (under torch.no_grad, or detached)"
        raise InputError(f"{name} cannot be trained: {reason}; {advice}") from error


def warm_cosine(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A learning rate that rises over a tenth of the steps and then falls along a cosine."""
    rise = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + cos(pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _average_gradients(tensors: Sequence[Tensor], world: int) -> None:
    if world == 1:
        return
    for tensor in tensors:
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        all_reduce(gradient)
        tensor.grad = gradient.div_(world)
