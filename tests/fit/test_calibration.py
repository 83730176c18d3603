"""rewrite(init="fit"): better than the nearest kernels, and nothing changed on failure."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv.core.conv import Order
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.calibration import Preparation
from pytest_dwsconv.fit.comparison import fast_layout
from pytest_dwsconv.fit.training.distillation import distill
from pytest_dwsconv.fit.training.samples import _pasted
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.modules import CONVS, SeparableConv2d, SeparableConvNd


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def smooth(*shape: int) -> Tensor:
    """Inputs whose neighbours are alike, as in images: else a fit has nothing to use."""
    x = torch.randn(shape)
    for axis in range(2, len(shape)):
        x = (x + x.roll(1, axis) + x.roll(2, axis)) / 1.5
    return x


def batches(*shape: int, count: int = 6) -> list[Tensor]:
    torch.manual_seed(7)
    return [smooth(*shape) for _ in range(count)]


def trained_like(model: nn.Module, data: list[Tensor]) -> nn.Module:
    """Statistics as training would have left them, with scales and shifts of every kind."""
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = 0.5
    with torch.no_grad():
        for batch in data:
            model(batch)
    return model.eval()


def output_error(model: nn.Module, original: nn.Module, data: list[Tensor]) -> float:
    with torch.no_grad():
        pairs = [(model(x), original(x)) for x in data]
    error = sum(float((found - wanted).square().sum()) for found, wanted in pairs)
    return error / sum(float((wanted - wanted.mean()).square().sum()) for _, wanted in pairs)


class Block(nn.Module):
    """A residual block with normalisation before the sum, a shortcut and a rectifier after it."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.c1, self.b1 = (
            nn.Conv2d(channels, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.c2, self.b2 = (
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.short = nn.Conv2d(channels, filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x))))) + self.short(x), inplace=True)


class Shared(nn.Module):
    """One convolution run on two levels and twice on the second, without normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        small = self.conv(F.relu(self.conv(F.avg_pool2d(x, 2))))
        return self.head(torch.cat([F.interpolate(small, scale_factor=2.0), self.conv(x)], 3))  # type: ignore[no-any-return]


def sequence(rank: int, **options: Any) -> nn.Module:
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
    make: Any = CONVS[rank]
    return nn.Sequential(
        make(8, 12, 3, padding=1, **options),
        norm(12),
        nn.ReLU(inplace=True),
        make(12, 12, 3, bias=False),
        norm(12),
    )


class SharedNorm(nn.Module):
    """Two convolutions without bias behind one normalisation: neither may move its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.a(x))) + F.silu(self.norm(self.b(x)))


class Upsampling(nn.Module):
    """A transposed convolution is fitted too."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 12, 3, 2, 1), nn.ConvTranspose2d(12, 8, 2, 2)
        self.out = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.up(F.relu6(self.down(x)))))  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: nn.Sequential(Block(8, 12), nn.Dropout(), Block(12, 12)), (4, 8, 8, 8)),
    "shared, several calls": (Shared, (4, 8, 12, 12)),
    "shared normalisation": (SharedNorm, (4, 8, 9, 9)),
    "transposed": (Upsampling, (4, 8, 8, 8)),
    "1-d": (lambda: sequence(1), (8, 8, 24)),
    "3-d": (lambda: sequence(3), (2, 8, 6, 6, 6)),
    "grouped": (lambda: sequence(2, groups=2), (4, 8, 8, 8)),
    "strided, dilated": (lambda: sequence(2, stride=2, dilation=2), (4, 8, 16, 16)),
    "reflect": (lambda: sequence(2, padding_mode="reflect"), (4, 8, 8, 8)),
    "one convolution": (lambda: nn.Conv2d(8, 12, 3), (4, 8, 8, 8)),
}


@pytest.mark.parametrize("order", ["auto", *Order])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_fit_is_nearer_than_the_nearest_kernels(name: str, order: str) -> None:
    make, shape = NETWORKS[name]
    data, unseen = batches(*shape), batches(*shape, count=9)[6:]
    model = trained_like(make(), data)
    nearest = rewrite(model, shape, order=order).model
    fitted = rewrite(model, order=order, init="fit", calibration=data, refine=0)
    assert any(isinstance(module, SeparableConvNd) for module in fitted.model.modules())
    assert output_error(fitted.model, model, unseen) < 0.9 * output_error(nearest, model, unseen)
    assert fitted.calibration_errors.keys() == fitted.held_out_errors.keys() == fitted.errors.keys()


def test_refining_all_layers_together_gains_more() -> None:
    make, shape = NETWORKS["residual"]
    data, unseen = batches(*shape, count=16), batches(*shape, count=20)[16:]
    model = trained_like(make(), data)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    errors = [
        output_error(found.model, model, unseen)
        for found in (
            rewrite(model, init="fit", calibration=data, refine=passes) for passes in (0, 8)
        )
    ]
    assert errors[1] < 0.9 * errors[0]


def test_passes_beyond_those_over_the_batches_as_they_are_gain_more() -> None:
    make, shape = NETWORKS["residual"]
    data, unseen = batches(*shape, count=16), batches(*shape, count=40)[16:]
    model = trained_like(make(), data)
    state, modes = (
        copy.deepcopy(model.state_dict()),
        [module.training for module in model.modules()],
    )
    first, longer = (
        rewrite(model, init="fit", calibration=data, refine=passes).model for passes in (20, 60)
    )
    assert output_error(longer, model, unseen) < 0.97 * output_error(first, model, unseen)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    rewrite(model, init="fit", calibration=data, refine=60, inplace=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, longer.state_dict()[name]), name


class Scaled(nn.Module):
    """Takes a number beside the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.body = sequence(2)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.body(x) * scale  # type: ignore[no-any-return]


def test_passes_over_batches_that_cannot_be_mixed_see_them_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = [(x, torch.tensor(2.0)) for x in batches(4, 8, 8, 8)]
    model = Scaled().eval()
    monkeypatch.setattr("pytest_dwsconv.fit.training.recovery.FEW_SAMPLES", 0)
    found = rewrite(model, init="fit", calibration=data, refine=24).model.state_dict()
    monkeypatch.setattr("pytest_dwsconv.fit.training.recovery.PLAIN_PASSES", 24)
    wanted = rewrite(model, init="fit", calibration=data, refine=24).model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


class Scores(nn.Module):
    """Gives one number a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body = sequence(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((1, 2, 3))  # type: ignore[no-any-return]


class Fixed(Scores):
    """Takes batches of four alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.arange(1.0, 5.0)


class Wary(Scores):
    """Gives NaN where neighbours are far apart, as at the edge of a box they are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (3 - x.diff().abs().amax((1, 2, 3))).sqrt()


class Closing(Scores):
    """Runs its body by a function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Callable[[Tensor], Tensor] = lambda x: self.body(x).mean((1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Borrowing(Scores):
    """Runs the body of whichever was made last, which a copy was not."""

    bodies: ClassVar[list[nn.Module]] = []

    def __init__(self) -> None:
        super().__init__()
        self.bodies.append(self.body)

    def forward(self, x: Tensor) -> Tensor:
        return self.bodies[-1](x).mean((1, 2, 3))  # type: ignore[no-any-return]


LONGER: dict[str, tuple[Callable[[], nn.Module], list[Tensor], bool]] = {
    "one number a sample": (Scores, batches(4, 8, 8, 8), True),
    "batches of one size": (Fixed, batches(4, 8, 8, 8), True),
    "no batches": (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)),
        batches(8, 9, 9),
        True,
    ),
    "real samples alone": (
        Wary,
        [x / 9 + torch.randn(4, 1, 1, 1) * 9 for x in batches(4, 8, 8, 8)],
        False,
    ),
    "a function of its own": (Closing, batches(4, 8, 8, 8), True),
    "a copy that runs the original's parts": (Borrowing, batches(4, 8, 8, 8), False),
}


@pytest.mark.parametrize("name", LONGER)
def test_longer_refinements_of_unusual_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, data, mixed = LONGER[name]
    torch.manual_seed(0)
    model = make().eval()
    seen = []
    monkeypatch.setattr("pytest_dwsconv.fit.training.recovery.FEW_SAMPLES", 0)
    monkeypatch.setattr(
        "pytest_dwsconv.fit.training.recovery._improve", lambda *args: seen.append(args[3:])
    )
    rewrite(model, init="fit", calibration=data, refine=22, inplace=True)
    assert [(passes, what) for passes, _, what, *_ in seen] == (
        [(20, "refining"), (2, "refining on mixtures")] if mixed else [(22, "refining")]
    )


@pytest.mark.parametrize("name", [name for name, (_, _, mixed) in LONGER.items() if mixed])
def test_longer_refinements_run_on_batches_of_the_sizes_given(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, data, _ = LONGER[name]
    shapes = []

    def noted(x: Tensor, *others: Tensor) -> Tensor:
        shapes.append(x.shape)
        return _pasted(x, *others)

    monkeypatch.setattr("pytest_dwsconv.fit.training.samples._pasted", noted)
    result = rewrite(make().eval(), init="fit", calibration=data, refine=22)
    # to try it once, and in two passes, for each batch not held out
    assert shapes == 3 * 5 * [data[0].shape]
    assert all(bool(torch.isfinite(value).all()) for value in result.model.state_dict().values())


@pytest.mark.parametrize("inplace", [True, False])
def test_a_network_that_fails_on_mixed_samples_at_last_is_left_as_found(
    inplace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, data, _ = LONGER["real samples alone"]
    model = make().eval()
    modules, state = dict(model.named_modules()), copy.deepcopy(model.state_dict())
    monkeypatch.setattr("pytest_dwsconv.fit.training.samples.Mixtures.usable", lambda self: True)
    with pytest.raises(
        InputError,
        match=r"gives NaN or infinity for mixed samples; pass refine=20 or less, which mixes",
    ):
        rewrite(model, init="fit", calibration=data, refine=22, inplace=inplace)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_that_require_gradients_get_none() -> None:
    leaf = batches(4, 8, 8, 8)[0].requires_grad_()
    rewrite(Scores().eval(), init="fit", calibration=[leaf, leaf * 2, leaf.detach() * 3], refine=1)
    assert leaf.grad is None


class Uncopyable(nn.Conv2d):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise RuntimeError("no")


def test_a_model_that_cannot_be_copied_is_refined_in_place_on_the_batches_as_they_are() -> None:
    model = nn.Sequential(Uncopyable(8, 12, 3), nn.Conv2d(12, 8, 3))
    data = batches(4, 8, 8, 8)
    before = list(model)
    with pytest.raises(
        InputError,
        match=r"Sequential cannot be copied \(RuntimeError: no\); pass refine=20 or less",
    ):
        rewrite(model, init="fit", calibration=data, refine=21, inplace=True, ignore=["0"])
    assert list(model) == before
    rewrite(model, init="fit", calibration=data, refine=20, inplace=True, ignore=["0"])
    assert isinstance(model[1], SeparableConv2d)


def test_full_multiplier_stays_exact() -> None:
    make, shape = NETWORKS["residual"]
    data = batches(*shape)
    model = trained_like(make(), data)
    result = rewrite(model, init="fit", calibration=data, depth_multiplier=99, refine=0)
    assert output_error(result.model, model, data) < 1e-6
    assert max(result.calibration_errors.values()) < 1e-3


def test_the_errors_told_are_the_errors_made() -> None:
    data = batches(4, 8, 8, 8)
    conv = nn.Conv2d(8, 12, 3)
    result = rewrite(conv, init="fit", calibration=data, refine=0)
    for told, part in ((result.calibration_errors, data[:5]), (result.held_out_errors, data[5:])):
        with torch.no_grad():
            error = torch.cat([result.model(x) - conv(x) for x in part])
            target = [conv(x) - conv(x).mean((0, 2, 3), keepdim=True) for x in part]
        made = float(error.norm() / torch.cat(target).norm())
        assert told[""] == pytest.approx(made, rel=1e-4)
    assert "relative output error, held-out data: median" in str(result)


def test_the_least_squares_optimum_of_one_layer_is_reached() -> None:
    """Inputs that do not vary from place to place see the sum of the taps: one product will do."""
    conv = nn.Conv2d(6, 8, 3, bias=False)
    data = [torch.randn(4, 6, 1, 1).expand(4, 6, 7, 7) for _ in range(8)]
    result = rewrite(conv, init="fit", calibration=data, order="depthwise_first", refine=0)
    assert result.errors[""] > 0.5
    assert result.held_out_errors[""] < 0.02


@pytest.mark.parametrize("inplace", [False, True])
def test_only_what_was_replaced_changes(inplace: bool) -> None:
    make, shape = NETWORKS["residual"]
    data = batches(*shape)
    model = trained_like(make(), data)
    before, keys = copy.deepcopy(model.state_dict()), set(model.state_dict())
    random = torch.get_rng_state()
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    result = rewrite(
        model, init="fit", calibration=data, inplace=inplace, refine=1, ignore=["0.c1"]
    )
    assert torch.equal(torch.get_rng_state(), random)
    after = result.model.state_dict()
    kept = [key for key in keys & after.keys() if not {"b1", "b2"} & set(key.split("."))]
    assert {"0.c1.weight", "0.short.weight"} <= set(kept)
    assert all(torch.equal(after[key], before[key]) for key in kept)
    assert all(
        flags.get(name, True) == parameter.requires_grad
        for name, parameter in result.model.named_parameters()
    )
    assert all(parameter.grad is None for parameter in result.model.parameters())
    if not inplace:
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self, classes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.classes = classes
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.body(x).mean((2, 3))
        return out.argmax(1) if self.classes else out


@pytest.mark.parametrize("inplace", [False, True])
def test_buffers_that_a_forward_writes_are_as_found(inplace: bool) -> None:
    model = Counting().eval()
    result = rewrite(model, init="fit", calibration=batches(4, 8, 8, 8), inplace=inplace, refine=1)
    assert type(result.model.body[0]) is SeparableConv2d  # type: ignore[index]
    assert model.calls == result.model.calls == 0


def test_a_network_without_scores_is_refused() -> None:
    with pytest.raises(InputError, match="Counting gives no output of floating point"):
        rewrite(Counting(classes=True).eval(), init="fit", calibration=batches(4, 8, 8, 8))


def test_batches_without_samples_are_refused() -> None:
    with pytest.raises(InputError, match="calibration batch 1 holds no sample"):
        rewrite(
            Counting().eval(),
            init="fit",
            calibration=[*batches(4, 8, 8, 8)[:1], torch.zeros(0, 8, 8, 8)],
        )


def test_batches_made_in_inference_mode_serve_as_well() -> None:
    with torch.inference_mode():
        data = [x * 1 for x in batches(4, 8, 8, 8)]
    result = rewrite(Counting().eval(), init="fit", calibration=data, refine=1)
    assert result.held_out_errors["body.0"] < 1


def test_a_single_batch_is_said_to_leave_nothing_to_judge_by() -> None:
    result = rewrite(Counting().eval(), init="fit", calibration=batches(4, 8, 8, 8)[:1])
    assert "nothing was held out to judge by, so nothing was refined" in str(result)


def test_a_refinement_that_gains_nothing_on_held_out_data_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, shape = NETWORKS["residual"]
    data = batches(*shape)
    model = trained_like(make(), data)
    monkeypatch.setattr("pytest_dwsconv.fit.training.recovery.LEARNING_RATE", 1e3)
    monkeypatch.setattr("pytest_dwsconv.fit.training.recovery.PACE", 1e9)
    left_out, undone = (
        rewrite(model, init="fit", calibration=data, refine=passes).model for passes in (0, 2)
    )
    for name, value in undone.state_dict().items():
        assert torch.equal(value, left_out.state_dict()[name]), name


class Flattening(nn.Module):
    """Takes a view that only one layout in memory has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(len(x), -1)  # type: ignore[no-any-return]


class Strided(Flattening):
    """Reads its input as it lies in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.as_strided(x, x.shape, (512, 64, 8, 1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "last"), [(lambda: sequence(2), True), (Flattening, False), (Strided, False)]
)
def test_channels_lie_last_where_the_model_takes_them_so(
    make: Callable[[], nn.Module], last: bool
) -> None:
    x = torch.randn(4, 8, 8, 8)
    [found, number] = fast_layout(make().eval(), x)([x, 3])
    assert torch.equal(found, x)
    assert number == 3
    assert found.is_contiguous(memory_format=torch.channels_last) is last


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize(
    "where",
    [
        "fit.layers.choice.fit",
        "rewriting.outcome.refine",
        "rewriting.outcome.FitQuality",
        "fit.training.recovery._measure",
        "fit.training.recovery._descend",
        "fit.training.samples._pasted",
    ],
)
def test_an_interrupted_fit_leaves_the_model_as_found(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    make, shape = NETWORKS["residual"]
    data = batches(*shape)
    model = trained_like(make(), data).train()
    before, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    calls = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        raise Stop

    monkeypatch.setattr(f"pytest_dwsconv.{where}", interrupted)
    with pytest.raises(Stop):
        rewrite(model, init="fit", calibration=data, refine=21, inplace=True)
    assert calls
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(
        parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
    )


def random_state() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())


class Drawing(nn.Module):
    """Draws random numbers of every kind, and makes nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 12, 3), nn.Conv2d(12, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1), random.random(), np.random.rand()
        return self.b(self.a(x).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{"refine": 22}, {"refine": 2, "budget": 2000}], ids=str)
def test_the_random_state_is_the_callers_after_a_fit(options: dict[str, Any]) -> None:
    data, model = batches(4, 8, 8, 8), Drawing()
    before = random_state()
    result = rewrite(model, init="fit", calibration=data, **options)
    assert random_state() == before
    distill(result.model, model, data, steps=2, held_out=data[:1])
    assert random_state() == before


# -- data that is hard


def single(data: list[Any], **options: Any) -> RewriteResult:
    return rewrite(nn.Conv2d(8, 12, 3), init="fit", calibration=data, **options)


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize(
    "kind", ["zeros", "constant", "one sample", "dead channel", "huge", "tiny"]
)
def test_poor_data_gives_finite_weights(kind: str, order: Order) -> None:
    data = batches(4, 8, 8, 8)
    if kind in ("zeros", "constant"):
        data = [torch.full((4, 8, 8, 8), float(kind == "constant"))] * 3
    elif kind == "one sample":
        data = [torch.randn(1, 8, 3, 3)]
    elif kind == "dead channel":
        data = [x * (torch.arange(8) != 3).view(1, 8, 1, 1) for x in data]
    else:
        data = [x * (1e6 if kind == "huge" else 1e-6) for x in data]
    model = single(data, order=order).model
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_a_channel_that_normalisation_switches_off() -> None:
    make, shape = NETWORKS["residual"]
    data = batches(*shape)
    model = trained_like(make(), data)
    block = model.get_submodule("0")
    assert isinstance(block, Block)
    with torch.no_grad():
        block.b1.weight[3] = 0
    result = rewrite(model, init="fit", calibration=data, refine=0)
    assert output_error(result.model, model, data) < 0.5
    assert all(bool(torch.isfinite(value).all()) for value in result.model.state_dict().values())


def test_batches_of_several_sizes_and_kinds() -> None:
    data = batches(4, 8, 8, 8, count=3)
    short: list[Any] = [*data, data[0][:2]]
    assert single([(x,) for x in short]).calibration_errors
    assert single([{"input": x} for x in short]).calibration_errors  # the name in nn.Conv2d.forward
    assert single([data[0]]).held_out_errors == {}


def test_a_half_precision_network() -> None:
    data = [x.bfloat16() for x in batches(4, 8, 8, 8)]
    model = nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3)).bfloat16()
    result = rewrite(model, init="fit", calibration=data)
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.bfloat16}
    assert max(result.held_out_errors.values()) < 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "fit"}, "init='fit' needs calibration=batches"),
        ({"budget": "1k"}, "a budget needs calibration=batches"),
        ({"init": "svd", "calibration": [1]}, "init='svd' makes no use of calibration"),
        (
            {"init": "fit", "calibration": torch.ones(4, 8, 8, 8)},
            r"pass calibration=images.split\(128\)",
        ),
        (
            {"init": "fit", "calibration": [], "input_size": (1, 8, 8, 8)},
            "calibration has no batches",
        ),
        (
            {"init": "fit", "calibration": [torch.full((2, 8, 8, 8), float("nan"))]},
            "calibration batch 0 holds NaN",
        ),
    ],
)
def test_what_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rewrite(nn.Conv2d(8, 12, 3), **options)


@pytest.mark.parametrize("options", [{"init": "fit"}, {"budget": "1k"}])
def test_a_kernel_without_finite_values_is_named_with_the_next_step(
    options: dict[str, Any],
) -> None:
    last = nn.Conv2d(12, 12, 3)
    nn.init.constant_(last.weight, float("nan"))
    model = nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(), last)
    step = "2: the kernel holds NaN or infinite values .*: load finite weights; leave it out with"
    with pytest.raises(InputError, match=step):
        rewrite(model, calibration=batches(4, 8, 8, 8), **options)


@pytest.mark.parametrize("refine", [-1, 2.0, True, "40", None])
def test_passes_that_are_no_number_of_them_are_refused_before_any_work(refine: Any) -> None:
    data = iter(batches(4, 8, 8, 8))
    with pytest.raises(InputError) as caught:
        rewrite(nn.Conv2d(8, 12, 3), init="fit", calibration=data, refine=refine)
    assert (
        str(caught.value)
        == f"refine must be a whole number of passes from 0, which leaves them out, not {refine!r}"
    )
    assert len(list(data)) == 6


class Root(nn.Module):
    """Gives its second convolution NaN for negative inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.log(self.a(x)))  # type: ignore[no-any-return]


def test_nan_inside_the_network_names_the_layer() -> None:
    with pytest.raises(
        InputError, match=r"^b gets NaN or infinite inputs from the calibration batches"
    ):
        rewrite(Root(), init="fit", calibration=batches(4, 8, 8, 8))


class Writing(nn.Module):
    """Writes into a part of what it hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        out[:, :4] = 100.0
        return out  # type: ignore[no-any-return]


def test_a_forward_that_writes_into_a_part_is_run_again() -> None:
    model, data = Writing(), batches(8, 8, 8, 8)
    x = torch.cat(data)
    fitted = rewrite(model, init="fit", calibration=data).model(x)
    closest = rewrite(model, init="svd").model(x)
    assert (fitted[:, :4] == 100).all()
    assert (fitted - model(x)).square().sum() < (closest - model(x)).square().sum()


class Valued(Writing):
    """Uses a number that it has read, which a recorded graph holds as it was."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return out * out.mean().item()  # type: ignore[no-any-return]


def test_a_forward_that_its_record_does_not_reproduce_is_refused() -> None:
    with pytest.raises(InputError, match="Valued cannot be run again from its recorded forward"):
        rewrite(Valued(), init="fit", calibration=batches(4, 8, 8, 8))


@pytest.mark.parametrize(
    ("count", "held"), [(1, []), (2, [1]), (7, [6]), (8, [7]), (16, [7, 15]), (20, [7, 15])]
)
def test_every_eighth_batch_is_held_out(count: int, held: list[int]) -> None:
    preparation = Preparation(nn.Identity(), [torch.ones(1)] * count)
    assert preparation.held_out == held
    assert preparation.fitting == [i for i in range(count) if i not in held]


def normalised(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.25


def normalised_in_place(x: Tensor) -> Tensor:
    x -= 0.5
    return x.div_(0.25)


class Normalising(nn.Module):
    def __init__(self, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.normalise = normalise
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.normalise(x)).mean((2, 3))  # type: ignore[no-any-return]


def test_a_forward_may_write_into_its_input() -> None:
    data, kept = batches(4, 8, 8, 8), batches(4, 8, 8, 8)
    models = []
    for normalise in (normalised, normalised_in_place):
        original = Normalising(normalise)
        model = rewrite(original, init="fit", calibration=data, refine=22).model
        distill(model, original, data, steps=5, held_out=data[:1])
        models.append(model)
    assert all(torch.equal(*pair) for pair in zip(data, kept, strict=True))
    for name, value in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], value)
