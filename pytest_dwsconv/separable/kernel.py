"""The dense kernel of a separable convolution: computed when it is read, so never written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.tracing.shapes import transformed

_OBSERVERS = frozenset({"register_hook", "register_post_accumulate_grad_hook"})
"""Methods that watch a tensor: this one is gone before anything happens to it."""


class ComputedKernel(Tensor):
    """A kernel that refuses to be written to, because nobody would ever read what was written.

    Everything else gives plain tensors, apart from views of the kernel, which refuse as well.
    ``detach()`` gives a plain one, to do with as one likes.

    Raises:
        InputError: an operator writes into the kernel or a view of it, or watches its gradient.
    """

    @classmethod
    def of(cls, kernel: Tensor) -> Tensor:
        """The kernel, guarded unless a compiler or a transform such as vmap looks at it."""
        if torch.compiler.is_compiling() or transformed() or type(kernel) is not Tensor:
            return kernel
        guarded = kernel.as_subclass(cls)
        vars(guarded).update(vars(kernel))  # where the recorder of a forward notes who computed it
        return guarded

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        written = _written(name, args, kwargs)
        if any(isinstance(leaf, cls) for leaf in tree_leaves(written)):
            what = f"setting {func.__self__.__name__}" if name == "__set__" else name
            raise _in_vain(what)
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **kwargs)
            kernels = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, cls)]
            memory = {_memory(kernel) for kernel in kernels if name != "detach"}
            if isinstance(out, Tensor):
                return _as(cls if _memory(out) in memory else Tensor, out)
            if type(out) in (tuple, list) and all(isinstance(item, Tensor) for item in out):
                return type(out)(
                    _as(cls if _memory(item) in memory else Tensor, item) for item in out
                )
            return out

    def set_(self, *_: object, **__: object) -> Any:  # PyTorch tells no subclass of it
        raise _in_vain("set_")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            raise _in_vain("swap_tensors")
        super().__setattr__(name, value)


def _in_vain(what: str) -> InputError:
    return InputError(
        f"{what} on the weight of a separable convolution would change nothing: the weight is "
        "computed from its two parts. Assign a kernel (conv.weight = kernel; the nearest separable "
        "one is taken), change conv.depthwise.weight and conv.pointwise.weight, or call "
        "conv.reset_parameters()"
    )


def _as(kind: type[Tensor], tensor: Tensor) -> Tensor:
    # reason: PyTorch 2.5 cannot make a tensor what it already is while operators are recorded
    return tensor if type(tensor) is kind else tensor.as_subclass(kind)


def _memory(tensor: Tensor) -> int:
    """What tensors have in common that are views of each other."""
    identity: int = tensor.untyped_storage()._cdata  # torch leaves it without a type
    return identity


def _written(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments of an operator, by its name, that it writes to or watches."""
    in_place = name.endswith("_") and not name.endswith("__")
    augmented = name.startswith("__i") and name not in ("__int__", "__index__")
    setting = name in ("__set__", "__setitem__")
    written = [kwargs.get("out")]
    if in_place or augmented or setting or name in _OBSERVERS or kwargs.get("inplace"):
        written += [*args, *kwargs.values()][:1]
    return written
