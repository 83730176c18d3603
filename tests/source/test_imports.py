"""Classes of the user's own are imported, and imports that nothing needs any more go."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from pytest_dwsconv.configuration import ImportedClass, imported_classes
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.source.edit import rewrite_text

OWN = imported_classes(["pkg.layers:Sep2d"])


def rewrite(text: str) -> str:
    result = rewrite_text(text, classes=OWN).text
    assert rewrite_text(result, classes=OWN).text == result, "a second run changes nothing"
    return result


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "from torch import nn\nx = nn.Conv2d(32, 64, 3)\ny = nn.ReLU()\n",
            "from torch import nn\nfrom pkg.layers import Sep2d\nx = Sep2d(32, 64, 3)\n"
            "y = nn.ReLU()\n",
        ),
        (
            '"""Doc."""\nimport torch\nx = torch.nn.Conv2d(32, 64, 3)\n',
            '"""Doc."""\nfrom pkg.layers import Sep2d\nx = Sep2d(32, 64, 3)\n',
        ),
        (
            "from pkg.layers import Sep2d\nfrom torch import nn\n"
            "x = nn.Sequential(nn.Conv2d(32, 64, 3), Sep2d(8, 8, 3))\n",
            "from pkg.layers import Sep2d\nfrom torch import nn\n"
            "x = nn.Sequential(Sep2d(32, 64, 3), Sep2d(8, 8, 3))\n",
        ),
        (
            "from pkg.layers import Sep2d as S\nfrom torch import nn\nx = nn.Conv2d(32, 64, 3)\n",
            "from pkg.layers import Sep2d as S\nx = S(32, 64, 3)\n",
        ),
        (
            "from torch import nn\nSep2d = nn.ReLU\nx = nn.Conv2d(32, 64, 3)\n",
            "from torch import nn\nfrom pkg.layers import Sep2d as Sep2d_2\nSep2d = nn.ReLU\n"
            "x = Sep2d_2(32, 64, 3)\n",
        ),
    ],
)
def test_a_class_of_the_users_own_is_imported(before: str, after: str) -> None:
    assert rewrite(before) == after
    assert rewrite(before.replace("\n", "\r\n")) == after.replace("\n", "\r\n")


def test_for_other_dimensions_a_class_is_inserted() -> None:
    text = rewrite("from torch import nn\nx = nn.Conv2d(32, 64, 3), nn.Conv1d(32, 64, 3)\n")
    assert "from pkg.layers import Sep2d\n" in text
    assert "class DepthwiseSeparableConv1d(" in text
    assert "class DepthwiseSeparableConv2d(" not in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from torch.nn import Conv2d, ReLU", "from torch.nn import ReLU"),
        ("from torch.nn import ReLU, Conv2d", "from torch.nn import ReLU"),
        ("from torch.nn import A, Conv2d, ReLU", "from torch.nn import A, ReLU"),
        (
            "from torch.nn import (\n    Conv2d,\n    ReLU,\n)",
            "from torch.nn import (\n    ReLU,\n)",
        ),
        ("from torch.nn import Conv2d", None),
        ("from torch.nn import Conv2d  # noqa: F401", "from torch.nn import Conv2d  # noqa: F401"),
        ("import os; from torch.nn import Conv2d", "import os; from torch.nn import Conv2d"),
        ("from torch.nn import Conv2d\n__all__ = ['Conv2d']", "from torch.nn import Conv2d"),
        ("from torch.nn import Conv2d\n# as Conv2d does", "from torch.nn import Conv2d"),
        ("from torch.nn import Conv2d\ny: Conv2d", "from torch.nn import Conv2d"),
        ("from torch.nn import *", "from torch.nn import *"),
    ],
)
def test_only_imports_that_became_unused_go(before: str, after: str | None) -> None:
    text = rewrite(f"{before}\nx = Conv2d(32, 64, 3)\n")
    kept = "" if after is None else f"{after}\n"
    assert text.startswith(kept)
    assert ("import Conv2d" in text) == ("import Conv2d" in kept)
    assert text.endswith("\nx = Sep2d(32, 64, 3)\n")


def test_what_was_unused_before_stays() -> None:
    before = "import os\nfrom torch import nn, optim\nx = nn.Conv2d(32, 64, 3)\n"
    assert rewrite(before).startswith("import os\nfrom torch import optim\n")


def test_an_inserted_class_keeps_what_it_uses() -> None:
    text = rewrite_text("from torch.nn import Conv2d\nx = Conv2d(32, 64, 3)\n").text
    assert text.startswith("import torch\n")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a.b:C"], {2: ("a.b", "C")}),
        (["a:C1d", "a:C2d", "a:C3d"], {1: ("a", "C1d"), 2: ("a", "C2d"), 3: ("a", "C3d")}),
    ],
)
def test_dimensions_are_in_the_name(given: list[str], found: dict[int, tuple[str, str]]) -> None:
    assert imported_classes(given) == found


@pytest.mark.parametrize("text", ["a.b", "a:b:c", "a.:B", ":B", "a:", "a-b:C", "a:1C", "a:B.C"])
def test_what_names_no_class_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"takes a module and a class, as in pkg\.layers:Sep"):
        imported_classes([text])


def test_two_classes_for_the_same_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="two classes for 2 dimensions"):
        imported_classes(["a:B", "a:C2d"])


@pytest.mark.parametrize(
    ("path", "home"),
    [
        ("src/pkg/layers.py", True),
        ("pkg/layers/__init__.py", True),
        ("layers.py", False),
        ("pkg/other.py", False),
    ],
)
def test_the_home_of_a_class(path: str, home: bool) -> None:
    assert ImportedClass("pkg.layers", "Sep2d").is_home(PurePath(path)) is home
