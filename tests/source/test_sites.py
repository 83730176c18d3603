"""What is found in source, under which name, and how it is judged."""

from __future__ import annotations

import sys
import threading
from textwrap import dedent

import pytest

from pytest_dwsconv.core.conv import ConvSpec
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.edit import Rewrite, rewrite_text
from pytest_dwsconv.source.reading import stack
from pytest_dwsconv.source.sites import BuildEvidence, SourceSite


def sites(text: str, policy: Policy | None = None) -> tuple[SourceSite, ...]:
    """What the text alone says of each place."""
    return rewrite_text(dedent(text), policy or Policy(), guards=False).sites


def only_site(text: str, policy: Policy | None = None) -> SourceSite:
    (site,) = sites(text, policy)
    return site


def spec_of(call: str) -> ConvSpec:
    return only_site(f"from torch import nn\n{call}\n").place.spec


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.nn.Conv2d(9, 64, 3)",
        "import torch.nn\ntorch.nn.Conv2d(9, 64, 3)",
        "import torch as t\nt.nn.Conv2d(9, 64, 3)",
        "import torch.nn as nn\nnn.Conv2d(9, 64, 3)",
        "from torch import nn\nnn.Conv2d(9, 64, 3)",
        "from torch import nn\nnn.modules.Conv2d(9, 64, 3)",
        "from torch import nn\nnn.modules.conv.Conv2d(9, 64, 3)",
        "from torch.nn import Conv2d\nConv2d(9, 64, 3)",
        "from torch.nn import Conv2d as C\nC(9, 64, 3)",
        "from torch.nn.modules.conv import Conv2d\nConv2d(9, 64, 3)",
        "import torch.nn.modules as mods\nmods.Conv2d(9, 64, 3)",
        "from torch.nn import *\nConv2d(9, 64, 3)",
        "from mine import *\nfrom torch.nn import *\nConv2d(9, 64, 3)",
        "from torch.nn import *\nfrom torch.nn.functional import *\nConv2d(9, 64, 3)",
        "import torch\nnn = torch.nn\nnn.Conv2d(9, 64, 3)",
        "import torch\nnn = torch.nn\nmods = nn.modules\nmods.Conv2d(9, 64, 3)",
        "def f():\n    from torch import nn\n    return nn.Conv2d(9, 64, 3)",
        "import torch.nn as nn\nimport torch.nn as nn\nnn.Conv2d(9, 64, 3)",
    ],
)
def test_a_call_is_found_however_the_class_was_imported(text: str) -> None:
    site = only_site(text)
    assert site.is_candidate
    assert site.place.spec == ConvSpec(2, 9, 64, (3, 3), (1, 1), (0, 0), (1, 1))


@pytest.mark.parametrize(
    "text",
    [
        "from mine import nn\nnn.Conv2d(9, 64, 3)",
        "from torch import nn\ndef f(nn):\n    return nn.Conv2d(9, 64, 3)",
        "from torch.nn import *\ndef Conv2d(*a): ...\nConv2d(9, 64, 3)",
        "nn = nn\nnn.Conv2d(9, 64, 3)",
        "from torch import nn\nx = 'nn.Conv2d(9, 64, 3)'  # nn.Conv2d(9, 64, 3)",
        "from torch import nn\nself.conv.Conv2d(9, 64, 3)",
        "from torch import nn\nisinstance(m, nn.Conv2d)",
        "from torch import nn\nisinstance(m, (nn.Conv1d, nn.Conv2d))",
        "from torch import nn\nisinstance(m, nn.Conv1d | nn.Conv2d)",
        "from torch import nn\nfrom typing import cast\ncast(nn.Conv2d, m)",
        "from torch import nn\ntype(m) is nn.Conv2d",
        "from torch import nn\ntype(m) in (nn.Conv1d, nn.Conv2d)",
        "from torch import nn\ndef f(x: nn.Conv2d) -> nn.Conv2d: ...",
        "from torch import nn\nclass A:\n    conv: nn.Conv2d",
        "from torch import nn\nmatch m:\n    case nn.Conv2d(): ...",
        "from torch import nn\nnn.Conv2d.forward(m, x)",
        "from torch.nn import Conv2d, Conv3d as C",
        "from torch import nn\nf(Conv2d=1)",
        "import torch\ntorch.nn(x).Conv2d(9, 64, 3)",
        "import torch\ntorch.nn[x].Conv2d(9, 64, 3)",
        "from torch import nn\nconv = nn.Linear(9, 64)(a, b, 3)",
    ],
)
def test_what_is_no_convolution_of_torch_is_no_site(text: str) -> None:
    assert sites(text) == ()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("nn.Conv2d(64, 128, 3)", "DWS001"),
        ("nn.Conv2d(64, 128, (3, 1))", "DWS001"),
        ("nn.Conv1d(64, 128, 3)", "DWS001"),
        ("nn.Conv3d(64, 128, 3)", "DWS001"),
        ("nn.Conv2d(a, b, 3)", "DWS001"),
        ("nn.Conv2d(64, 128, 3, groups=2)", "DWS001"),
        ("nn.Conv2d(c, 128, 3, bias=norm is None)", "DWS001"),
        ("nn.Conv2d(64, 128, 3)  # dws: skip", "DWS101"),
        ("nn.Conv2d(64, 128, 3)  # noqa: E501  # dws: skip - the stem", "DWS101"),
        ("nn.Conv2d(\n    64,\n    128,\n    3,\n)  # dws: skip", "DWS101"),
        ("nn.Conv2d(\n    64,  # dws: skip\n    128, 3)", "DWS101"),
        ("nn.Conv2d(64, 128, 3, # dws: skipping is not skip\n)", "DWS001"),
        ("x = '# dws: skip'; nn.Conv2d(64, 128, 3)", "DWS001"),
        ("nn.ConvTranspose2d(64, 128, 3)", "DWS103"),
        ("nn.LazyConv2d(128, 3)", "DWS106"),
        ("nn.LazyConv2d(128, 1)", "DWS104"),
        ("nn.Conv2d(64, 128, 1)", "DWS104"),
        ("nn.Conv2d(64, 128, (1, 1))", "DWS104"),
        ("nn.Conv2d(64, 64, 3, groups=64)", "DWS105"),
        ("nn.Conv2d(c, c, 3, groups=c)", "DWS105"),
        ("nn.Conv2d(c, m, k, 1, 1, 1, c)", "DWS105"),
        ("nn.Conv2d(self.c, c, 3, groups=self.c)", "DWS105"),
        ("nn.Conv2d(c * t, c, 3, groups=c * t)", "DWS105"),
        ("nn.Conv2d(c, c, 3, groups=c, **factory)", "DWS105"),
        ("nn.Conv2d(f(), c, 3, groups=f())", "DWS204"),
        ("nn.Conv2d(c, m, 3, groups=g)", "DWS204"),
        ("nn.Conv2d(c, m, k)", "DWS203"),
        ("nn.Conv2d(c, m, kernel_size=(3, k))", "DWS203"),
        ("nn.Conv2d(c, m)", "DWS203"),
        ("nn.Conv2d()", "DWS203"),
        ("nn.Conv2d(64, 64, (3, 3, 3))", "DWS203"),
        ("nn.Conv2d(64, 64, 0)", "DWS203"),
        ("nn.Conv2d(64, 64, True)", "DWS203"),
        ("nn.Conv2d(64, 64, '3')", "DWS203"),
        ("nn.Conv2d(64, 64, 3, groups=0)", "DWS204"),
        ("nn.Conv2d(64, 64, 3, 1, 1, 1, 1, True, 'zeros', None, None, 7, 8)", "DWS001"),
        ("nn.Conv2d('a', None, 3, -2, [1], {}, 1, f'x', 3)", "DWS001"),
        ("nn.Conv2d(64, 1, 3)", "DWS111"),
        ("nn.Conv2d(c, 1, 3)", "DWS111"),
        ("nn.Conv2d(*sizes)", "DWS202"),
        ("nn.Conv2d(64, 128, 3, **options)", "DWS202"),
        ("nn.Conv2d(64, 128, *rest, groups=1)", "DWS202"),
        ("nn.Conv2d(64, 128, kernel_size=3, groups=1, **options)", "DWS001"),
        ("Block(conv=nn.Conv2d)", "DWS201"),
        ("partial(nn.Conv2d, bias=False)", "DWS201"),
        ("class Mine(nn.Conv2d): ...", "DWS201"),
        ("Conv = nn.Conv2d  # dws: skip", "DWS101"),
        ("def f(conv=nn.Conv2d): ...", "DWS201"),
        ("types = {'conv': nn.Conv2d}", "DWS201"),
        ("nn.functional.conv2d(x, w)", "DWS107"),
        ("nn.functional.conv_transpose2d(x, w)", "DWS103"),
        ("nn.utils.weight_norm(nn.Conv2d(64, 128, 3))", "DWS108"),
        ("nn.utils.parametrizations.spectral_norm(nn.Conv2d(64, 128, 3))", "DWS108"),
        ("self.c = nn.Conv2d(64, 128, 3)\nself.c = nn.utils.weight_norm(self.c)", "DWS108"),
        ("self.c = nn.Conv2d(64, 128, 3)\nnn.init.ones_(self.c.weight)", "DWS110"),
        ("self.c: nn.Module = nn.Conv2d(64, 128, 3)\nself.d.weight = self.c.weight", "DWS110"),
        ("self.c = nn.Conv2d(64, 128, 3).to(dtype).cuda()\nself.c.weight.data.zero_()", "DWS110"),
        ("self.c = nn.Conv2d(64, 128, 3)\nself.d.weight.data.zero_()", "DWS001"),
    ],
)
def test_verdicts(call: str, code: str) -> None:
    assert only_site(f"from torch import nn\n{call}\n").judgement.code == code


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            "nn.Conv2d(9, 64, 3, 2, 1, 2, 1, False, 'reflect')",
            ConvSpec(2, 9, 64, (3, 3), (2, 2), (1, 1), (2, 2), 1, False, "reflect"),
        ),
        (
            "nn.Conv2d(out_channels=64, in_channels=3, kernel_size=[3, 5], padding='same')",
            ConvSpec(2, 3, 64, (3, 5), (1, 1), "same", (1, 1)),
        ),
        ("nn.Conv1d(2 * 3, 7 // 2 + 1, -(-3))", ConvSpec(1, 6, 4, (3,), (1,), (0,), (1,))),
        (
            f"K = 0x{'9' * 5000}\nnn.Conv2d(-K, K // K, {2**62} * {2**62})",
            ConvSpec(2, None, None, None, (1, 1), (0, 0), (1, 1)),
        ),
        ("nn.Conv2d(9 % 5, 64 - 1, 3)", ConvSpec(2, 4, 63, (3, 3), (1, 1), (0, 0), (1, 1))),
        (
            "K = 3\nC: int = 2\nnn.Conv2d(C, C * 8, K)",
            ConvSpec(2, 2, 16, (3, 3), (1, 1), (0, 0), (1, 1)),
        ),
        ("K = (3, 5)\nnn.Conv2d(1, 2, K)", ConvSpec(2, 1, 2, (3, 5), (1, 1), (0, 0), (1, 1))),
        ("K = 3\nK += 2\nnn.Conv2d(1, 2, K)", ConvSpec(2, 1, 2, None, (1, 1), (0, 0), (1, 1))),
        ("K = K\nnn.Conv2d(1, 2, K)", ConvSpec(2, 1, 2, None, (1, 1), (0, 0), (1, 1))),
        ("nn.Conv2d(1, 1 // 0, 3 / 1)", ConvSpec(2, 1, None, None, (1, 1), (0, 0), (1, 1))),
        (
            "nn.Conv2d(1, 2, (*k, 3), bias=0)",
            ConvSpec(2, 1, 2, None, (1, 1), (0, 0), (1, 1), bias=False),
        ),
        (
            "nn.Conv2d(1, 2, 3, bias=norm)",
            ConvSpec(2, 1, 2, (3, 3), (1, 1), (0, 0), (1, 1), bias=None),
        ),
        (
            "nn.ConvTranspose2d(1, 2, 3, 2, 1, 1, 1, False)",
            ConvSpec(2, 1, 2, (3, 3), (2, 2), (1, 1), (1, 1), 1, False, transposed=True),
        ),
    ],
)
def test_arguments_become_numbers(call: str, expected: ConvSpec) -> None:
    assert spec_of(call) == expected


def test_calling_the_layer_is_no_second_place() -> None:
    site = only_site("from torch import nn\ny = nn.Conv2d(9, 64, 3)(a, b, 3)\n")
    assert site.place.code == "nn.Conv2d(9, 64, 3)"


def test_a_constant_of_another_function_is_not_taken() -> None:
    text = """
    from torch import nn
    def f():
        k = 3
    def g(k):
        return nn.Conv2d(9, 64, k)
    """
    assert only_site(text).judgement.code == "DWS203"


def test_a_place_is_told_by_line_and_column_from_one() -> None:
    site = only_site("from torch import nn\n\n\f\nx = ('ä', nn.Conv2d(3,\n  64, 3))\n")
    assert (site.place.line, site.place.column) == (4, 11)
    assert site.place.code == "nn.Conv2d(3, 64, 3)"


@pytest.mark.parametrize(
    ("call", "saving", "exact"),
    [
        ("nn.Conv2d(100, 1000, 3, bias=False)", 900_000 / 100_900, True),
        ("nn.Conv2d(100, 1000, 7, bias=False)", 4_900_000 / 104_900, True),
        ("nn.Conv2d(c, m, 3)", 9.0, False),
        ("nn.Conv2d(c, 100, 3)", 900 / 109, False),
        ("nn.Conv2d(c, 100, 3, groups=2)", 900 / 118, False),
    ],
)
def test_savings(call: str, saving: float, exact: bool) -> None:
    found, is_exact = only_site(f"from torch import nn\n{call}").saving or (None, None)
    assert found == pytest.approx(saving)
    assert is_exact is exact


def test_min_saving_holds_for_known_and_unknown_numbers() -> None:
    policy = Policy(min_saving=8.5)
    text = "from torch import nn\nnn.Conv2d(64, 64, 3)\nnn.Conv2d(c, 64, 3)\nnn.Conv2d(c, m, 3)\n"
    assert [site.judgement.code for site in sites(text, policy)] == ["DWS111", "DWS111", "DWS001"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv2d = (\n", "line 2"),
        ("x = 1\nconv2d =\n", "line 3, column 9"),
        ("conv2d\nreturn 3\n", "line 3"),
        ("conv2d = '\0'\n", "null byte"),
        ("conv2d\ndef f(:\n", "line 3, column 7"),
        ("conv2d = " + "-" * 100_000 + "1", "nested too deeply for Python to compile"),
        ("conv2d = a" + ".b" * 20_000, "nested too deeply for Python to compile"),
        ("conv2d = " + "(" * 100_000, "too many nested parentheses"),
        ("conv2d = " + "9" * 5_000, "value has 5000 digits; correct it"),
    ],
)
def test_no_python_is_one_sentence_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        rewrite_text(f"import torch\n{text}")
    assert "\n" not in str(caught.value)


not_in_3_12 = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="it limits calls through C to a number of its own"
)


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("f" + ".a(1)" * 200, id="200 calls"),
        pytest.param(" + ".join(["x"] * 1000), id="1000 terms", marks=not_in_3_12),
        pytest.param("f" + ".b" * 900, id="900 attributes", marks=not_in_3_12),
    ],
)
def test_what_python_takes_is_read_however_deeply_nested(expression: str) -> None:
    limit, size = sys.getrecursionlimit(), threading.stack_size()
    assert only_site(f"from torch import nn\nnn.Conv2d(8, 8, 3)\n{expression}\n").is_candidate
    assert (sys.getrecursionlimit(), threading.stack_size()) == (limit, size)


def test_what_no_stack_is_large_enough_for_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_FRAMES", 1)
    with pytest.raises(SourceError, match="nested too deeply to be read"):
        rewrite_text("import torch\nconv2d = a" + ".b" * 900)


def test_a_file_that_names_no_convolution_is_not_parsed() -> None:
    text = "import torch\nprint 'Python 2'\n"
    assert rewrite_text(text) == Rewrite(text, (), {})


BUILT_STANDARD = ConvSpec(2, 64, 128, (3, 3), bias=False)
BUILT_DEPTHWISE = ConvSpec(2, 64, 64, (3, 3), groups=64, bias=False)
BUILT_SMALL = ConvSpec(2, 64, 1, (3, 3), bias=False)


@pytest.mark.parametrize(
    ("call", "built", "code", "candidate"),
    [
        ("nn.Conv2d(a, b, 3, groups=g)", [BUILT_STANDARD], "DWS001", True),
        ("nn.Conv2d(a, b, k)", [BUILT_STANDARD, BUILT_STANDARD], "DWS001", True),
        ("nn.Conv2d(*args)", [BUILT_STANDARD], "DWS001", True),
        ("nn.Conv2d(a, b, 3, groups=g)", [BUILT_STANDARD, BUILT_DEPTHWISE], "DWS204", False),
        ("nn.Conv2d(a, b, 3, groups=g)", [BUILT_DEPTHWISE], "DWS105", False),
        ("nn.Conv2d(a, b, 3, groups=g)", [], "DWS204", False),
        ("nn.Conv2d(a, b, 3)", [BUILT_SMALL], "DWS111", False),
        ("nn.Conv2d(a, b, 3)", [BUILT_STANDARD, BUILT_SMALL], "DWS111", False),
        ("nn.Conv2d(a, b, 3)  # dws: skip", [BUILT_STANDARD], "DWS101", False),
        ("f(nn.Conv2d)", [BUILT_STANDARD], "DWS201", False),
    ],
)
@pytest.mark.parametrize("column", [1, None])
def test_a_run_settles_what_text_leaves_open(
    call: str, built: list[ConvSpec], code: str, candidate: bool, column: int | None
) -> None:
    evidence = BuildEvidence({(2, column if "f(" not in call else 3): built})
    text = f"from torch import nn\n{call}\n"
    (site,) = rewrite_text(text, evidence=evidence, guards=False).sites
    assert (site.judgement.code, site.is_candidate) == (code, candidate)


def test_a_mixed_site_says_what_was_built() -> None:
    evidence = BuildEvidence({(2, 1): [BUILT_STANDARD, BUILT_DEPTHWISE]})
    (site,) = rewrite_text(
        "from torch import nn\nnn.Conv2d(a, b, 3, groups=g)\n", evidence=evidence, guards=False
    ).sites
    assert "for 1 of the 2 built here, it is depthwise already" in site.judgement.reason


def test_a_proved_site_costs_what_was_built() -> None:
    evidence = BuildEvidence({(2, 1): [BUILT_STANDARD] * 3})
    (site,) = rewrite_text("from torch import nn\nnn.Conv2d(a, b, 3)\n", evidence=evidence).sites
    assert site.saving == (73_728 / 8_768, True)


def test_a_line_without_column_does_not_tell_two_calls_apart() -> None:
    text = "from torch import nn\nnn.Conv2d(a, b, k); nn.Conv2d(a, b, 3, groups=g)\n"
    found = rewrite_text(text, evidence=BuildEvidence({(2, None): [BUILT_STANDARD]})).sites
    assert [site.judgement.code for site in found] == ["DWS205", "DWS205"]
    found = rewrite_text(
        text, evidence=BuildEvidence({(2, 21): [BUILT_STANDARD]}), guards=False
    ).sites
    assert [site.judgement.code for site in found] == ["DWS203", "DWS001"]
