"""Every model of five libraries that nobody here wrote: how to build it, and what to call it with.

Models are built on the meta device where their library allows that; no weights are loaded.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One model; ``build`` returns it with the inputs of one forward."""

    library: str
    name: str
    build: Callable[[], tuple[nn.Module, Inputs]]

    def __str__(self) -> str:
        return f"{self.library}:{self.name}"


def entries() -> Iterator[Entry]:
    """All models of the libraries that are installed."""
    listings = {
        "timm": _timm,
        "torchvision": _torchvision,
        "segmentation_models_pytorch": _smp,
        "transformers": _transformers,
        "ultralytics": _ultralytics,
    }
    for library, listing in listings.items():
        if find_spec(library) is not None:
            yield from (Entry(library, name, build) for name, build in listing())


def _images(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The model without weights, if its constructor needs no values."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):
        return build()


# -- timm


def _timm() -> Iterator[tuple[str, Any]]:
    timm = importlib.import_module("timm")
    for name in timm.list_models():
        yield name, partial(_timm_model, timm, name)


def _timm_model(timm: Any, name: str) -> tuple[nn.Module, Inputs]:
    model: Any = _on_meta(partial(timm.create_model, name))
    return model.eval(), (_images(1, *model.default_cfg["input_size"]),)


# -- torchvision


def _torchvision() -> Iterator[tuple[str, Any]]:
    models = importlib.import_module("torchvision.models")
    for name in models.list_models():
        yield name, partial(_torchvision_model, models, name)


def _torchvision_model(models: Any, name: str) -> tuple[nn.Module, Inputs]:
    builder = models.get_model_builder(name)
    package = builder.__module__
    extra: dict[str, Any] = {"weights": None}
    if "detection" in package or "segmentation" in package:
        extra["weights_backbone"] = None
    if "googlenet" in name or "inception" in name:
        extra["init_weights"] = False
    build = partial(builder, **extra)
    model = build() if "detection" in package else _on_meta(build)
    return model.eval(), _torchvision_inputs(name, package)


def _torchvision_inputs(name: str, package: str) -> Inputs:
    if "detection" in package:
        return ([torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))],)
    if "optical_flow" in package:
        return (_images(1, 3, 128, 128), _images(1, 3, 128, 128))
    if "video" in package:
        side = 224 if name.startswith(("mvit", "s3d")) else 112
        return (_images(1, 3, 16, side, side),)
    side = 299 if "inception" in name else 224
    return (_images(1, 3, side, side),)


# -- segmentation_models_pytorch

_ENCODERS = ("resnet34", "efficientnet-b0", "mobilenet_v2")


def _smp() -> Iterator[tuple[str, Any]]:
    smp = importlib.import_module("segmentation_models_pytorch")
    for architecture in smp.MODEL_ARCHITECTURES_MAPPING:
        encoders = ("tu-vit_tiny_patch16_224",) if architecture == "dpt" else _ENCODERS
        for encoder in encoders:
            yield f"{architecture} {encoder}", partial(_smp_model, smp, architecture, encoder)


def _smp_model(smp: Any, architecture: str, encoder: str) -> tuple[nn.Module, Inputs]:
    model = _on_meta(
        partial(smp.create_model, architecture, encoder_name=encoder, encoder_weights=None)
    )
    return model.eval(), (_images(1, 3, 224, 224),)


# -- transformers

_TOKENS = {"decoder_input_ids": torch.zeros(1, 4, dtype=torch.long)}
_IMAGE = {"pixel_values": _images(1, 3, 224, 224)}
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ResNet": _IMAGE,
    "ConvNextV2": _IMAGE,
    "EfficientNet": _IMAGE,
    "MobileViT": {"pixel_values": _images(1, 3, 256, 256)},
    "Segformer": _IMAGE,
    "Swin": _IMAGE,
    "ViT": _IMAGE,
    "Dinov2": _IMAGE,
    "Wav2Vec2": {"input_values": _images(1, 16_000)},
    "Hubert": {"input_values": _images(1, 16_000)},
    "Whisper": {"input_features": _images(1, 80, 3000), **_TOKENS},
}
"""Inputs by the name that ``<name>Config`` and ``<name>Model`` share."""


def _transformers() -> Iterator[tuple[str, Any]]:
    transformers = importlib.import_module("transformers")
    for name in _TRANSFORMERS:
        yield name, partial(_transformers_model, transformers, name)


def _transformers_model(transformers: Any, name: str) -> tuple[nn.Module, Inputs]:
    config = getattr(transformers, f"{name}Config")()
    model = _on_meta(partial(getattr(transformers, f"{name}Model"), config))
    return model.eval(), _TRANSFORMERS[name]


# -- ultralytics


def _ultralytics() -> Iterator[tuple[str, Any]]:
    os.environ.setdefault("YOLO_VERBOSE", "false")
    tasks = importlib.import_module("ultralytics.nn.tasks")
    folder = Path(str(tasks.__file__)).parents[1] / "cfg" / "models"
    for path in sorted(folder.rglob("*.yaml")):
        yield path.stem, partial(_ultralytics_model, tasks, path)


def _ultralytics_model(tasks: Any, path: Path) -> tuple[nn.Module, Inputs]:
    config = tasks.yaml_model_load(path)
    for _, _, kind, arguments in config["backbone"]:
        if kind == "TorchVision":
            arguments[2] = None  # its weights, which would be downloaded
    return _ultralytics_class(tasks, path)(config, verbose=False).eval(), (_images(1, 3, 256, 256),)


def _ultralytics_class(tasks: Any, path: Path) -> Any:
    words = {
        "-cls": "ClassificationModel",
        "-seg": "SegmentationModel",
        "-pose": "PoseModel",
        "-obb": "OBBModel",
        "-sem": "SemanticSegmentationModel",
        "-depth": "DepthModel",
        "rtdetr": "RTDETRDetectionModel",
        "world": "WorldModel",
    }
    if "yoloe" in path.stem:
        return tasks.YOLOESegModel if "-seg" in path.stem else tasks.YOLOEModel
    return getattr(
        tasks, next((words[word] for word in words if word in path.stem), "DetectionModel")
    )
