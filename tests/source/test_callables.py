"""What other files of the project do with a convolution that they are handed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dwsconv.source.edit import rewrite_text
from pytest_dwsconv.source.sites import SourceSite

YES, NO, OPEN, WRAPPED = "DWS001", "DWS110", "DWS205", "DWS108"

UTIL = """\
import torch.nn as nn
from torch.nn.utils import spectral_norm as sn
from torch.ao.quantization import fuse_modules


def zero_module(module):
    for p in module.parameters():
        p.detach().zero_()
    return module


def norm(module, kind=None):
    return sn(module) if kind else module


def activated(module, act=None):
    return nn.Sequential(module, act or nn.ReLU())


def unknown(module):
    return elsewhere(module)


class Block(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


class Filled(nn.Module):
    def __init__(self, width, module):
        super().__init__()
        self.filled = module
        self.filled.weight.data.fill_(width)


class Stack(nn.Module):
    def __init__(self, modules):
        super().__init__()
        self.layers = nn.ModuleList(modules)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "net"
    (package / "parts").mkdir(parents=True)
    for folder in (package, package / "parts"):
        (folder / "__init__.py").write_text("from .util import zero_module\n")
    (package / "util.py").write_text(UTIL)
    (package / "parts" / "util.py").write_text("from ..util import Block, zero_module, norm as n\n")
    return package


def site(project: Path, text: str) -> SourceSite:
    text = f"from torch import nn\n{text}\n"
    path = project / "model.py"
    (found,) = rewrite_text(text, guards=False, path=path).sites
    return found


CONV = "nn.Conv2d(8, 64, 3)"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"from .util import zero_module\nx = zero_module({CONV})", NO),
        (f"from .util import zero_module as z\nx = z(module={CONV})", NO),
        (f"from net.util import zero_module\nx = zero_module({CONV})", NO),
        (f"import net.util\nx = net.util.zero_module({CONV})", NO),
        (f"from . import util\nx = util.zero_module({CONV}.cuda())", NO),
        (f"from . import zero_module\nx = zero_module({CONV})", NO),
        (f"from net import zero_module\nx = zero_module({CONV})", NO),
        (f"from .parts.util import zero_module\nx = zero_module({CONV})", NO),
        (f"from .parts import zero_module\nx = zero_module({CONV})", NO),
        (f"from .parts.util import n\nx = n({CONV})", WRAPPED),
        (f"from .util import norm\nx = norm({CONV}, 'sn')", WRAPPED),
        (f"from .util import sn\nx = sn({CONV})", WRAPPED),
        (f"from .util import fuse_modules\nx = fuse_modules({CONV}, y)", NO),
        (f"from .util import activated\nx = activated({CONV}, nn.GELU())", YES),
        (f"from .util import activated\ndef f(m):\n    return activated(m)\nx = f({CONV})", YES),
        (f"from .util import zero_module\ndef f(m):\n    return zero_module(m)\nx = f({CONV})", NO),
        (f"from .util import Block\nx = Block({CONV})", YES),
        (f"from .util import Filled\nx = Filled(8, {CONV})", NO),
        (f"from .util import Filled\nx = Filled(width=8, module={CONV})", NO),
        (f"from .util import Stack\nx = Stack([{CONV}, nn.ReLU()])", YES),
        (f"from .parts.util import Block\nx = Block({CONV})", YES),
        (f"from .util import unknown\nx = unknown({CONV})", OPEN),
        (f"from .util import missing\nx = missing({CONV})", OPEN),
        (f"from .missing import zero_module\nx = zero_module({CONV})", OPEN),
        (f"from ....far import zero_module\nx = zero_module({CONV})", OPEN),
        (f"from .util import *\nx = zero_module({CONV})", OPEN),
    ],
)
def test_the_body_of_an_imported_callable_is_looked_up(project: Path, text: str, code: str) -> None:
    assert site(project, text).judgement.code == code


def test_the_reason_names_both_places(project: Path) -> None:
    found = site(project, f"from .util import zero_module\nx = zero_module({CONV})")
    assert found.judgement.reason == (
        "line 3 hands it to zero_module, and line 7 writes or names its parameters, and a "
        "replacement has others (in util.py)"
    )


@pytest.mark.parametrize("content", ["def zero_module(:\n", "\udcff", "from .loop import f\n"])
def test_a_file_that_does_not_tell_leaves_it_open(project: Path, content: str) -> None:
    (project / "loop.py").write_bytes(content.encode("utf-8", "surrogateescape"))
    found = site(project, f"from .loop import f\nx = f({CONV})")
    assert found.judgement.code == OPEN


def test_a_file_that_changed_is_read_again(project: Path) -> None:
    text = f"from .more import f\nx = f({CONV})"
    (project / "more.py").write_text("def f(m): return m\n")
    assert site(project, text).judgement.code == YES
    (project / "more.py").write_text("def f(m): return m.weight\n")
    assert site(project, text).judgement.code == NO


def test_without_a_path_nothing_is_looked_up(project: Path) -> None:
    text = f"from torch import nn\nfrom .util import activated\nx = activated({CONV})\n"
    (found,) = rewrite_text(text).sites
    assert found.judgement.code == OPEN
