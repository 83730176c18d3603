"""A checkpoint converted with the file whose model it is of."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trained_file import (
    COMMAND,
    FILE,
    WEIGHTS,
    Output,
    State,
    check_alike,
    loaded,
    nearest,
    trained,
)

from pytest_dwsconv import rewrite
from pytest_dwsconv.command.cli import main
from pytest_dwsconv.command.trial.weights import read_checkpoint


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_process: None) -> nn.Module:
    monkeypatch.chdir(tmp_path)
    return trained()


def test_a_converted_checkpoint_loads_strictly_and_has_the_nearest_kernels(
    model: nn.Module, capsys: Output
) -> None:
    torch.save(model.state_dict(), "in.pt")
    assert main([*COMMAND, *WEIGHTS]) == 0
    check_alike(loaded(torch.load("out.pt", weights_only=True)), nearest(model))
    out = capsys.readouterr().out
    params = sum(each.numel() for each in nearest(model).parameters())
    assert f"net.py: rewritten, it builds a model of {params:,} parameters and " in out
    assert "out.pt: the state dict loads strictly; on random input the outputs differ by " in out


@pytest.mark.parametrize("order", ["depthwise_first", "pointwise_first"])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("rewritten_before", [False, True])
def test_the_order_and_the_multiplier_are_those_of_file_and_checkpoint(
    model: nn.Module, order: str, multiplier: int, rewritten_before: bool
) -> None:
    torch.save(model.state_dict(), "in.pt")
    arguments = [*COMMAND, "--order", order, "--depth-multiplier", str(multiplier)]
    if rewritten_before:
        assert main(arguments) == 0
    assert main([*arguments, *WEIGHTS]) == 0
    expected = rewrite(model, order=order, depth_multiplier=multiplier)
    check_alike(loaded(torch.load("out.pt", weights_only=True)), expected.model.eval())
    assert f"X{multiplier}" in Path("net.py").read_text() or multiplier == 1


@pytest.mark.parametrize(("order", "after"), [("depthwise_first", 4672), ("pointwise_first", 5248)])
def test_the_saving_listed_is_that_of_the_order_and_the_multiplier(
    model: nn.Module, capsys: Output, order: str, after: int
) -> None:
    Path("net.py").write_text("from torch import nn\n\nnet = nn.Conv2d(32, 64, 3, bias=False)\n")
    arguments = ["--model", "net", "--order", order, "--depth-multiplier", "2", "net.py"]
    assert main(arguments) == 0
    assert f"saves {32 * 64 * 9 / after:.1f}x" in capsys.readouterr().out


def told_difference(out: str) -> float:
    match = re.search(r"the outputs differ by ([0-9.]+)%", out)
    assert match is not None
    return float(match[1])


@pytest.mark.parametrize("as_tensor", [False, True])
def test_weights_fitted_to_data_are_closer_than_the_nearest_kernels(
    model: nn.Module, capsys: Output, as_tensor: bool
) -> None:
    torch.save(model.state_dict(), "in.pt")
    batches = [torch.randn(32, 8, 12, 12) for _ in range(4)]
    torch.save(torch.cat(batches) if as_tensor else batches, "data.pt")
    command = ["net.py", "--model", "Net", *WEIGHTS, "--fit", "data.pt"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "; on the last batch of data.pt the outputs differ by " in out
    network = loaded(torch.load("out.pt", weights_only=True))
    found, wanted = network(batches[-1]).detach(), model(batches[-1]).detach()
    difference = float((found - wanted).norm() / wanted.norm())
    assert difference == pytest.approx(told_difference(out) / 100, abs=1e-3)
    other = nearest(model)(batches[-1])
    assert difference < 0.8 * float((other.detach() - wanted).norm() / wanted.norm())


LOADS = """

def pretrained(path, optimizer):
    optimizer.load_state_dict(torch.load(path))
    net = Net()
    net.load_state_dict(torch.load(path))
    return net
"""


@pytest.mark.parametrize(("more", "is_told"), [(LOADS, True), ("", False)])
def test_a_file_that_loads_weights_is_told_what_converts_them(
    model: nn.Module, capsys: Output, more: str, is_told: bool
) -> None:
    Path("net.py").write_text(f"import torch\n{FILE}{more}")
    assert main(["net.py", "--check"]) == 1
    line = len(f"import torch\n{FILE}".splitlines()) + 6
    notice = (
        f"net.py:{line}: loads weights, and those of the network before do not fit: "
        "dwsconv-rewrite --model MODEL --weights OLD.pt --weights-out NEW.pt net.py converts them, "
        "before or after\n"
    )
    assert (notice in capsys.readouterr().out) == is_told


def averaged(state: State) -> dict[str, Tensor]:
    return {"n_averaged": torch.tensor(3), **{f"module.{k}": v + 1.0 for k, v in state.items()}}


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, lambda c: c["state_dict"]),
        (
            lambda s: {f"module.{k}": v for k, v in s.items()},
            lambda c: {k.removeprefix("module."): v for k, v in c.items()},
        ),
        (lambda s: {"a": {"b": {"model": s}}}, lambda c: c["a"]["b"]["model"]),
        (
            lambda s: {"model": {k: v + 1.0 for k, v in s.items()}, "model_ema": s},
            lambda c: c["model_ema"],
        ),
        (lambda s: {k: v for k, v in s.items() if "tracked" not in k}, lambda c: c),
    ],
)
def test_state_dicts_are_found_as_training_scripts_save_them(
    model: nn.Module, wrap: Callable[[State], Any], unwrap: Callable[[Any], State]
) -> None:
    state = {k: v for k, v in model.state_dict().items() if "tracked" not in k}
    torch.save(wrap(state), "in.pt")
    assert main([*COMMAND, *WEIGHTS]) == 0
    converted = unwrap(torch.load("out.pt", weights_only=True))
    check_alike(loaded(converted), nearest(model))


def test_beside_state_dicts_all_but_an_optimizer_is_kept(model: nn.Module, capsys: Output) -> None:
    state = model.state_dict()
    optimizer = torch.optim.SGD(model.parameters(), 0.1).state_dict()
    content = {"model": state, "model_ema": averaged(state), "optimizer": optimizer, "epoch": 7}
    torch.save(content, "in.pt")
    assert main([*COMMAND, *WEIGHTS]) == 0
    converted = torch.load("out.pt", weights_only=True)
    assert list(converted) == ["model", "model_ema", "epoch"]
    assert converted["model_ema"]["n_averaged"] == 3
    assert "module.0.0.depthwise.weight" in converted["model_ema"]
    out = capsys.readouterr().out
    assert "out.pt: without optimizer, the state of an optimizer of old weights" in out
    assert "out.pt: model_ema loads strictly" in out


def test_a_checkpoint_keeps_its_precision(model: nn.Module) -> None:
    torch.save({k: v.half() for k, v in model.state_dict().items()}, "in.pt")
    assert main([*COMMAND, *WEIGHTS]) == 0
    converted = torch.load("out.pt", weights_only=True)
    assert {value.dtype for value in converted.values()} == {torch.float16}


def test_safetensors_are_read_and_written(model: nn.Module) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(model.state_dict(), "in.safetensors")
    arguments = ["--weights", "in.safetensors", "--weights-out", "out.safetensors"]
    assert main([*COMMAND, *arguments]) == 0
    check_alike(loaded(read_checkpoint(Path("out.safetensors"))), nearest(model))


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ({"a.weight": torch.ones(2)}, WEIGHTS, "hold no state dict of Net, whose keys begin with"),
        (nn.Conv2d(1, 1, 1), WEIGHTS, "cannot be read with weights_only=True"),
        (None, ["--weights", "none.pt", *WEIGHTS[2:]], "cannot be read: No such file"),
        (None, WEIGHTS[:2], "give both"),
        (None, ["--fit", "in.pt"], "is data to fit --weights to"),
        (None, [*WEIGHTS, "--budget", "1k"], "--budget needs trained weights and data"),
        (
            None,
            [*WEIGHTS, "--fit", "in.pt"],
            "holds an object of type OrderedDict: save a list of batches",
        ),
        (None, [*WEIGHTS, "--check"], "with --check and --diff nothing is"),
        (None, [*WEIGHTS[:3], "in.pt"], "would replace the trained weights"),
        (None, [*WEIGHTS[:3], "."], "is a folder"),
        (None, [*WEIGHTS[:3], "no/out.pt"], "cannot be written: No such file"),
        (None, [*WEIGHTS, "--class-from", "a:B"], "not for your --class-from"),
    ],
)
def test_what_cannot_be_converted_is_a_sentence_and_nothing_is_written(
    model: nn.Module, capsys: Output, content: object, arguments: list[str], message: str
) -> None:
    torch.save(model.state_dict() if content is None else content, "in.pt")
    assert main([*COMMAND, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert Path("net.py").read_text() == FILE
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["in.pt", "net.py"]


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(
    model: nn.Module, capsys: Output
) -> None:
    state = model.state_dict()
    del state["3.bias"]
    torch.save(state, "in.pt")
    assert main([*COMMAND, *WEIGHTS]) == 2
    sentence = 'the state dict does not fit Net: Missing key(s) in state_dict: "3.bias"'
    assert sentence in capsys.readouterr().err


REGISTRY = """\
TABLE = set()


def register(cls):
    assert cls.__name__ not in TABLE
    TABLE.add(cls.__name__)
    return cls
"""


def test_a_registry_is_filled_once_in_each_process(model: nn.Module, tmp_path: Path) -> None:
    package = tmp_path / "nets"
    (package / "models").mkdir(parents=True)  # without an __init__.py of its own
    (package / "__init__.py").write_text("from .models.net import Net\n")
    (package / "registry.py").write_text(REGISTRY)
    text = FILE.replace("class Net", "@register\nclass Net")
    path = package / "models" / "net.py"
    path.write_text(f"from ..registry import register\n{text}")
    torch.save(model.state_dict(), "in.pt")
    command = [sys.executable, "-m", "pytest_dwsconv", *COMMAND[1:], *WEIGHTS, str(path)]
    subprocess.run(command, check=True)
    assert "DepthwiseSeparableConv2d" in path.read_text()
    alone = path.read_text().replace("from ..registry import register\n", "")
    Path("net.py").write_text(alone.replace("@register\n", ""))
    check_alike(loaded(torch.load("out.pt", weights_only=True)), nearest(model))


@pytest.mark.parametrize("place", ["loose", "loose_too/deep"])
def test_relative_imports_work_in_folders_without_an_init_file(
    model: nn.Module, tmp_path: Path, place: str
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (tmp_path / place.partition("/")[0] / "parts.py").write_text(
        "from torch import nn\nAct = nn.ReLU\n"
    )
    dots = "." * (place.count("/") + 1)
    text = FILE.replace("from torch", f"from {dots}parts import Act\nfrom torch")
    (folder / "net.py").write_text(text.replace("nn.ReLU()", "Act()"))
    assert main(["--model", "Net", str(folder / "net.py")]) == 0


COUNTING = """\
import os
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(8, 16, 3))
        {}


os.environ["NET_RUNS"] = str(int(os.environ["NET_RUNS"]) + 1)
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "assert len(list(self.parameters())) == 2",
            "once rewritten, it fails: model 'net.py:Net'",
        ),
        (
            "self.append(nn.Linear(1, int(os.environ['NET_RUNS']) + 1))",
            "builds a model of 222 parameters, and 220 were predicted; nothing is written",
        ),
    ],
)
def test_what_is_not_as_predicted_is_not_written(
    model: nn.Module, capsys: Output, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    monkeypatch.setenv("NET_RUNS", "0")
    Path("net.py").write_text(COUNTING.format(line))
    assert main(["net.py", "--model", "Net"]) == 2
    assert message in capsys.readouterr().err
    assert Path("net.py").read_text() == COUNTING.format(line)
