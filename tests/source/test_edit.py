"""The rewritten text: what changes, what stays, and that it stays so."""

from __future__ import annotations

import ast
import sys
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.edit import rewrite_text
from pytest_dwsconv.source.reading.syntax import MARK
from pytest_dwsconv.source.template import class_text

CLASS_2D = class_text(2, "DepthwiseSeparableConv2d", "torch", "nn")


def rewrite(text: str) -> str:
    """The rewritten text, after a look at what must hold for each."""
    result = rewrite_text(text).text
    compile(result, "<result>", "exec")
    again = rewrite_text(result)
    assert again.text == result
    assert not any(site.is_candidate for site in again.sites)
    return result


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "import torch\nfrom torch import nn\n\nconv = nn.Conv2d(9, 64, 3)\n",
            f"import torch\nfrom torch import nn\n\n\n{CLASS_2D}\n\nconv = "
            "DepthwiseSeparableConv2d(9, 64, 3)\n",
            id="after the imports",
        ),
        pytest.param(
            "import torch\nimport torch.nn as nn\nconv = nn.Conv2d(9, 64, 3)",
            f"import torch\nimport torch.nn as nn\n\n\n{CLASS_2D}\n\nconv = "
            "DepthwiseSeparableConv2d(9, 64, 3)",
            id="no line end at the end",
        ),
        pytest.param(
            "from torch import nn\n\n\n\ndef f(): return nn.Conv2d(9, 64, 3)\n",
            f"from torch import nn\nimport torch\n\n\n{CLASS_2D}\n\n\n"
            "def f(): return DepthwiseSeparableConv2d(9, 64, 3)\n",
            id="torch is imported where it is not, three blank lines stay",
        ),
        pytest.param(
            "import torch\nfrom torch import nn\ntry:\n    import a\nexcept ImportError:\n    a = "
            "None\n    # c\n\n"
            "# here\nx = nn.Conv2d(9, 64, 3)\nimport late\n",
            "import torch\nfrom torch import nn\ntry:\n    import a\nexcept ImportError:\n    a = "
            "None\n    # c\n\n\n"
            f"{CLASS_2D}\n\n# here\nx = DepthwiseSeparableConv2d(9, 64, 3)\nimport late\n",
            id="after a guarded import, before a late one",
        ),
        pytest.param(
            "import torch\nfrom torch import nn\nif TYPE_CHECKING:\n    from a import b\nx = "
            "nn.Conv2d(9, 64, 3)\n",
            "import torch\nfrom torch import nn\nif TYPE_CHECKING:\n    from a import b\n\n\n"
            f"{CLASS_2D}\n\nx = DepthwiseSeparableConv2d(9, 64, 3)\n",
            id="after imports for types",
        ),
        pytest.param(
            "import torch\nfrom torch import nn\nx = 1; y = (nn.Conv2d)(9, 64, 3); z = nn . Conv2d "
            "(9, 64, 3)\n",
            f"import torch\nfrom torch import nn\n\n\n{CLASS_2D}\n\n"
            "x = 1; y = (DepthwiseSeparableConv2d)(9, 64, 3); z = DepthwiseSeparableConv2d (9, 64, "
            "3)\n",
            id="semicolons, parentheses and spaces",
        ),
    ],
)
def test_before_and_after(before: str, after: str) -> None:
    assert rewrite(before) == after


@pytest.mark.parametrize(
    ("before", "start"),
    [
        ('"""Doc."""\ndef f():\n    from torch import nn\n    nn.Conv2d(9, 64, 3)\n',
         '"""Doc."""\n\nimport torch\n\n\nclass '),
        ('"""Doc."""; import torch as t; t.nn.Conv2d(9, 64, 3)\n',
         '"""Doc."""\n\nimport torch\n\n\nclass '),
        ("#!/usr/bin/env python\ndef f():\n    import torch\n    torch.nn.Conv2d(9, 64, 3)\n",
         "#!/usr/bin/env python\nimport torch\n\n\nclass "),
        ('"""Doc."""\n"""More."""\nimport torch\ndef f():\n    torch.nn.Conv2d(9, 64, 3)\n',
         '"""Doc."""\n"""More."""\nimport torch\n\n\nclass '),
        ('import torch\n"""More."""\ndef f():\n    torch.nn.Conv2d(9, 64, 3)\n',
         'import torch\n\n\nclass '),
        ("from __future__ import annotations\nimport torch as t; x = t.nn.Conv2d(9, 64, 3)\n",
         "from __future__ import annotations\n\nimport torch\n\n\nclass "),
        ("import torch.nn as nn; x = nn.Conv2d(9, 64, 3)\n", "import torch\n\n\nclass "),
        ("import torch as t\nx = t.nn.Conv2d(9, 64, 3)\n",
         "import torch as t\n\n\nclass DepthwiseSeparableConv2d(t.nn.Conv2d):"),
        ("from torch.nn import *\nx = Conv2d(9, 64, 3)\n",
         "from torch.nn import *\nimport torch\n\n\nclass "
         "DepthwiseSeparableConv2d(torch.nn.Conv2d):"),
        ("from torch import nn\ntorch = 1\nx = nn.Conv2d(9, 64, 3)\n",
         "from torch import nn\nimport torch as torch_2\n\n\nclass "
         "DepthwiseSeparableConv2d(nn.Conv2d):"),
        ("if TYPE_CHECKING:\n    import torch\ndef f():\n    from torch import nn\n    "
         "nn.Conv2d(9, 64, 3)\n",
         "if TYPE_CHECKING:\n    import torch\nimport torch\n\n\nclass "),
    ],
)  # fmt: skip
def test_the_class_calls_torch_by_a_name_that_is_bound_there(before: str, start: str) -> None:
    assert rewrite(before).startswith(start)


def test_one_class_for_each_rank() -> None:
    text = "from torch import nn\n" + "".join(
        f"nn.Conv{rank}d(8, 64, 3)\n" * 2 for rank in (3, 1, 2)
    )
    tree = ast.parse(rewrite(text))
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert classes == [f"DepthwiseSeparableConv{rank}d" for rank in (1, 2, 3)]


HEADER = "import torch\nfrom torch import nn\n"
GUARD = "DepthwiseSeparableConv2d.where_it_saves"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nn.Conv2d(8, 64, k)", f"{GUARD}(nn.Conv2d(8, 64, k))"),
        ("(nn.Conv2d)(8, 64, k)", f"{GUARD}((nn.Conv2d)(8, 64, k))"),
        ("(nn.Conv2d(8, 64, k))", f"({GUARD}(nn.Conv2d(8, 64, k)))"),
        (
            "nn.Conv2d(\n    8, 64,\n    k,  # size\n)  # conv",
            f"{GUARD}(nn.Conv2d(\n    8, 64,\n    k,  # size\n))  # conv",
        ),
        (
            "nn.Conv2d(8, f(nn.Conv2d(8, 8, g)), k)",
            f"{GUARD}(nn.Conv2d(8, f(nn.Conv2d(8, 8, g)), k))",
        ),
        ("nn.Conv2d(8, 64, k).to(x)(y)", f"{GUARD}(nn.Conv2d(8, 64, k)).to(x)(y)"),
    ],
)
def test_what_is_decided_when_it_runs_stands_around_the_call(before: str, after: str) -> None:
    result = rewrite(f"{HEADER}x = {before}\n")
    guarded = class_text(2, "DepthwiseSeparableConv2d", "torch", "nn", guard=Policy())
    assert result == f"{HEADER}\n\n{guarded}\n\nx = {after}\n"


def test_the_settings_are_in_the_guard() -> None:
    policy = Policy(min_saving=2.5)
    assert "parts * 2.5 < size" in rewrite_text(f"{HEADER}nn.Conv2d(8, 64, k)\n", policy).text


def test_a_class_without_a_guard_is_not_asked_to_decide() -> None:
    first = rewrite(f"{HEADER}x = nn.Conv2d(9, 64, 3)\n")
    second = rewrite(f"{first}y = nn.Conv2d(9, 64, k)\n")
    assert "y = DepthwiseSeparableConv2d_2.where_it_saves(nn.Conv2d(9, 64, k))\n" in second
    third = rewrite(f"{second}z = nn.Conv2d(9, 64, k), nn.Conv2d(8, 64, 3)\n")
    assert third.count(MARK) == 2
    assert "z = DepthwiseSeparableConv2d_2.where_it_saves(" in third


def test_an_inserted_class_is_used_again() -> None:
    first = rewrite("import torch\nfrom torch import nn\n\nx = nn.Conv2d(9, 64, 3)\n")
    older = first.replace("It takes the arguments", "It takes all arguments")
    second = rewrite(older + "y = nn.Conv2d(9, 32, 3)\nz = nn.Conv1d(9, 32, 3)\n")
    assert second.count(MARK) == 2
    assert "It takes all arguments of nn.Conv2d" in second
    assert "y = DepthwiseSeparableConv2d(9, 32, 3)" in second


def test_what_an_inserted_class_does_with_its_weight_is_not_about_others() -> None:
    first = rewrite("import torch\nfrom torch import nn\n\nx = nn.Conv2d(9, 64, 3)\n")
    assert "mix = DepthwiseSeparableConv2d(9, 64, 3)" in rewrite(
        first + "mix = nn.Conv2d(9, 64, 3)\n"
    )


RELEASED = f'''import torch
from torch import nn


class DepthwiseSeparableConv2d(nn.Module):
    """A depthwise, then a pointwise convolution. {MARK}."""

    def __init__(self, c: int, m: int, k: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, k, groups=c, bias=False)
        self.pointwise = nn.Conv2d(c, m, 1)

    @property
    def weight(self) -> torch.Tensor:
        return self.pointwise.weight * self.depthwise.weight


x = DepthwiseSeparableConv2d(9, 64, 3)
'''


def test_a_class_of_two_modules_that_an_earlier_release_inserted_stays_as_it_is() -> None:
    assert rewrite(RELEASED) == RELEASED
    result = rewrite(f"{RELEASED}y = nn.Conv2d(9, 32, 3)\n")
    new = CLASS_2D.replace("DepthwiseSeparableConv2d", "DepthwiseSeparableConv2d_2")
    assert result == RELEASED.replace("nn\n\n", f"nn\n\n\n{new}\n", 1) + (
        "y = DepthwiseSeparableConv2d_2(9, 32, 3)\n"
    )


@pytest.mark.parametrize(
    "other",
    [
        "from mine import DepthwiseSeparableConv2d",
        "class DepthwiseSeparableConv2d: ...",
        "def f(DepthwiseSeparableConv2d): ...",
        "from mine import X as DepthwiseSeparableConv2d",
    ],
)
def test_a_name_that_means_something_else_is_left_to_it(other: str) -> None:
    result = rewrite(f"import torch\nfrom torch import nn\n{other}\nx = nn.Conv2d(9, 64, 3)\n")
    assert f"{other}\n" in result
    assert "class DepthwiseSeparableConv2d_2(nn.Conv2d):" in result
    assert "x = DepthwiseSeparableConv2d_2(9, 64, 3)" in result


def test_a_class_defined_too_late_is_not_used() -> None:
    late = class_text(2, "DepthwiseSeparableConv2d", "torch", "nn")
    result = rewrite(f"import torch\nfrom torch import nn\nx = nn.Conv2d(9, 64, 3)\n{late}")
    assert "x = DepthwiseSeparableConv2d_2(9, 64, 3)" in result


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("indent", ["  ", "    ", "\t"])
def test_line_ends_and_indentation_are_the_files_own(end: str, indent: str) -> None:
    text = f"import torch\nfrom torch import nn\ndef f():\n{indent}return nn.Conv2d(9, 64, 3)\n"
    result = rewrite(text.replace("\n", end))
    assert result.count("\n") == result.count(end)
    assert all(line.startswith(indent) for line in result.splitlines() if line[:1].isspace())


UNUSUAL = [
    "@print(nn.Conv2d(9, 64, 3))\ndef f(): ...",
    "if (c := nn.Conv2d(9, 64, 3)): ...",
    "x = f'{nn.Conv2d(9, 64, 3)}'",
    "def f(c=nn.Conv2d(9, 64, 3)): ...",
    "f = lambda: nn.Conv2d(9, 64, 3)",
    "class A:\n    class B:\n        c = nn.Conv2d(9, 64, 3)",
    "async def f():\n    await print(nn.Conv2d(9, 64, 3))",
    "match x:\n    case 1 if nn.Conv2d(9, 64, 3): ...",
    "x = [nn.Conv2d(9, 64, 3) for _ in range(3)]",
    "x = nn.Conv2d(9, 64, 3).to(dtype)",
    "x = nn.Conv2d(9, 64, 3)(a, b, 3)",
    "\f\nx = nn.Conv2d(9, 64, 3)",
    "x = nn.Conv2d(9, 64, 3) if y else nn.Conv2d(9, 64, 1)",
    "x = not nn.Conv2d(9, 64, 3); y = 2;",
    "x = (nn\n  .Conv2d(9, 64, 3)\n)",
    "x = nn.\\\n  Conv2d(9, 64, 3)",
    "def f(): return(nn.Conv2d)(9, 64, 3)",
    "x = {**nn.Conv2d(9, 64, 3)}",
    "global y\ny = nn.Sequential(*[nn.Conv2d(9, 64, 3)])",
    "try:\n    x = nn.Conv2d(9, 64, 3)\nexcept* ValueError:\n    ...",
    "with print(nn.Conv2d(9, 64, 3)) as x: ...",
    "'''ä'''; x = nn.Conv2d(9, 64, 3)  # ö",
]


@pytest.mark.parametrize("statement", UNUSUAL)
def test_unusual_places(statement: str) -> None:
    if "except*" in statement and sys.version_info < (3, 11):
        pytest.skip("except* came with Python 3.11")
    assert "DepthwiseSeparableConv2d" in rewrite(f"import torch; nn = torch.nn\n{statement}\n")


# reason: a global statement must come before any use of its name, and except* needs Python 3.11
PIECES = [
    *(
        statement
        for statement in UNUSUAL
        if "nn.Conv2d(9, 64, 3)" in statement
        and "except*" not in statement
        and "global" not in statement
    ),
    "# a  comment with nn.Conv2d ",
    "",
    "x  =  [1,2 ,\n 3]",
    "pass;pass",
]


@settings(max_examples=8, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=5),
    end=st.sampled_from(["\n", "\r\n"]),
    closed=st.booleans(),
)
def test_all_else_is_kept_to_the_character(pieces: list[str], end: str, closed: bool) -> None:
    header = "import torch\nfrom torch import nn\n"
    body = "\n".join(["x = nn.Conv2d(9, 64, 3)", *pieces]) + "\n" * closed
    inserted = class_text(2, "DepthwiseSeparableConv2d", "torch", "nn")
    after = body.replace("nn.Conv2d(9, 64, 3)", "DepthwiseSeparableConv2d(9, 64, 3)")
    expected = f"{header}\n\n{inserted}\n\n{after}"
    assert rewrite((header + body).replace("\n", end)) == expected.replace("\n", end)


@pytest.mark.parametrize(
    "end", ["\n\n    \n", "\n# c\n   \n", "\n  # c\n    ", "  \n\n\t\n\n  ", "\r\n\r\n    \r\n"]
)
def test_blank_lines_at_the_end_are_kept(end: str) -> None:
    text = "import torch\nfrom torch import nn\n\n\nx = nn.Conv2d(9, 64, 3)"
    assert rewrite(text + end) == rewrite(text) + end


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("torch.conv2d\rx = 2\r", 2),
        ("\fx = torch.conv2d\n", 1),
        ("if torch.conv2d:\n  y\n\f  z\n\n    \n", 3),
    ],
)
def test_what_would_not_be_kept_is_named_with_its_line(text: str, line: int) -> None:
    with pytest.raises(
        SourceError, match=f"line {line} has a form feed.*: take them out, then run"
    ) as caught:
        rewrite_text(text)
    assert "\n" not in str(caught.value)


def test_nothing_to_change_returns_the_text() -> None:
    text = dedent("""\
        from torch import nn
        conv = nn.Conv2d(9, 64, 1)
        """)
    assert rewrite_text(text).text is text
    assert rewrite_text("x = 1\n").sites == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = build_conv_layer(cfg, 8, 64)\n", (1, "build_conv_layer")),
        ("import a\n\nself.c = ConvModule(8, 64, 3)\nConvModule(1)\n", (3, "ConvModule")),
        ("net = MODELS.build(cfg)\n", (1, "MODELS.build")),
        ("def f(): return mm.LAYERS.build(cfg)\n", (1, "LAYERS.build")),
        ("m, s = parse_model(deepcopy(yaml), ch=[3])\n", (1, "parse_model")),
        ("x = nn.Conv2d(8, 64, 3); y = build_from_cfg(z)\n", (1, "build_from_cfg")),
        ("def parse_model(d, ch): ...\nclass ConvModule(nn.Module): ...\n", None),
        ("# ConvModule(8)\nmodels.build(x)\nMyConvModule(8)\n", None),
    ],
)
def test_the_first_line_that_makes_layers_from_a_configuration_is_told(
    text: str, expected: tuple[int, str] | None
) -> None:
    assert rewrite_text(text).configured == expected
    assert rewrite_text(f"{text}\nimport torch\ntorch.nn.Conv2d(8, 64, 3)").configured == expected


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ("decay.append(m.weight)", 4),
        ("m.weight.requires_grad = False", 4),
        ("nn.init.kaiming_normal_(m.weight)", None),
        ("m.bias.data.zero_()", None),
    ],
)
def test_what_takes_the_weight_of_convolutions_of_other_files_is_noted(
    taken: str, expected: int | None
) -> None:
    loop = f"for m in net.modules():\n    if isinstance(m, nn.Conv2d):\n        {taken}\n"
    noted = rewrite_text(f"from torch import nn\n{loop}").takes_all
    assert (noted and noted[0]) == expected
    rewritten = rewrite_text(f"from torch import nn\nnn.Conv2d(8, 64, 3)\n{loop}")
    assert rewritten.takes_all is None or rewritten.sites[0].judgement.code == "DWS110"
