"""One convolution's depthwise separable replacement: its module, its weights, its place.

The classes are pickled under this path, which is why they are imported here.
"""

from pytest_dwsconv.errors import require_torch

require_torch()

from pytest_dwsconv.separable.modules import SeparableConv1d, SeparableConv2d, SeparableConv3d

__all__ = ["SeparableConv1d", "SeparableConv2d", "SeparableConv3d"]
