"""Comparisons kept in the user's cache folder: one file per machine and conditions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pytest_dwsconv.core.jsonio import Document, to_plain
from pytest_dwsconv.core.latency.comparison import Comparison, Conditions
from pytest_dwsconv.errors import FormatError
from pytest_dwsconv.latency.machine import Machine
from pytest_dwsconv.writing import replace_content

_DOCUMENT = Document("table of latencies", 1, "measure again")


@dataclass(frozen=True)
class _Stored:
    """What a file holds. Comparisons are by the JSON of what was compared."""

    machine: Machine
    conditions: Conditions
    latencies: dict[str, Comparison]


def cache_folder() -> Path:
    """The folder of this package among the user's caches."""
    return user_caches(sys.platform, os.environ, Path.home()) / "pytest-dwsconv"


def user_caches(platform: str, variables: Mapping[str, str], home: Path) -> Path:
    """Where a system keeps what programs can make again."""
    if platform == "win32":
        return Path(variables.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if platform == "darwin":
        return home / "Library" / "Caches"
    folder = Path(variables.get("XDG_CACHE_HOME", ""))
    # reason: the XDG specification says to ignore one that is relative
    return folder if folder.is_absolute() else home / ".cache"


class Store:
    """The comparisons that were made on a machine under certain conditions.

    A file that cannot be read, or is about something else, is one without comparisons.
    """

    def __init__(self, machine: Machine, conditions: Conditions) -> None:
        self._machine = machine
        self._conditions = conditions
        about = json.dumps(to_plain((machine, conditions)))
        digest = sha256(about.encode()).hexdigest()[:16]
        self.path = cache_folder() / f"latency-{digest}.json"

    def read(self) -> dict[str, Comparison]:
        try:
            stored = _DOCUMENT.from_json(self.path.read_text(encoding="utf-8"), _Stored)
        except (OSError, UnicodeDecodeError, FormatError):
            return {}
        about = stored.machine, stored.conditions
        return stored.latencies if about == (self._machine, self._conditions) else {}

    def add(self, latencies: Mapping[str, Comparison]) -> None:
        """Keep these, and what other processes have added in the meantime.

        Where the folder cannot be written nothing is kept: it is measured again the next time.
        """
        stored = _Stored(self._machine, self._conditions, {**self.read(), **latencies})
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_content(self.path, json.dumps(_DOCUMENT.to_dict(stored)).encode())
