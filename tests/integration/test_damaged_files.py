"""Files damaged at random are read as something whole, or refused in a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tflite_files import COMPILED, PLAIN, pack

from pytest_dwsconv import Measurement, Plan, Report
from pytest_dwsconv.configuration import load_config
from pytest_dwsconv.core.suite.baseline import Baseline
from pytest_dwsconv.edgetpu import judge_model, read_model
from pytest_dwsconv.errors import DwsconvError

STORED = Path(__file__).parents[1] / "core" / "stored"
SETTINGS = b'[tool.dwsconv]\nexclude = ["a", "b/*"]\nmin-saving = 2.0\nfew-channels = true\n'


def judged(path: Path) -> Any:
    return str(judge_model(read_model(path)))


def unpacked(path: Path) -> Any:
    return str(read_model(path))


def printed(read: Callable[[str], Any]) -> Callable[[Path], Any]:
    return lambda path: str(read(path.read_text(encoding="utf-8", errors="replace")))


KINDS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "report": ("r.json", (STORED / "report.json").read_bytes(), printed(Report.from_json)),
    "plan": ("p.json", (STORED / "plan.json").read_bytes(), printed(Plan.from_json)),
    "baseline": ("b.json", (STORED / "baseline.json").read_bytes(), printed(Baseline.from_json)),
    "measurement": (
        "m.json",
        (STORED / "measurement.json").read_bytes(),
        printed(Measurement.from_json),
    ),
    "model": ("plain.tflite", pack(PLAIN), judged),
    "compiled model": ("compiled.tflite", pack(COMPILED), unpacked),
    "settings": ("pyproject.toml", SETTINGS, lambda path: load_config(path.parent).policy),
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut out, put in or said twice; or all that follows lost."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        place = chance.randrange(len(changed) or 1)
        some = changed[place : place + chance.choice([1, 2, 8, 40])]
        way = chance.randrange(5)
        if way == 0:
            changed[place : place + len(some)] = chance.randbytes(len(some))
        elif way == 1:
            del changed[place : place + len(some)]
        elif way == 2:
            changed[place:place] = some * chance.choice([1, 100])
        elif way == 3:
            changed[place : place + 1] = chance.choice(
                [b"9" * 400, b"-1", b'"x"', b"null", b"[", b"\0"]
            )
        else:
            del changed[place:]
    return bytes(changed)


def check(kind: str, seeds: range, folder: Path) -> None:
    name, content, read = KINDS[kind]
    refusals = []
    for seed in seeds:
        path = folder / name
        path.write_bytes(damaged(content, random.Random(seed)))
        try:
            read(path)
        except DwsconvError as error:
            refusals.append(str(error))
    assert refusals
    assert all(0 < len(refusal) < 1000 for refusal in refusals)


@pytest.mark.parametrize("kind", KINDS)
def test_some_damage(kind: str, tmp_path: Path) -> None:
    KINDS[kind][2](_written(kind, tmp_path))
    check(kind, range(40), tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_much_damage(kind: str, tmp_path: Path) -> None:
    check(kind, range(40, 760), tmp_path)


def _written(kind: str, folder: Path) -> Path:
    name, content, _ = KINDS[kind]
    path = folder / name
    path.write_bytes(content)
    return path
