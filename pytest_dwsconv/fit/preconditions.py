"""What a fit or a distillation cannot use is refused before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import inf
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError, TracingError
from pytest_dwsconv.fit.comparison import buffers_as_found, compared, watching
from pytest_dwsconv.fit.refusals import floating
from pytest_dwsconv.fit.replay import given
from pytest_dwsconv.separable.modules import SeparableConvNd
from pytest_dwsconv.tracing.preserving import as_found


def check_batches(name: str, batches: Any) -> None:
    if isinstance(batches, Tensor):
        raise InputError(f"{name} is one tensor, not batches: pass {name}=images.split(128)")
    if hasattr(batches, "__array__"):
        raise InputError(
            f"{name} is one array, not batches: pass {name}=torch.from_numpy(images).split(128)"
        )
    if isinstance(batches, (str, Mapping)) or not (
        hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    ):
        raise InputError(
            f"{name} must be batches, as a list or a data loader gives them, not "
            f"{type(batches).__name__}"
        )


def check_calibration(model: nn.Module, batches: Sequence[Any]) -> None:
    """Whether the batches and the weights have values.

    Raises:
        InputError: a batch is empty, or holds NaN or infinity, or weights are on the meta device.
    """
    for index, batch in enumerate(batches):
        for tensor in floating(given(batch)):
            if not tensor.numel():
                raise InputError(
                    f"calibration batch {index} holds no sample: its shape is {tuple(tensor.shape)}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"calibration batch {index} holds NaN or infinite values")
    if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
        raise InputError(
            f"{type(model).__name__} has weights on the meta device, which hold no values: "
            "load or initialise them before the fit"
        )


def check_numbers(learning_rate: Any, **counts: Any) -> None:
    for name, value in counts.items():
        whole_number(name, value)
    if (
        isinstance(learning_rate, bool)
        or not isinstance(learning_rate, Real)
        or not 0 < float(learning_rate) < inf
    ):
        raise InputError(f"learning_rate must be a finite number above 0, not {learning_rate!r}")


def check_networks(student: Any, teacher: Any) -> None:
    for name, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network, nn.Module):
            raise InputError(
                f"{name} must be a torch.nn.Module, not {type(network).__name__}: rewrite gives "
                ".model"
            )
        if any(tensor.is_inference() for tensor in chain(network.parameters(), network.buffers())):
            raise InputError(
                f"{name} was made under torch.inference_mode, which training cannot use: make it "
                "outside"
            )
    if not separable_names(student):
        raise InputError(
            f"student, a {type(student).__name__}, has no separable convolution: pass what was "
            "rewritten as student, "
            "and the original as teacher"
        )
    theirs = {id(parameter) for parameter in teacher.parameters()}
    if any(id(parameter) in theirs for parameter in student.parameters()):
        raise InputError(
            "student and teacher share parameters, so that both would be trained: rewrite a copy"
        )
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise InputError(
            "student has no parameter that can be trained: call student.requires_grad_(True) first"
        )
    missing = (
        set(compared(student, separable_names(student))) - dict(teacher.named_modules()).keys()
    )
    if missing:
        raise InputError(
            f"teacher, a {type(teacher).__name__}, has no module {min(missing)!r}, whose outputs "
            "the student has to "
            "give: pass the network that was rewritten"
        )


def separable_names(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, SeparableConvNd)]


def check_alike(
    student: nn.Module, teacher: nn.Module, names: Sequence[str], what: str, batch: Any
) -> None:
    """Check that both networks give tensors of the same shapes on one batch."""
    wanted = _shapes("teacher", teacher, names, what, batch, training=False)
    found = _shapes("student", student, names, what, batch, training=what == "batches")
    if not wanted["outputs"]:
        raise InputError(
            "teacher gives no output of floating point, so there is nothing to learn from"
        )
    for place, shapes in wanted.items():
        if found.get(place) != shapes:
            raise InputError(
                f"student and teacher must give tensors of the same shapes, but the {place} on the "
                f"first of {what} "
                f"are {found.get(place)} and {shapes}: pass the network that was rewritten as "
                "teacher"
            )


def _shapes(
    role: str, network: nn.Module, names: Sequence[str], what: str, batch: Any, *, training: bool
) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the outputs and of what the named modules give.

    The network is left as it was.
    """
    with (
        buffers_as_found(network),
        as_found(list(network.modules())),
        torch.no_grad(),
        watching(network, names) as see,
    ):
        network.train(training)
        try:
            given = see(network, batch)
        except InputError:
            raise
        except Exception as error:  # whatever the user's own forward raises
            raise TracingError(
                f"{role} failed on the first of {what}: {type(error).__name__}: {error}; {what} "
                "must give inputs of "
                "the network, without labels"
            ) from error
    inner = {f"outputs of {name}": tensors for name, tensors in given.inner.items()}
    return {
        place: [tuple(one.shape) for one in ones]
        for place, ones in {"outputs": given.outputs, **inner}.items()
    }
