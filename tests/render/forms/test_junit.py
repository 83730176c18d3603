from __future__ import annotations

import pytest
from render_samples import EMPTY, NASTY, SMALL, WITHOUT_SHAPES

from pytest_dwsconv.render.forms.junit import properties
from pytest_dwsconv.report import Report


def test_the_totals_of_a_model() -> None:
    assert dict(properties([SMALL, SMALL])) == {
        "dwsconv.Small.input": "1,3,224,224",
        "dwsconv.Small.params": str(SMALL.params),
        "dwsconv.Small.macs": str(SMALL.macs),
        "dwsconv.Small.convolutions": "4",
        "dwsconv.Small.candidates": "3",
        "dwsconv.Small.separable_params": str(SMALL.separable_params),
        "dwsconv.Small.separable_macs": str(SMALL.separable_macs),
    }


def test_what_is_not_known_is_left_out() -> None:
    names = [name.rpartition(".")[2] for name, _ in properties([WITHOUT_SHAPES])]
    assert names == ["params", "convolutions", "candidates", "separable_params"]


def test_models_of_one_class_are_told_apart() -> None:
    found = dict(properties([SMALL, EMPTY, WITHOUT_SHAPES]))
    assert found["dwsconv.Small.macs"] == str(SMALL.macs)
    assert found["dwsconv.Small-2.params"] == str(WITHOUT_SHAPES.params)
    assert found["dwsconv.Linear.params"] == "30"
    assert "dwsconv.Small-2.macs" not in found


@pytest.mark.parametrize("model", [NASTY, "Net<int>", "Сеть", "a.b"])
def test_a_name_has_three_parts(model: str) -> None:
    for name, _ in properties([Report(model, (), 30, 20, EMPTY.origin)]):
        head, middle, _ = name.split(".")
        assert head == "dwsconv"
        assert middle.isidentifier() or middle.replace("_", "").isalnum()
