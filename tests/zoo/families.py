"""One model of each family, built and run: ``python families.py LIBRARY STEP`` says what it is.

It runs in a process of its own, on a library as it is installed or on its rewritten copy.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoo.catalogue import Entry, entries


def main(library: str, step: int) -> None:
    """Print one line of JSON for every so manieth family."""
    warnings.simplefilter("ignore")
    first: dict[str, Entry] = {}
    for entry in entries():
        if entry.library == library:
            first.setdefault(family_of(entry), entry)
    for entry in [*first.values()][::step]:
        sys.stdout.write(f"{json.dumps({'name': entry.name, **outcome(entry)})}\n")


def family_of(entry: Entry) -> str:
    """The module that has the function which builds it."""
    models = importlib.import_module(f"{entry.library}.models")
    lookup = models.model_entrypoint if entry.library == "timm" else models.get_model_builder
    module: str = lookup(entry.name).__module__
    return module


def outcome(entry: Entry) -> dict[str, Any]:
    """Parameters, the separable convolutions in it, and the shapes of its outputs."""
    model, inputs = entry.build()
    with torch.no_grad():
        try:
            results = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
            failure = ""
        except (RuntimeError, NotImplementedError) as error:
            results, failure = (), type(error).__name__  # it needs values that meta tensors lack
    return {
        "params": sum(each.numel() for each in model.parameters()),
        "separable": [arguments(each) for each in model.modules() if is_separable(each)],
        "shapes": [list(x.shape) for x in tree_leaves(results) if isinstance(x, torch.Tensor)],
        "failure": failure,
        "is_meta": next(model.parameters()).is_meta,
    }


def is_separable(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and hasattr(module, "depthwise")


def arguments(conv: Any) -> dict[str, Any]:
    """The convolution that stood there, as ``ConvSpec`` takes it."""
    return {
        "rank": len(conv.kernel_size),
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "groups": conv.groups,
        "bias": conv.bias is not None,
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
