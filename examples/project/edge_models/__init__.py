"""The networks of a camera."""

from edge_models.camera import CameraNet

__all__ = ["CameraNet"]
