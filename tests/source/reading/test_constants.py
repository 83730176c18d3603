"""What a file says of the arguments of its convolutions, however it says it."""

from __future__ import annotations

import pytest

from pytest_dwsconv.source.edit import rewrite_text

YES, POINTWISE, DEPTHWISE = "DWS001", "DWS104", "DWS105"
UNPACKED, KERNEL, GROUPS, OPEN = "DWS202", "DWS203", "DWS204", "DWS205"


def code(text: str, guards: bool = False) -> str:
    (site,) = rewrite_text(f"from torch import nn\n{text}\n", guards=guards).sites
    return site.judgement.code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dd = {'device': x, 'dtype': y}\nnn.Conv2d(c, m, 3, **dd)", YES),
        ("dd = dict(device=x)\nnn.Conv2d(c, m, 1, **dd)", POINTWISE),
        ("def f(device):\n    dd = {'device': device}\n    return nn.Conv2d(c, m, 3, **dd)", YES),
        ("a = {'bias': False}\nb = {**a, 'padding': 1}\nnn.Conv2d(c, m, 3, **b)", YES),
        ("a = {'bias': False}\nb = dict(a, padding=1)\nnn.Conv2d(c, m, 3, **b)", YES),
        ("a = {'bias': False}\nb = dict(**a, groups=8)\nnn.Conv2d(8, m, 3, **b)", DEPTHWISE),
        ("nn.Conv2d(c, m, **{'kernel_size': 3})", YES),
        ("dd = {'groups': 64}\nnn.Conv2d(64, m, 3, **dd)", DEPTHWISE),
        ("dd = {key: 1}\nnn.Conv2d(c, m, 3, **dd)", UNPACKED),
        ("dd = {'device': x}\ndd['groups'] = 64\nnn.Conv2d(64, m, 3, **dd)", UNPACKED),
        ("dd = {'device': x}\ndd.update(y)\nnn.Conv2d(64, m, 3, **dd)", UNPACKED),
        ("dd = {'device': x}\ndd |= y\nnn.Conv2d(64, m, 3, **dd)", UNPACKED),
        ("dd = {'device': x}\nif y: dd = z\nnn.Conv2d(64, m, 3, **dd)", UNPACKED),
        ("def f(**dd):\n    return nn.Conv2d(c, m, 3, **dd)", UNPACKED),
        ("ARGS = (64, 64, 3)\nnn.Conv2d(*ARGS)", YES),
        ("ARGS = [64, 64]\nnn.Conv2d(*ARGS, 1)", POINTWISE),
        ("ARGS = [64, 64]\nARGS.append(1)\nnn.Conv2d(*ARGS)", UNPACKED),
        ("ARGS = (*x, 3)\nnn.Conv2d(*ARGS)", UNPACKED),
        ("nn.Conv2d(*(64, 64), 3)", YES),
        ("nn.Conv2d(*x, kernel_size=3, groups=1)", YES),
    ],
)
def test_what_is_unpacked_is_read_where_it_is_written(text: str, expected: str) -> None:
    assert code(text) == expected


CLASS = "class Net(nn.Module):\n    K = 3\n    def __init__(self):\n        "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{CLASS}self.k = 3; nn.Conv2d(c, m, self.k)", YES),
        (f"{CLASS}self.k: int = 1; nn.Conv2d(c, m, self.k)", POINTWISE),
        (f"{CLASS}nn.Conv2d(c, m, self.K)", YES),
        (f"{CLASS}nn.Conv2d(c, m, Net.K)", YES),
        (f"{CLASS}nn.Conv2d(c, m, other.K)", KERNEL),
        (f"{CLASS}nn.Conv2d(c, m, self.K)\nclass Sub(Net):\n    K = 1", KERNEL),
        (f"{CLASS}nn.Conv2d(c, m, self.K)\nNet.K = 1", KERNEL),
        (f"{CLASS}self.k = 3; self.k = x; nn.Conv2d(c, m, self.k)", KERNEL),
        (f"{CLASS}self.k = 3; self.k += x; nn.Conv2d(c, m, self.k)", KERNEL),
        (f"{CLASS}self.k, self.s = x; nn.Conv2d(c, m, self.k)", KERNEL),
        (f"{CLASS}self.k = 3; setattr(self, x, y); nn.Conv2d(c, m, self.k)", KERNEL),
        (f"{CLASS}self.k = 3\nclass Other(nn.Module):\n    def f(self): nn.Conv2d(c, m, self.k)",
         KERNEL),
        ("def f():\n    k = 3\ndef g(k):\n    return nn.Conv2d(c, m, k)", KERNEL),
    ],
)  # fmt: skip
def test_attributes_that_are_assigned_once_are_constants(text: str, expected: str) -> None:
    assert code(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nn.Conv2d(c, m, 3 if x else 5)", YES),
        ("nn.Conv2d(c, m, 3 if x else 1)", OPEN),
        ("nn.Conv2d(c, m, 1 if x else 1)", POINTWISE),
        ("nn.Conv2d(c, m, 3 if x else k)", KERNEL),
        ("k = 3 if x else 5\nnn.Conv2d(c, m, k)", YES),
        ("for k in (3, 5, 7): nn.Conv2d(c, m, k)", YES),
        ("for k in (1, 3): nn.Conv2d(c, m, k)", OPEN),
        ("x = [nn.Conv2d(c, m, k) for k in [3, (5, 5)]]", YES),
        ("KS = (3, 5)\nx = [nn.Conv2d(c, m, k) for k in KS]", YES),
        ("KS = [3]\nKS.append(x)\ny = [nn.Conv2d(c, m, k) for k in KS]", KERNEL),
        ("for k in range(3): nn.Conv2d(c, m, k)", KERNEL),
        ("for k in (3, x): nn.Conv2d(c, m, k)", KERNEL),
        ("for k in (3, 5):\n    k = x\n    nn.Conv2d(c, m, k)", KERNEL),
        ("for g in (1, 64): nn.Conv2d(64, m, 3, groups=g)", OPEN),
        ("for k in (3, 5): nn.Conv2d(64, m, k, groups=1 if x else 2)", YES),
    ],
)
def test_of_several_values_every_one_counts(text: str, expected: str) -> None:
    assert code(text) == expected


HELPER = "def conv(i, o, k=1, s=1, g=1):\n    return "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HELPER}nn.Conv2d(i, o, k, s, groups=g)", YES),
        (f"{HELPER}nn.Conv2d(i, o, 3, groups=g)", YES),
        (f"{HELPER}nn.Conv2d(i, o, 3 if g else k)", YES),
        ("def conv(*a, **b):\n    return nn.Conv2d(*a, **b)", YES),
        (f"{HELPER}nn.Conv2d(3, o, k)", KERNEL),
        (f"{HELPER}nn.Conv2d(i, 1, k)", KERNEL),
        (f"{HELPER}nn.Conv2d(i, o, 1, groups=g)", POINTWISE),
        (f"{HELPER}nn.Conv2d(i, o, k, groups=i)", DEPTHWISE),
        (f"{HELPER}nn.ConvTranspose2d(i, o, k)", "DWS103"),
        (f"{HELPER}norm(nn.Conv2d(i, o, k))", OPEN),
        (f"{HELPER}nn.Conv2d(i, o, k)  # dws: skip", "DWS101"),
        ("for k in (1, 3): nn.Conv2d(c, m, k)", OPEN),
    ],
)
def test_what_the_arguments_leave_open_is_guarded_where_that_may_help(
    text: str, expected: str
) -> None:
    assert code(text, guards=True) == expected
    if expected == YES:
        (site,) = rewrite_text(f"from torch import nn\n{text}\n").sites
        assert site.guarded


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("nn.Conv2d(c, 64, 3)", True),
        ("nn.Conv2d(64, c, 3)", True),
        ("def f(c=16): nn.Conv2d(c, 64, 3)", True),
        ("c = 16\nnn.Conv2d(c, 4 * c, 3)", False),
        (
            "class A:\n    def f(self):\n        self.c = 16\n        nn.Conv2d(self.c, 64, 3)",
            False,
        ),
    ],
)
def test_variable_channels_are_guarded_too(text: str, guarded: bool) -> None:
    (site,) = rewrite_text(f"from torch import nn\n{text}\n").sites
    assert (site.is_candidate, site.guarded) == (True, guarded)
    (site,) = rewrite_text(f"from torch import nn\n{text}\n", guards=False).sites
    assert (site.is_candidate, site.guarded) == (True, False)


PARTIAL = "from functools import partial\nconv = partial(nn.Conv2d, kernel_size=3, padding=1)\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{PARTIAL}conv(8, 64)", YES),
        (f"{PARTIAL}conv(8, 64)\nconv(64, 64, bias=False)", YES),
        (f"{PARTIAL}conv(8, 64, kernel_size=1)", POINTWISE),
        (f"{PARTIAL}conv(8, 64)\nconv(64, 64, kernel_size=1)", OPEN),
        (f"{PARTIAL}conv(64, 64, groups=64)", DEPTHWISE),
        (f"{PARTIAL}conv(3, 64)", "DWS115"),
        (f"{PARTIAL}x = conv(8, 64)\nx.weight.data.zero_()", "DWS110"),
        (f"{PARTIAL}conv(8, 64)\nmake(conv)", "DWS201"),
        (f"{PARTIAL}conv = conv if x else y\nconv(8, 64)", "DWS201"),
        (f"{PARTIAL}", "DWS201"),
        ("from functools import partial\nconv = partial(nn.Conv2d, 8)\nconv(64, 3)", YES),
        ("from functools import partial\npartial(nn.Conv2d, 8, 64, 3)()", "DWS201"),
        ("from functools import partial\nconv = partial(make, nn.Conv2d)\nconv(64, 3)", "DWS201"),
        ("from mine import partial\nconv = partial(nn.Conv2d, 8)\nconv(64, 3)", "DWS201"),
    ],
)
def test_a_partial_is_read_with_its_calls(text: str, expected: str) -> None:
    assert code(text) == code(text, guards=True) == expected


def test_the_class_in_a_partial_is_replaced() -> None:
    result = rewrite_text(f"from torch import nn\n{PARTIAL}x = conv(8, 64)\n").text
    assert result.endswith(
        "\nconv = partial(DepthwiseSeparableConv2d, kernel_size=3, padding=1)\nx = conv(8, 64)\n"
    )
    assert rewrite_text(result).text == result


@pytest.mark.parametrize("call", ["conv(c, 64)", "conv(64, c)", "conv(64, 64, groups=c)"])
def test_the_calls_of_a_partial_are_decided_when_they_run(call: str) -> None:
    text = f"from torch import nn\n{PARTIAL}x = conv(8, 64)\ndef f(c): return {call}\n"
    result = rewrite_text(text).text
    assert result.endswith(
        "\nconv = partial(nn.Conv2d, kernel_size=3, padding=1)\n"
        "x = DepthwiseSeparableConv2d.where_it_saves(conv(8, 64))\n"
        f"def f(c): return DepthwiseSeparableConv2d.where_it_saves({call})\n"
    )
    assert rewrite_text(result).text == result
