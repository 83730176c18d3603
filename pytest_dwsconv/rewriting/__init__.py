"""Where analysis, factorisation and fit meet: rewrite(), apply_plan() and the torch.fx pass."""

from pytest_dwsconv.errors import require_torch

require_torch()
