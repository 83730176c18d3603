"""The file from which a training goes on: always a whole one, and taken by no other training than
its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.moments import place_in_group

START_ANEW = "remove it to start anew, or pass another path"


class Checkpoint:
    """A file, and what has to be the same for a training to go on from it, by name."""

    def __init__(self, path: Path, terms: Mapping[str, Any]) -> None:
        self.path, self.terms = path, dict(terms)

    def write(self, state: Mapping[str, Any]) -> None:
        """Write by way of a second file, so that there is always a whole one; the first process
        does for all.
        """
        if place_in_group()[0]:
            return
        with _beside(self.path) as partial:
            torch.save({**state, "terms": self.terms}, partial)
            partial.replace(self.path)

    def read(self) -> dict[str, Any] | None:
        """What was written; None if nothing was."""
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            found: dict[str, Any] = state["terms"]
            others = [
                _phrase(name, found[name])
                for name, value in self.terms.items()
                if found[name] != value
            ]
        except Exception as error:  # whatever a file that is no checkpoint makes torch raise
            raise InputError(
                f"{self.path} is not a checkpoint that distill can read: {START_ANEW}"
            ) from error
        if others:
            raise InputError(
                f"{self.path} is the checkpoint of a training with {' and '.join(others)}: "
                f"{START_ANEW}"
            )
        return state


def _phrase(name: str, value: Any) -> str:
    return "another teacher" if name == "teacher" else f"{name}={value}"


def fingerprint(network: nn.Module) -> str:
    """A hash of the values of all its tensors."""
    digest = sha256()
    for value in network.state_dict().values():
        if isinstance(value, Tensor):
            digest.update(
                value.to_dense().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return digest.hexdigest()


def writable(checkpoint: str | PathLike[str] | None) -> Path | None:
    if checkpoint is None:
        return None
    try:
        path = Path(checkpoint)
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        if not place_in_group()[0]:
            with _beside(path) as trial:
                trial.touch()
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint must be a file that can be written, not {checkpoint!r}: {error}"
        ) from error
    return path


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file of the same name and on the same disk, in a folder that nobody else has and that goes
    again.
    """
    with TemporaryDirectory(dir=path.parent, prefix=".dwsconv-") as folder:
        yield Path(folder, path.name)
