"""The file from which a training goes on: always a whole one, and of no other training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.errors import InputError, require
from pytest_dwsconv.fit.moments import place_in_group
from pytest_dwsconv.interrupts import uninterrupted

START_ANEW = "remove it to start anew, or pass another path"


class Checkpoint:
    """A file, and what has to be the same for a training to go on from it, by name."""

    def __init__(self, path: Path, terms: Mapping[str, Any]) -> None:
        self.path, self.terms = path, dict(terms)

    def write(self, state: Mapping[str, Any]) -> None:
        """Write by way of a second file, so that there is always a whole one.

        Ctrl-C comes before or after. The first process does it for all.
        """
        if place_in_group()[0]:
            return
        content = {**state, "terms": self.terms}
        target = Path(os.path.realpath(self.path))
        with uninterrupted(), _beside(target) as partial:
            torch.save({**content, "checksum": _digest(content)}, partial)
            partial.replace(target)

    def read(self) -> dict[str, Any] | None:
        """What was written; None if nothing was.

        Raises:
            InputError: the file is damaged, something else, or of another training.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            # reason: torch.load checks neither that fields are there nor the bytes of tensors
            whole = state.pop("checksum") == _digest(state)
        except Exception as error:  # whatever a file that is not a checkpoint makes torch raise
            raise self._unreadable() from error
        if not whole:
            raise self._unreadable()
        found: dict[str, Any] = state["terms"]
        others = [
            _phrase(name, found[name]) for name, value in self.terms.items() if found[name] != value
        ]
        if others:
            raise InputError(
                f"{self.path} is the checkpoint of a training with {' and '.join(others)}: "
                f"{START_ANEW}"
            )
        return state

    def _unreadable(self) -> InputError:
        return InputError(f"{self.path} is not a checkpoint that distill can read: {START_ANEW}")


def _phrase(name: str, value: Any) -> str:
    return "another teacher" if name == "teacher" else f"{name}={value}"


def fingerprint(network: nn.Module) -> str:
    """A hash of the values of all its tensors."""
    values = network.state_dict().values()
    return _digest([value for value in values if isinstance(value, Tensor)])


def _digest(value: Any) -> str:
    """A hash of nested dictionaries, lists and tuples with all that is in them."""
    require("the checkpoint of a fit", "numpy", "torch")
    digest = sha256()

    def add(item: Any) -> None:
        if isinstance(item, Tensor):
            digest.update(f"{item.dtype} {tuple(item.shape)}".encode())
            bytes_of = item.detach().to_dense().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(bytes_of.numpy().data)
        elif isinstance(item, Mapping):
            digest.update(f"{len(item)} entries".encode())
            for key, content in item.items():
                digest.update(repr(key).encode())
                add(content)
        elif isinstance(item, (list, tuple)):
            digest.update(f"{len(item)} items".encode())
            for content in item:
                add(content)
        else:
            digest.update(repr(item).encode())

    add(value)
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
    """A file of the same name and on the same disk, in a folder of its own that goes again."""
    with TemporaryDirectory(dir=path.parent, prefix=".dwsconv-") as folder:
        yield Path(folder, path.name)
