"""The network has to fit into 16,000 parameters. It does not, yet."""

from typing import Any

from shapes import SIDE, ShapeNet


def test_fits_the_device(dws_budget: Any) -> None:
    dws_budget(ShapeNet(), (1, 1, SIDE, SIDE), params="16k")
