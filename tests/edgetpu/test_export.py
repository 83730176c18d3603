"""What ``export_int8`` does around the conversion, which tests/integration runs."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.edgetpu import export_int8
from pytest_dwsconv.edgetpu.export import exporter
from pytest_dwsconv.errors import ExportError, InputError, MissingDependencyError

SHAPE = (1, 3, 8, 8)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        normal: Tensor = self.norm(self.conv(images))
        return normal


class Branching(Network):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features if features.sum() > 0 else -features


class Stubborn(Network):
    def __deepcopy__(self, memo: object) -> Stubborn:
        raise TypeError("holds a socket")


def spoiled() -> Network:
    network = Network()
    network.norm.running_var = torch.full((4,), torch.inf)
    return network


@pytest.mark.parametrize(
    ("model", "shape", "more", "message"),
    [
        ("net", SHAPE, {}, "an export takes a torch.nn.Module, not str; build the model first"),
        (torch.jit.script(nn.ReLU()), SHAPE, {}, "not RecursiveScriptModule"),
        (
            Network(),
            (2, 3, 8, 8),
            {},
            r"the batch size in \(2, 3, 8, 8\) is 2, and the Edge TPU takes 1",
        ),
        (Network(), (1, 3, 0, 8), {}, r"\(1, 3, 0, 8\) is not an input shape"),
        (Network(), (1, 3, 8.5, 8), {}, "is not an input shape; give whole numbers such as"),
        (Network(), (1,), {}, "is not an input shape"),
        (Network(), "1,3,8,8", {}, "'1,3,8,8' is not an input shape"),
        (Network(), (1, 3, 10**400, 8), {}, "the input has more than the 2,147,483,647 elements"),
        (Network(), None, {}, "None is not an input shape"),
        (Network(), SHAPE, {"timeout": float("inf")}, "timeout is inf; give the seconds"),
        (Network(), SHAPE, {"calibration": 5}, "calibration is of type int; give tensors"),
        (
            Network(),
            SHAPE,
            {"calibration": torch.rand(3, 8, 8)},
            r"a calibration batch is \(3, 8, 8\); give inputs of",
        ),
        (
            Network(),
            SHAPE,
            {"calibration": [torch.tensor(1.0)]},
            r"a calibration batch is \(\); give inputs of",
        ),
        (Network(), SHAPE, {"timeout": 0}, "timeout is 0; give the seconds"),
        (Network(), SHAPE, {"timeout": float("nan")}, "timeout is nan; give the seconds"),
        (Network(), SHAPE, {"calibration": []}, "calibration holds no input"),
        (
            Network(),
            SHAPE,
            {"calibration": [(torch.rand(SHAPE), 1)]},
            r"calibration holds a tuple; give tensors: \(x fo",
        ),
        (
            Network(),
            SHAPE,
            {"calibration": [torch.rand(2, 3, 8, 9)]},
            r"is \(2, 3, 8, 9\); give inputs of \(N, 3, 8, 8\)",
        ),
        (
            Network(),
            SHAPE,
            {"calibration": [torch.full(SHAPE, torch.inf)]},
            "a calibration input is not finite",
        ),
        (spoiled(), SHAPE, {}, "norm.running_var of Network is not finite; it has no int8 form"),
        (
            nn.LazyConv2d(4, 3),
            SHAPE,
            {},
            "weight of LazyConv2d has no values yet; initialise or load the model first",
        ),
        (Network().to("meta"), SHAPE, {}, "conv.weight of Network has no values yet"),
        (
            Stubborn().half(),
            SHAPE,
            {},
            r"Stubborn cannot be copied \(TypeError: holds a socket\); move it to the CPU",
        ),
    ],
)
def test_arguments_that_cannot_be_used(
    model: Any, shape: Any, more: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_NEEDED", ())
    with pytest.raises(InputError, match=message):
        export_int8(model, shape, **more)


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_NEEDED", ("torch", "no-such-package"))
    with pytest.raises(MissingDependencyError) as caught:
        export_int8(Network(), SHAPE)
    assert str(caught.value) == (
        "exporting to TFLite needs the package no-such-package: "
        "pip install 'pytest-dwsconv[export]'"
    )


def left_behind(folder: Path) -> list[str]:
    """What is ours in a folder; torch keeps a cache of its own there."""
    return [name for name in os.listdir(folder) if name.startswith("dwsconv")]


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a shell script in the place of the Python that converts; gives the temporary folder."""
    if os.name != "posix":
        pytest.skip("the stand-in is a shell script")
    monkeypatch.setattr(exporter, "_NEEDED", {})
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def use(script: str) -> Path:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr("sys.executable", str(program))
        return temporary

    return use


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -9 $$", r"the converter failed \(ended by SIGKILL\): it printed nothing"),
        (
            "echo one >&2; echo two >&2; kill -11 $$",
            r"the converter failed \(ended by SIGSEGV\): two",
        ),
        ("exit 3", r"the converter failed \(exit code 3\): it printed nothing"),
        (
            "printf 'SIN has no int8 form' > 0/refusal.txt; exit 1",
            "Network cannot be exported: SIN has no int8 form",
        ),
        ("exit 0", "Network cannot be exported: .*No such file.*model.tflite.*; check the space"),
    ],
)
def test_a_conversion_that_fails(
    interpreter: Callable[[str], Path], script: str, message: str
) -> None:
    temporary = interpreter(script)
    with pytest.raises(ExportError, match=message):
        export_int8(Network(), SHAPE)
    assert left_behind(temporary) == []


def test_a_conversion_that_hangs_ends_in_time(interpreter: Callable[[str], Path]) -> None:
    temporary = interpreter("echo $TMPDIR > ../where; sleep 60 & sleep 60")
    start = time.monotonic()
    with pytest.raises(
        ExportError,
        match="exporting Network was stopped: not done after 1 s; give it a longer timeout",
    ):
        export_int8(Network(), SHAPE, timeout=1)
    assert time.monotonic() - start < 30
    assert Path((temporary / "where").read_text().strip()).parent == temporary
    assert left_behind(temporary) == []


def test_a_python_that_is_not_there(
    interpreter: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = interpreter("")
    monkeypatch.setattr("sys.executable", "/absent/python")
    with pytest.raises(
        ExportError, match=r"Network cannot be exported: .*No such file or directory.*absent"
    ):
        export_int8(Network(), SHAPE)
    assert left_behind(temporary) == []


@pytest.mark.skipif(os.name != "posix", reason="limits a file's size as only POSIX can")
def test_a_full_disk(interpreter: Callable[[str], Path]) -> None:
    """A limit on the size of a file: as on a full disk, an OSError of another number."""
    import resource
    import signal

    temporary = interpreter("exit 0")
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
        with pytest.raises(
            ExportError,
            match=r"Network cannot be exported: .*; check the space in the temporary folder",
        ):
            export_int8(Network(), SHAPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert left_behind(temporary) == []


def test_a_forward_that_cannot_be_recorded(interpreter: Callable[[str], Path]) -> None:
    temporary = interpreter("exit 0")
    model = Branching().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ExportError,
        match=r"cannot record the forward of Branching: .*\(1, 3, 8, 8\), without a branch on what "
        r"is in a t",
    ):
        export_int8(model, SHAPE)
    assert model.training
    assert model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert left_behind(temporary) == []
