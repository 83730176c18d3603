"""Multiply-accumulates inside an operator, by the formulas of PyTorch's own flop counter."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_dwsconv.core.conv import ConvSpec
from pytest_dwsconv.tracing import operators

MACS = "macs"
"""Key in ``node.meta``: multiply-accumulates of a counted operator."""
UNCOUNTED = "uncounted"
"""Key in ``node.meta``: operators inside a composite one that are not counted, by name."""
CONVOLUTIONS = "convolutions"
"""Key in ``node.meta``: the ``ConvSpec``, with shapes, of each convolution that a function ran."""


class Counted(NamedTuple):
    """What a counted operator holds."""

    macs: int
    uncounted: Mapping[str, int] = MappingProxyType({})
    convolutions: Sequence[ConvSpec] = ()


class AtenCounter(TorchDispatchMode):
    """Counts inside composite operators, with the formulas of PyTorch's own ``FlopCounterMode``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.macs = 0
        self.counted = False
        self.uncounted: Counter[str] = Counter()
        self.convolutions: list[ConvSpec] = []

    def found(self) -> Counted | None:
        """What the operator that ran under this counter holds; None if nothing in it is counted."""
        return Counted(self.macs, dict(self.uncounted), self.convolutions) if self.counted else None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if formula := _formulas().get(packet):
            out = func(*args, **kwargs)
            self.macs += formula(*args, **kwargs, out_val=out) // 2
            self.counted = True
            if packet is torch.ops.aten.convolution:
                # reason: on the meta device PyTorch 2.5 does not notice
                if 0 in out.shape[2:]:
                    raise RuntimeError("the kernel does not fit the input")
                self.convolutions.append(_conv_call(args, out))
            return out
        with self:
            # reason: a composite operator is counted by what it is made of
            decomposable = isinstance(func, OpOverload)
            out = func.decompose(*args, **kwargs) if decomposable else NotImplemented
        if out is NotImplemented:
            out = func(*args, **kwargs)
            name = packet.__name__
            if name not in operators.MOVES:
                self.uncounted[name] += 1
        return out


def _conv_call(args: Sequence[Any], out: Tensor) -> ConvSpec:
    """What ``aten.convolution`` was called with."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    outputs, inputs, *kernel = weight.shape
    if transposed:
        outputs, inputs = inputs, outputs
    rank = len(kernel)
    return ConvSpec(
        rank=rank,
        in_channels=inputs if transposed else inputs * groups,
        out_channels=outputs * groups if transposed else outputs,
        kernel_size=tuple(kernel),
        stride=operators.per_side(tuple(stride), rank),
        padding=operators.per_side(tuple(padding), rank),
        dilation=operators.per_side(tuple(dilation), rank),
        groups=groups,
        bias=bias is not None,
        transposed=transposed,
        input_shape=tuple(x.shape),
        output_shape=tuple(out.shape),
    )


@cache
def _formulas() -> Mapping[Any, Callable[..., Any]]:
    """Twice the multiply-accumulates, by operator."""
    # reason: imported when first needed, for this may import triton
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    def attention(
        query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any
    ) -> int:
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))

    own = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    # reason: a view, so that formulas that are registered later are found too
    return ChainMap(own, flop_registry)
