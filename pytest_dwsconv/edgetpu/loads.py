"""What layers and their replacements ask of the Edge TPU: memory on the chip, and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pytest_dwsconv.core.conv import Trait, cost
from pytest_dwsconv.core.findings import Finding, Origin, ReportData
from pytest_dwsconv.core.plan import PlanEntry

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

    @property
    def on_chip(self) -> int:
        """The parameters that are uploaded once."""
        return self.params - self.off_chip


def rounding(params: int, channels: int) -> int:
    """What the chip adds to the parameters of a layer with so many output channels."""
    return params * (-channels % _CHANNELS) // channels if channels else 0


def is_exported(finding: Finding) -> bool:
    """Whether a file of the network has it; a head that is for training alone does not run."""
    return finding.origin is not Origin.NOT_EXECUTED


def _width(out_channels: int, in_channels: int, groups: int) -> int:
    """Output channels of one operator: a convolution in groups is exported as one for each."""
    return out_channels if groups == in_channels else out_channels // groups


def load_of(finding: Finding) -> Load:
    """What a convolution asks for as it is."""
    if not is_exported(finding):
        return Load()
    spec, params = finding.spec, finding.params or 0
    channels = _width(spec.out_channels or 0, spec.in_channels or 0, spec.groups or 1)
    written = prod(finding.output_shape or (0,)) * max(1, finding.calls)
    return Load(params, rounding(params, channels), finding.macs or 0, written)


def load_after(finding: Finding, entry: PlanEntry) -> Load:
    """What its replacement asks for. The shapes are those of the first call, as in its cost."""
    if not is_exported(finding):
        return Load()
    spec, total = finding.spec, Load()
    taps = prod(entry.kernel_size)
    before = cost(spec)
    known = before is not None and before.macs
    calls = (finding.macs or 0) / known if known else max(1, finding.calls)
    positions = spec.input_positions or 0
    parts = entry.parts
    for part in parts:
        params = part.in_channels * part.out_channels // part.groups
        inputs = positions
        if part.spatial:
            params *= taps
            positions = spec.output_positions or 0
        # reason: a transposed convolution multiplies at its inputs
        macs = params * (inputs if spec.transposed else positions)
        written = part.out_channels * positions
        params += part.out_channels if entry.bias and part is parts[-1] else 0
        total += Load(
            params,
            rounding(params, _width(part.out_channels, part.in_channels, part.groups)),
            round(macs * calls),
            round(written * calls),
        )
    return total


def load_of_network(report: ReportData) -> Load:
    """What all layers ask for together. Of a layer that is no convolution nothing is rounded."""
    total, params = Load(), report.params
    for finding in report.findings:
        total += load_of(finding)
        # reason: another layer may run with the weight that they share
        if not is_exported(finding) and Trait.TIED not in finding.spec.traits:
            params -= finding.params or 0
    return Load(params, total.rounding, report.macs or 0, total.activations)
