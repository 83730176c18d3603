"""What follows the fit of single layers: normalisation re-estimated, all layers refined together.

Both are judged on held-out batches, and undone where these get no better.
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
from tqdm import tqdm

from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.fit.comparison import (
    Seen,
    alike,
    buffers_as_found,
    compared,
    fast_layout,
    mean_mismatch,
    mismatch,
    restore,
    seen,
    snapshot,
    variation,
    watching,
)
from pytest_dwsconv.fit.error_points import NORMS
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.replay import arguments
from pytest_dwsconv.fit.samples import PLAIN_PASSES, Mixer, Mixtures, Pieces, Source
from pytest_dwsconv.fit.soap import SOAP
from pytest_dwsconv.tracing.preserving import as_found

LEARNING_RATE, BETAS = 1e-2, (0.9, 0.99)


class Reference:
    """What the original gives for the calibration batches, noted before its layers are replaced."""

    def __init__(
        self,
        model: nn.Module,
        replaced: Sequence[str],
        batches: Sequence[Any],
        held_out: Sequence[Any],
    ) -> None:
        self.names, self.replaced = compared(model, replaced), replaced
        self.batches, self.held_out = batches, held_out
        self.wanted = seen(model, self.names, batches)
        self.held_wanted = seen(model, self.names, held_out)
        self.varying = variation((*self.wanted, *self.held_wanted))

    def held_out_mismatch(self, model: nn.Module) -> float | None:
        return mean_mismatch(model, self.names, self.held_out, self.held_wanted, self.varying)


@torch.no_grad()
def reestimate_normalisation(model: nn.Module, reference: Reference) -> bool:
    """Give batch normalisation the statistics that its inputs have now; whether they were kept."""
    norms: list[Any] = [
        m for m in model.modules() if type(m) in NORMS and m.running_var is not None
    ]
    before = reference.held_out_mismatch(model)
    if not norms or before is None:
        return False
    buffers = {
        f"{i}.{name}": value for i, norm in enumerate(norms) for name, value in norm.named_buffers()
    }
    saved = snapshot(buffers)
    _measure(model, norms, reference.batches)
    after = reference.held_out_mismatch(model)
    kept = after is not None and after < before
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


def refine(model: nn.Module, original: nn.Module, reference: Reference, passes: int) -> None:
    """Improve all replacements together by ``passes`` over the calibration batches.

    Least squares fits one layer after the other; each knows what those before it did wrong, and
    none what those after it cannot mend. Descending on the mismatch of outputs and activations lets
    them settle together. Only the replacements and the scales and shifts of batch normalisation
    move, its statistics do not.

    After ``PLAIN_PASSES`` passes the network is overfitted to the samples. Those that follow mix
    them and ask ``original``; where they cannot be mixed, they are gone through as they are. Either
    part is undone if the held-out batches do not gain.

    Raises:
        InputError: the original fails on mixed samples, which it did not at first, or the forward
            cannot be trained.
    """
    tensors = _moving(model, reference.replaced)
    if not tensors or reference.held_out_mismatch(model) is None:
        return
    pieces = Pieces(reference.batches, reference.wanted)
    if passes <= PLAIN_PASSES:
        _improve(model, reference, tensors, passes, pieces, "refining")
        return
    modules = list(original.modules())
    with buffers_as_found(original), as_found(modules), watching(original, reference.names) as see:
        mixtures = _mixtures(reference, partial(see, original))
        plain = passes if mixtures is None else PLAIN_PASSES
        _improve(model, reference, tensors, plain, pieces, "refining")
        if mixtures is not None:
            _improve(model, reference, tensors, passes - plain, mixtures, "refining on mixtures")


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
    tensors: dict[str, Tensor],
    passes: int,
    source: Source,
    what: str,
) -> None:
    """Descend, and undo it unless the held-out batches gain."""
    if not passes:
        return
    before, saved = reference.held_out_mismatch(model), snapshot(tensors)
    with as_found(list(model.modules())), _requiring_gradients(model, tensors):
        _descend(model, reference, list(tensors.values()), source, passes, what)
    after = reference.held_out_mismatch(model)
    if before is None or after is None or not after < before:
        restore(tensors, saved)


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
    what: str,
) -> None:
    world = place_in_group()[1]
    shuffle = torch.Generator().manual_seed(0)
    own = len(source.order(torch.Generator()))
    count = torch.tensor(float(own), device="cpu")
    all_reduce(count)
    steps = -(-int(count) // world)  # a pass, the same number in every process
    optimiser = SOAP(tensors, lr=LEARNING_RATE, betas=BETAS)
    schedule = warm_cosine(optimiser, passes * steps)
    lay_out: Callable[[Any], Any] | None = None
    with watching(model, reference.names) as see:
        for number in tqdm(range(passes), desc=what, disable=None, unit="pass"):
            order = source.order(shuffle)
            for step in range(steps):
                optimiser.zero_grad()
                if own:
                    batch, wanted = source.take(order[step % own], shuffle)
                    lay_out = lay_out or fast_layout(model, batch)
                    with trainable(type(model).__name__, "pass refine=0, which trains nothing"):
                        found = see(model, lay_out(batch))
                        weight = source.inner(number / passes)
                        loss = mismatch(found, wanted, reference.varying, weight)
                        loss.backward()
                _average_gradients(tensors, world)
                optimiser.step()
                schedule.step()


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
