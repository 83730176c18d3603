"""From a PyTorch model to an int8 ``.tflite`` file."""

from pytest_dwsconv.edgetpu.export.exporter import export_int8

__all__ = ["export_int8"]
