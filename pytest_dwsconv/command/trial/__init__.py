"""What runs the user's file: its model, its checkpoint, and the proof of what is written."""

from pytest_dwsconv.errors import require_torch

require_torch()
