"""What the checks at the end of a run say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_dwsconv.core.suite.changes import Changes


@dataclass
class CheckResult:
    """What the checks say at the end of a run.

    ``faults`` fail it, ``unknown`` does if it is strict, and ``notices`` are only shown.
    ``unwritten`` ends it with the exit code of a usage error, once its tests are reported.
    ``changes`` are what the models cost beside the baseline, if there is one.
    """

    faults: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    changes: Changes | None = None
