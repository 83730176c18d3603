"""One forward of a model, recorded: every operator with its shapes, and the model left as found."""

from pytest_dwsconv.errors import require_torch

require_torch()
