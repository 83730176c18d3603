"""One option per layer: the choice of least loss that keeps all limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_dwsconv.errors import require

Amounts = Sequence[Sequence[float]]
"""A number for each option of each layer."""

ROUNDING = 1e-12
"""Of a limit: a sum of fractions may be so much above it."""


class Limited(NamedTuple):
    """What each option takes of something, and how much all layers may take of it together."""

    amounts: Amounts
    limit: float


def check_solver() -> None:
    """Raise MissingDependencyError where NumPy or SciPy is not installed."""
    for package in ("numpy", "scipy"):
        require("choosing replacements under a budget", package, "torch")


def least_loss(losses: Amounts, limits: Sequence[Limited]) -> list[int] | None:
    """The place of the option to take in each layer, or None if no choice keeps all limits.

    It is an integer linear programme with one 0-1 variable per option (``scipy.optimize.milp``,
    HiGHS), solved to a millionth of the largest loss.

    Args:
        losses: of each option of each layer, from 0; what is minimised is their sum.
        limits: each has amounts for the same layers and options.

    Raises:
        MissingDependencyError: NumPy or SciPy is not installed.
    """
    if not losses:  # reason: HiGHS takes no programme without variables
        return [] if all(limited.limit >= 0 for limited in limits) else None
    check_solver()
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = np.concatenate([np.asarray(options, float) for options in losses])
    places = np.repeat(np.arange(len(losses)), [len(options) for options in losses])
    one_each = (places == np.arange(len(losses))[:, None]).astype(float)
    rows = [np.concatenate([np.asarray(options, float) for options in one]) for one, _ in limits]
    room = [limit for _, limit in limits]
    while True:
        constraints = [LinearConstraint(one_each, 1, 1)]
        # reason: HiGHS tolerates 1e-6 of a row's unit, so that whole numbers keep a limit exactly
        constraints += [
            LinearConstraint(row[None], -np.inf, most) for row, most in zip(rows, room, strict=True)
        ]
        found = milp(
            flat / (flat.max() or 1.0),
            constraints=constraints,
            integrality=np.ones(len(flat), dtype=int),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        # reason: a 1 may be 1e-6 less, which of billions of MACs are thousands
        chosen = np.round(found.x)
        overruns = [
            float(row @ chosen) - limit for row, (_, limit) in zip(rows, limits, strict=True)
        ]
        rounding = [ROUNDING * abs(limit) for _, limit in limits]
        if all(over <= most for over, most in zip(overruns, rounding, strict=True)):
            return [int(np.argmax(chosen[places == layer])) for layer in range(len(losses))]
        room = [most - max(over, 0.0) for most, over in zip(room, overruns, strict=True)]
