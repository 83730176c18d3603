"""What is known of single operators: output shapes without running them, and multiply-accumulates.

Each entry is a small pure function on shapes. Nothing here is needed for the right answer, only for
a quick one: a shape function that returns ``None`` sends the call to the operator itself, on meta
or real tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]
META = torch.device("meta")
"""PyTorch takes a device twice as fast as its name."""

CONV_MODULES: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
TRANSPOSED_MODULES: dict[type[nn.Module], int] = {
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
CONVOLUTIONS = frozenset({*CONV_MODULES, *TRANSPOSED_MODULES})


def own_forward(module: nn.Module) -> bool:
    """Whether the instance has a forward or, as a convolution, a ``_conv_forward`` of its own."""
    return "forward" in module.__dict__ or "_conv_forward" in module.__dict__


def per_side(value: Any, rank: int) -> Shape:
    """An int or a sequence of ints as one entry per side."""
    if isinstance(value, (tuple, list)):
        return tuple(value) * rank if len(value) == 1 else tuple(value)
    return (value,) * rank


def window(
    size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False
) -> int:
    """Output length of a sliding window over ``size`` elements, as PyTorch computes it."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    length = -(-span // stride) + 1 if ceil else span // stride + 1
    # the last window must start inside the padded input
    if ceil and (length - 1) * stride >= size + padding:
        length -= 1
    return length


def conv_output(
    shape: Sequence[int],
    filters: int,
    kernel: Shape,
    stride: Shape,
    padding: Shape | str,
    dilation: Shape,
) -> Shape | None:
    """Output shape of a convolution; None where it must fail.

    ``shape`` is that of the input, (N, C, *sides) or (C, *sides).
    """
    rank = len(kernel)
    if len(shape) not in (rank + 1, rank + 2):
        return None
    sides = tuple(shape[-rank:])
    if padding == "same":
        out = sides
    else:
        margins: Any = (0,) * rank if padding == "valid" else padding
        out = tuple(map(window, sides, kernel, stride, margins, dilation))
    if len(out) < rank or min(out) < 1:
        return None
    return (*shape[: len(shape) - rank - 1], filters, *out)


def _conv(module: Any, x: Tensor) -> Shape | None:
    weight = module._parameters["weight"]
    filters, channels, *kernel = weight.shape
    rank = len(kernel)
    shape = x.shape
    if len(shape) <= rank or shape[-rank - 1] != channels * module.groups:
        return None
    if x.dtype != weight.dtype:
        return None
    if module.padding_mode != "zeros" or x.is_complex():
        return None
    return conv_output(
        shape, filters, tuple(kernel), module.stride, module.padding, module.dilation
    )


def _linear(module: Any, x: Tensor) -> Shape | None:
    weight = module._parameters["weight"]
    if x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype or x.is_complex():
        return None
    return (*x.shape[:-1], weight.shape[0])


def _batch_norm(rank: int) -> Callable[[Any, Tensor], Shape | None]:
    def shape(module: Any, x: Tensor) -> Shape | None:
        shape = x.shape
        if len(shape) != rank + 2 or shape[1] != module.num_features:
            return None
        # reason: looked up as an attribute it takes four times as long
        return None if module._buffers.get("running_mean") is None else shape

    return shape


def _layer_norm(module: Any, x: Tensor) -> Shape | None:
    sides = tuple(module.normalized_shape)
    return tuple(x.shape) if tuple(x.shape[-len(sides) :]) == sides else None


def _group_norm(module: Any, x: Tensor) -> Shape | None:
    plain = x.dim() > 2 and x.is_contiguous() and x.shape[1] == module.num_channels
    return tuple(x.shape) if plain else None


def _pool(rank: int) -> Callable[[Any, Tensor], Shape | None]:
    def shape(module: Any, x: Tensor) -> Shape | None:
        if x.dim() != rank + 2 or getattr(module, "return_indices", False):
            return None
        kernel = per_side(module.kernel_size, rank)
        stride = per_side(module.stride or module.kernel_size, rank)
        padding = per_side(module.padding, rank)
        dilation = per_side(getattr(module, "dilation", 1), rank)
        rows = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
        sides = tuple(window(*row, ceil=module.ceil_mode) for row in rows)
        return None if min(sides) < 1 else (*x.shape[:2], *sides)

    return shape


def _adaptive(rank: int) -> Callable[[Any, Tensor], Shape | None]:
    def shape(module: Any, x: Tensor) -> Shape | None:
        if x.dim() != rank + 2:
            return None
        wanted = zip(per_side(module.output_size, rank), x.shape[2:], strict=True)
        return (*x.shape[:2], *(size or side for size, side in wanted))

    return shape


def _flatten(module: Any, x: Tensor) -> Shape | None:
    if not x.is_contiguous():
        return None
    start, end = (dim % x.dim() for dim in (module.start_dim, module.end_dim))
    return (*x.shape[:start], prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


_ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax,
    nn.LogSoftmax, nn.PReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip

LEAVES: dict[type[nn.Module], Callable[[Any, Tensor], Shape | None]] = {
    **dict.fromkeys(CONV_MODULES, _conv),
    **dict.fromkeys(TRANSPOSED_MODULES, lambda module, x: None),
    **dict.fromkeys(_ELEMENTWISE_MODULES, lambda module, x: x.shape),
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm(1),
    nn.BatchNorm2d: _batch_norm(2),
    nn.BatchNorm3d: _batch_norm(3),
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.MaxPool1d: _pool(1),
    nn.MaxPool2d: _pool(2),
    nn.MaxPool3d: _pool(3),
    nn.AvgPool1d: _pool(1),
    nn.AvgPool2d: _pool(2),
    nn.AvgPool3d: _pool(3),
    nn.AdaptiveAvgPool1d: _adaptive(1),
    nn.AdaptiveAvgPool2d: _adaptive(2),
    nn.AdaptiveAvgPool3d: _adaptive(3),
    nn.Flatten: _flatten,
}
"""Modules of one operator: recorded as one ``call_module`` step, with the shape of their output."""

CONTIGUOUS = frozenset({nn.LayerNorm, nn.Linear})
"""Those of them whose result is contiguous, whatever their argument is."""

WEIGHTED = frozenset(
    {
        *CONVOLUTIONS, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm,
        nn.GroupNorm, nn.PReLU,
    }
)  # fmt: skip
"""Those of them that have a weight among their parameters."""

SAME_SHAPE = {
    torch.relu, F.relu, F.relu6, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.leaky_relu,
    F.elu, torch.sigmoid, torch.tanh, F.softmax, F.log_softmax, F.dropout, F.dropout2d, F.softplus,
    F.batch_norm, Tensor.sigmoid, Tensor.tanh, Tensor.relu, Tensor.softmax, torch.softmax,
    Tensor.clone, Tensor.contiguous, torch.square, torch.neg, Tensor.neg, Tensor.square, F.hardtanh,
    F.instance_norm,
}  # fmt: skip
"""Functions whose result is like their first argument: (shape, dtype, strides)."""

IN_PLACE = {
    Tensor.__iadd__, Tensor.__isub__, Tensor.__imul__, Tensor.add_, Tensor.sub_, Tensor.mul_,
}  # fmt: skip
"""Arithmetic that writes into its first argument, and returns it."""

BROADCAST = {
    torch.add, torch.sub, torch.mul, Tensor.add, Tensor.sub, Tensor.mul, Tensor.__rsub__,
    Tensor.__radd__, Tensor.__rmul__, torch.div, Tensor.div, Tensor.__truediv__, *IN_PLACE,
}  # fmt: skip
"""Arithmetic whose result has the broadcast shape and the promoted dtype of its two arguments."""

REDUCTIONS = {torch.mean, Tensor.mean, torch.sum, Tensor.sum}
"""Functions of (input, dim, keepdim) that reduce the sides named, or all."""

JOINS = {torch.cat, torch.concat, torch.concatenate}
"""Functions of (tensors, dim) that put tensors one after the other."""

STACKS = {torch.stack}
"""Functions of (tensors, dim) that put tensors one after the other along a new side."""

RECURRENT = frozenset("lstm gru rnn_tanh rnn_relu".split())
"""Names of the functions of whole recurrent networks."""

NORMALISATIONS = frozenset(
    """
    BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm GroupNorm LayerNorm InstanceNorm1d
    InstanceNorm2d InstanceNorm3d LocalResponseNorm RMSNorm batch_norm group_norm layer_norm
    instance_norm rms_norm
    """.split()
)
ACTIVATIONS = frozenset(
    """
    ReLU ReLU6 LeakyReLU ELU CELU SELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Sigmoid Tanh
    Softplus PReLU relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid hardtanh
    sigmoid tanh softplus prelu
    """.split()
)
"""Names of what may follow a convolution, as modules and as functions."""

VIEWS = frozenset(
    """
    view view_as permute transpose t T mT movedim moveaxis swapaxes swapdims detach expand expand_as
    squeeze unsqueeze narrow select chunk split tensor_split unbind data real imag broadcast_to
    as_strided diagonal unflatten view_as_real view_as_complex
    """.split()
)
"""Names of functions whose results always share the memory of their first argument."""

FACTORIES = frozenset("zeros ones empty full rand randn arange linspace eye".split())
"""Names of functions that make a tensor from numbers."""

MOVES = frozenset(
    """
    view view_as reshape reshape_as flatten unflatten permute transpose transpose_ t T mT movedim
    moveaxis swapaxes swapdims contiguous clone detach to cpu cuda float half double type type_as
    expand expand_as squeeze unsqueeze squeeze_ unsqueeze_ __getitem__ getitem narrow select
    index_select gather chunk split tensor_split unbind cat concat concatenate stack hstack vstack
    repeat repeat_interleave tile roll flip pad unfold copy_ __setitem__ setitem empty zeros ones
    full arange linspace tensor as_tensor empty_like zeros_like ones_like full_like new_empty
    new_zeros new_ones new_full new_tensor pixel_shuffle pixel_unshuffle channel_shuffle meshgrid
    data real imag broadcast_to broadcast_tensors atleast_1d atleast_2d fill_ zero_ masked_fill
    masked_fill_ where rot90 triu tril requires_grad_ _unsafe_view slice alias lift_fresh _to_copy
    split_with_sizes constant_pad_nd as_strided index scalar_tensor scatter scatter_ index_put
    index_put_ eye bool long int bfloat16 getattr Flatten Identity Dropout Dropout1d Dropout2d
    Dropout3d dropout dropout2d randn rand empty_strided native_dropout
    """.split()
)
"""Names of operators that move, make or reinterpret data: nothing that could be counted."""

NO_MACS = MOVES | frozenset(
    """
    add add_ sub sub_ mul mul_ div div_ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__
    __rmul__ __imul__ __truediv__ __rtruediv__ __itruediv__ __neg__ __pow__ __rpow__ pow sqrt rsqrt
    exp log abs sin cos mean sum amax amin max min argmax argmin softmax log_softmax relu relu_
    relu6 gelu silu hardswish sigmoid tanh sigmoid_ tanh_ leaky_relu elu batch_norm layer_norm
    group_norm instance_norm max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d interpolate
    clamp clamp_ clamp_min norm var var_mean std eq ne lt le gt ge __eq__ __ne__ __lt__ __le__
    __gt__ __ge__ __and__ __or__ __invert__ logical_and logical_or logical_not floor ceil round erf
    cumsum sort topk rms_norm size dim stride numel is_contiguous is_floating_point is_complex
    """.split()
)
"""Names of functions that hold no convolution and no matrix product: none is looked for."""


def conv_macs(
    weight: Sequence[int], input_shape: Sequence[int], output_shape: Sequence[int], transposed: bool
) -> int:
    """Multiply-accumulates of one call of a convolution, the batch included.

    ``weight`` is (M, C/G, *sides), or (C, M/G, *sides) when transposed; shapes (N, C, *sides) or
    (C, *sides).
    """
    # of shape and weight, one has M or C
    return prod(input_shape if transposed else output_shape) * prod(weight[1:])


def recurrent_macs(args: Sequence[Any]) -> int:
    """Multiply-accumulates of a recurrent network, from what its function is called with.

    Every element of the input, a time step of a sequence, (T, N, C), (N, T, C) or packed (T N, C),
    meets each weight matrix of each layer and direction once.
    """
    steps: int = prod(args[0].shape[:-1])
    weights: Sequence[Tensor] = next(
        value for value in args[2:4] if isinstance(value, (list, tuple)) and len(value) > 1
    )
    return steps * sum(weight.numel() for weight in weights if weight.dim() == 2)


def recurrent_output(args: Sequence[Any]) -> tuple[Tensor, ...] | None:
    """Meta tensors as a recurrent network over unpacked sequences gives; None for packed ones."""
    x, state = args[:2]
    states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    if len(args) != _RECURRENT_ARGUMENTS:
        return None
    if any(one.dim() != x.dim() or one.dtype != x.dtype for one in states):
        return None
    bidirectional, batch_first = args[-2:]
    sides = (*x.shape[:-1], states[0].shape[-1] * (1 + bidirectional))
    if batch_first and len(sides) == _BATCHED:  # it is computed as (T, N, C), and turned
        turned = (sides[1], sides[0], sides[2])
        out = torch.empty(turned, dtype=x.dtype, device=META).transpose(0, 1)
    else:
        out = torch.empty(sides, dtype=x.dtype, device=META)
    return (out, *(torch.empty(one.shape, dtype=x.dtype, device=META) for one in states))


_RECURRENT_ARGUMENTS, _BATCHED = 9, 3
