"""Replace convolutions in a live model: what ``analyze`` finds is planned, the plan is carried out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from pytest_dwsconv.analysis import analyze
from pytest_dwsconv.conv import Order
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.planning import Plan
from pytest_dwsconv.replacing import AUTO, check_init, choose, initial, parse_order, patterns, replacement, swap
from pytest_dwsconv.report import Report
from pytest_dwsconv.rules import Policy, matches
from pytest_dwsconv.sites import module_spec


@dataclass(frozen=True)
class RewriteResult:
    """A rewritten model, the plan that was carried out, and the reports on the model before and after.

    ``errors`` maps each replaced layer to the relative error of its kernel, sqrt(sum (W - W')^2 / sum W^2); it is
    empty for ``init="fresh"``, which keeps nothing of the kernel.
    """

    model: nn.Module
    plan: Plan
    report_before: Report
    report_after: Report
    errors: Mapping[str, float]

    def __str__(self) -> str:
        replaced = len(self.plan.entries)
        lines = [
            f"{self.report_before.model}: {replaced} of {len(self.report_before.findings)} convolutions replaced",
            _change("parameters of the model", self.report_before.params, self.report_after.params),
        ]
        if replaced:
            lines.append(_change("parameters of the replaced layers", self.plan.params_before, self.plan.params_after))
        if self.report_before.macs is not None and self.report_after.macs is not None:
            lines.append(_change("MACs of the model", self.report_before.macs, self.report_after.macs))
        if self.errors:
            worst = max(self.errors, key=lambda name: self.errors[name])
            lines.append(
                f"relative weight error: median {median(self.errors.values()):.3f}, "
                f"largest {self.errors[worst]:.3f} ({worst or 'the model itself'})"
            )
        return "\n".join(lines)


def _change(what: str, before: int, after: int) -> str:
    saving = f" ({before / after:.2f}x)" if after else ""
    return f"{what}: {before:,} -> {after:,}{saving}"


@torch.inference_mode(False)  # reason: weights made under inference mode can never be trained
def rewrite(  # noqa: PLR0913  # each keyword is a decision of the caller's, and all have defaults
    model: nn.Module,
    input_size: Sequence[Any] | None = None,
    *,
    example_inputs: Any = None,
    depth_multiplier: int = 1,
    order: Order | str = AUTO,
    init: str = "svd",
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    subclasses: bool = False,
    inplace: bool = False,
) -> RewriteResult:
    """Replace every candidate convolution of ``model`` by a depthwise separable one.

    Kept are dtype, device, mode, ``requires_grad``, the bias, stride, padding and its mode, dilation, groups,
    memory format, forward and backward hooks, further attributes set on the module, and sharing between parents.

    Args:
        model: the network; it is copied unless ``inplace``.
        input_size: shape or shapes of the input, as for ``analyze``; without it MACs are not looked at.
        example_inputs: inputs instead of shapes, as for ``analyze``.
        depth_multiplier: depthwise filters per channel; lowered, per layer, to the multiplier that is exact.
            Candidates are those that save parameters at multiplier 1, whatever is asked for here.
        order: ``"depthwise_first"``, ``"pointwise_first"``, or ``"auto"``, which takes per layer the smaller
            relative weight error at equal cost: ``depthwise_first`` at ``depth_multiplier`` against
            ``pointwise_first`` at the largest multiplier that exceeds it neither in parameters nor, where shapes
            are known, in MACs; ``depthwise_first`` where even 1 does. At equal errors the fewer parameters win.
            With ``init="fresh"`` there is no error to compare, and ``"auto"`` is ``depthwise_first``.
        init: ``"svd"``, the nearest separable kernel (see ``factorize``); ``"fresh"``, new random weights of
            matched variance, for a network still to be trained.
        select: shell-style patterns of the qualified names to replace; all by default.
        ignore: patterns of the names to leave alone.
        subclasses: replace instances of subclasses of ``nn.ConvNd`` too; what their own forward does besides
            the convolution is lost.
        inplace: change ``model`` itself. It is left as found if anything fails.

    Raises:
        InputError: an argument cannot be used, the model cannot be copied, or a kernel cannot be factorised.
        TracingError: the forward fails on the inputs.
    """
    wanted = parse_order(order)
    check_init(init)
    policy = Policy(subclasses=subclasses, select=patterns(select), ignore=patterns(ignore))
    Policy(depth_multiplier=depth_multiplier)  # raises InputError unless it is a whole number from 1
    before = analyze(model, input_size, example_inputs=example_inputs, policy=policy)
    _check_selected(policy, before)
    target = model if inplace else _copied(model)
    entries = []
    for found in before.candidates:
        weight = _convolution(target, found.name).weight
        entries.append(choose(found.name, weight, found.spec, depth_multiplier, wanted, init))
    plan = Plan(tuple(entries))
    swaps, errors = _replacements(target, plan, init, inplace)
    rewritten = swap(target, swaps)
    try:
        after = analyze(rewritten, input_size, example_inputs=example_inputs, policy=policy)
        _check_in_use(plan, before, after)
    except BaseException:
        swap(rewritten, {new: old for old, new in swaps.items()})
        raise
    return RewriteResult(rewritten, plan, before, after, errors)


def _check_selected(policy: Policy, report: Report) -> None:
    """A pattern to select that no convolution matches is a slip of the pen."""
    for pattern in policy.select:
        if not any(matches((found.name, *found.aliases), (pattern,)) for found in report.findings):
            raise InputError(f"select: no convolution of {report.model} has a name like {pattern!r}")


def _check_in_use(plan: Plan, before: Report, after: Report) -> None:
    """Of a layer that ran, its replacement runs: else something holds the old one where it cannot be exchanged."""
    ran = {found.name for found in before.findings if found.calls}
    idle = {found.name for found in after.findings if not found.calls}
    for entry in plan.entries:
        if entry.name in ran and f"{entry.name}.depthwise".lstrip(".") in idle:
            raise InputError(
                f"{entry.name}: the forward reaches it other than as a module of the model (by a bound method, a "
                "partial or a compiled part, say), so its replacement would not run; leave it out with ignore"
            )


@torch.inference_mode(False)
def apply_plan(model: nn.Module, plan: Plan, *, init: str = "fresh", inplace: bool = False) -> nn.Module:
    """Carry out a plan on a model, usually a new one that is then given the weights of a rewritten network::

        network = apply_plan(Network(), Plan.from_json(text))
        network.load_state_dict(weights)

    On the meta device nothing is initialised, whatever ``init`` says.

    Raises:
        InputError: a layer of the plan is missing or is another convolution; the model is left as found.
    """
    check_init(init)
    for entry in plan.entries:
        entry.check(module_spec(_convolution(model, entry.name)))
    target = model if inplace else _copied(model)
    swaps, _ = _replacements(target, plan, init, inplace)
    return swap(target, swaps)


def _replacements(
    model: nn.Module, plan: Plan, init: str, inplace: bool
) -> tuple[dict[nn.Module, nn.Module], dict[str, float]]:
    """All replacements of a plan, made before the first is put in place, and their weight errors."""
    swaps: dict[nn.Module, nn.Module] = {}
    errors: dict[str, float] = {}
    for entry in plan.entries:
        conv = _convolution(model, entry.name)
        if conv in swaps:
            raise InputError(f"{entry.name} is a convolution that the plan replaces under another name already")
        if inplace and conv is model:
            raise InputError("a model that is itself the convolution cannot be replaced in place; pass inplace=False")
        factors, error = initial(conv.weight, entry, init)
        swaps[conv] = replacement(conv, entry, factors)
        if error is not None:
            errors[entry.name] = error
    return swaps, errors


def _convolution(model: nn.Module, name: str) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """The convolution of that name, with a weight and bias of its own, and of the usual shape."""
    try:
        conv = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"{type(model).__name__} has no layer {name!r}") from error
    if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise InputError(
            f"{name or 'the model itself'} is a {type(conv).__name__}, not a convolution that can be replaced"
        )
    for part in ("weight", "bias"):
        if part not in conv._parameters:
            raise InputError(f"the {part} of {name} is computed from other parameters; remove the parametrization")
    shape, usual = tuple(conv.weight.shape), (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
    if shape != usual:
        raise InputError(f"the weight of {name} is {shape}, not {usual}, so {type(conv).__name__} cannot be replaced")
    return conv


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a user's __deepcopy__ or a part that cannot be copied raises
        raise InputError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); pass inplace=True"
        ) from error
