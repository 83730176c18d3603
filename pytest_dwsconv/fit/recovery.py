"""What follows the fit of single layers: normalisation statistics re-estimated, all layers refined together.

Both are judged on held-out batches, and undone where these get no better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from tqdm import tqdm

from pytest_dwsconv.fit.locating import NORMS
from pytest_dwsconv.fit.matching import (
    Seen,
    compared,
    fast_layout,
    mean_mismatch,
    mismatch,
    restore,
    seen,
    snapshot,
    watching,
)
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.replaying import arguments
from pytest_dwsconv.fit.rotating import RotatedAdam
from pytest_dwsconv.preserving import as_found

LEARNING_RATE, BETAS = 1e-2, (0.9, 0.99)
INNER = 10.0
"""What activations count for beside the outputs: they tell much more of each sample."""
STEP = 32
"""Samples that a step of the refinement takes at most: many small steps gain more from few data than few large ones."""


class Reference:
    """What the original gives for the calibration batches, noted before its layers are replaced."""

    def __init__(
        self, model: nn.Module, replaced: Sequence[str], batches: Sequence[Any], held_out: Sequence[Any]
    ) -> None:
        self.names, self.replaced = compared(model, replaced), replaced
        self.batches, self.held_out = batches, held_out
        self.wanted = seen(model, self.names, batches)
        self.held_wanted = seen(model, self.names, held_out)

    def held_out_mismatch(self, model: nn.Module) -> float | None:
        return mean_mismatch(model, self.names, self.held_out, self.held_wanted)


@torch.no_grad()
def reestimate_normalisation(model: nn.Module, reference: Reference) -> bool:
    """Give batch normalisation the statistics that its inputs have now; whether they were kept."""
    norms: list[Any] = [m for m in model.modules() if type(m) in NORMS and m.running_var is not None]
    before = reference.held_out_mismatch(model)
    if not norms or before is None:
        return False
    buffers = {f"{i}.{name}": value for i, norm in enumerate(norms) for name, value in norm.named_buffers()}
    saved = snapshot(buffers)
    _measure(model, norms, reference.batches)
    after = reference.held_out_mismatch(model)
    kept = after is not None and after < before
    counts = {name: value for name, value in buffers.items() if name.endswith("num_batches_tracked")}
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
    count = torch.tensor(float(len(batches)))
    all_reduce(count)
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            statistic.mul_(len(batches))
            all_reduce(statistic)
            statistic.div_(float(count))


def refine(model: nn.Module, reference: Reference, passes: int) -> bool:
    """Improve all replacements together by ``passes`` over the calibration batches; whether the result was kept.

    Least squares fits one layer after the other; each knows what those before it did wrong, and none what those
    after it cannot mend. Descending on the mismatch of outputs and activations lets them settle together. Only the
    replacements and the scales and shifts of batch normalisation move, its statistics do not.
    """
    before = reference.held_out_mismatch(model)
    tensors = _moving(model, reference.replaced)
    if before is None or not passes or not tensors:
        return False
    saved = snapshot(tensors)
    with as_found(list(model.modules())), _requiring_gradients(model, tensors):
        _descend(model, reference, list(tensors.values()), passes)
    after = reference.held_out_mismatch(model)
    if after is not None and after < before:
        return True
    restore(tensors, saved)
    return False


def _moving(model: nn.Module, replaced: Sequence[str]) -> dict[str, Tensor]:
    modules = {name: model.get_submodule(name) for name in replaced}
    modules |= {name: module for name, module in model.named_modules() if type(module) in NORMS}
    found = {f"{name}.{part}": p for name, module in modules.items() for part, p in module.named_parameters()}
    return {name: parameter for name, parameter in found.items() if parameter.is_floating_point()}


@contextmanager
def _requiring_gradients(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Gradients for these tensors and no others in the block; all flags and gradients are put back."""
    found = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
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


def _descend(model: nn.Module, reference: Reference, tensors: list[Tensor], passes: int) -> None:
    world = place_in_group()[1]
    pieces = [piece for pair in zip(reference.batches, reference.wanted, strict=True) for piece in _pieces(*pair)]
    own = len(pieces)
    count = torch.tensor(float(own))
    all_reduce(count)
    steps = -(-int(count) // world)  # a pass, the same number in every process
    optimiser = RotatedAdam(tensors, lr=LEARNING_RATE, betas=BETAS)
    schedule = warm_cosine(optimiser, passes * steps)
    shuffle = torch.Generator().manual_seed(0)
    lay_out = fast_layout(model, pieces[0][0]) if own else None
    with watching(model, reference.names) as see:
        for _ in tqdm(range(passes), desc="refining", disable=None, unit="pass"):
            order = torch.randperm(own, generator=shuffle).tolist()
            for step in range(steps):
                optimiser.zero_grad()
                if lay_out is not None:
                    batch, wanted = pieces[order[step % own]]
                    mismatch(see(model, lay_out(batch)), wanted, INNER).backward()
                _average_gradients(tensors, world)
                optimiser.step()
                schedule.step()


def _pieces(batch: Any, wanted: Seen) -> list[tuple[Any, Seen]]:
    """A batch and what it gives in pieces of at most ``STEP`` samples, or whole where samples cannot be told apart."""
    leaves, form = tree_flatten((batch, wanted))
    size = _samples(leaves)
    if size is None or size <= STEP:
        return [(batch, wanted)]
    cut = zip(*(leaf.split(STEP) for leaf in leaves), strict=True)
    return [tree_unflatten(list(part), form) for part in cut]


def _samples(leaves: Sequence[Any]) -> int | None:
    """The first dimension that all have in common; None where there is none."""
    sizes = {leaf.shape[0] if isinstance(leaf, Tensor) and leaf.dim() else None for leaf in leaves}
    return sizes.pop() if len(sizes) == 1 else None


def warm_cosine(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A learning rate that rises over the first tenth of the steps and then falls along a cosine."""
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
