"""Keeping what a network learned: fits to calibration data, budgets, and distillation."""

from pytest_dwsconv.errors import require_torch

require_torch()
