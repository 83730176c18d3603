"""SOAP (Vyas et al. 2024): Adam in the directions that gradients take, which needs fewer steps.

Weights matter in combinations, not entry by entry. With G the gradient of a weight as a matrix, the
eigenvectors of the means of G G^T and G^T G are good guesses of these combinations, and Adam does
better on them than on the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

EVERY = 10
"""Steps from one update of the directions to the next; each is one step of orthogonal iteration."""
WIDEST = 1024
"""Rows or columns beyond which a weight gets plain Adam: directions would cost too much."""


class SOAP(Optimizer):
    """Adam with its second moments kept in slowly turning directions.

    Vectors and very wide weights get plain Adam.

    Args:
        parameters: of floating point; one of shape (M, ...) is taken as a matrix of M rows.
        lr: the learning rate, in units of the entries of the parameters.
        betas: decay per step of the mean gradient, and of all second moments.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # reason: no closure
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moving:
                gradients = [_matrix(parameter.grad) for parameter in moving]
                updates = _updates(
                    [self.state[parameter] for parameter in moving], gradients, *group["betas"]
                )
                for parameter, update in zip(moving, updates, strict=True):
                    parameter.add_(
                        update.view(parameter.shape).to(parameter.dtype), alpha=-group["lr"]
                    )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As any optimiser does, but what is kept in float32 stays so for narrower parameters."""
        super().load_state_dict(state_dict)
        for kept, saved in zip(self.state.values(), state_dict["state"].values(), strict=True):
            place = partial(_placed, device=kept["mean"].device)
            kept.update(tree_map(place, saved))


def _placed(value: Any, device: torch.device) -> Any:
    return value.to(device, copy=True) if isinstance(value, Tensor) else value


def _matrix(gradient: Tensor) -> Tensor:
    """Rows are filters; a vector is one column. In float32, where there is less."""
    flat = gradient.flatten(1) if gradient.dim() > 1 else gradient.reshape(-1, 1)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def _updates(
    states: list[dict[str, Any]], gradients: list[Tensor], mean_decay: float, square_decay: float
) -> list[Tensor]:
    """What to take off each weight at a learning rate of 1."""
    for state, gradient in zip(states, gradients, strict=True):
        if not state:
            state.update(_fresh(gradient))
        state["step"] += 1
        if state["bases"]:
            _follow(state, gradient, square_decay)
    bases, means, squares = (
        [state[part] for state in states] for part in ("bases", "mean", "square")
    )
    turned = list(map(_turned, gradients, bases))
    torch._foreach_lerp_(means, gradients, 1 - mean_decay)
    torch._foreach_lerp_(squares, torch._foreach_mul(turned, turned), 1 - square_decay)
    steps = [state["step"] for state in states]
    mean = torch._foreach_div(
        list(map(_turned, means, bases)), [1 - mean_decay**step for step in steps]
    )
    root = torch._foreach_sqrt(
        torch._foreach_div(squares, [1 - square_decay**step for step in steps])
    )
    torch._foreach_add_(root, 1e-8)
    back = [[basis.T for basis in pair] for pair in bases]
    return list(map(_turned, torch._foreach_div(mean, root), back))


def _fresh(gradient: Tensor) -> dict[str, Any]:
    sides = gradient.shape if min(gradient.shape) > 1 and max(gradient.shape) <= WIDEST else ()
    return {
        "step": 0,
        "mean": torch.zeros_like(gradient),
        "square": torch.zeros_like(gradient),
        "moments": [gradient.new_zeros(side, side) for side in sides],
        "bases": [torch.eye(side, dtype=gradient.dtype, device=gradient.device) for side in sides],
    }


def _follow(state: dict[str, Any], gradient: Tensor, decay: float) -> None:
    """Add the gradient to the moments of both sides; from time to time turn the bases.

    They turn towards the eigenvectors of the moments.
    """
    for side, (moment, along) in enumerate(
        zip(state["moments"], (gradient, gradient.T), strict=True)
    ):
        moment.addmm_(along, along.T, beta=decay, alpha=1 - decay)
        if state["step"] % EVERY == 1:
            state["bases"][side] = torch.linalg.qr(moment @ state["bases"][side]).Q


def _turned(matrix: Tensor, bases: list[Tensor]) -> Tensor:
    """The matrix in these bases of its rows and columns; itself without any."""
    return bases[0].T @ matrix @ bases[1] if bases else matrix
