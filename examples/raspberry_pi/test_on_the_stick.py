from typing import Any

import pytest
from camera import Camera


def test_is_quick_enough(edgetpu_latency: Any) -> None:
    """Measured on the device; without one the test is skipped, with the reason."""
    edgetpu_latency(Camera(), (1, 3, 96, 96), max="5ms")


@pytest.mark.dws_budget(size_int8="7.65MiB", latency_predicted="5ms", input_size="1,3,96,96")
def test_fits_the_chip() -> Camera:
    """Predicted, without a device: the weights stay on the chip."""
    return Camera()
