"""A copy of a model: hooks and other functions are of the copy, and the original is as found."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.duplicate import duplicate
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.modules import SeparableConv2d

SHAPE = (1, 3, 8, 8)


class Extractor(nn.Module):
    """Keeps what its first layer gives, by a hook, and adds it to the output."""

    def __init__(self, attach: Callable[[Any], None]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.features: list[Tensor] = []
        attach(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x)) + self.features[-1]
        return out

    def note(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.features.append(output)


def note_into(features: list[Tensor], module: nn.Module, args: Any, output: Tensor) -> None:
    features.append(output)


class Store:
    """Something of the user's that holds the model."""

    def __init__(self, model: Any) -> None:
        self.model = model


def by_closure(model: Any) -> None:
    model.a.register_forward_hook(lambda m, i, output: model.features.append(output))


def by_closure_over_a_part(model: Any) -> None:
    features = model.features
    model.a.register_forward_hook(lambda m, i, output: features.append(output))


def by_nested_closure(model: Any) -> None:
    def keep(output: Tensor) -> None:
        model.features.append(output)

    def hook(m: Any, i: Any, output: Tensor) -> None:
        keep(output)

    model.a.register_forward_hook(hook)


def by_default(model: Any) -> None:
    def hook(m: Any, i: Any, output: Tensor, features: Any = model.features) -> None:
        features.append(output)

    model.a.register_forward_hook(hook)


def by_keyword_default(model: Any) -> None:
    def hook(m: Any, i: Any, output: Tensor, *, features: Any = model.features) -> None:
        features.append(output)

    model.a.register_forward_hook(hook)


def by_bound_method(model: Any) -> None:
    model.a.register_forward_hook(model.note)


def by_partial(model: Any) -> None:
    model.a.register_forward_hook(partial(note_into, model.features))


def by_partial_of_a_closure(model: Any) -> None:
    model.a.register_forward_hook(partial(lambda word, m, i, o: model.features.append(o), "word"))


def by_method_of_a_list(model: Any) -> None:
    model.keep = model.features.append
    model.a.register_forward_hook(lambda m, i, output: model.keep(output))


def by_weak_reference(model: Any) -> None:
    me = weakref.ref(model)
    model.a.register_forward_hook(lambda m, i, output: me().features.append(output))  # type: ignore[union-attr]


def by_container(model: Any) -> None:
    everything = {"model": model}
    model.a.register_forward_hook(lambda m, i, o: everything["model"].features.append(o))


def by_object(model: Any) -> None:
    store = Store(model)
    model.a.register_forward_hook(lambda m, i, o: store.model.features.append(o))


WAYS = [
    by_closure,
    by_closure_over_a_part,
    by_nested_closure,
    by_default,
    by_keyword_default,
    by_bound_method,
    by_partial,
    by_partial_of_a_closure,
    by_method_of_a_list,
    by_weak_reference,
    by_container,
    by_object,
]


@pytest.mark.parametrize("attach", WAYS)
def test_the_hooks_of_a_copy_are_the_copys(attach: Callable[[Any], None]) -> None:
    model = Extractor(attach).eval()
    x, other = torch.randn(2, *SHAPE)
    with torch.no_grad():
        model(other)
        found = list(model.features)
        expected = model(x)
        del model.features[1:]
        new = rewrite(model, SHAPE, depth_multiplier=99).model
        torch.testing.assert_close(new(x), expected, rtol=1e-4, atol=1e-5)
    assert len(model.features) == len(found) == 1
    assert model.features[0] is found[0]
    copy.deepcopy(model)
    model.features.clear()
    new(x)
    assert not model.features


def test_a_plan_is_applied_to_a_model_with_hooks_as_well() -> None:
    model = Extractor(by_closure).eval()
    new: Any = apply_plan(model, rewrite(model, SHAPE).plan)
    new(torch.randn(SHAPE))
    assert (len(new.features), len(model.features)) == (1, 0)


def test_a_hook_that_belongs_to_nobody_goes_on_writing_where_it_did() -> None:
    features: list[Tensor] = []
    calls = 0

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal calls
        calls += 1
        features.append(output)

    model = nn.Sequential(nn.Conv2d(3, 16, 3))
    model[0].register_forward_hook(hook)
    new = rewrite(model, SHAPE).model
    assert (calls, features) == (0, [])
    new(torch.randn(SHAPE))
    assert (calls, len(features)) == (1, 1)


def test_a_forward_that_is_a_closure_is_of_the_copy() -> None:
    model: Any = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    model.forward = lambda x: model[1](model[0](x)) + 1
    new: Any = rewrite(model, (1, 16, 8, 8), depth_multiplier=99).model
    x = torch.randn(1, 16, 8, 8)
    torch.testing.assert_close(new(x), model(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        new[0].bias.add_(1)
    assert not torch.allclose(new(x), model(x))


def test_a_function_of_the_copy_is_described_as_that_of_the_original() -> None:
    model: Any = nn.Linear(1, 1)

    def size(word: str = "") -> nn.Module:
        """The model."""
        return model  # type: ignore[no-any-return]  # a Linear

    size.purpose = "test"  # type: ignore[attr-defined]  # as decorators do it
    model.size = size
    new: Any = duplicate(model)
    assert new.size() is new
    assert vars(new.size) == {"purpose": "test"}
    for name in ("__doc__", "__name__", "__qualname__", "__module__", "__annotations__"):
        assert getattr(new.size, name) == getattr(size, name)


def test_functions_that_share_a_variable_still_do() -> None:
    def made() -> Any:
        model: Any = nn.Module()
        state = None

        def put(value: Any) -> None:
            nonlocal state
            state = (model, value)

        model.put, model.get, state = put, lambda: state, (model, 0)
        return model

    model = made()
    new: Any = duplicate(model)
    new.put(1)
    assert new.get() == (new, 1)
    assert model.get() == (model, 0)


def test_a_function_that_calls_itself_can_be_copied() -> None:
    model: Any = nn.Linear(1, 1)

    def countdown(number: int) -> int:
        return countdown(number - 1) if number else id(model)

    model.countdown = countdown
    new: Any = duplicate(model)
    assert new.countdown(0) == id(new)


def uses_the_global_model(module: nn.Module, args: Any, output: Tensor) -> None:
    [GLOBAL.features for _ in args]


GLOBAL = Extractor(lambda model: model.a.register_forward_hook(uses_the_global_model))


def test_a_hook_that_uses_the_model_by_a_global_name_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"a: the function uses_the_global_model .*'GLOBAL'.*inplac"
    ):
        duplicate(GLOBAL)


def test_what_holds_the_model_and_cannot_be_copied_is_refused() -> None:
    class Socket(Store):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no")

    def attach(model: Any) -> None:
        socket = Socket(model)
        model.a.register_forward_hook(lambda m, i, o: socket.model.features.append(o))

    with pytest.raises(InputError, match=r"a: .* uses a Socket that holds .* \(TypeError: no\)"):
        rewrite(Extractor(attach))


def holding_hooks(conv: nn.Module) -> list[Callable[..., Any]]:
    def in_default(m: Any, i: Any, output: Tensor, conv: Any = conv) -> Tensor:
        return output * int(conv.stride[0])

    def in_keyword_default(m: Any, i: Any, output: Tensor, *, conv: Any = conv) -> Tensor:
        return output * int(conv.stride[0])

    held: Any = {"conv": [conv]}
    return [
        lambda m, i, output: output * held["conv"][0].stride[0],
        in_default,
        in_keyword_default,
        partial(lambda conv, m, i, output: output * conv.stride[0], conv),
        partial(lambda m, i, output, conv: output * conv.stride[0], conv=conv),
    ]


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("way", range(5))
def test_a_hook_that_holds_a_convolution_to_be_replaced_is_refused(way: int, inplace: bool) -> None:
    model = Extractor(by_closure)
    model.b.register_forward_hook(holding_hooks(model.a)[way])
    with pytest.raises(InputError, match=r"a: the forward or a hook reaches it other than as"):
        rewrite(model, SHAPE, inplace=inplace)
    assert type(model.a) is nn.Conv2d
    assert type(rewrite(model, SHAPE, ignore=["a"]).model.get_submodule("b")) is SeparableConv2d


# -- parts that are not copied


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32)

    def __deepcopy__(self, memo: Any) -> Frozen:
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class Encoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Sequential(Frozen()), nn.Conv2d(32, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x))
        return out


def test_a_part_that_gives_itself_as_its_copy_is_not_replaced_in_the_original() -> None:
    model = Encoded()
    modules = dict(model.named_modules())
    plan = rewrite(Encoded(), SHAPE, inplace=True).plan
    message = r"encoder.0.conv: .* the original's Frozen .*ignore=\['encoder.0.conv'\]"
    with pytest.raises(InputError, match=message):
        rewrite(model, SHAPE)
    with pytest.raises(InputError, match=message):
        apply_plan(model, plan)
    assert dict(model.named_modules()) == modules
    assert len(rewrite(model, SHAPE, ignore=["encoder.*"]).plan.entries) == 1
    assert rewrite(model, SHAPE, inplace=True).model is model


def test_the_functions_of_a_part_that_is_not_copied_are_left_alone() -> None:
    model: Any = Encoded()
    hook = model.encoder[0].register_forward_hook(lambda m, i, out: out + int(model.training))
    found = dict(model.encoder[0]._forward_hooks)
    new: Any = rewrite(model, SHAPE, ignore=["encoder.*"]).model
    assert new.encoder[0] is model.encoder[0]
    assert dict(model.encoder[0]._forward_hooks) == found
    hook.remove()


def test_a_fit_refuses_a_copy_that_shares_tensors_with_the_original() -> None:
    batches = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    with pytest.raises(InputError, match=r"encoder.0.conv.weight: .* pass inplace=True"):
        rewrite(Encoded(), init="fit", calibration=batches, ignore=["encoder.*"])


class Itself(nn.Conv2d):
    def __deepcopy__(self, memo: Any) -> Itself:
        return self


def test_a_model_that_gives_itself_as_its_copy_is_refused() -> None:
    with pytest.raises(InputError, match=r"the model itself: .* the original's Itself"):
        rewrite(Itself(16, 16, 3), subclasses=True)


# -- tensors with a graph


def cached() -> nn.Module:
    model: Any = nn.Sequential(nn.Conv1d(8, 16, 3))
    model.cache = {"seen": [(model(torch.randn(1, 8, 9)),)]}
    return model  # type: ignore[no-any-return]  # a Sequential


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: nn.Sequential(
        nn.Conv1d(8, 16, 3), nn.utils.weight_norm(nn.Conv1d(16, 16, 3))
    ),
    "prune": lambda: nn.Sequential(
        nn.Conv1d(8, 16, 3), prune.l1_unstructured(nn.Linear(7, 7), "weight", 0.5)
    ),
    "a cache": cached,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("how", COMPUTED)
def test_a_model_with_tensors_that_have_a_graph_is_rewritten(how: str) -> None:
    model = COMPUTED[how]().eval()
    x = torch.randn(1, 8, 9)
    expected = model(x)
    result = rewrite(model, (1, 8, 9), depth_multiplier=99)
    torch.testing.assert_close(result.model(x), expected, rtol=1e-4, atol=1e-5)
    result.model(x).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())
    torch.testing.assert_close(model(x), expected)
    apply_plan(model, result.plan)


class Stranger(nn.Module):
    """Gives something else as its copy."""

    def __init__(self, copied: Any) -> None:
        super().__init__()
        self.conv, self.copied = nn.Conv2d(8, 32, 3), [copied]

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copied[0]

    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


@pytest.mark.parametrize(
    "copied", [nn.Sequential(nn.Conv2d(8, 32, 3)), nn.ModuleDict({"conv": nn.Linear(8, 32)})]
)
@pytest.mark.parametrize("verify", ["shapes", False])
def test_a_copy_of_other_parts_is_refused_by_name(copied: nn.Module, verify: str | bool) -> None:
    model = nn.Sequential(Stranger(copied))
    with pytest.raises(InputError, match=r"^0\.conv: a copy of the model does not have this layer"):
        rewrite(model, (1, 8, 9, 9), verify=verify)
    assert len(rewrite(model, (1, 8, 9, 9), verify=verify, inplace=True).plan.entries) == 1


def test_a_copy_that_is_not_a_module_is_refused() -> None:
    with pytest.raises(InputError, match=r"^Stranger cannot be copied \(its copy is a NoneType"):
        rewrite(Stranger(None), (1, 8, 9, 9))


class Registered(nn.Module):
    """Finds a layer by what a class holds, which a copy leaves as it is."""

    latest: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        type(self).latest = self

    def forward(self, x: Tensor) -> Any:
        y = self.b(self.a(x))
        return y + type(self).latest.b(y)


class Deciding(Registered):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) if bool(x.isfinite().all()) else x


@pytest.mark.parametrize("kind", [Registered, Deciding])
@pytest.mark.parametrize("verify", ["shapes", "exact"])
def test_a_copy_that_still_runs_layers_of_the_original_is_refused(
    kind: type[Registered], verify: str
) -> None:
    model, x = kind(), torch.randn(SHAPE)
    with pytest.raises(InputError, match=r"^b\.weight: the forward of a copy .*pass inplace=True"):
        rewrite(model, example_inputs=x, verify=verify)
    assert len(rewrite(model, example_inputs=x, verify=verify, inplace=True).plan.entries) == 2
