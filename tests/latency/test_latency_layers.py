from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pytest_dwsconv.core.conv import ConvSpec, Form, Order
from pytest_dwsconv.core.latency.comparison import Conditions, MemoryFormat
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.latency import layers, time_layers
from pytest_dwsconv.latency.machine import Machine, this_machine
from pytest_dwsconv.latency.runs import Run
from pytest_dwsconv.latency.store import Store, user_caches

SPEC = ConvSpec(
    2, 8, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, True, "zeros", input_shape=(2, 8, 6, 6)
)
LARGE = replace(SPEC, input_shape=(2, 8, 12, 12))
CONDITIONS = Conditions(1)
pytestmark = pytest.mark.usefixtures("own_cache")


def entry(order: Order = Order.DEPTHWISE_FIRST, multiplier: int = 1, name: str = "a") -> PlanEntry:
    return PlanEntry.of(name, SPEC, order, multiplier)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[Run]]:
    """The groups that were measured; a replacement takes as long as its parameters are many."""
    groups: list[list[Run]] = []

    def time_in_turns(runs: list[Run], seconds: float) -> list[list[float]]:
        groups.append(runs)
        times = []
        for network, inputs in runs:
            assert network(*inputs).shape[1] == 16
            times.append([1e-6 * sum(p.numel() for p in network.parameters())] * 8)
        return times

    monkeypatch.setattr(layers, "ready", lambda runs, conditions: nullcontext(runs))
    monkeypatch.setattr(layers, "time_in_turns", time_in_turns)
    return groups


def test_replacements_of_one_convolution_are_timed_in_turns_with_it(
    timed: list[list[Run]],
) -> None:
    candidates = [
        (SPEC, entry()),
        (LARGE, entry()),
        (SPEC, entry(Order.POINTWISE_FIRST, 2)),
        (SPEC, entry(name="another")),
    ]
    found = time_layers(candidates, CONDITIONS)
    assert [len(group) for group in timed] == [3, 2]
    assert [one.first_ms for one in found] == pytest.approx([1168e-3] * 4)
    expected = [one.params_after * 1e-3 for _, one in candidates]
    assert [one.second_ms for one in found] == pytest.approx(expected)


def test_layers_are_timed_in_the_type_of_the_conditions(timed: list[list[Run]]) -> None:
    time_layers([(SPEC, entry())], CONDITIONS)
    [found] = time_layers([(SPEC, entry())], replace(CONDITIONS, dtype="bfloat16"))
    dtypes = [{tensor.dtype for tensor in group[1].network.parameters()} for group in timed]
    assert dtypes == [{torch.float32}, {torch.bfloat16}]
    assert "bfloat16" in str(found)
    with pytest.raises(InputError, match="no type 'int8' of real numbers: give dtype='bfloat16'"):
        time_layers([(SPEC, entry())], replace(CONDITIONS, dtype="int8"))


@pytest.mark.parametrize(
    ("form", "sizes"),
    [
        (Form.DEPTHWISE_FIRST, (1, 2)),
        (Form.POINTWISE_FIRST, (1, 2)),
        (Form.BOTTLENECK, (4, 8)),
        (Form.GROUPED, (2, 4)),
    ],
)
def test_every_form_and_size_is_measured_by_itself(
    timed: list[list[Run]], form: Form, sizes: tuple[int, ...]
) -> None:
    candidates = [(SPEC, PlanEntry.of("a", SPEC, form, size)) for size in sizes]
    found = time_layers(candidates, CONDITIONS)
    expected = [one.params_after * 1e-3 for _, one in candidates]
    assert [one.second_ms for one in found] == pytest.approx(expected)
    assert time_layers(candidates, CONDITIONS) == found
    assert len(timed) == 1


def test_what_is_known_is_not_measured_again_unless_asked(timed: list[list[Run]]) -> None:
    first = time_layers([(SPEC, entry())], CONDITIONS)
    assert time_layers([(SPEC, entry(name="b"))], CONDITIONS) == first
    assert len(timed) == 1
    time_layers([(SPEC, entry(multiplier=2)), (SPEC, entry())], CONDITIONS)
    assert len(timed[1]) == 2
    time_layers([(SPEC, entry())], CONDITIONS, remeasure=True)
    time_layers([(SPEC, entry())], Conditions(2))
    time_layers([(SPEC, entry())], Conditions(1, MemoryFormat.CHANNELS_LAST))
    assert len(timed) == 5


def test_another_machine_is_measured_anew(
    timed: list[list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    time_layers([(SPEC, entry())], CONDITIONS)
    monkeypatch.setattr(layers, "this_machine", lambda _: Machine("another", 8, "torch 9"))
    time_layers([(SPEC, entry())], CONDITIONS)
    assert len(timed) == 2


@pytest.mark.parametrize(("second", "is_kept"), [([2.0, 1.0] * 4, False), ([4.0, 90.0] * 4, True)])
def test_a_result_that_is_too_noisy_is_not_kept_unless_it_is_slower_anyway(
    second: list[float], is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def noisy(*arguments: object) -> list[list[float]]:
        calls.append(arguments)
        return [[1.0, 3.0] * 4, second]

    monkeypatch.setattr(layers, "time_in_turns", noisy)
    for _ in range(2):
        time_layers([(SPEC, entry())], CONDITIONS)
    assert len(calls) == 1 + (not is_kept)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"schema_version": 1}', b'{"schema_version": 2}']
)
def test_a_broken_file_is_replaced(timed: list[list[Run]], content: bytes) -> None:
    time_layers([(SPEC, entry())], CONDITIONS)
    path = Store(this_machine(), CONDITIONS).path
    whole = path.read_bytes()
    path.write_bytes(content)
    time_layers([(SPEC, entry())], CONDITIONS)
    assert len(timed) == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("key", ["first_ms", "second_ms", "ratio", "low", "high"])
def test_a_file_with_an_impossible_number_is_replaced(timed: list[list[Run]], key: str) -> None:
    time_layers([(SPEC, entry())], CONDITIONS)
    path = Store(this_machine(), CONDITIONS).path
    stored = json.loads(path.read_text())
    for comparison in stored["latencies"].values():
        comparison[key] = 0
    path.write_text(json.dumps(stored))
    time_layers([(SPEC, entry())], CONDITIONS)
    assert len(timed) == 2


def test_a_file_of_other_conditions_under_this_name_is_not_believed(
    timed: list[list[Run]],
) -> None:
    time_layers([(SPEC, entry())], CONDITIONS)
    other = Store(this_machine(), Conditions(2))
    Store(this_machine(), CONDITIONS).path.rename(other.path)
    assert other.read() == {}


def test_a_folder_that_cannot_be_written_costs_the_cache_only(
    timed: list[list[Run]], own_cache: Path
) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("a file where the folder should be")
    assert len(time_layers([(SPEC, entry())], CONDITIONS)) == 1


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache"),
        ("linux", {}, "/home/me/.cache"),
        ("darwin", {"XDG_CACHE_HOME": "/caches"}, "/home/me/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("win32", {}, "/home/me/AppData/Local"),
    ],
)
def test_the_cache_is_where_the_system_has_its_caches(
    platform: str, variables: dict[str, str], folder: str
) -> None:
    assert user_caches(platform, variables, Path("/home/me")) == Path(folder)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (replace(SPEC, input_shape=None), "without an input shape"),
        (replace(SPEC, stride=None), "whose numbers are not known"),
        (replace(SPEC, out_channels=32), "the plan is for another model"),
    ],
)
def test_a_convolution_that_cannot_be_measured_is_refused(spec: ConvSpec, said: str) -> None:
    with pytest.raises(InputError, match=said):
        time_layers([(spec, entry())], CONDITIONS)


def test_random_numbers_are_as_before() -> None:
    before = torch.get_rng_state()
    found = time_layers([(SPEC, entry())], CONDITIONS, seconds=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0].batch == 2


def test_an_unbatched_input_is_a_batch_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "time_in_turns", lambda *_: [[1.0] * 8] * 2)
    found = time_layers([(replace(SPEC, input_shape=(8, 6, 6)), entry())], CONDITIONS)
    assert found[0].batch == 1
