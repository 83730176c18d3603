"""The arguments of a rewrite, checked before anything is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.policy import Policy, matches
from pytest_dwsconv.core.quantities import is_whole
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.preconditions import check_batches
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.application import check_plan
from pytest_dwsconv.rewriting.planning.goal import Goal
from pytest_dwsconv.separable.replacement import FIT
from pytest_dwsconv.tracing.preserving import copied


def checked_multiplier(depth_multiplier: int, goal: Goal | None) -> int:
    # raises InputError unless it is a whole number from 1
    depth_multiplier = Policy(depth_multiplier=depth_multiplier).depth_multiplier
    if goal is not None and goal.chooses_sizes and depth_multiplier != 1:
        what = "budget" if goal.is_limited else "target"
        raise InputError(
            f"a {what} chooses the multiplier of each layer: pass {what} or depth_multiplier, not "
            "both"
        )
    return depth_multiplier


def check_choosing(plan: Plan | None, *choosing: object) -> None:
    if plan is None:
        return
    check_plan(plan)
    if any(choosing):
        raise InputError(
            "a plan says what is replaced by what: pass plan, or depth_multiplier, order, form, "
            "budget, target, select and ignore"
        )


def check_passes(refine: object) -> None:
    if not is_whole(refine, 0):
        raise InputError(
            f"refine must be a whole number of passes from 0, which leaves them out, not {refine!r}"
        )


def checked_batches(calibration: Iterable[Any] | None, init: str, goal: Goal | None) -> list[Any]:
    # a target can do without: then losses are weight errors
    needed = init == FIT or (goal is not None and goal.target is None)
    if calibration is None and needed:
        what = "init='fit'" if init == FIT else "a budget"
        raise InputError(
            f"{what} needs calibration=batches: some hundred inputs of the model, without labels"
        )
    if calibration is not None and init != FIT and goal is None:
        raise InputError(f"init={init!r} makes no use of calibration; pass init='fit'")
    if calibration is None:
        return []
    check_batches("calibration", calibration)
    batches = list(calibration)
    if not batches:
        raise InputError(
            "calibration has no batches: give at least one, as tensors of the model's inputs"
        )
    return tree_map(_recordable, batches)  # type: ignore[no-any-return]  # torch leaves it open


def _recordable(leaf: Any) -> Any:
    """A leaf of a batch as autograd takes it: without a graph, and not of inference mode.

    Raises:
        InputError: it is an object that cannot be copied.
    """
    if not isinstance(leaf, Tensor):
        return copied(leaf)
    return leaf.clone() if leaf.is_inference() else leaf.detach()


def check_patterns(policy: Policy, report: Report) -> None:
    """A pattern that no convolution matches is a slip of the pen."""
    names = [(found.name, *found.aliases) for found in report.findings]
    for argument, given in (("select", policy.select), ("ignore", policy.ignore)):
        for pattern in given:
            if not any(matches(aliases, (pattern,)) for aliases in names):
                raise InputError(
                    f"{argument}: no convolution of {report.model} has a name like {pattern!r}"
                )
