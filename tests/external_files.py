"""Files that tests read and that this repository does not hold, with where they come from.

They lie in the folder ``shared`` beside the checkout. Without it, the tests that need them are
skipped.
"""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from torch import nn

SHARED = Path(__file__).parents[2] / "shared"


def vendor_model(name: str) -> Path:
    """A model file of the Edge TPU's vendor: ``NAME.tflite``, or compiled ``NAME_edgetpu.tflite``.

    They are the files of https://github.com/google-coral/test_data.
    """
    return _found(
        SHARED / "edgetpu" / "models" / f"{name}.tflite",
        "copy it from https://github.com/google-coral/test_data",
    )


def fashion_resnet() -> nn.Module:
    """A ResNet of 392,866 parameters, trained for four epochs of Fashion-MNIST.

    The maintainers have its weights, and the module that loads them; it has no public address.
    """
    file = _found(SHARED / "models" / "fashion_resnet.py", "ask the maintainers for it")
    spec = spec_from_file_location("fashion_resnet", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.load(file.with_suffix(".pt"))
    return model


def _found(file: Path, source: str) -> Path:
    if not file.is_file():
        pytest.skip(f"needs {file.name} in {file.parent}: {source}")
    return file
