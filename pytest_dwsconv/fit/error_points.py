"""Where a convolution's error is measured, and how much the network's outputs depend on it there.

The place is past normalisation and skip connection, before the next nonlinearity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from operator import add
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pytest_dwsconv.core.conv import transposed_sides
from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.fit.moments import all_reduce, wide
from pytest_dwsconv.fit.refusals import floating
from pytest_dwsconv.fit.replay import CalibrationData, Override, Replay
from pytest_dwsconv.tracing.counting import CONVOLUTIONS
from pytest_dwsconv.tracing.steps import OWNER

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_ADD = frozenset("add add_ __add__ __radd__ __iadd__ iadd".split())
_CLIPS: dict[Any, tuple[float, float]] = {
    nn.ReLU: (0.0, inf),
    nn.ReLU6: (0.0, 6.0),
    F.relu: (0.0, inf),
    F.relu6: (0.0, 6.0),
    torch.relu: (0.0, inf),
    torch.relu_: (0.0, inf),
    Tensor.relu: (0.0, inf),
    Tensor.relu_: (0.0, inf),
}


@dataclass(frozen=True)
class Call:
    """One call of a convolution, by the places of nodes in the recorded graph.

    Between ``place`` and ``reference`` every output channel is only scaled, by ``scale`` (M), and
    added to; the values at ``reference`` are then clipped to ``clip``, or used otherwise where that
    is None.
    """

    place: int
    rank: int
    reference: int
    scale: Tensor
    clip: tuple[float, float] | None
    norm: Any
    """The normalisation that alone reads the convolution's output."""
    padding: int | None = None
    """The node by which the convolution itself pads its input, where that is one of its own."""

    @property
    def start(self) -> int:
        """The first node that is the convolution's."""
        return self.place if self.padding is None else self.padding

    def overrides(self, new: Override) -> dict[int, Override]:
        """What to run instead of the convolution's nodes."""
        return (
            {self.place: new}
            if self.padding is None
            else {self.padding: _as_it_is, self.place: new}
        )


def _as_it_is(x: Tensor) -> Tensor:
    return x


def calls(graph: Replay, name: str, conv: Any) -> tuple[Call, ...]:
    """Every call of the convolution module of that name."""
    found = [node for node in graph.nodes if _calls(node, name)]
    located = [_call(graph, node, name, conv) for node in found]
    own = Counter(id(call.norm) for call in located)
    runs = Counter(
        id(graph.modules[node.target]) for node in graph.nodes if node.op == "call_module"
    )
    return tuple(
        call if own[id(call.norm)] == runs[id(call.norm)] else replace(call, norm=None)
        for call in located
    )


def _calls(node: fx.Node, name: str) -> bool:
    if node.op == "call_module":
        return node.target == name
    return bool(node.meta.get(CONVOLUTIONS)) and node.meta.get(OWNER) == name


def _call(graph: Replay, node: fx.Node, name: str, conv: Any) -> Call:
    first = _padding(node, name) or node
    if not first.args or not isinstance(first.args[0], fx.Node):
        raise InputError(
            f"{name} gets its input by keyword, where it cannot be followed; leave it out with "
            "ignore"
        )
    if conv.transposed and not _usual_output(node, conv):
        raise InputError(
            f"{name} is called with an output_size, which a fit cannot follow; set output_padding, "
            "or leave it out with ignore"
        )
    scale = torch.ones(conv.out_channels, dtype=torch.float64, device="cpu")
    at, norm = node, None
    while (after := _linear_user(graph, at)) is not None:
        module = graph.modules.get(after.target)
        if isinstance(module, NORMS):
            scale = scale * _norm_scale(module)
            norm = module if at is node else norm
        at = after
    return Call(
        place=graph.place[node],
        rank=len(conv.kernel_size),
        reference=graph.place[at],
        scale=scale,
        clip=_clip(graph, at.users),
        norm=norm,
        padding=None if first is node else graph.place[first],
    )


def _usual_output(node: fx.Node, conv: Any) -> bool:
    """Whether a transposed convolution gives what its settings say, and not what a caller asks."""
    assert isinstance(node.args[0], fx.Node)
    rank = len(conv.kernel_size)
    inputs, outputs = (each.meta["tensor_meta"].shape[-rank:] for each in (node.args[0], node))
    usual = transposed_sides(conv, inputs)
    return tuple(map(add, usual, conv.output_padding)) == tuple(outputs)


def _padding(node: fx.Node, name: str) -> fx.Node | None:
    """The node by which a convolution with another padding mode than zeros pads its input."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    before = node.args[0]
    pads = getattr(before.target, "__name__", "") == "pad" and before.meta.get(OWNER) == name
    return before if pads else None


def _linear_user(graph: Replay, node: fx.Node) -> fx.Node | None:
    """The only user of a node, if all it does is scale channels or add something of one shape."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    module = graph.modules.get(user.target) if user.op == "call_module" else None
    if type(module) in NORMS:
        return user if isinstance(module, NORMS) and module.running_var is not None else None
    if type(module) in _NOTHING:
        return user
    adds = (
        user.op == "call_function"
        and getattr(user.target, "__name__", "") in _ADD
        and not user.kwargs
    )
    return user if adds and _same_shapes(user) else None


def _same_shapes(node: fx.Node) -> bool:
    shapes = [
        n.meta["tensor_meta"].shape
        for n in node.args
        if isinstance(n, fx.Node) and "tensor_meta" in n.meta
    ]
    return len(shapes) == 2 and shapes[0] == shapes[1] and node.args[0] is not node.args[1]


def _norm_scale(norm: Any) -> Tensor:
    scale: Tensor = (norm.running_var.double() + norm.eps).rsqrt()
    return (scale if norm.weight is None else scale * norm.weight.detach().double()).cpu()


def _clip(graph: Replay, users: Iterable[fx.Node]) -> tuple[float, float] | None:
    found = {
        _CLIPS.get(type(graph.modules[u.target]) if u.op == "call_module" else u.target)
        for u in users
    }
    return found.pop() if len(found) == 1 else None


PROBES = 2
DAMPING = 0.05


def sensitivities(
    data: CalibrationData, indices: Sequence[int], calls: Iterable[Call]
) -> dict[int, Tensor]:
    """Per place the matrix H (M, M) by which a small error e there costs e^T H e at the outputs.

    H is the sum over samples and positions of J^T J, J the Jacobian of the outputs, each output
    scaled to unit variation, over how many numbers these are: the mean of e^T H e is the squared
    relative error of the outputs. It is estimated without labels: with random signs s, J^T s s^T J
    is J^T J on average (Hutchinson 1989). A twentieth of its mean diagonal is added, so that no
    channel is ignored; where the outputs do not depend on the place by a derivative, H is the
    identity.

    Args:
        data: the original network on its batches.
        indices: the batches to use.
        calls: the places are those that these calls refer to.

    Raises:
        InputError: PyTorch cannot differentiate the forward.
    """
    at = {call.reference: call for call in calls}
    sums = {
        place: call.scale.new_zeros(2 * [len(call.scale)]) for place, call in sorted(at.items())
    }
    try:
        for index in indices:
            for place, gradient in _gradients(data, index, list(sums)):
                flat = gradient.movedim(-at[place].rank - 1, 0).flatten(1).double()
                sums[place] = sums[place].to(flat.device) + flat @ flat.T
    except RuntimeError as error:
        raise InputError(
            f"{type(data.graph.root).__name__} cannot be fitted, for PyTorch has no gradients of "
            f"its outputs: {first_line(error)}; use init='svd'"
        ) from error
    numbers = torch.tensor(float(sum(data.numbers[index] for index in indices)), device="cpu")
    all_reduce(numbers, *sums.values())
    count = PROBES * float(numbers)
    return {place: _damped(total / count) for place, total in sums.items()}


def _damped(total: Tensor) -> Tensor:
    level = total.diagonal().mean()
    eye = torch.eye(len(total), dtype=total.dtype, device=total.device)
    return total + DAMPING * level * eye if bool(level > 0) else eye


def _spread(out: Tensor, least: float) -> Tensor:
    return out.detach().var(correction=0).clamp(min=least).sqrt()


def _gradients(
    data: CalibrationData, index: int, places: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """For each probe and place, the gradient there of the outputs summed with random signs."""
    replay = data.replays[index]
    values, points, at = replay.start(data.batches[index]), [], 0
    with torch.enable_grad():
        for place in places:
            replay.run(values, place + 1, {}, at)
            at = place + 1
            point = values[place]
            if point.is_leaf:
                point.requires_grad_()
            points.append(point)
        replay.run(values, len(replay.nodes), {}, at)
        found = [wide(out) for out in floating(values[len(replay.nodes) - 1])]
        outputs = [
            part.of(out) / _spread(part.of(out), part.least)
            for number, out in enumerate(found)
            for part in data.varying.parts(number)
        ]
        outputs = [out for out in outputs if out.requires_grad]
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
