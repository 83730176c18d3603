"""``analyze``: rows, verdicts and totals, on models with every way of reaching a convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pytest_dwsconv import Kind, Order, Policy, Report, Verdict, analyze
from pytest_dwsconv.core.conv import Trait
from pytest_dwsconv.core.findings import Finding, Origin
from pytest_dwsconv.errors import InputError, TracingError


def row(report: Report, name: str) -> Finding:
    (found,) = (finding for finding in report.findings if finding.name == name)
    return found


@pytest.mark.parametrize(
    ("kernel", "params", "macs", "output", "separable", "saving"),
    [
        (3, 900_000, 202_500_000, (1, 1000, 15, 15), 100_900, "8.92"),
        (7, 4_900_000, 592_900_000, (1, 1000, 11, 11), 104_900, "46.71"),
    ],
)
def test_the_worked_example(
    kernel: int, params: int, macs: int, output: tuple[int, ...], separable: int, saving: str
) -> None:
    report = analyze(nn.Sequential(nn.Conv2d(100, 1000, kernel, bias=False)), (1, 100, 17, 17))
    (finding,) = report.findings
    assert (finding.name, finding.kind, finding.verdict) == ("0", Kind.STANDARD, Verdict.CANDIDATE)
    assert (finding.params, finding.macs, finding.output_shape) == (params, macs, output)
    assert (finding.separable_params, f"{finding.saving:.2f}") == (separable, saving)
    assert finding.separable_macs == separable * output[-1] ** 2
    assert (report.params, report.separable_params, report.macs) == (params, separable, macs)


def mib(report: Report) -> list[str]:
    memory = report.memory
    assert memory is not None
    return [
        f"{size / 2**20:.2f}"
        for size in (memory.inputs, memory.activations, memory.params, memory.total)
    ]


def test_the_memory_summary_of_the_worked_example() -> None:
    standard = nn.Sequential(nn.Conv2d(100, 1000, 3, bias=False))
    separable = nn.Sequential(
        nn.Conv2d(100, 100, 3, groups=100, bias=False), nn.Conv2d(100, 1000, 1, bias=False)
    )
    assert mib(analyze(standard, (1, 100, 17, 17))) == ["0.11", "1.72", "3.43", "5.26"]
    assert mib(analyze(separable, (1, 100, 17, 17))) == ["0.11", "1.89", "0.38", "2.38"]
    alone = analyze(nn.Conv2d(100, 1000, 3, bias=False), (1, 100, 17, 17))
    assert mib(alone) == ["0.11", "1.72", "3.43", "5.26"]


class Shared(nn.Module):
    """One convolution under two parents, called at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(4, 4, 3, padding=1)
        self.encoder = nn.Sequential(conv, nn.MaxPool2d(2))
        self.decoder = nn.Sequential(conv)
        self.unused = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out


def test_shared_modules_and_several_calls() -> None:
    model = Shared()
    report = analyze(model, (1, 4, 8, 8))
    assert [finding.name for finding in report.findings] == ["encoder.0", "unused"]
    shared = row(report, "encoder.0")
    assert (shared.aliases, shared.calls, shared.params) == (("decoder.0",), 2, 4 * 4 * 9 + 4)
    assert shared.macs == 4 * 4 * 9 * (64 + 16)
    assert shared.separable_macs == (4 * 9 + 4 * 4) * (64 + 16)
    assert (shared.input_shape, shared.output_shape) == ((1, 4, 8, 8), (1, 4, 8, 8))
    assert report.params == sum(parameter.numel() for parameter in model.parameters())
    unused = row(report, "unused")
    assert (unused.origin, unused.calls, unused.macs, unused.output_shape) == (
        Origin.NOT_EXECUTED,
        0,
        0,
        None,
    )
    assert (unused.verdict, unused.separable_macs) == (Verdict.CANDIDATE, 0)


class Sub(nn.Conv2d):
    pass


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name nn.Conv2d gives it
        weight = F.batch_norm(self.weight[None].flatten(2), None, None, training=True).view_as(
            self.weight
        )
        return F.conv2d(
            input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(8, 2, 3, 3))
        self.bias = nn.Parameter(torch.rand(8))
        self.inner = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, weight=self.kernel, bias=self.bias, padding=1, groups=2)
        return F.conv2d(x, self.inner.weight) + self.inner.weight.sum()


def every_kind() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding="same", padding_mode="circular"),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, groups=2, stride=(1, 2), dilation=2, padding=(3, 2), bias=False),
        nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1),
        Sub(6, 6, 3),
        Standardized(6, 6, 3),
        parametrizations.weight_norm(nn.Conv2d(6, 4, 3)),
        nn.Conv2d(4, 1, 3),
        Functional4(),
    )


class Functional4(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(5, 1, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel)


EXPECTED = [
    ("0", Kind.STANDARD, "DWS001", (1, 8, 16, 16)),
    ("1", Kind.DEPTHWISE, "DWS105", (1, 8, 14, 14)),
    ("2", Kind.POINTWISE, "DWS104", (1, 8, 14, 14)),
    ("3", Kind.GROUPED, "DWS001", (1, 8, 16, 7)),
    ("4", Kind.TRANSPOSED, "DWS001", (1, 6, 34, 16)),
    ("5", Kind.STANDARD, "DWS106", (1, 6, 32, 14)),
    ("6", Kind.STANDARD, "DWS106", (1, 6, 30, 12)),
    ("7", Kind.STANDARD, "DWS108", (1, 4, 28, 10)),
    ("8", Kind.STANDARD, "DWS001", (1, 1, 26, 8)),
    ("9.kernel", Kind.STANDARD, "DWS107", (1, 5, 25, 7)),
]


def test_every_kind_of_convolution_has_its_row() -> None:
    model = every_kind()
    report = analyze(model, (1, 4, 16, 16))
    assert [(f.name, f.kind, f.code, f.output_shape) for f in report.findings] == EXPECTED
    assert report.origin is Origin.META
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda m, i, o, name=name: shapes.update({name: tuple(o.shape)})
        )
    model(torch.rand(1, 4, 16, 16))
    assert {f.name.split(".")[0]: f.output_shape for f in report.findings} == shapes


def test_rows_without_inputs() -> None:
    report = analyze(every_kind())
    assert [(f.name, f.kind, f.code) for f in report.findings] == [row[:3] for row in EXPECTED[:-1]]
    assert {f.origin for f in report.findings} == {Origin.ATTRIBUTES}
    assert (report.macs, report.memory, report.findings[0].macs) == (None, None, None)
    with_shapes = analyze(every_kind(), (1, 4, 16, 16))
    assert [f.separable_params for f in report.findings] == [
        f.separable_params for f in with_shapes.findings[:-1]
    ]


def test_a_weight_read_elsewhere_is_left_alone() -> None:
    report = analyze(Functional(), (1, 4, 8, 8))
    inner = row(report, "inner")
    assert (inner.code, inner.calls, inner.macs) == ("DWS110", 1, 8 * 8 * 9 * 36)
    assert inner.params == 8 * 8 * 9 + 8  # its bias too, which the call leaves out
    kernel = row(report, "kernel")
    assert (kernel.type_name, kernel.spec.groups, kernel.spec.padding) == ("conv2d", 2, (1, 1))
    assert kernel.params == 8 * 2 * 9 + 8


def test_tied_weights_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    report = analyze(model, (1, 4, 9, 9))
    assert [f.code for f in report.findings] == ["DWS109", "DWS109"]
    assert report.params == 4 * 4 * 9 + 8


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_rank(rank: int, transposed: bool) -> None:
    conv = getattr(nn, f"Conv{'Transpose' if transposed else ''}{rank}d")(
        4, 6, 3, stride=2, padding=1
    )
    shape = (2, 4, *(9, 8, 7)[:rank])
    report = analyze(nn.Sequential(conv), shape)
    (finding,) = report.findings
    assert finding.output_shape == tuple(conv(torch.rand(shape)).shape)
    assert finding.spec.transposed is transposed
    positions = torch.Size(shape if transposed else finding.output_shape or ())
    assert finding.macs == positions.numel() // positions[1] * conv.weight.numel()


def test_policy_reaches_the_rows() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), Sub(8, 8, 3, bias=False))
    policy = Policy(depth_multiplier=2, order=Order.POINTWISE_FIRST, subclasses=True, ignore=("0",))
    report = analyze(model, (1, 8, 8, 8), policy=policy)
    assert [(f.code, f.separable_params) for f in report.findings] == [
        ("DWS101", None),
        ("DWS001", 2 * (64 + 72)),
    ]
    assert (report.depth_multiplier, report.order) == (2, Order.POINTWISE_FIRST)
    assert report.separable_params == 2 * 576 - (576 - 272)


def test_what_is_not_counted_is_listed() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Upsample(scale_factor=2), nn.ReLU()
    )
    assert analyze(model, (1, 3, 8, 8)).not_counted == (
        ("ReLU", 2),
        ("BatchNorm2d", 1),
        ("interpolate", 1),
    )


def test_attention_is_counted_and_its_softmax_listed() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, bias=False)

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x)

    report = analyze(Wrapped(), (5, 1, 8))
    assert report.macs == 5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8
    assert any("softmax" in name for name, _ in report.not_counted)


def test_quantized_convolutions_are_named() -> None:
    from torch.ao.nn.quantized.dynamic import Linear  # noqa: F401  # the package exists
    from torch.ao.nn.quantized.reference import Conv2d

    report = analyze(
        nn.Sequential(
            Conv2d(
                3,
                8,
                3,
                weight_qparams={
                    "qscheme": torch.per_tensor_affine,
                    "dtype": torch.qint8,
                    "scale": 1.0,
                    "zero_point": 0,
                },
            )
        )
    )
    assert report.findings[0].code == "DWS102"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_take_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    report = analyze(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 2)).to(dtype), (1, 3, 8, 8)
    )
    assert report.origin is Origin.META
    assert report.memory is not None
    assert report.memory.inputs == 3 * 64 * dtype.itemsize


def test_example_inputs() -> None:
    model = Shared()
    shape = analyze(model, (1, 4, 8, 8))
    x = torch.rand(1, 4, 8, 8)
    for inputs in (x, (x,), [x], {"x": x}):
        assert analyze(model, example_inputs=inputs) == shape


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.conv(x).sum()
        return out + y


def test_several_shapes() -> None:
    report = analyze(Two(), ((1, 3, 8, 8), (1, 5)))
    assert report.input_shapes == ((1, 3, 8, 8), (1, 5))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_models(wrap: Any) -> None:
    model = Shared()
    report = analyze(wrap(model), (1, 4, 8, 8))
    assert report.params == analyze(model).params
    assert [f.calls for f in report.findings] == [2, 0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Shared, "takes a torch.nn.Module, not type"),
        (nn.Sequential(nn.LazyConv2d(8, 3)), "^0 is lazy"),
        (nn.LazyConv2d(8, 3), "^LazyConv2d is lazy"),
    ],
)
def test_what_is_not_a_finished_model_is_refused(model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analyze(model, (1, 4, 8, 8))


class Unmade(nn.Module):
    def __init__(self) -> None:
        """Forgets what it extends."""


@pytest.mark.parametrize("model", [Unmade(), nn.Sequential(nn.Conv2d(3, 4, 3), Unmade())])
def test_a_module_that_was_never_made_is_named_with_the_cure(model: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"Unmade has no parts yet: call super\(\).__init__\(\) in its __init__$"
    ):
        analyze(model, (1, 3, 8, 8))


@pytest.mark.parametrize("policy", [None, "x"])
def test_a_policy_of_another_type(policy: Any) -> None:
    with pytest.raises(
        InputError, match=r"policy is a Policy, such as Policy\(depth_multiplier=2\), not "
    ):
        analyze(Shared(), policy=policy)


def test_an_order_by_its_word_is_reckoned_with() -> None:
    for order in Order:
        by_word = analyze(
            nn.Conv2d(8, 32, 3), (1, 8, 9, 9), policy=Policy(order=cast(Order, order.value))
        )
        assert by_word == analyze(nn.Conv2d(8, 32, 3), (1, 8, 9, 9), policy=Policy(order=order))


class Alone(nn.Module):
    """Takes no input, as a generator from a learnt constant does."""

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.conv = nn.Parameter(torch.rand(1, 3, 8, 8)), nn.Conv2d(3, 4, 3)

    def forward(self) -> Any:
        return self.conv(self.seed)


def test_a_forward_without_inputs() -> None:
    report = analyze(Alone(), example_inputs=())
    assert (report.macs, report.input_shapes) == (4 * 3 * 9 * 36, ())
    assert report.peak_activations == 4 * 36 * 4
    assert analyze(Alone()).macs is None


class Returning(nn.Module):
    """Returns what a function makes of a tensor of 144 elements."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("function", "elements"),
    [
        (lambda y: y, 144),
        (lambda y: {"masks": y, "scores": [y.mean(), None, 3]}, 145),
        (lambda y: None, 0),
        (lambda y: SimpleNamespace(y=y), None),
    ],
)
def test_the_elements_of_what_a_forward_returns(
    function: Callable[[Tensor], object], elements: int | None
) -> None:
    report = analyze(Returning(function), (1, 3, 8, 8))
    assert report.output_elements == elements
    assert Report.from_json(report.to_json()) == report
    assert analyze(Returning(function)).output_elements is None


def test_script_modules_are_refused() -> None:
    with pytest.raises(InputError, match="a ScriptModule has no Python forward"):
        analyze(torch.jit.script(nn.ReLU()), (1, 4))
    with pytest.raises(InputError, match="0 is a ScriptModule and has no Python forward"):
        analyze(
            nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 16, 3)), (1, 3, 8, 8)
        )


def test_a_shape_the_model_rejects() -> None:
    with pytest.raises(
        TracingError, match=r"Shared rejected inputs of shape \(1, 3, 8, 8\): .* in encoder.0"
    ):
        analyze(Shared(), (1, 3, 8, 8))


def test_a_model_without_convolutions() -> None:
    report = analyze(nn.Linear(3, 4), (2, 3))
    assert (report.findings, report.params, report.macs, report.saving) == ((), 16, 24, 1.0)


def test_traits_are_those_of_the_module() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    model[0].forward = model[0].forward  # an instance's own forward may do anything
    assert analyze(model).findings[0].spec.traits == (Trait.SUBCLASS,)


@pytest.mark.parametrize("padding", [(0, 0), "valid"])
def test_shapes_are_those_of_the_padding_that_runs(padding: Any) -> None:
    """Modes other than zeros pad by an attribute beside ``padding``."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"))
    model[0].padding = padding
    report = analyze(model, (1, 4, 8, 8))
    assert (report.findings[0].output_shape, report.macs) == ((1, 8, 8, 8), 64 * 8 * 36)


def test_a_copy_has_the_same_report() -> None:
    model = every_kind()
    assert analyze(copy.deepcopy(model), (1, 4, 16, 16)) == analyze(model, (1, 4, 16, 16))


# -- models in wrappers, with other inputs and outputs


def pair() -> nn.Sequential:
    """Two convolutions of 100 positions: 230,400 and 921,600 MACs for one image."""
    return nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))


@dataclass
class Output:
    features: Tensor
    note: str = "plain"


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = pair()

    def forward(self, ids: Tensor, *, image: Tensor) -> Any:
        features = self.body(image)
        return {"one": Output(features), "more": [features, (features, None)], "ids": ids}


class Each(nn.Module):
    """Runs its body on each image alone, by a transform."""

    def __init__(self) -> None:
        super().__init__()
        self.body = pair()

    def forward(self, x: Tensor) -> Any:
        return torch.vmap(lambda image: self.body(image[None])[0])(x)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = pair()

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.body(x)


IMAGE = (1, 8, 10, 10)
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "data parallel": (lambda: nn.DataParallel(pair()), {"input_size": IMAGE}),
    "compiled": (lambda: cast(nn.Module, torch.compile(pair())), {"input_size": IMAGE}),
    "half": (lambda: pair().half(), {"input_size": IMAGE}),
    "bfloat16": (lambda: pair().bfloat16(), {"input_size": IMAGE}),
    "meta": (lambda: pair().to("meta"), {"input_size": IMAGE}),
    "mixed precision": (Mixed, {"input_size": IMAGE}),
    "keywords and nested outputs": (
        Nested,
        {"example_inputs": {"ids": torch.arange(3), "image": torch.rand(IMAGE)}},
    ),
    "vmap": (Each, {"input_size": IMAGE}),
    "batch by vmap": (Each, {"input_size": (4, *IMAGE[1:])}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_models(kind: str) -> None:
    build, inputs = KINDS[kind]
    report = analyze(build(), **inputs)
    images = 4 if kind == "batch by vmap" else 1
    assert report.macs == images * (230_400 + 921_600)
    assert [(found.params, found.verdict) for found in report.findings] == [
        (2_336, Verdict.CANDIDATE),
        (9_248, Verdict.CANDIDATE),
    ]


def test_a_distributed_model(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        report = analyze(nn.parallel.DistributedDataParallel(pair()), IMAGE)
    finally:
        torch.distributed.destroy_process_group()
    assert [found.name for found in report.findings] == ["module.0", "module.2"]
    assert report.macs == 230_400 + 921_600
