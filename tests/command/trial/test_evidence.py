"""The table of ``--model``: it foretells what the rewritten file builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv.command.cli import main
from pytest_dwsconv.command.trial.evidence import FileModel, model_of_file
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.report import Report
from pytest_dwsconv.source.edit import rewrite_text
from pytest_dwsconv.targets import build_from_file

pytestmark = pytest.mark.usefixtures("one_process")

EXAMPLE = Path(__file__).parents[3] / "examples" / "classifier.py"
FILE = """\
import copy
import torch
from torch import nn
from {elsewhere} import outside

def conv(inputs, outputs, k=3, groups=1):
    return nn.Conv2d(inputs, outputs, k, padding=k // 2, groups=groups)

class Own(nn.Conv2d):
    pass

class Net(nn.Sequential):
    def __init__(self):
        layer = nn.Conv2d(16, 16, 3, padding=1)
        super().__init__(
            nn.Conv2d(3, 16, 3),  # dws: skip
            layer,
            copy.deepcopy(layer),
            {body},
            outside(16, 16, 3),
            Own(16, 16, 3),
            nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 5, 1, 2),
        )
"""

COLUMNS = sys.version_info >= (3, 11)
"""Whether this Python records where in its line a call begins; the last candidate is the second of
its line.
"""


def params(path: Path, model: str) -> int:
    return sum(parameter.numel() for parameter in build_from_file(path, model).parameters())


def foretold(path: Path, model: str, guards: bool = True) -> Report:
    built = model_of_file(path, model)
    rewrite = rewrite_text(path.read_text(), evidence=built.evidence, guards=guards)
    return built.report_after_rewrite(rewrite.sites)


@pytest.fixture
def net(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file whose network also has convolutions that another file, of an own name, builds."""
    elsewhere = f"elsewhere_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{elsewhere}.py").write_text(
        "from torch import nn\n\nclass outside(nn.Sequential):\n"
        "    def __init__(self, *a):\n        super().__init__(nn.Conv2d(*a))\n"
    )
    path = tmp_path / "net.py"
    path.write_text(FILE.format(elsewhere=elsewhere, body=request.param))
    return path


@pytest.mark.parametrize(
    ("net", "candidates"),
    [
        ("conv(16, 16)", ["1", "2", "3", "7"]),
        ("conv(16, 16, 1)", ["1", "2", "7"]),
        ("conv(16, 16, groups=16)", ["1", "2", "7"]),
        ("conv(16, 16), conv(16, 16, groups=16)", ["1", "2", "3", "8"]),
    ],
    indirect=["net"],
)
def test_the_table_foretells_what_the_rewritten_file_builds(
    net: Path, candidates: list[str]
) -> None:
    report = foretold(net, "Net")
    assert [finding.name for finding in report.candidates] == (
        candidates if COLUMNS else candidates[:-1]
    )
    assert main(["--model", "Net", str(net)]) == 0
    assert params(net, "Net") == report.separable_params < report.params


@pytest.mark.parametrize("net", ["conv(16, 16), conv(16, 16, groups=16)"], indirect=True)
def test_each_row_has_the_reason_that_holds_for_it(net: Path) -> None:
    findings = {finding.name: finding for finding in foretold(net, "Net", guards=False).findings}
    assert [
        (findings[name].code, findings[name].verdict) for name in ("0", "3", "4", "5.0", "6")
    ] == [
        ("DWS101", Verdict.INELIGIBLE),
        ("DWS203", Verdict.CANNOT_TELL),
        ("DWS105", Verdict.INELIGIBLE),
        ("DWS201", Verdict.CANNOT_TELL),
        ("DWS106", Verdict.INELIGIBLE),
    ]
    assert "for 1 of the 2 built here, it is depthwise already" in findings["3"].reason
    assert findings["5.0"].reason == "no call of its class in this file builds it"
    assert findings["3"].separable_params is None


@pytest.mark.parametrize(
    ("helper", "codes"),
    [
        ("def helper(a, b): b.weight = a.weight", ["DWS109", "DWS109", "DWS001"]),
        ("from torch.nn.utils.parametrizations import weight_norm\n\ndef helper(a, b): "
         "weight_norm(a)",
         ["DWS108", "DWS001", "DWS001"]),
    ],
)  # fmt: skip
def test_what_another_file_does_to_a_layer_is_evidence_too(
    tmp_path: Path, helper: str, codes: list[str]
) -> None:
    elsewhere = f"helping_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{elsewhere}.py").write_text(f"{helper}\n")
    path = tmp_path / "net.py"
    path.write_text(
        f"from torch import nn\nfrom {elsewhere} import helper\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        a = nn.Conv2d(8, 8, 3)\n        b = nn.Conv2d(8, 8, 3)\n"
        "        super().__init__(a, b, nn.Conv2d(8, 8, 3))\n        helper(a, b)\n"
    )
    report = foretold(path, "Net")
    assert [finding.code for finding in report.findings] == codes
    assert main(["--model", "Net", str(path)]) == 0
    assert params(path, "Net") == report.separable_params < report.params


def test_calls_that_cannot_be_told_apart_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "line.py"
    source = (
        "from torch import nn\n\n\ndef net():\n"
        "    a, b = nn.Conv2d(8, 16, 3), nn.Conv2d(16, 32, 3)\n"
        "    return nn.Sequential(a, b, nn.Conv2d(32, 32, 3))\n"
    )
    path.write_text(source)
    command = [
        sys.executable,
        "-X",
        "no_debug_ranges",
        "-m",
        "pytest_dwsconv",
        "--model",
        "net",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if " DWS205 " in line]
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert done.stdout.count("line.py:5:") == done.stdout.count("which of them built what") == 2
    assert "    a, b = nn.Conv2d(8, 16, 3), nn.Conv2d(16, 32, 3)\n" in path.read_text()
    assert params(path, "net") == 8 * 16 * 9 + 16 + 16 * 32 * 9 + 32 + 32 * 9 + 32 * 32 + 32


def test_values_that_another_model_of_the_file_gives_a_call_are_decided_when_it_runs(
    tmp_path: Path,
) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\ndef build(large=True):\n"
        "    return nn.Conv2d(16, 16, 3 if large else 1)\n"
    )
    before = params(path, "build(large=False)")
    main(["--model", "build", str(path)])
    assert params(path, "build") == 16 * 9 + 16 * 16 + 16
    assert params(path, "build(large=False)") == before


def test_what_calls_of_a_partial_build_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from functools import partial\nfrom torch import nn\n"
        "conv3 = partial(nn.Conv2d, kernel_size=3)\n"
        "def build():\n    return nn.Sequential(\n        conv3(16, 32),\n        conv3(32, 8))\n"
    )
    report = foretold(tmp_path / "net.py", "build")
    assert [found.verdict for found in report.findings] == [Verdict.CANDIDATE] * 2
    main(["--model", "build", str(tmp_path / "net.py")])
    assert params(tmp_path / "net.py", "build") == report.separable_params


def test_the_example_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "classifier.py"
    path.write_text(EXAMPLE.read_text())
    assert main(["--model", "classifier", "--input-size", "1,3,64,64", str(path)]) == 0
    out = capsys.readouterr().out
    after = params(path, "classifier")
    (whole,) = (line for line in out.splitlines() if line.startswith("whole model"))
    assert f" {after:,} " in whole
    (stem,) = (line for line in out.splitlines() if line.startswith("stem.0 "))
    assert " DWS101 " in stem


def test_a_compiled_model_is_told_by_the_names_of_the_original(tmp_path: Path) -> None:
    path = tmp_path / "compiled.py"
    path.write_text(
        "import torch\nfrom torch import nn\n\n\ndef net():\n    return torch.compile(nn.Conv2d(8, "
        "64, 3))\n"
    )
    built: FileModel = model_of_file(path, "net")
    assert set(built.built_at) == {""}


def test_a_wrapper_that_hands_on_the_attributes_of_a_compiled_part_is_the_model(
    tmp_path: Path,
) -> None:
    path = tmp_path / "wrapper.py"
    path.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.net = torch.compile(nn.Conv2d(8, 16, 3))\n"
        "        self.head = nn.Conv2d(16, 8, 3)\n\n"
        "    def __getattr__(self, name):\n"
        "        try:\n            return super().__getattr__(name)\n"
        "        except AttributeError:\n"
        "            return getattr(super().__getattr__('net'), name)\n"
    )
    model = model_of_file(path, "Net")
    assert [found.name for found in model.report.findings] == ["net._orig_mod", "head"]
    assert set(model.built_at) == {"net._orig_mod", "head"}
