"""One walk of a model, against PyTorch's own walks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import Plan, analyze, apply_plan, rewrite
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.tracing.inventory import Inventory, without_compiler


class Holder(nn.Module):
    """A module at two depths, a shared parameter, a buffer, a plain tensor and an empty slot."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
        self.again = nn.ModuleDict({"inner": self.first})
        self.tied = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.tied.weight
        self.plain = torch.ones(2)
        self.register_module("empty", None)


def test_modules_and_parameters_are_those_of_pytorch_in_its_order() -> None:
    model = Holder()
    inventory = Inventory(model)
    assert list(inventory.modules.items()) == list(model.named_modules())
    assert list(map(id, inventory.parameters)) == list(map(id, model.parameters()))
    assert len(inventory.parameters) == len(set(map(id, inventory.parameters))) == 7


def test_a_shared_module_has_all_its_names() -> None:
    model = Holder()
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    assert Inventory(model).names == names
    assert names[id(model.first[0])] == ["first.0", "again.inner.0"]


def test_tensors_have_the_names_that_pytorch_gives_them() -> None:
    model = Holder()
    inventory = Inventory(model)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not name.startswith("again."):
            names.setdefault(id(parameter), []).append(name)
    assert inventory.parameter_names == names
    assert names[id(model.tied.weight)] == ["tied.weight", "other.weight"]
    assert [(name, id(buffer)) for name, buffer in inventory.buffers] == [
        (name, id(buffer)) for name, buffer in model.named_buffers()
    ]


def test_a_module_that_holds_itself_is_walked_once() -> None:
    model = nn.Sequential(nn.ReLU())
    model.add_module("self", model)
    inventory = Inventory(model)
    assert list(inventory.modules) == ["", "0"]
    assert inventory.names[id(model)] == ["", "self"]


def test_a_module_that_very_many_share_has_the_first_of_its_names() -> None:
    model: nn.Module = nn.ReLU()
    for _ in range(12):
        model = nn.Sequential(model, model)
    inventory = Inventory(model)
    assert list(inventory.modules) == [name for name, _ in model.named_modules()]
    assert max(map(len, inventory.names.values())) < 100  # of 4,096


def test_the_device_is_that_of_a_parameter_or_else_of_a_buffer() -> None:
    assert Inventory(nn.Linear(2, 2, device="meta")).device().type == "meta"
    assert Inventory(nn.BatchNorm1d(2, affine=False, device="meta")).device().type == "meta"
    assert Inventory(nn.ReLU()).device().type == "cpu"


# -- modules that answer as no module of PyTorch does


class Convolves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


class Delegating(nn.Module):
    """Hands on the attributes of its compiled part, as wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(nn.Sequential(nn.Conv2d(3, 8, 3)), backend="eager")
        self.head = nn.Conv2d(8, 64, 3)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.net(x))


class CatchAll(Convolves):
    answer: Any = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if isinstance(self.answer, Exception):
                raise self.answer from None
            return self.answer


class Raising(CatchAll):
    answer = RuntimeError("there is no such thing")


class Answering(CatchAll):
    answer = Convolves()


@dataclass
class Data(nn.Module):
    width: int = 8

    def __post_init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.width, 3)

    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


class Comparing(Convolves):
    """Without a hash, of which PyTorch itself cannot list the modules."""

    __hash__ = None  # type: ignore[assignment]  # reason: as a class that defines __eq__ has it

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")


class Empty(Convolves):
    def __len__(self) -> int:
        return 0


class Untrue(Convolves):
    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __len__(self) -> int:
        raise RuntimeError("of no length")


class OddConv(nn.Conv2d):
    __hash__ = None  # type: ignore[assignment]  # reason: as above

    def __eq__(self, other: object) -> bool:
        return True

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


class Sharded(nn.Module):
    """Holds the parameters of its convolution in one flat one, except during its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        flat = [parameter.detach().flatten() for parameter in self.conv.parameters()]
        self.flat = nn.Parameter(torch.cat(flat))
        del self.conv.weight, self.conv.bias

    def forward(self, x: Tensor) -> Any:
        weight, bias = self.flat.split([216, 8])
        self.conv.weight, self.conv.bias = weight.view(8, 3, 3, 3), bias  # as FSDP does
        try:
            return self.conv(x)
        finally:
            del self.conv.weight, self.conv.bias


class Partitioned(Convolves):
    """Its weight is elsewhere until the forward, as that of ZeRO's third stage."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = self.conv.weight.data
        self.conv.weight.data = torch.empty(0)

    def forward(self, x: Tensor) -> Any:
        self.conv.weight.data = self.kept
        return self.conv(x)


class Original(Convolves):
    """Calls a layer of its own what PyTorch's compiler calls the wrapped module."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Any:
        return self._orig_mod(self.conv(x))


ODD: dict[type[nn.Module], int] = {
    Delegating: 224 + 64 * 73,
    CatchAll: 224,
    Raising: 224,
    Answering: 224,
    Data: 224,
    Comparing: 224,
    Empty: 224,
    Untrue: 224,
    Sharded: 224,
    Original: 224 + 4 * 73,
}
UNHASHABLE = (Data, Comparing)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("shape", [None, (1, 3, 12, 12)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_parameter_of_an_odd_module_is_counted_once(
    kind: type[nn.Module], shape: Any, wrapped: bool
) -> None:
    if kind is Delegating and shape is not None and torch.__version__ < "2.6":
        pytest.skip("this PyTorch cannot compile for tensors on the meta device")
    model = nn.Sequential(kind(), nn.Identity()) if wrapped else kind()
    report = analyze(model, shape)
    assert report.params == ODD[kind]
    if kind not in UNHASHABLE:
        assert report.params == sum(parameter.numel() for parameter in model.parameters())
    assert report.model == type(model).__name__
    assert len(report.findings) == (2 if kind in (Delegating, Original) else 1)
    if shape is not None:
        assert report.macs == sum(found.macs or 0 for found in report.findings) > 0


@pytest.mark.parametrize("kind", UNHASHABLE)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_module_without_a_hash_cannot_be_rewritten_and_the_cure_is_told(
    kind: type[nn.Module], inplace: bool
) -> None:
    model, plan = nn.Sequential(kind()), Plan(())
    message = rf"^0 is a {kind.__name__}, which cannot be hashed, .*: write __hash__ = nn.Module"
    with pytest.raises(InputError, match=message):
        rewrite(model, (1, 3, 12, 12), inplace=inplace)
    with pytest.raises(InputError, match=message):
        apply_plan(model, plan, inplace=inplace)


def test_odd_convolutions_have_a_row_each() -> None:
    model = nn.Sequential(OddConv(3, 8, 3), OddConv(8, 8, 3))
    report = analyze(model, (1, 3, 12, 12))
    assert [found.name for found in report.findings] == ["0", "1"]
    assert report.params == 224 + 584


def test_a_convolution_whose_parameters_come_for_the_forward_has_them_then() -> None:
    (unseen,), (seen,) = (analyze(Sharded(), shape).findings for shape in (None, (1, 3, 9, 9)))
    assert (unseen.spec.bias, unseen.params, seen.spec.bias, seen.params) == (None, None, True, 224)


def test_a_weight_in_another_form_leaves_the_numbers_to_the_attributes() -> None:
    report = analyze(Partitioned())
    assert (report.params, report.findings[0].spec.kernel_size) == (8, (3, 3))


def test_only_the_wrapper_of_pytorch_is_seen_through() -> None:
    net = Convolves()
    compiled = cast(nn.Module, torch.compile(net, backend="eager"))
    assert without_compiler(compiled) is net
    odd = Original()
    assert without_compiler(odd) is odd


class Unmade(CatchAll):
    answer = Convolves()

    def __init__(self) -> None:
        """Forgets what it extends, and answers for what it has not."""


def test_a_module_that_was_never_made_is_named_whatever_it_answers() -> None:
    with pytest.raises(InputError, match=r"^Unmade has no parts yet: call super\(\).__init__\(\)"):
        Inventory(nn.Sequential(Unmade()))
