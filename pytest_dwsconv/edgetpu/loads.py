"""What layers and their replacements ask of the Edge TPU: memory on the chip, and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pytest_dwsconv.core.findings import Finding, ReportData

CACHE_BYTES = int(7.65 * 2**20)
"""Parameters that fit on the chip, as compilers have reported."""
_CHANNELS = 64
"""The chip rounds parameters up by layer, seemingly to so many output channels: 0.438 MiB of layers
with 32 were reported to take 0.876.
"""


@dataclass(frozen=True)
class Load:
    """Bytes of int8 parameters, multiply-accumulates and bytes of int8 activations written.

    ``rounding`` is what the parameters take on the chip beyond their bytes.
    """

    params: int = 0
    rounding: int = 0
    macs: int = 0
    activations: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.params + other.params,
            self.rounding + other.rounding,
            self.macs + other.macs,
            self.activations + other.activations,
        )

    def __sub__(self, other: Load) -> Load:
        return self + Load(-other.params, -other.rounding, -other.macs, -other.activations)

    @property
    def taken(self) -> int:
        """Bytes that the parameters take on the chip, if they fit."""
        return self.params + self.rounding

    @property
    def off_chip(self) -> int:
        """The parameters that stream, at least: how many fit only the compiler says."""
        if self.taken <= CACHE_BYTES:
            return 0
        return self.params - self.params * CACHE_BYTES // self.taken


def rounding(params: int, channels: int) -> int:
    """What the chip adds to the parameters of a layer with so many output channels."""
    return params * (-channels % _CHANNELS) // channels if channels else 0


def load_of(finding: Finding) -> Load:
    """What a convolution asks for as it is."""
    params = finding.params or 0
    written = prod(finding.output_shape or (0,)) * max(1, finding.calls)
    return Load(
        params, rounding(params, finding.spec.out_channels or 0), finding.macs or 0, written
    )


def load_of_network(report: ReportData) -> Load:
    """What all layers ask for together. Of a layer that is no convolution nothing is rounded."""
    total = Load()
    for finding in report.findings:
        total += load_of(finding)
    return Load(report.params, total.rounding, report.macs or 0, total.activations)
