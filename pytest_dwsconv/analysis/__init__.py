"""``analyze``: a recorded forward and the rules make a report."""

from pytest_dwsconv.errors import require_torch

require_torch()
