"""Code that reaches convolutions by their type: most of it does to a replacement what it should."""

from __future__ import annotations

import pytest

from pytest_dwsconv.source.edit import rewrite_text

NO, YES = "DWS110", "DWS001"


def codes(function: str) -> list[str]:
    """Of convolutions of one, two and three dimensions in a file with ``def init(m)``."""
    body = "\n".join(f"    {line}" for line in function.splitlines())
    text = (
        "from torch import nn\nnn.Conv1d(8, 64, 3), nn.Conv2d(8, 64, 3), nn.Conv3d(8, 64, 3)\n"
        f"def init(m, model, name=None):\n{body}\n"
    )
    return [site.judgement.code for site in rewrite_text(text).sites if site.place.is_call]


@pytest.mark.parametrize(
    "statement",
    [
        "m.bias.data.zero_()",
        "m.stride, m.dilation, m.padding = (1, 1), (2, 2), (2, 2)",
        "m.bias = None",
        "x = m.kernel_size[0] * m.out_channels // m.groups",
        "nn.init.zeros_(m.weight)",
        "nn.init.normal_(m.weight, std=0.01)",
        "nn.init.kaiming_normal_(m.weight.data, mode='fan_out')",
        "nn.init.xavier_uniform(m.weight)",
        "trunc_normal_(m.weight, std=.02)",
        "m.weight.data.normal_(0, .02).mul_(2)",
        "m.weight.data *= 0.1",
        "m.weight.data = m.weight.data * 0.1",
        "m.weight = nn.Parameter(m.weight * 0.1)",
        "m.weight.data = nn.init.orthogonal_(m.weight.data.clone())",
        "m.weight is not None and nn.init.ones_(m.weight)",
        "fans, _ = nn.init._calculate_fan_in_and_fan_out(m.weight)",
        "x = x.to(m.weight.device, m.weight.dtype)",
        "m.weight.requires_grad_(False)",
    ],
)
def test_what_suits_any_shape_of_a_weight_is_done_to_a_replacement_too(statement: str) -> None:
    assert codes(f"if isinstance(m, nn.Conv2d): {statement}") == [YES] * 3


@pytest.mark.parametrize(
    "statement",
    [
        "m.weight = nn.Parameter(torch.ones(8, 8, 3, 3))",
        "m.weight.data = kernel",
        "m.weight.data.copy_(kernel)",
        "m.weight.data[0, 0] = kernel",
        "nn.init.dirac_(m.weight)",
        "x = convolve(x, m.weight, m.bias)",
        "x = convolve(x, m.weight * 2)",
        "out, inp, height, width = m.weight.shape",
        "other.copy_(m.weight)",
        "m.forward = f",
        "m._conv_forward = f",
        "m.in_channels = 3",
        "del m.kernel_size",
    ],
)
def test_what_takes_the_weight_for_a_kernel_leaves_all_of_that_type_alone(statement: str) -> None:
    assert codes(f"if isinstance(m, nn.Conv2d): {statement}") == [YES, NO, YES]


KERNEL = "m.weight.data = kernel"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (KERNEL, [YES, YES, YES]),
        (f"if isinstance(m, (nn.Conv1d, nn.Conv2d)): {KERNEL}", [NO, NO, YES]),
        (f"if isinstance(m, nn.Linear): {KERNEL}", [YES, YES, YES]),
        (f"if not isinstance(m, nn.Conv2d): return\n{KERNEL}", [YES, NO, YES]),
        (f"if type(m) is nn.Conv2d: {KERNEL}", [YES, NO, YES]),
        (f"if isinstance(name, nn.Conv2d): {KERNEL}", [YES, YES, YES]),
        (f"match m:\n    case nn.Conv3d(): {KERNEL}", [YES, YES, NO]),
        (f"if m.__class__.__name__.find('Conv') != -1: {KERNEL}", [NO, NO, NO]),
        (f"name = type(m).__name__\nif name == 'Conv2d': {KERNEL}", [YES, NO, YES]),
        (f"name = type(m).__name__\nif 'Linear' in name: {KERNEL}", [YES, YES, YES]),
        (f"for m in model.modules(): {KERNEL}", [NO, NO, NO]),
        (f"for n, m in model.named_modules():\n    if hasattr(m, 'weight'): {KERNEL}", [NO] * 3),
        (f"for m in model.modules():\n    if isinstance(m, nn.Linear): {KERNEL}", [YES] * 3),
        ("x = [m.weight.shape for m in model.modules()]", [NO, NO, NO]),
    ],
)
def test_of_which_type_they_are_is_what_the_function_asks(
    function: str, expected: list[str]
) -> None:
    assert codes(function) == expected
