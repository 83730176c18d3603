"""distill: the student nears the teacher, can be stopped and resumed, and leaves everything else alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.distilling import distill
from pytest_dwsconv.rewriting import rewrite


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def batches(count: int = 6, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(16, 8, 8, 8) for _ in range(count)]


def pair() -> tuple[nn.Module, nn.Module]:
    teacher = network().eval()
    return rewrite(teacher, depth_multiplier=2).model, teacher


def error(student: nn.Module, teacher: nn.Module) -> float:
    with torch.no_grad():
        return sum(float((student.eval()(x) - teacher(x)).square().mean()) for x in batches(2, seed=9))


def test_the_student_nears_the_teacher_and_nothing_else_changes() -> None:
    student, teacher = pair()
    before, kept = error(student, teacher), copy.deepcopy(teacher.state_dict())
    student.train()
    done = distill(student, teacher, batches(), steps=40, held_out=batches(1, seed=3), check_every=10)
    assert done.steps == 40
    assert list(done.held_out_loss) == [0, 10, 20, 30, 40]
    assert done.held_out_loss[done.best_step] == min(done.held_out_loss.values()) < done.held_out_loss[0]
    assert all(module.training for module in student.modules())
    assert error(student, teacher) < before / 2
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


def test_training_stops_when_held_out_data_gain_no_more() -> None:
    student, teacher = pair()
    before = copy.deepcopy(student.state_dict())
    done = distill(
        student, teacher, batches(), steps=60, learning_rate=10.0, held_out=batches(1), check_every=5, patience=2
    )
    assert (done.steps, done.best_step) == (10, 0)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


class Stop(KeyboardInterrupt):
    pass


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 20, "held_out": batches(1), "check_every": 5, "patience": 9}
    whole, teacher = pair()
    expected = distill(whole, teacher, batches(), **options)

    def breaking() -> Any:
        yield from batches()
        yield from batches()[:5]
        raise Stop

    path = tmp_path / "checkpoint.pt"
    stopped, teacher = pair()
    with pytest.raises(Stop):
        distill(stopped, teacher, breaking(), checkpoint=path, **options)
    resumed, teacher = pair()
    found = distill(resumed, teacher, batches(), checkpoint=path, **options)
    assert found == expected
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    student, teacher = pair()
    path = tmp_path / "checkpoint.pt"
    distill(student, teacher, batches(), steps=2, checkpoint=path)
    with pytest.raises(InputError, match="is not a checkpoint of this student"):
        distill(rewrite(teacher).model, teacher, batches(), steps=2, checkpoint=path)
    path.write_bytes(b"?")
    with pytest.raises(InputError, match="remove it to start anew"):
        distill(student, teacher, batches(), steps=2, checkpoint=path)


def test_without_batches() -> None:
    with pytest.raises(InputError, match="distill has no batches"):
        distill(*pair(), [], steps=2)
