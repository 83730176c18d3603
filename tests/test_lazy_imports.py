from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = tuple(
    "torch libcst numpy scipy tabulate jinja2 tflite flatbuffers ai_edge_litert "
    "litert_torch".split()
)
NOTHING_HEAVY = f"import sys; print(sorted({set(HEAVY)} & set(sys.modules)))"


def run(code: str, folder: Path) -> str:
    """What a fresh interpreter in ``folder`` prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "statement",
    [
        "import pytest_dwsconv",
        "import pytest_dwsconv.plugin",
        "import pytest_dwsconv.edgetpu",
        "from pytest_dwsconv.edgetpu import Compilation, ModelFile, compile_model, judge_model, "
        "read_model",
        "import pytest_dwsconv.plugin.hookspecs, pytest_dwsconv.targets, "
        "pytest_dwsconv.core.budget",
        "import pytest_dwsconv.report, pytest_dwsconv.render.forms.text",
        "from pytest_dwsconv import Budget, ConvSpec, Cost, Finding, Kind, Order, Policy, Report, "
        "Verdict, judge",
    ],
)
def test_importing_brings_nothing_heavy(statement: str, tmp_path: Path) -> None:
    assert run(f"{statement}\n{NOTHING_HEAVY}", tmp_path) == "[]"


@pytest.mark.parametrize("argument", ["--co", "--dws-report"])
def test_a_run_without_models_brings_nothing_heavy(argument: str, tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass")
    arguments = ["-q", "-p", "no:xdist", "-p", "no:hypothesispytest", argument]
    suite = f"import pytest; assert pytest.main({arguments}) == 0"
    code = f"{suite}\nimport pytest_dwsconv.plugin\n{NOTHING_HEAVY}"
    assert run(code, tmp_path) == "[]"


def test_the_plugin_itself_is_loaded_alone_when_nothing_is_asked(tmp_path: Path) -> None:
    code = (
        "import pytest, sys\n"
        "assert pytest.main(['-q', '--co']) == 5\n"
        "print(*sorted(name for name in sys.modules if name.startswith('pytest_dwsconv.')))"
    )
    parts = """
        _version
        core core.forms
        plugin plugin.fixtures plugin.hookspecs plugin.record
        plugin.targets plugin.targets.cpu plugin.targets.edgetpu
    """
    assert run(code, tmp_path).split() == [f"pytest_dwsconv.{part}" for part in parts.split()]


def test_analyze_is_a_public_name_resolved_on_use(tmp_path: Path) -> None:
    code = "from pytest_dwsconv import analyze; import sys\n"
    code += "print(analyze.__module__, 'torch' in sys.modules)"
    assert run(code, tmp_path) == "pytest_dwsconv.analysis.analyze True"


def test_the_names_for_the_edge_tpu() -> None:
    from pytest_dwsconv import edgetpu

    assert set(edgetpu.__all__) <= set(dir(edgetpu))
    assert all(callable(getattr(edgetpu, name)) for name in edgetpu.__all__)
    with pytest.raises(
        AttributeError, match=r"module 'pytest_dwsconv.edgetpu' has no attribute 'compile'"
    ):
        edgetpu.compile  # noqa: B018  # reading it is the test


def test_an_unknown_public_name(tmp_path: Path) -> None:
    import pytest_dwsconv

    with pytest.raises(AttributeError, match="module 'pytest_dwsconv' has no attribute 'analyse'"):
        pytest_dwsconv.analyse  # noqa: B018  # reading it is the test
    assert "analyze" in dir(pytest_dwsconv)


def test_layers_answered_by_their_shapes_bring_no_more_of_pytorch(tmp_path: Path) -> None:
    """PyTorch's flop counter imports triton where it is installed, some operators its compiler."""
    code = """
import sys
from torch import nn
loaded = set(sys.modules)
from pytest_dwsconv import analyze
layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
assert analyze(nn.Sequential(*layers), (1, 3, 32, 32)).macs
heavy = {"torch.utils.flop_counter", "triton", "sympy", "torch._decomp"}
print(sorted(heavy & (set(sys.modules) - loaded)))
"""
    assert run(code, tmp_path) == "[]"
