"""Two networks timed in turns on a CPU, as plain data that survives pickle and JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from pytest_dwsconv.core.jsonio import OMITTED, Positive, Seconds
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError


class Runtime(str, Enum):
    """What runs a network on a CPU."""

    EAGER = "PyTorch"
    COMPILED = "torch.compile"
    LITERT = "LiteRT float"
    LITERT_INT8 = "LiteRT int8"

    @property
    def is_litert(self) -> bool:
        return self in (Runtime.LITERT, Runtime.LITERT_INT8)


RUNTIMES = {
    "cpu": Runtime.EAGER,
    "torch_compile": Runtime.COMPILED,
    "litert": Runtime.LITERT,
    "litert_int8": Runtime.LITERT_INT8,
}
"""What runs networks on the targets whose latencies are measured."""


class MemoryFormat(str, Enum):
    """How images lie in memory: channel by channel, or pixel by pixel."""

    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels_last"


_Named = TypeVar("_Named", MemoryFormat, Runtime)


@dataclass(frozen=True)
class Conditions:
    """What a latency on a CPU depends on, besides the machine, the model and its input.

    With LiteRT images are always channels_last, and networks are exported from float32. ``dtype``
    is that of layers that are timed, as PyTorch calls it; networks are timed in their own.

    Raises:
        InputError: ``threads`` is not a whole number from 1, or there is no such memory format or
            runtime.
    """

    threads: Positive
    memory_format: MemoryFormat = MemoryFormat.CONTIGUOUS
    runtime: Runtime = Runtime.EAGER
    dtype: str = field(default="float32", metadata=OMITTED)

    def __post_init__(self) -> None:
        whole_number("threads", self.threads)
        # reason: a format given as a word would be compared by identity, and taken for another
        object.__setattr__(self, "memory_format", _member(MemoryFormat, self.memory_format))
        object.__setattr__(self, "runtime", _member(Runtime, self.runtime))
        if self.is_litert:
            object.__setattr__(self, "memory_format", MemoryFormat.CHANNELS_LAST)
            object.__setattr__(self, "dtype", "float32")

    @property
    def is_litert(self) -> bool:
        return self.runtime.is_litert

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        dtype = "" if self.dtype == "float32" else f", {self.dtype}"
        return f"{self.runtime.value}, {threads}, {self.memory_format.value}{dtype}"


def _member(kind: type[_Named], given: object) -> _Named:
    try:
        return kind(given)
    except ValueError as error:
        values = ", ".join(repr(each.value) for each in kind)
        raise InputError(f"{kind.__name__} is one of {values}, not {quoted(given)}") from error


class Speed(str, Enum):
    """What a comparison of two latencies says of the second."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "no difference"
    UNDECIDED = "too noisy"


_Ratio = Seconds
"""Above 0 as a time is."""


@dataclass(frozen=True)
class Comparison:
    """Two networks, or two layers, that were timed in turns on one CPU.

    ``ratio`` says how many times as fast the second is: the median over ``rounds`` of the first's
    time over the second's. It is expected between ``low`` and ``high`` (95 %, by bootstrap).
    ``first_ms`` and ``second_ms`` are medians. ``spread`` is the larger one of the two distances
    from the 10th to the 90th percentile, as a share of the median. ``batch`` is the size of the
    batch. ``control`` is the ratio of the first to itself, where it was timed twice in each round.
    """

    first_ms: Seconds
    second_ms: Seconds
    ratio: _Ratio
    low: _Ratio
    high: _Ratio
    spread: float
    rounds: Positive
    conditions: Conditions
    batch: Positive
    control: float | None = field(default=None, metadata=OMITTED)

    @property
    def verdict(self) -> Speed:
        if self.low > 1 and self.ratio > NOTICEABLE:
            return Speed.FASTER
        if self.high < 1 and self.ratio < 1 / NOTICEABLE:
            return Speed.SLOWER
        return Speed.SAME if self.is_precise else Speed.UNDECIDED

    @property
    def is_precise(self) -> bool:
        return self.high <= self.low * UNCLEAR

    @property
    def is_busy(self) -> bool:
        """Whether times varied so much that something else must have been running."""
        return self.spread > BUSY or self._differs_from_itself

    @property
    def _differs_from_itself(self) -> bool:
        return self.control is not None and abs(math.log(self.control)) > math.log(NOTICEABLE)

    @property
    def saved_ms(self) -> float:
        return self.first_ms - self.second_ms

    def __str__(self) -> str:
        """As in ``2.1x faster (2.03 to 2.18x; 8.10 to 3.86 ms; measured, PyTorch, ...)``."""
        times = f"{self.first_ms:.2f} to {self.second_ms:.2f} ms"
        low, high = self.low, self.high
        if self.verdict is Speed.SLOWER:  # the claim says how many times as slow
            low, high = 1 / high, 1 / low
        interval = f"{low:.2f} to {high:.2f}x"
        noise = f"; {self.noise}" if self.is_busy else ""
        return f"{self.claim} ({interval}; {times}; measured, {self.circumstances}{noise})"

    @property
    def noise(self) -> str:
        """How the machine was busy; empty if it was not."""
        if not self.is_busy:
            return ""
        noise = f"the machine was busy, times spread by {self.spread:.0%}"
        if self._differs_from_itself:
            noise = f"{noise} and the first was {self.control:.2f}x as fast as itself"
        return noise

    @property
    def claim(self) -> str:
        """The verdict with its ratio, such as ``2.1x faster``, or ``no difference``."""
        if self.verdict is Speed.FASTER:
            return f"{self.ratio:.3g}x faster"
        if self.verdict is Speed.SLOWER:
            return f"{1 / self.ratio:.3g}x slower"
        return str(self.verdict.value)

    @property
    def circumstances(self) -> str:
        return f"{self.conditions}, batch {self.batch}"


NOTICEABLE = 1.03
"""A ratio closer to 1 is no difference to anybody."""
UNCLEAR = 1.2
"""A ratio whose interval is wider says nothing where that contains 1."""
BUSY = 0.4
"""Times of one network that spread by more were disturbed: on idle cores it is about 0.05."""
