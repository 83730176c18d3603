"""What a replacement does to a latency, and how that is known: plain data beside a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pytest_dwsconv.core.jsonio import Seconds
from pytest_dwsconv.core.latency.comparison import Comparison, Speed
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.core.quantities import mebibytes
from pytest_dwsconv.errors import InputError

CPU, EDGETPU = "cpu", "edgetpu"
"""The targets that the package itself knows something of."""


class Provenance(str, Enum):
    """How something is known of a latency. What is known in two ways is never put together."""

    MEASURED = "measured"
    COMPILER = "reported by the compiler"
    PREDICTED = "predicted"
    UNKNOWN = "unknown"


class Effect(str, Enum):
    """What a replacement does to a latency."""

    FASTER = "faster"
    SLOWER = "slower"
    NONE = "no gain"
    UNKNOWN = "unknown"


_EFFECTS = {Speed.FASTER: Effect.FASTER, Speed.SLOWER: Effect.SLOWER, Speed.SAME: Effect.NONE}


@dataclass(frozen=True)
class Evidence:
    """What replacements do to the latency on one target, of a network or of one convolution.

    Attributes:
        target: ``"cpu"``, ``"edgetpu"``, or what a backend calls itself.
        source: how it is known.
        effect: what it comes to.
        conditions: what it holds for, such as ``"2 threads, channels_last, batch 1"``.
        before_ms: milliseconds without the replacements; None where no time is known.
        after_ms: milliseconds with them.
        low_ms: ``after_ms`` is expected from here on, ...
        high_ms: ... and up to here.
        streamed_before: bytes of parameters sent to an accelerator at every inference; None where
            none is meant.
        streamed_after: the same with the replacements.
        reason: what decides, in words; what is missing, where it is unknown.

    Raises:
        InputError: some of the times are known and others are not, or what is unknown has an
            effect.
    """

    target: str
    source: Provenance
    effect: Effect
    conditions: str = ""
    before_ms: Seconds | None = None
    after_ms: Seconds | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    streamed_before: int | None = None
    streamed_after: int | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        times = (self.before_ms, self.after_ms, self.low_ms, self.high_ms)
        if None in times and any(time is not None for time in times):
            raise InputError(f"of the times on {quoted(self.target)} either all are known or none")
        if (self.source is Provenance.UNKNOWN) != (self.effect is Effect.UNKNOWN):
            raise InputError(
                f"the effect on {quoted(self.target)} is {self.effect.value}, and it is "
                f"{self.source.value}: what is unknown has no effect, and the other way round"
            )

    @classmethod
    def unknown(cls, target: str, reason: str) -> Evidence:
        """Nothing is known, and why."""
        return cls(target, Provenance.UNKNOWN, Effect.UNKNOWN, reason=reason)

    @classmethod
    def measured(cls, target: str, found: Comparison, reason: str = "") -> Evidence:
        """What a comparison of the original, first, with its replacement says."""
        if found.verdict is Speed.UNDECIDED:
            noisy = f"times were too noisy ({found.circumstances}), measure on an idle machine"
            return cls.unknown(target, f"{noisy}; {reason}" if reason else noisy)
        before = found.first_ms
        after, low, high = (before / ratio for ratio in (found.ratio, found.high, found.low))
        effect = _EFFECTS[found.verdict]
        where = found.circumstances
        reason = "; ".join(filter(None, (found.noise, reason)))
        return cls(
            target, Provenance.MEASURED, effect, where, before, after, low, high, reason=reason
        )

    @classmethod
    def without_a_faster_layer(cls, target: str, timed: Sequence[Comparison]) -> Evidence:
        """Of a network of which no replacement of a layer, of those timed, was measured faster."""
        if not timed:
            nothing = "no layer that runs can be replaced"
            return cls(target, Provenance.MEASURED, Effect.NONE, reason=nothing)
        where = timed[0].circumstances
        noisy = sum(one.verdict not in (Speed.SLOWER, Speed.SAME) for one in timed)
        if noisy:
            return cls.unknown(
                target,
                f"times of {noisy} of {len(timed)} replacements were too noisy ({where}), and none "
                "was measured faster; measure on an idle machine",
            )
        none = "no replacement of a single layer was measured faster"
        return cls(target, Provenance.MEASURED, Effect.NONE, where, reason=none)

    @property
    def gain(self) -> float | None:
        """How much is gained, to sort evidence of one target and one source by; None if not known.

        That is a ratio if it was measured, milliseconds if predicted, and bytes that no longer
        stream if the compiler reports them.
        """
        before, after = self.before_ms, self.after_ms
        if self.source is Provenance.COMPILER:
            before, after = self.streamed_before, self.streamed_after
        if before is None or after is None:
            return None
        # reason: a predicted ratio would claim to know the part that no replacement changes
        return before / after if self.source is Provenance.MEASURED else before - after

    @property
    def claim(self) -> str:
        """The effect, as the number that is gained where there is one."""
        gain, word = self.gain, self.effect.value
        if gain is None:
            return word
        if self.source is Provenance.MEASURED:
            return _ratio(gain, self.effect)
        if self.effect is Effect.NONE:
            return word
        if self.source is Provenance.COMPILER:
            return f"{'-' if gain > 0 else '+'}{mebibytes(abs(gain))} streamed"
        return f"{_ms(-gain, '+')} ms"

    def __str__(self) -> str:
        """All of it on one line: ``cpu: 2.1x faster (measured, 2 threads, batch 1)``."""
        text = f"{self.target}: {self.claim}"
        if self.source is not Provenance.UNKNOWN:
            known = filter(None, (self.source.value, self._interval(), self.conditions))
            text = f"{text} ({', '.join(known)})"
        return plain(f"{text}: {self.reason}" if self.reason else text)

    def _interval(self) -> str:
        """The change that is expected, where it is not measured."""
        before, low, high = self.before_ms, self.low_ms, self.high_ms
        if before is None or low is None or high is None:
            return ""
        if self.source is Provenance.MEASURED or self.effect is Effect.NONE:
            return ""
        least, most = sorted((abs(before - low), abs(before - high)))
        return f"{_ms(least)} to {_ms(most)}"


def _ratio(ratio: float, effect: Effect) -> str:
    if effect is Effect.FASTER:
        return f"{ratio:.3g}x faster"
    if effect is Effect.SLOWER:
        return f"{1 / ratio:.3g}x slower"
    return "no difference"


def _ms(ms: float, sign: str = "-") -> str:
    # reason: one decimal of a small network's milliseconds is 0.0
    return f"{ms:{sign}.1f}" if abs(ms) >= 0.1 or not ms else f"{ms:{sign}.1g}"
