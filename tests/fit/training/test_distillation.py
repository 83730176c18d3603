"""distill: the student nears the teacher, can be resumed, and leaves everything else alone."""

from __future__ import annotations

import copy
import io
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.errors import DwsconvError, InputError, TracingError
from pytest_dwsconv.fit.comparison import fast_layout, mean_mismatch, seen, variation
from pytest_dwsconv.fit.training.distillation import distill
from pytest_dwsconv.rewriting.rewrite import rewrite


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)
    )
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def batches(count: int = 6, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(16, 8, 8, 8) for _ in range(count)]


def pair() -> tuple[nn.Module, nn.Module]:
    teacher = network().eval()
    return rewrite(teacher, depth_multiplier=2).model, teacher


def error(student: nn.Module, teacher: nn.Module) -> float:
    with torch.no_grad():
        return sum(
            float((student.eval()(x) - teacher(x)).square().mean()) for x in batches(2, seed=9)
        )


def test_the_student_nears_the_teacher_and_nothing_else_changes() -> None:
    student, teacher = pair()
    before, kept = error(student, teacher), copy.deepcopy(teacher.state_dict())
    student.train()
    done = distill(
        student, teacher, batches(), steps=40, held_out=batches(1, seed=3), check_every=10
    )
    assert done.steps == 40
    assert list(done.held_out_loss) == [0, 10, 20, 30, 40]
    assert (
        done.held_out_loss[done.best_step]
        == min(done.held_out_loss.values())
        < done.held_out_loss[0]
    )
    assert all(module.training for module in student.modules())
    assert error(student, teacher) < before / 2
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert not any(
        module._forward_hooks for model in (student, teacher) for module in model.modules()
    )


def test_training_stops_when_held_out_data_gain_no_more() -> None:
    student, teacher = pair()
    before = copy.deepcopy(student.state_dict())
    done = distill(
        student,
        teacher,
        batches(),
        steps=60,
        learning_rate=10.0,
        held_out=batches(1),
        check_every=5,
        patience=2,
    )
    assert (done.steps, done.best_step) == (10, 0)
    assert same(student.state_dict(), before)


def with_nan(count: int) -> list[Tensor]:
    """Batches of which the last has one value that is no number."""
    made = batches(count)
    made[-1][0, 0, 0, 0] = math.nan
    return made


@pytest.mark.parametrize("held_out", [[], batches(1)])
def test_a_loss_that_is_not_a_number_ends_training(held_out: list[Tensor]) -> None:
    options: dict[str, Any] = {"steps": 9, "held_out": held_out, "check_every": 2}
    student, teacher = pair()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(
        InputError, match="the loss of step 4 is nan: lower learning_rate, take NaN"
    ):
        distill(student, teacher, with_nan(4), **options)
    stopped, teacher = pair()
    with pytest.raises(Stop):
        distill(stopped, teacher, stopping_after(3), **options)
    assert same(student.state_dict(), stopped.state_dict() if held_out else before)


def test_weights_too_small_a_type_for_training_leave_the_student_as_it_was() -> None:
    student, teacher = (network.half() for network in pair())
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(InputError, match=r"not finite after 1 steps: .* or use float32"):
        distill(student, teacher, [x.half() for x in batches()], steps=1, learning_rate=1.3e5)
    assert same(student.state_dict(), before)


def test_half_precision_is_trained() -> None:
    student, teacher = (network.half() for network in pair())
    data = [x.half() for x in batches()]
    found = distill(student, teacher, data, steps=40, learning_rate=1e-2, held_out=data)
    assert found.held_out_loss[found.best_step] < found.held_out_loss[0]


def test_gradients_are_left_as_they_were() -> None:
    student, teacher = pair()
    first, *others = student.parameters()
    first.grad = gradient = torch.ones_like(first)
    distill(student, teacher, batches(), steps=2)
    assert first.grad is gradient
    assert bool((gradient == 1).all())
    assert all(parameter.grad is None for parameter in others)


class Stop(KeyboardInterrupt):
    pass


def stopping_after(count: int) -> Iterator[Tensor]:
    yield from (batches() * count)[:count]
    raise Stop


OPTIONS: dict[str, Any] = {"steps": 20, "held_out": batches(1), "check_every": 5, "patience": 9}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, teacher = pair()
    expected = distill(whole, teacher, batches(), **OPTIONS)
    path = tmp_path / "checkpoint.pt"
    stopped, teacher = pair()
    with pytest.raises(Stop):
        distill(stopped, teacher, stopping_after(11), checkpoint=path, **OPTIONS)
    resumed, teacher = pair()
    found = distill(resumed, teacher, batches(), checkpoint=path, **OPTIONS)
    assert found == expected
    assert same(resumed.state_dict(), whole.state_dict())
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    again, teacher = pair()
    assert distill(again, teacher, batches(), checkpoint=path, **OPTIONS) == expected
    assert same(again.state_dict(), whole.state_dict())


def test_patience_outlasts_a_stop(tmp_path: Path) -> None:
    """With a rate that only does harm, the check at step 0 stays the best."""
    options = OPTIONS | {"learning_rate": 10.0, "patience": 2}
    student, teacher = pair()
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        distill(student, teacher, stopping_after(7), checkpoint=path, **options)
    for _ in range(2):
        done = distill(student, teacher, batches(), checkpoint=path, **options)
        assert (done.steps, done.best_step) == (10, 0)


def test_an_interrupted_training_leaves_the_best_weights_checked() -> None:
    stopped, teacher = pair()
    with pytest.raises(Stop):
        distill(stopped, teacher, stopping_after(13), **OPTIONS)
    expected, teacher = pair()
    done = distill(
        expected, teacher, batches(), **OPTIONS | {"held_out": batches(1), "patience": 2}
    )
    assert (
        min(done.held_out_loss, key=lambda step: done.held_out_loss[step]) == done.best_step == 20
    )
    ten, teacher = pair()
    with pytest.raises(Stop):
        distill(ten, teacher, stopping_after(10), **OPTIONS)
    assert same(stopped.state_dict(), ten.state_dict())
    assert not any(
        module._forward_hooks for model in (stopped, teacher) for module in model.modules()
    )


def test_an_interrupted_training_without_held_out_batches_leaves_the_latest_weights() -> None:
    (stopped, teacher), (untrained, _) = pair(), pair()
    with pytest.raises(Stop):
        distill(stopped, teacher, stopping_after(3), steps=20)
    assert error(stopped, teacher) < error(untrained, teacher)


STOPPED_BY_TWO = """
import sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_distillation import OPTIONS, Stop, batches, distill, pair

dist.init_process_group("gloo")
student, teacher = pair()

def own():
    yield from batches(7, seed=dist.get_rank())
    raise Stop

try:
    distill(student, teacher, own(), **OPTIONS)
except Stop:
    pass
both = [None, None]
dist.all_gather_object(both, student.state_dict())
assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())
dist.destroy_process_group()
"""


def test_two_processes_keep_the_same_statistics_of_normalisation(tmp_path: Path) -> None:
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED_BY_TWO)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(script), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


OTHERS: dict[str, dict[str, Any]] = {
    "multiplier": {},
    "layers": {"depth_multiplier": 2, "ignore": ["0.0"]},
    "order": {"depth_multiplier": 2, "order": "pointwise_first"},
}


@pytest.mark.parametrize("held_out", [0, 2])
@pytest.mark.parametrize("how", OTHERS)
def test_a_checkpoint_of_another_student_is_refused(
    how: str, held_out: int, tmp_path: Path
) -> None:
    student, teacher = pair()
    path, held = tmp_path / "checkpoint.pt", batches(held_out, seed=3)
    distill(student, teacher, batches(), steps=4, held_out=held, check_every=2, checkpoint=path)
    other = rewrite(teacher, **OTHERS[how]).model
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        InputError, match="is not a checkpoint of this student: remove it to start anew"
    ):
        distill(other, teacher, batches(), steps=4, held_out=held, checkpoint=path)
    assert same(other.state_dict(), before)


@pytest.mark.parametrize("content", [b"", b"?", b"some text\nin two lines\n"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_sentence(
    content: bytes, tmp_path: Path
) -> None:
    student, teacher = pair()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        distill(student, teacher, batches(), steps=2, checkpoint=path)
    start_anew = "remove it to start anew, or pass another path"
    assert str(raised.value) == f"{path} is not a checkpoint that distill can read: {start_anew}"
    assert path.read_bytes() == content


def refused_and_left_alone(path: Path) -> None:
    student, teacher = pair()
    before, written = copy.deepcopy(student.state_dict()), path.read_bytes()
    with pytest.raises(InputError, match=r"is not a checkpoint that distill can read: remove it"):
        distill(student, teacher, batches(), steps=2, held_out=batches(1), checkpoint=path)
    assert same(student.state_dict(), before)
    assert path.read_bytes() == written


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("checkpoint") / "whole.pt"
    student, teacher = pair()
    distill(student, teacher, batches(), steps=2, held_out=batches(1), checkpoint=path)
    return path.read_bytes()


FIELDS = "step best_step history best student optimiser schedule terms checksum".split()


@pytest.mark.parametrize("value", ["missing", None, torch.zeros(3), 5, {}], ids=str)
@pytest.mark.parametrize("field", FIELDS)
def test_a_checkpoint_with_a_missing_or_wrong_field_is_refused(
    field: str, value: object, checkpoint: bytes, tmp_path: Path
) -> None:
    state = torch.load(io.BytesIO(checkpoint), weights_only=True)
    assert state.keys() == set(FIELDS)
    del state[field]
    if value != "missing":
        state[field] = value
    torch.save(state, tmp_path / "wrong.pt")
    refused_and_left_alone(tmp_path / "wrong.pt")


@pytest.mark.parametrize("part", ["student", "best", "optimiser"])
def test_a_checkpoint_with_a_damaged_tensor_is_refused(
    part: str, checkpoint: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.pt"
    state = torch.load(io.BytesIO(checkpoint), weights_only=True)
    tensor = next(leaf for leaf in tree_leaves(state[part]) if isinstance(leaf, Tensor))
    content = tensor.numpy().tobytes()
    assert content in checkpoint
    path.write_bytes(checkpoint.replace(content, bytes([content[0] ^ 1]) + content[1:]))
    refused_and_left_alone(path)


def test_a_checkpoint_behind_a_link_is_replaced_where_it_is(tmp_path: Path) -> None:
    student, teacher = pair()
    path = tmp_path / "link.pt"
    path.symlink_to(tmp_path / "file.pt")
    distill(student, teacher, batches(), steps=2, checkpoint=path)
    assert path.is_symlink()
    assert {file.name for file in tmp_path.iterdir()} == {"link.pt", "file.pt"}


def another_teacher() -> dict[str, Any]:
    teacher = network().eval()
    torch.nn.init.normal_(teacher.get_parameter("3.weight"))
    return {"teacher": teacher, "student": rewrite(teacher, depth_multiplier=2).model}


OTHER_TRAININGS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "teacher": (another_teacher, "is the checkpoint of a training with another teacher: remove it"),
    "numbers": (
        lambda: {"steps": 3, "learning_rate": 1},
        "with steps=2 and learning_rate=0.001: remove it",
    ),
    "held out": (
        lambda: {"held_out": []},
        "of a training with held_out batches: pass them again, or remove it",
    ),
}


@pytest.mark.parametrize("case", OTHER_TRAININGS)
def test_a_checkpoint_of_another_training_is_refused(case: str, tmp_path: Path) -> None:
    make, message = OTHER_TRAININGS[case]
    student, teacher = pair()
    path = tmp_path / "checkpoint.pt"
    options: dict[str, Any] = {"steps": 2, "held_out": batches(1), "checkpoint": path}
    distill(student, teacher, batches(), **options)
    written = path.read_bytes()
    student, teacher = pair()
    given: dict[str, Any] = {"student": student, "teacher": teacher, **options, **make()}
    before = copy.deepcopy(given["student"].state_dict())
    with pytest.raises(InputError, match=re.escape(message)):
        distill(batches=batches(), **given)
    assert same(given["student"].state_dict(), before)
    assert path.read_bytes() == written


def test_a_checkpoint_without_held_out_batches_is_not_judged_by_some(tmp_path: Path) -> None:
    student, teacher = pair()
    options: dict[str, Any] = {"steps": 2, "checkpoint": tmp_path / "checkpoint.pt"}
    distill(student, teacher, batches(), **options)
    with pytest.raises(
        InputError, match="of a training without held_out batches: pass none, or remove it"
    ):
        distill(student, teacher, batches(), held_out=batches(1), **options)


def test_a_student_better_than_the_checkpoint_stays_as_it_came(tmp_path: Path) -> None:
    """By the batches held out now, which can be others than the checkpoint was written with."""
    trained, teacher = pair()
    distill(trained, teacher, batches(), steps=40)
    before = copy.deepcopy(trained.state_dict())
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        distill(pair()[0], teacher, stopping_after(7), checkpoint=path, **OPTIONS)
    done = distill(
        trained,
        teacher,
        batches(),
        checkpoint=path,
        **OPTIONS | {"held_out": batches(1, seed=5), "patience": 1},
    )
    assert (done.steps, done.best_step) == (5, 0)
    assert same(trained.state_dict(), before)


def test_files_beside_the_checkpoint_are_left_alone(tmp_path: Path) -> None:
    student, teacher = pair()
    other = tmp_path / "checkpoint.pt.partial"
    other.write_text("precious")
    distill(student, teacher, batches(), steps=2, checkpoint=tmp_path / "checkpoint.pt")
    assert other.read_text() == "precious"
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.pt", other.name}


@pytest.mark.parametrize("count", [0, 3])
def test_a_generator_that_ends_too_early(count: int) -> None:
    (student, teacher), (untrained, _) = pair(), pair()
    message = (
        f"ended after {count} of 9 steps"
        if count
        else "batches gives none: pass a list or a data loader"
    )
    with pytest.raises(InputError, match=message):
        distill(student, teacher, iter(batches(count)), steps=9)
    assert same(student.state_dict(), untrained.state_dict()) == (not count)


def test_a_generator_of_as_many_batches_as_steps() -> None:
    student, teacher = pair()
    assert distill(student, teacher, iter(batches(3)), steps=3).steps == 3


def pairs_with_labels() -> list[Any]:
    return [(x, torch.zeros(len(x))) for x in batches()]


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = network()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.features(x)
        return out


def wider() -> nn.Module:
    teacher = network()
    teacher[3] = nn.Linear(8, 7)
    return teacher.eval()


def auxiliary() -> nn.Module:
    """As those networks that give more in training than in evaluation."""
    student = pair()[0]
    student.register_forward_hook(lambda module, args, out: (out, out) if module.training else out)
    return student


def made_for_inference(role: str) -> dict[str, nn.Module]:
    with torch.inference_mode():
        return {role: copy.deepcopy(pair()[role == "teacher"])}


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    **{
        f"{name} {value}": (
            partial(dict, [(name, value)]),
            f"{name} must be a whole number from 1, not {value!r}",
        )
        for name in ("steps", "check_every", "patience")
        for value in (True, 2.0, 0, -1, "3")
    },
    **{
        f"rate {value}": (
            partial(dict, learning_rate=value),
            f"learning_rate must be a finite number above 0, not {value!r}",
        )
        for value in (True, 0, -0.1, math.inf, math.nan, "0.1")
    },
    "result for student": (
        lambda: {"student": rewrite(network())},
        "student must be a torch.nn.Module, not Rewrite",
    ),
    "name of teacher": (lambda: {"teacher": "net"}, "teacher must be a torch.nn.Module, not str"),
    "the wrong way round": (
        lambda: dict(zip(("teacher", "student"), pair(), strict=True)),
        "student, a Sequential, has no separable convolution: pass what was rewritten as student",
    ),
    "one network": (
        lambda: dict.fromkeys(("teacher", "student"), pair()[0]),
        "student and teacher share parameters",
    ),
    "frozen": (
        lambda: {"student": pair()[0].requires_grad_(False)},
        "student has no parameter that can be trained",
    ),
    "another teacher": (
        lambda: {"teacher": Renamed().eval()},
        "teacher, a Renamed, has no module '0'",
    ),
    "other outputs": (
        lambda: {"teacher": wider()},
        "the outputs on the first of batches are [(16, 5)] and [(16, 7)]",
    ),
    "more in training": (lambda: {"student": auxiliary()}, "are [(16, 5), (16, 5)] and [(16, 5)]"),
    **{
        f"inference {role}": (
            partial(made_for_inference, role),
            f"{role} was made under torch.inference_mode",
        )
        for role in ("student", "teacher")
    },
    "NaN held out": (lambda: {"held_out": with_nan(2)}, "on held_out is nan before any training: "),
    "one tensor": (lambda: {"batches": batches()[0]}, "batches is one tensor, not batches"),
    "one tensor held out": (
        lambda: {"held_out": batches()[0]},
        "held_out is one tensor, not batches",
    ),
    "no batches": (
        lambda: {"batches": 5},
        "batches must be batches, as a list or a data loader gives them, not int",
    ),
    "empty": (lambda: {"batches": []}, "batches gives none"),
    "labels": (
        lambda: {"batches": pairs_with_labels()},
        "failed on the first of batches: TypeError",
    ),
    "labels held out": (
        lambda: {"held_out": pairs_with_labels()},
        "failed on the first of held_out: TypeError",
    ),
    "no folder": (
        lambda: {"checkpoint": "nowhere/a.pt"},
        "checkpoint must be a file that can be written",
    ),
    "a folder": (lambda: {"checkpoint": "."}, "it is a directory"),
    "no path": (lambda: {"checkpoint": 5}, "checkpoint must be a file that can be written, not 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_before_anything_is_trained(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = REFUSED[case]
    student, teacher = pair()
    given: dict[str, Any] = {
        "student": student,
        "teacher": teacher,
        "batches": batches(),
        "steps": 2,
    }
    given |= {"held_out": batches(1), **make()}
    networks = [
        network
        for network in (given["student"], given["teacher"])
        if isinstance(network, nn.Module)
    ]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    with pytest.raises(DwsconvError, match=re.escape(message)) as raised:
        distill(**given)
    assert type(raised.value) is (TracingError if case.startswith("labels") else InputError)
    assert all(
        same(network.state_dict(), its) for network, its in zip(networks, before, strict=True)
    )
    assert not any(module.training for network in networks for module in network.modules())
    assert not list(tmp_path.iterdir())


def test_statistics_of_normalisation_rest_in_the_last_quarter() -> None:
    student, teacher = pair()
    mean = student.get_submodule("0.1").get_buffer("running_mean")
    means = []

    def noting() -> Iterator[Tensor]:
        for batch in batches(8):
            means.append(mean.clone())
            yield batch

    distill(student, teacher, noting(), steps=8)
    means.append(mean.clone())
    moved = [not torch.equal(before, after) for before, after in pairwise(means)]
    assert moved == [True] * 6 + [False] * 2


def test_training_under_no_grad_and_inference_mode() -> None:
    student, teacher = pair()
    before = error(student, teacher)
    with torch.inference_mode():
        made = [x * 1 for x in batches()]
        distill(student, teacher, made, steps=40, learning_rate=1e-2, held_out=made[:1])
    assert error(student, teacher) < before


class Counting(nn.Module):
    """It writes a buffer in place, and has extra state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.features = network()
        self.register_buffer("calls", torch.zeros(()))
        self.notes = ["as made"]

    def forward(self, x: Tensor) -> Tensor:
        calls = self.get_buffer("calls")
        calls += 1
        out: Tensor = self.features(x)
        return out

    def get_extra_state(self) -> dict[str, list[str]]:
        return {"notes": self.notes}

    def set_extra_state(self, state: dict[str, list[str]]) -> None:
        self.notes = state["notes"]


def test_buffers_that_a_forward_writes_and_extra_state(tmp_path: Path) -> None:
    teacher = Counting().eval()
    student = rewrite(teacher).model
    path = tmp_path / "checkpoint.pt"
    for _ in range(2):
        distill(
            student,
            teacher,
            batches(),
            steps=3,
            held_out=batches(2),
            check_every=1,
            checkpoint=path,
        )
        assert teacher.get_buffer("calls") == 0
        assert student.get_buffer("calls") <= 3, "checks count, too"
        assert student.get_extra_state() == {"notes": ["as made"]}


def test_measuring_leaves_buffers_as_they_were() -> None:
    model, held = Counting(), batches(2)
    wanted = seen(model, ["features.0"], held)
    assert mean_mismatch(model, ["features.0"], held, wanted, variation(wanted)) == 0
    fast_layout(model, held[0])
    assert model.get_buffer("calls") == 0


def test_precision_switched_around_the_call_is_left_aside() -> None:
    losses = []
    for enabled in (False, True):
        student, teacher = pair()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(
                distill(
                    student, teacher, batches(), steps=4, held_out=batches(1, seed=3)
                ).held_out_loss
            )
    assert losses[0] == losses[1]
