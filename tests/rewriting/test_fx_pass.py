"""DepthwiseSeparablePass: modules and functional calls of a GraphModule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_manager import PassManager
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from pytest_dwsconv.core.conv import Order
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.rewriting.fx_pass import DepthwiseSeparablePass
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.modules import SeparableConvNd

FULL = {"depth_multiplier": 99}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Functional(nn.Module):
    """One functional convolution, called as ``call(x, weight, bias)``."""

    def __init__(self, call: Callable[..., Tensor], rank: int = 2, groups: int = 1) -> None:
        super().__init__()
        self.call = call
        self.kernel = nn.Parameter(torch.randn(12, 8 // groups, *(3, 3, 3)[:rank]))
        self.offset = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.call(x, self.kernel, self.offset))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.first
        self.last = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.first(self.first(x))))  # type: ignore[no-any-return]


def run(model: nn.Module, **options: Any) -> tuple[fx.GraphModule, bool]:
    graph_module = model if isinstance(model, fx.GraphModule) else fx.symbolic_trace(model)
    result = DepthwiseSeparablePass(**options)(graph_module)
    assert result is not None
    assert result.graph_module is graph_module
    return graph_module, result.modified


def separable(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, SeparableConvNd)]


CALLS: dict[str, tuple[Callable[..., Tensor], int, int]] = {
    "positional": (lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 1), 2, 1),
    "keywords": (
        lambda x, w, b: F.conv2d(input=x, weight=w, bias=b, stride=(2, 1), dilation=2),
        2,
        1,
    ),
    "no bias": (lambda x, w, b: F.conv2d(x, w) + b[:, None, None], 2, 1),
    "same": (lambda x, w, b: F.conv2d(x, w, b, padding="same"), 2, 1),
    "groups": (lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2), 2, 2),
    "one-tuples": (lambda x, w, b: F.conv2d(x, w, b, (2,), (1,)), 2, 1),
    "1-d": (lambda x, w, b: F.conv1d(x, w, b, padding=(2,)), 1, 1),
    "3-d": (lambda x, w, b: F.conv3d(x, w, b, stride=2), 3, 1),
}


@pytest.mark.parametrize("order", ["auto", "depthwise_first", "pointwise_first"])
@pytest.mark.parametrize("name", CALLS)
def test_functional_calls_become_modules(name: str, order: str) -> None:
    call, rank, groups = CALLS[name]
    model = Functional(call, rank, groups)
    x = torch.randn(2, 8, *(9, 8, 7)[:rank])
    found, modified = run(model, order=order, **FULL)
    assert modified
    assert separable(found) == ["kernel_separable"]
    torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-4)
    left = {
        name
        for name, _ in found.named_parameters(remove_duplicate=False)
        if "separable" not in name
    }
    assert left == ({"offset"} if name == "no bias" else set())


def test_module_calls_are_replaced_by_identity() -> None:
    model = Shared()
    x = torch.randn(1, 8, 6, 6)
    found, modified = run(model, **FULL)
    assert modified
    assert isinstance(found.first, SeparableConvNd)
    assert found.get_submodule("last") is not model.last
    assert len(set(map(id, map(found.get_submodule, separable(found))))) == 2
    torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_second_run_changes_nothing() -> None:
    found, _ = run(Shared())
    code = found.code
    again, modified = run(found)
    assert not modified
    assert again.code == code
    found, _ = run(Functional(CALLS["positional"][0]))
    assert not run(found)[1]


def test_it_composes_with_the_pass_manager() -> None:
    found = fx.symbolic_trace(Shared())
    manager = PassManager(
        [DepthwiseSeparablePass(init="fresh")], steps=3, run_checks_after_each_pass=True
    )
    result = manager(found)
    assert result.modified
    assert len(separable(result.graph_module)) == 2


def test_node_metadata_is_kept_and_its_shapes_are_used() -> None:
    class Blueprint(nn.Module):
        """A strided call whose kernel pointwise_first fits exactly, at more MACs than
        depthwise_first.
        """

        def __init__(self) -> None:
            super().__init__()
            kernel = torch.einsum("mc,mt->mct", torch.randn(8, 8), torch.randn(8, 9))
            self.kernel = nn.Parameter(kernel.reshape(8, 8, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel, None, 2, 1)

    plain, shaped = fx.symbolic_trace(Blueprint()), fx.symbolic_trace(Blueprint())
    ShapeProp(shaped).propagate(torch.randn(1, 8, 8, 8))
    assert run(plain)[0].get_submodule("kernel_separable").order == "pointwise_first"
    assert run(shaped)[0].get_submodule("kernel_separable").order == "depthwise_first"
    node = next(node for node in shaped.graph.nodes if node.op == "call_module")
    assert tuple(node.meta["tensor_meta"].shape) == (1, 8, 4, 4)


@pytest.mark.parametrize("mode", [True, False])
def test_new_modules_have_the_mode_of_the_graph_module(mode: bool) -> None:
    found, _ = run(fx.symbolic_trace(Functional(CALLS["same"][0]).train(mode)))
    assert {module.training for module in found.modules()} == {mode}


def test_a_weight_under_a_second_name_is_left_alone() -> None:
    found = fx.symbolic_trace(Functional(CALLS["same"][0]))
    found.register_parameter("tied", found.kernel)  # type: ignore[arg-type]
    assert not run(found)[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"select": ["la*"]}, ["last"]), ({"ignore": ["first"]}, ["last"]), ({"ignore": ["*"]}, [])],
)
def test_patterns(options: dict[str, Any], expected: list[str]) -> None:
    assert separable(run(Shared(), **options)[0]) == expected
    functional = Functional(CALLS["positional"][0])
    assert not run(functional, ignore=["kernel"])[1]
    assert run(functional, select=["kernel"])[1]


class Twice(nn.Module):
    """Weights with another user, each in its own way."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(8, 8, 3)
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


WAYS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "called twice": lambda m, x: F.conv2d(F.conv2d(x, m.kernel), m.kernel),
    "penalty": lambda m, x: F.conv2d(x, m.kernel) + m.kernel.square().sum(),
    "computed": lambda m, x: F.conv2d(x, m.kernel * 2),
    "computed bias": lambda m, x: F.conv2d(x, m.kernel, m.kernel.sum((1, 2, 3))),
    "stride from data": lambda m, x: F.conv2d(x, m.kernel, stride=x.shape[2] // 4),
    "module and function": lambda m, x: F.conv2d(m.conv(x), m.conv.weight),
    "read bias": lambda m, x: m.conv(x) + m.conv.bias.sum(),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_with_another_user_are_left_alone(way: str) -> None:
    if way == "stride from data" and torch.__version__ < "2.9":
        pytest.skip("this torch.fx cannot trace it")
    model = Twice(WAYS[way])
    x = torch.randn(1, 8, 9, 9)
    found, modified = run(model, **FULL)
    assert not modified
    torch.testing.assert_close(found(x), model(x))


def test_a_parameter_of_a_called_leaf_is_left_alone() -> None:
    class Leaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf = Leaf()

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(self.leaf(x), self.leaf.kernel)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Leaf)

    outer = Outer()
    found = fx.GraphModule(outer, Tracer().trace(outer))
    assert not run(found, **FULL)[1]


def test_shared_bias_and_buffers_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.randn(8))
            self.one, self.two = (nn.Parameter(torch.randn(8, 8, 3, 3)) for _ in range(2))
            self.register_buffer("three", torch.randn(8, 8, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(F.conv2d(x, self.one, self.offset), self.two, self.offset)
            return F.conv2d(x, self.three)  # type: ignore[arg-type]

    model = Net()
    x = torch.randn(1, 8, 9, 9)
    found, _ = run(model, order="depthwise_first", **FULL)
    assert separable(found) == ["one_separable", "two_separable", "three_separable"]
    assert found.get_submodule("one_separable").bias is found.get_submodule("two_separable").bias
    assert not any(p.requires_grad for p in found.get_submodule("three_separable").parameters())
    assert not hasattr(found, "offset")
    torch.testing.assert_close(found(x), model(x), rtol=1e-3, atol=1e-3)


def test_exported_programs() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding="same"), nn.ReLU(), nn.Conv2d(8, 12, 3, 2)
    ).eval()
    x = torch.randn(1, 8, 9, 9)
    exported: Any = torch.export.export(model, (x,)).module()
    found, modified = run(exported, **FULL)
    assert modified
    assert len(separable(found)) == 2
    torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_failing_pass_leaves_the_graph_module_as_found() -> None:
    model = Shared()
    nn.init.constant_(model.last.weight, float("nan"))
    found = fx.symbolic_trace(model)
    code, modules = found.code, dict(found.named_modules())
    with pytest.raises(InputError, match=r"last: the kernel holds NaN or infinite values"):
        run(found)
    assert found.code == code
    assert dict(found.named_modules()) == modules


@pytest.mark.parametrize(
    "options",
    [{"init": "fit"}, {"order": "sideways"}, {"depth_multiplier": 0}, {"select": "conv1"}],
)
def test_bad_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        DepthwiseSeparablePass(**options)


def test_the_result_trains() -> None:
    found, _ = run(Functional(CALLS["same"][0]))
    found(torch.randn(1, 8, 6, 6)).sum().backward()
    assert all(p.grad is not None for p in found.parameters())
    assert found.get_submodule("kernel_separable").training


def test_convolutions_of_few_channels_go_pointwise_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 7), nn.Conv2d(32, 32, 3))
    graph_module, _ = run(copy.deepcopy(model))
    orders = [m.order for m in graph_module.modules() if isinstance(m, SeparableConvNd)]
    assert orders[0] == Order.POINTWISE_FIRST
    graph_module, _ = run(model, few_channels=True, order="depthwise_first")
    orders = [m.order for m in graph_module.modules() if isinstance(m, SeparableConvNd)]
    assert orders == [Order.DEPTHWISE_FIRST] * 2


@pytest.mark.parametrize("given", [nn.Conv2d(8, 16, 3), None, 5])
def test_what_is_not_a_graph_module_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match=r"takes a GraphModule, but got .*symbolic_trace\(model\)"):
        DepthwiseSeparablePass()(given)


def test_a_multiplier_of_numpy_is_a_multiplier() -> None:
    model = fx.symbolic_trace(nn.Sequential(nn.Conv2d(8, 16, 3)))
    DepthwiseSeparablePass(depth_multiplier=np.int64(2))(model)  # type: ignore[arg-type]  # an integer it is
    assert model.get_submodule("0").depth_multiplier == 2
    result = rewrite(nn.Conv2d(8, 16, 3), depth_multiplier=np.int64(2))  # type: ignore[arg-type]  # as above
    assert result.plan.entries[0].depth_multiplier == 2
