"""One forward, executed and recorded as a ``torch.fx`` graph with shapes on every node.

``torch.fx.symbolic_trace`` needs a forward without data-dependent Python; here the forward simply
runs, on the meta device as long as the model allows it, so that nothing is computed and nothing of
the input's or the model's size is allocated. Where a model needs data (``.item()``, boolean
indexing) the forward is run again on real tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from types import NoneType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.interrupts import interrupted
from pytest_dwsconv.tracing.interception import seeing
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.preserving import as_found
from pytest_dwsconv.tracing.recorder import ModuleCall, Recorder, size_in_bytes
from pytest_dwsconv.tracing.shapes import like_on_meta
from pytest_dwsconv.tracing.steps import Step, as_graph

ADVICE = "Pass an input size or example_inputs that its forward accepts."


@dataclass
class Trace:
    """What one forward did."""

    inventory: Inventory
    steps: list[Step]
    origin: Origin
    calls: list[ModuleCall] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    input_shapes: tuple[tuple[int, ...], ...] = ()
    input_bytes: int = 0
    output_elements: int | None = None

    @cached_property
    def graph(self) -> fx.Graph:
        """The steps as a ``torch.fx`` graph."""
        return as_graph(self.steps)

    def node(self, step: Step) -> fx.Node:
        """The graph's node for a step."""
        nodes: list[fx.Node] = list(self.graph.nodes)
        return nodes[self.steps.index(step)]

    def graph_module(self) -> fx.GraphModule:
        """The recorded forward as a module that runs: good for inputs of the recorded shapes."""
        names = {step.target for step in self.steps if step.op in ("get_attr", "call_module")}
        attributes: dict[str, Any] = {
            name: attrgetter(name)(self.inventory.root) for name in names - self.constants.keys()
        }
        return fx.GraphModule({**attributes, **self.constants}, self.graph)


def trace(
    model: nn.Module | Inventory, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Trace:
    """Run ``model(*args, **kwargs)`` once, in evaluation mode and without gradients, and record it.

    Tensors in the arguments may be on the meta device, as far as their values do not matter. The
    model, the arguments and the random state are left as found, also when the forward fails.

    Raises:
        TracingError: the forward fails; its own error is the cause.
    """
    inventory = model if isinstance(model, Inventory) else Inventory(model)
    kwargs = dict(kwargs or {})
    try:
        return _record(inventory, args, kwargs, real=False)
    except TracingError:
        raise
    except Exception as error:
        if inventory.device().type == "meta":
            raise _rejected(inventory.root, args, kwargs, error) from error
    try:
        return _record(inventory, args, kwargs, real=True)
    except TracingError:
        raise
    except Exception as error:
        raise _rejected(inventory.root, args, kwargs, error) from error


def _record(inventory: Inventory, args: Sequence[Any], kwargs: dict[str, Any], real: bool) -> Trace:
    recorder = Recorder(inventory, real)
    inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
    own_args, own_kwargs = tree_map(_own_inputs(recorder), (tuple(args), kwargs))
    handled = sys.exc_info()[1]
    try:
        with (
            seeing(recorder) as interruptible,
            _undisturbed(recorder) as recorder.attributes,
            recorder,
            interruptible,
        ):
            out = inventory.root(*own_args, **own_kwargs)
            if isinstance(out, Generator):
                out = tuple(out)
    except Exception as error:
        if interrupted(error, handled):
            raise KeyboardInterrupt from error
        error.__dict__.setdefault("dwsconv_module", recorder.failed_in)
        raise
    if recorder.elsewhere is not None:
        raise TracingError(
            f"{recorder.elsewhere or 'the model'} ran in another thread, where it cannot be "
            "recorded; analyze the model without threads"
        )
    reads: list[Step] = []
    recorder.steps.append(Step("output", "output", (recorder.read(out, reads)[1],), reads=reads))
    return Trace(
        inventory=inventory,
        steps=recorder.steps,
        origin=Origin.REAL if real else Origin.META,
        calls=recorder.calls,
        constants=recorder.constants,
        input_shapes=tuple(tuple(tensor.shape) for tensor in inputs),
        input_bytes=size_in_bytes(inputs),
        output_elements=_elements(out),
    )


def _elements(out: object) -> int | None:
    """The elements of all tensors that a forward returned; None where an object may hold some."""
    leaves = tree_leaves(out)
    if not all(isinstance(leaf, (Tensor, int, float, str, NoneType)) for leaf in leaves):
        return None
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))


@contextmanager
def _undisturbed(recorder: Recorder) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """Evaluation mode, no gradients, and the model as found afterwards.

    Gives the attributes that each module has now.
    """
    modules = recorder.inventory.modules
    with (
        as_found(modules.values(), lambda: recorder.drew) as found,
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        yield dict(zip(modules, found, strict=True))


def _own_inputs(recorder: Recorder) -> Callable[[Any], Any]:
    """Make each tensor among the arguments a placeholder, and give the forward one of its own."""

    def own(value: Any) -> Any:
        if not isinstance(value, Tensor):
            # an array of NumPy, which the forward may write into
            return value.copy() if hasattr(value, "__array_interface__") else value
        if not recorder.real:
            copy = like_on_meta(value)
        elif value.is_meta:
            copy = sample(tuple(value.shape), value.dtype, recorder.device)
        else:
            copy = value.detach().clone()
        recorder.add("placeholder", f"input_{len(recorder.steps)}", copy)
        return copy

    return own


def sample(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Data for a model that needs some: uniform in [0, 1), the same every time.

    The random state is not touched.
    """
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _rejected(model: nn.Module, args: Any, kwargs: Any, error: Exception) -> TracingError:
    shapes = [
        str(tuple(item.shape)) for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)
    ]
    where = error.__dict__.get("dwsconv_module")
    place = f" in {where}" if where else ""
    if not torch.cuda.is_available() and ("CUDA" in str(error) or "NVIDIA" in str(error)):
        return TracingError(
            f"{type(model).__name__} moves data to a CUDA device{place}, which this machine does "
            "not have, and its forward needs the data: analyze it where there is one, or let the "
            "forward take the device of its input"
        )
    cause = next(iter(str(error).strip().splitlines()), "no message")
    return TracingError(
        f"{type(model).__name__} rejected inputs of shape {', '.join(shapes) or '(none)'}: "
        f"{type(error).__name__}{place}: {cause}. {ADVICE}"
    )
