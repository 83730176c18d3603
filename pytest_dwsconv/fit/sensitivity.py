"""How much the network's outputs depend on each channel at a place inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pytest_dwsconv.fit.error_points import Call
from pytest_dwsconv.fit.moments import all_reduce
from pytest_dwsconv.fit.replay import Data, floating
from pytest_dwsconv.fit.variation import wide

PROBES = 2
DAMPING = 0.05


def sensitivities(data: Data, indices: Sequence[int], calls: Iterable[Call]) -> dict[int, Tensor]:
    """Per place the matrix H (M, M) by which a small error e there costs e^T H e at the outputs.

    H is the sum over samples and positions of J^T J, J the Jacobian of the outputs, each output
    scaled to unit variation. It is estimated without labels: with random signs s, J^T s s^T J is
    J^T J on average (Hutchinson 1989). A twentieth of its mean diagonal is added, so that no
    channel is ignored; where the outputs do not depend on the place by a derivative, H is the
    identity.

    Args:
        data: the original network on its batches.
        indices: the batches to use.
        calls: the places are those that these calls refer to.
    """
    at = {call.reference: call for call in calls}
    sums = {
        place: call.scale.new_zeros(2 * [len(call.scale)]) for place, call in sorted(at.items())
    }
    for index in indices:
        for place, gradient in _gradients(data, index, list(sums)):
            flat = gradient.movedim(-at[place].rank - 1, 0).flatten(1).double()
            sums[place] = sums[place].to(flat.device) + flat @ flat.T
    all_reduce(*sums.values())
    return {place: _damped(total) for place, total in sums.items()}


def _damped(total: Tensor) -> Tensor:
    level = total.diagonal().mean()
    eye = torch.eye(len(total), dtype=total.dtype, device=total.device)
    return total + DAMPING * level * eye if bool(level > 0) else eye


def _spread(out: Tensor, least: float) -> Tensor:
    return out.detach().var(correction=0).clamp(min=least).sqrt()


def _gradients(data: Data, index: int, places: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """For each probe and place, the gradient there of the outputs summed with random signs."""
    recording = data.recordings[index]
    values, at, keep = recording.start(data.batches[index]), 0, frozenset(places)
    with torch.enable_grad():
        for place in places:
            recording.run(values, place + 1, {}, keep, at)
            at = place + 1
            values[place].requires_grad_() if values[place].is_leaf else None
        recording.run(values, len(recording.nodes), {}, keep, at)
        found = [wide(out) for out in floating(values[len(recording.nodes) - 1])]
        outputs = [
            out / _spread(out, data.varying.least("", number)) for number, out in enumerate(found)
        ]
        outputs = [out for out in outputs if out.requires_grad]
    points = [values[place] for place in places]
    # reason: the same signs for every batch, so that the sums do not depend on which process has
    # which
    generator = torch.Generator().manual_seed(0)
    for _ in range(PROBES if outputs and points else 0):
        signs = [
            torch.randint(0, 2, out.shape, generator=generator, device="cpu").to(out) * 2 - 1
            for out in outputs
        ]
        gradients = torch.autograd.grad(
            outputs, points, signs, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        yield from zip(places, gradients, strict=True)
