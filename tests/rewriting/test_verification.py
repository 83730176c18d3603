"""Networks that depend on what a convolution is: noticed and named, and nothing else is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.errors import DwsconvError, InputError
from pytest_dwsconv.rewriting.outputs import outputs
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.modules import SeparableConv2d

SHAPE = (2, 8, 6, 6)


class Net(nn.Module):
    """Two convolutions, the second of which ``use`` runs."""

    def __init__(self, use: Callable[[Any, Tensor], Any], **options: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(8, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, **{"padding": 1, **options})
        self.use = use

    def forward(self, x: Tensor) -> Any:
        return self.use(self.conv, self.stem(x))


def branches(conv: Any, x: Tensor) -> Tensor:
    out: Tensor = conv(x)
    return out.relu() if isinstance(conv, nn.Conv2d) else out


def scales(conv: Any, x: Tensor) -> Any:
    return conv(x) * (2 if isinstance(conv, nn.Conv2d) else 3)


def runs_twice(conv: Any, x: Tensor) -> Any:
    return conv(x) if isinstance(conv, nn.Conv2d) else conv(conv(x))


def counts_parameters(conv: Any, x: Tensor) -> Any:
    return conv(x)[:, : len(list(conv.parameters(recurse=False)))]


def changes_groups(conv: Any, x: Tensor) -> Any:
    if x.shape[0] < 99:
        conv.groups = 2
        conv.groups = 1
    return conv(x)


def asks_for_a_table(conv: Any, x: Tensor) -> Any:
    assert "weight" in conv._parameters, "no weight of its own"
    return conv(x)


def leaves_out(conv: Any, x: Tensor) -> Any:
    return conv(x) if type(conv) is nn.Conv2d else x


def casts(conv: Any, x: Tensor) -> Any:
    return conv(x) if isinstance(conv, nn.Conv2d) else conv(x).double()


def subtracts(conv: Any, x: Tensor) -> Any:
    return conv(x) - x if isinstance(conv, nn.Conv2d) else x - conv(x)


def renames(conv: Any, x: Tensor) -> Any:
    return {"out" if isinstance(conv, nn.Conv2d) else "in": conv(x)}


def reads_an_array(conv: Any, x: Tensor) -> Any:
    return conv(x) * torch.from_numpy(np.full(1, 1.0 if isinstance(conv, nn.Conv2d) else 2.0))


DEPENDENT = [
    (subtracts, "sub .* of .*, convolution at step 1 in place of one of convolution at step 1,"),
    (renames, "output with 'in' in place of output with 'out'"),
    (reads_an_array, r"a constant \[2.0\] in place of one of .* a constant \[1.0\]"),
    (branches, "the end|output.* in place of relu"),
    (scales, "mul .* with 3 in place of mul .* with 2"),
    (runs_twice, "convolution in conv .* in place of output"),
    (counts_parameters, r"getitem__ of shape \(2, 0, 6, 6\) .* in place of "),
    (changes_groups, "groups of a separable convolution cannot change from 1 to 2"),
    (asks_for_a_table, "no weight of its own"),
    (leaves_out, "output .* in place of convolution in conv"),
    (casts, "double .* in place of output"),
]


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize(("use", "message"), DEPENDENT)
def test_a_forward_that_depends_on_the_class_is_refused_by_name(
    use: Callable[[Any, Tensor], Any], message: str, inplace: bool
) -> None:
    model = Net(use)
    modules = dict(model.named_modules())
    with pytest.raises(InputError, match=rf"^conv: .*{message}.* ignore=\['conv'\]"):
        rewrite(model, SHAPE, inplace=inplace)
    assert dict(model.named_modules()) == modules
    assert [entry.name for entry in rewrite(model, SHAPE, ignore=["conv"]).plan.entries] == ["stem"]


def test_a_hook_that_depends_on_the_class_is_refused_by_name() -> None:
    model = Net(lambda conv, x: conv(x))
    model.conv.register_forward_hook(
        lambda module, args, out: out.relu() if isinstance(module, nn.Conv2d) else None
    )
    with pytest.raises(InputError, match=r"^conv: .*relu"):
        rewrite(model, SHAPE)


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer, Tensor.clone])
def test_a_forward_that_reads_another_tensor_with_a_replacement_is_refused(kind: Any) -> None:
    model: Any = Net(lambda conv, x: conv(x))
    one, other = kind(torch.ones(100_000)), kind(torch.zeros(100_000))
    model.one, model.other = one, other
    model.conv.register_forward_hook(
        lambda module, args, out: out * (one if isinstance(module, nn.Conv2d) else other)[:6]
    )
    with pytest.raises(InputError, match=r"^conv: .* of other in place of one of one\), so"):
        rewrite(model, SHAPE, inplace=True)


@pytest.mark.parametrize("verify", ["shapes", "exact"])
@pytest.mark.parametrize("inplace", [True, False])
def test_a_compiled_model_is_compared_without_its_compiler(verify: str, inplace: bool) -> None:
    model, x = Net(SAME["plain"]).eval(), torch.randn(SHAPE)
    compiled: Any = torch.compile(model, backend="eager")
    wanted = model(x)
    result = rewrite(compiled, SHAPE, verify=verify, inplace=inplace, depth_multiplier=99)
    assert {entry.name for entry in result.plan.entries} == {"stem", "conv"}
    assert torch.allclose(result.model(x), wanted, atol=1e-5)
    with pytest.raises(InputError, match=r"^conv: .*ignore=\['conv'\]"):
        rewrite(torch.compile(Net(scales), backend="eager"), SHAPE, verify=verify, inplace=inplace)  # type: ignore[arg-type]  # a module it is


def test_layers_that_only_together_make_a_difference_are_all_named() -> None:
    model = Net(lambda conv, x: conv(x))
    stem, other = model.stem, nn.Conv2d(16, 16, 3, padding=1)

    def use(conv: Any, x: Tensor) -> Any:
        plain = [type(layer) is nn.Conv2d for layer in (conv, model_of[0].other)]
        return conv(x) + model_of[0].other(x) if any(plain) else conv(x)

    model.use, model.other = use, other
    model_of: list[Any] = [model]
    with pytest.raises(
        InputError, match=r"^conv, other, stem: .*ignore=\['conv', 'other', 'stem'\]"
    ):
        rewrite(model, SHAPE, inplace=True)
    assert model.stem is stem


def test_what_is_not_verified_is_delivered() -> None:
    result = rewrite(Net(branches), SHAPE, verify=False)
    assert isinstance(result.model.get_submodule("conv"), SeparableConv2d)
    assert len(rewrite(Net(branches)).plan.entries) == 2  # nor is there anything to run it on


class Runner:
    """Not a module, so that nothing can be put in the place of what it holds."""

    def __init__(self, conv: nn.Module) -> None:
        self.conv = conv


@pytest.mark.parametrize(
    ("verify", "message"),
    [
        ("shapes", "conv2d .* in place of convolution in conv"),
        (False, "conv: the forward or a hook reaches it other than as a module of the model"),
    ],
)
def test_a_convolution_that_an_object_goes_on_running_is_refused(
    verify: str | bool, message: str
) -> None:
    model: Any = Net(lambda conv, x: x)
    model.runner = Runner(model.conv)
    model.forward = lambda x: model.runner.conv(model.stem(x))
    with pytest.raises(InputError, match=rf"conv: .*{message}|^{message}"):
        rewrite(model, SHAPE, verify=verify)


# -- what is the same is not refused


@lru_cache
def kept_outside(size: int) -> Tensor:
    return torch.arange(float(size)).square()


SAME: dict[str, Callable[[Any, Tensor], Any]] = {
    "plain": lambda conv, x: conv(x),
    "dtype of the weight": lambda conv, x: conv(x.to(conv.weight.dtype)),
    "shape of the weight": lambda conv, x: conv(x)[:, : conv.weight.shape[1] // 2],
    "device of the weight": lambda conv, x: conv(x.to(conv.weight.device)),
    "attributes": lambda conv, x: conv(x)[..., : conv.kernel_size[0] * conv.stride[0]],
    "several calls": lambda conv, x: conv(conv(x)) + conv(x[..., :5])[..., :1],
    "a dictionary": lambda conv, x: {"out": conv(x), "input": x},
    "classes": lambda conv, x: (conv(x), conv(x).argmax(1)),
    "writes": lambda conv, x: torch.zeros(2, 16, 6, 6).index_put_((torch.tensor(0),), conv(x)[0]),
    "a result kept outside": lambda conv, x: conv(x) * kept_outside(6),
}


@pytest.mark.parametrize("order", ["depthwise_first", "pointwise_first"])
@pytest.mark.parametrize("verify", ["shapes", "exact"])
@pytest.mark.parametrize("use", SAME)
def test_what_does_the_same_is_rewritten(use: str, verify: str, order: str) -> None:
    kept_outside.cache_clear()
    assert len(rewrite(Net(SAME[use]), SHAPE, verify=verify, order=order).plan.entries) == 2


@pytest.mark.parametrize("order", ["depthwise_first", "pointwise_first"])
@pytest.mark.parametrize("verify", ["shapes", "exact"])
@pytest.mark.parametrize(
    "options",
    [
        {"padding_mode": "reflect"},
        {"padding": "same", "dilation": 2},
        {"stride": 2, "groups": 2, "bias": False},
    ],
)
def test_every_setting_of_a_convolution_is_rewritten(
    options: dict[str, Any], verify: str, order: str
) -> None:
    model = Net(lambda conv, x: conv(x), **options)
    model.conv.register_forward_hook(lambda module, args, out: out.relu())
    result = rewrite(model, SHAPE, verify=verify, order=order, depth_multiplier=2)
    assert len(result.plan.entries) == 2


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Conv2d's name
        return super().forward(input) * 2


def test_what_a_subclass_does_besides_is_lost_as_asked_for() -> None:
    model = nn.Sequential(Doubled(8, 16, 3), nn.Conv2d(16, 16, 3))
    assert len(rewrite(model, SHAPE, subclasses=True).plan.entries) == 2
    with pytest.raises(
        InputError, match=r"^0: .*at the exact multiplier, outputs of up to .* differ by .*\['0'\]"
    ):
        rewrite(model, SHAPE, subclasses=True, verify="exact")


def test_a_convolution_by_itself_is_compared_too() -> None:
    model = nn.Conv2d(8, 16, 3, padding=1, padding_mode="circular")
    model.register_forward_hook(lambda module, args, out: out.relu())
    assert len(rewrite(model, SHAPE, verify="exact").plan.entries) == 1
    model.register_forward_hook(lambda m, args, out: out if type(m) is nn.Conv2d else -out)
    with pytest.raises(InputError, match=r"^the model itself: .*neg.*ignore=\[''\]"):
        rewrite(model, SHAPE)


# -- by running it


def needs_values(conv: Any, x: Tensor) -> Any:
    out = conv(x) if bool(x.isfinite().all()) else x
    return out if isinstance(conv, nn.Conv2d) else out + 1


def fails_on_values(conv: Any, x: Tensor) -> Any:
    assert bool(x.isfinite().all()) is (type(conv) is nn.Conv2d), "not my convolution"
    return conv(x)


def other_shape(conv: Any, x: Tensor) -> Any:
    out = conv(x) if bool(x.isfinite().all()) else x
    return out if isinstance(conv, nn.Conv2d) else out[:1]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (needs_values, "outputs of up to .* differ by 1"),
        (fails_on_values, "the forward fails: AssertionError: not my convolution"),
        (other_shape, r"outputs of shape \[\(1, 16, 6, 6\)\] in place of \[\(2, 16, 6, 6\)\]"),
    ],
)
def test_a_forward_that_needs_values_is_compared_by_running_it(
    use: Callable[[Any, Tensor], Any], message: str
) -> None:
    model = Net(use)
    modules, parameters = dict(model.named_modules()), list(model.parameters())
    with pytest.raises(InputError, match=rf"^conv: .*at the exact multiplier, {message}"):
        rewrite(model, example_inputs=torch.randn(SHAPE), verify="exact", inplace=True)
    assert dict(model.named_modules()) == modules
    assert all(map(lambda a, b: a is b, model.parameters(), parameters))


def unless_plain(conv: Any, out: Tensor) -> bool:
    """Values that decide, so that nothing but a run can tell."""
    return bool(out.isfinite().all()) and not isinstance(conv, nn.Conv2d)


OTHER_OUTPUTS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Any, Tensor], Any], str]] = {
    "type": (
        lambda conv, y: y.double(),
        lambda conv, y: y,
        r"outputs of dtype \['torch.float32'\] in place of \['torch.float64'\]",
    ),
    "classes": (
        lambda conv, y: y.argmax(1),
        lambda conv, y: (-y).argmax(1),
        r"\d\d of 72 whole numbers differ",
    ),
    "key": (
        lambda conv, y: {"out": y},
        lambda conv, y: {"aux": y},
        r"outputs dict\['aux'\] in place of dict\['out'\]",
    ),
    "container": (
        lambda conv, y: [y],
        lambda conv, y: y,
        r"outputs a single one in place of list\[0\]",
    ),
    "number": (lambda conv, y: (y, 5), lambda conv, y: (y, 6), "the number 6 in place of 5"),
    "rounded number": (
        lambda conv, y: y.abs().sum().item(),
        lambda conv, y: y.abs().mean().item(),
        "the number .* in place of",
    ),
    "array": (
        lambda conv, y: y.numpy()[..., ::-1],
        lambda conv, y: y.numpy(),
        "outputs of up to .* differ by",
    ),
    "complex": (
        lambda conv, y: torch.complex(y, y),
        lambda conv, y: torch.complex(y, -y),
        "outputs of up to .* differ by",
    ),
}


@pytest.mark.parametrize("case", OTHER_OUTPUTS)
def test_outputs_are_compared_with_their_types_and_containers(case: str) -> None:
    before, after, message = OTHER_OUTPUTS[case]

    def use(conv: Any, x: Tensor) -> Any:
        out = conv(x)
        return after(conv, out) if unless_plain(conv, out) else before(conv, out)

    x = torch.randn(SHAPE)
    with pytest.raises(InputError, match=rf"^conv: .*at the exact multiplier, {message}"):
        rewrite(Net(use), example_inputs=x, verify="exact")

    def same(conv: Any, x: Tensor) -> Any:
        out = conv(x)
        return before(conv, out) if bool(out.isfinite().all()) else None

    assert len(rewrite(Net(same), example_inputs=x, verify="exact").plan.entries) == 2


def test_a_type_of_more_precision_than_the_weights_is_compared_with_their_rounding() -> None:
    model = Net(lambda conv, x: conv(x).double())
    assert len(rewrite(model, SHAPE, verify="exact").plan.entries) == 2


calls = count(1)


def scales_by_the_calls_so_far(conv: Any, x: Tensor) -> Any:
    return conv(x) * next(calls)


def scales_by_values_and_calls(conv: Any, x: Tensor) -> Any:
    return conv(x) * next(calls) if bool(x.isfinite().all()) else x


@pytest.mark.parametrize(
    ("use", "verify"),
    [
        (scales_by_the_calls_so_far, "shapes"),
        (scales_by_the_calls_so_far, "exact"),
        (scales_by_values_and_calls, "exact"),
    ],
)
def test_a_forward_that_differs_from_run_to_run_is_not_blamed_on_a_convolution(
    use: Callable[[Any, Tensor], Any], verify: str
) -> None:
    model, x = Net(use), torch.randn(SHAPE)
    with pytest.raises(InputError, match=r"^the forward of Net differs from run to run .*=False"):
        rewrite(model, example_inputs=x, verify=verify)
    assert len(rewrite(model, example_inputs=x, verify=False).plan.entries) == 2


class Batch:
    """Not a container that PyTorch looks into."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.array = image, np.ones(1, dtype=np.float32)


class OfBatches(Net):
    def forward(self, batch: Any) -> Any:
        batch.image.sub_(1)
        batch.array += 1
        return super().forward(batch.image * torch.from_numpy(batch.array))


def test_inputs_inside_objects_are_left_as_found() -> None:
    batch = Batch(torch.zeros(SHAPE))
    model = OfBatches(lambda conv, x: conv(x))
    outputs(model, ((batch,), {}))
    assert not batch.image.any()
    assert batch.array == 1
    with pytest.raises(InputError, match="the inputs hold a generator, which cannot be"):
        outputs(model, (((item for item in [batch]),), {}))


def test_running_it_disturbs_nothing() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x, random = torch.randn(SHAPE), torch.get_rng_state()
    given = x.clone()
    result = rewrite(model, example_inputs=x, verify="exact", inplace=True)
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), random)
    assert result.model.training
    left = result.model.state_dict()
    assert all(torch.equal(left[name], state[name]) for name in state if name in left)


def test_lower_precision_is_compared_with_its_own_rounding() -> None:
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(6))).bfloat16()
    assert len(rewrite(model, SHAPE, verify="exact").plan.entries) == 6


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "unknown": (lambda: Net(branches), {"verify": "all"}, "verify must be 'shapes', 'exact' or"),
    "true": (lambda: Net(branches), {"verify": True}, "verify must be .* not True"),
    "zero": (lambda: Net(branches), {"verify": 0}, "verify must be .* not 0"),
    "no inputs": (
        lambda: Net(branches),
        {"input_size": None},
        "verify='exact' runs the network: pass input_size or example_inputs",
    ),
    "no tensors": (
        lambda: Net(lambda conv, x: str(conv(x).shape)),
        {},
        "Net gives no tensors that could be compared; use verify='shapes'",
    ),
    "meta": (
        lambda: Net(lambda conv, x: conv(x)).to("meta"),
        {"init": "fresh"},
        "conv: the kernel is on the meta device.*use verify='shapes'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_verified_is_told(case: str) -> None:
    make, options, message = BAD[case]
    with pytest.raises(DwsconvError, match=message):
        rewrite(make(), **{"input_size": SHAPE, "verify": "exact", **options})
