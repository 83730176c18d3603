"""What a file of a folder puts in the place of convolutions that another one makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dwsconv.command.cli import main
from pytest_dwsconv.source.edit import rewrite_text
from pytest_dwsconv.source.fusions import find_fusions

BLOCK = """\
from torch import nn


class Block(nn.Module):
    def __init__(self, c1, c2):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 3)
        self.other = nn.Conv2d(c1, c2, 3)
"""
FUSE = """\
from torch import nn


def fuse_conv_and_bn(conv, bn):
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, bias=True)
    fused.weight.copy_((bn.weight * conv.weight.view(conv.out_channels, -1)).view(fused.weight.shape))
    return fused


def freeze(conv, bn):
    conv.bias.requires_grad = False
    return conv
"""  # noqa: E501  # as detectors have it
WALK = """\
from common import Block
{imports}


def fuse(model):
    for m in model.modules():
        if {condition}:
            m.conv = {fuse}(m.conv, m.bn)
    return model
"""
IMPORTS = "from tools import freeze, fuse_conv_and_bn"


def codes(folder: Path, walk: str) -> list[str]:
    (folder / "common.py").write_text(BLOCK)
    (folder / "tools.py").write_text(FUSE)
    (folder / "walk.py").write_text(walk)
    fusions = find_fusions(sorted(folder.iterdir()))
    sites = rewrite_text(BLOCK, path=folder / "common.py", fusions=fusions).sites
    return [site.judgement.code for site in sites]


@pytest.mark.parametrize(
    ("condition", "fuse", "imports", "expected"),
    [
        ("isinstance(m, Block)", "fuse_conv_and_bn", IMPORTS, "DWS110"),
        ("isinstance(m, (Block, Other)) and m.bn", "fuse_conv_and_bn", IMPORTS, "DWS110"),
        ("type(m) is common.Block", "fuse_conv_and_bn", IMPORTS, "DWS110"),
        ("hasattr(m, 'bn')", "fuse_conv_and_bn", IMPORTS, "DWS110"),
        ("isinstance(m, Other)", "fuse_conv_and_bn", IMPORTS, "DWS001"),
        ("isinstance(m, Block)", "freeze", IMPORTS, "DWS001"),
        ("isinstance(m, Block)", "tools.fuse_conv_and_bn", "import tools", "DWS110"),
        ("isinstance(m, Block)", "fuse_conv_bn_eval", "from nets import *", "DWS205"),
        ("isinstance(m, Block)", "fuse_conv_and_bn", FUSE, "DWS110"),
        ("isinstance(m, Block)", "freeze", FUSE, "DWS001"),
    ],
)
def test_what_another_file_fuses_is_left_alone(
    tmp_path: Path, condition: str, fuse: str, imports: str, expected: str
) -> None:
    walk = WALK.format(condition=condition, fuse=fuse, imports=imports)
    assert codes(tmp_path, walk) == [expected, "DWS001"]


@pytest.mark.parametrize(
    ("put_back", "expected"),
    [
        ('setattr(m, "conv", {})', "DWS110"),
        ('setattr(m, "name", {})', "DWS001"),
        ("x.conv = {}", "DWS001"),
        ("{}", "DWS001"),
    ],
)
def test_what_is_put_back_by_name_is_left_alone_too(
    tmp_path: Path, put_back: str, expected: str
) -> None:
    walk = WALK.format(condition="m.bn", fuse="fuse_conv_and_bn", imports=IMPORTS)
    fused = "fuse_conv_and_bn(m.conv, m.bn)"
    walk = walk.replace(f"m.conv = {fused}", put_back.format(fused))
    assert codes(tmp_path, walk) == [expected, "DWS001"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_over_the_folder_names_the_line_and_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    codes(
        tmp_path,
        WALK.format(condition="isinstance(m, Block)", fuse="fuse_conv_and_bn", imports=IMPORTS),
    )
    (tmp_path / "old.py").write_text("print 'Python 2'\nm.conv = f(m.conv)\n")
    assert main([str(tmp_path), "--check", "-j", jobs]) == 1
    out = capsys.readouterr().out
    assert "DWS110: line 8 of walk.py hands it to fuse_conv_and_bn, and line 6 uses its " in out
    assert "(in tools.py)" in out
    assert "1 convolution would be rewritten in 1 file" in out


@pytest.mark.parametrize(
    "given",
    [
        "self.conv: nn.Module = nn.Conv2d(c1, c2, 3)",
        "self.conv, self.act = nn.Conv2d(c1, c2, 3), nn.ReLU()",
        "self.conv = nn.Conv2d(c1, c2, 3) if c1 > 8 else nn.Conv2d(c1, c2, 3)",
        "self.conv = conv3x3(c1, c2)",
        "self.conv = self.make(c1, c2)",
        "conv = nn.Conv2d(c1, c2, 3)\n        self.conv = conv",
        "self.add_module('conv', nn.Conv2d(c1, c2, 3))",
    ],
)
@pytest.mark.parametrize("name", ["Block", "Base"])
def test_what_is_fused_may_come_to_its_attribute_in_any_way(
    tmp_path: Path, given: str, name: str
) -> None:
    """A class that inherits from the one that is asked for counts too."""
    text = BLOCK.replace("self.conv = nn.Conv2d(c1, c2, 3)", given).replace("Block", name)
    text = text.replace("        self.other = nn.Conv2d(c1, c2, 3)\n", "")
    text += "\n    def make(self, c1, c2):\n        return nn.Conv2d(c1, c2, 3)\n" * (
        "make" in given
    )
    text += "\n\ndef conv3x3(c1, c2):\n    return nn.Conv2d(c1, c2, 3)\n" * ("conv3x3" in given)
    text += "\n\nclass Block(Base):\n    pass\n" * (name == "Base")
    (tmp_path / "tools.py").write_text(FUSE)
    walk = WALK.format(condition="isinstance(m, Block)", fuse="fuse_conv_and_bn", imports=IMPORTS)
    (tmp_path / "walk.py").write_text(walk)
    fusions = find_fusions(sorted(tmp_path.iterdir()))
    sites = rewrite_text(text, path=tmp_path / "common.py", fusions=fusions).sites
    assert {site.judgement.code for site in sites} == {"DWS110"}


def test_a_message_names_the_line_that_misses_the_filters_of_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(BLOCK)
    (tmp_path / "optim.py").write_text(
        "from torch import nn\n\n\ndef weights(net):\n    for m in net.modules():\n"
        "        if isinstance(m, nn.Conv2d):\n            yield m.weight\n"
    )
    assert main([str(tmp_path), "--check"]) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / 'optim.py'}:7: takes the weight of every such convolution" in out
    assert "of which it misses depthwise.weight\n" in out
