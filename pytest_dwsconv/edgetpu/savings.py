"""What a plan saves on the Edge TPU: parameters that no longer stream, and milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.plan import Plan, PlanEntry, plan_of
from pytest_dwsconv.edgetpu.loads import CACHE_BYTES, Load, load_after, load_of, load_of_network
from pytest_dwsconv.edgetpu.prediction import LatencyFeatures, bus_ms, predict_latency, rates_of
from pytest_dwsconv.errors import InputError

MIB = 2**20
TARGET = "edgetpu"
HOST = "rpi4_usb3"

# Between variants of one network, of which at least 0.25 MiB more of the one stream, the measured
# difference is 0.75 to 1.17 times the predicted one: ``benchmarks/edgetpu_latency.py`` prints it.
_LEAST, _MOST = 0.75, 4 / 3


@dataclass(frozen=True)
class LayerMemory:
    """Bytes that a layer's int8 parameters take on the chip, before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class ChipMemory:
    """The Edge TPU's memory before and after a plan, by layer and in total; ``str`` is a table.

    Bytes of int8 parameters: those on the chip, and those that do not fit there and are sent at
    every inference. Which layers these are is the compiler's choice, and is not predicted.

    Attributes:
        before: what the network asks for.
        after: the same with the replacements.
        layers: the replaced layers, with what each takes on the chip.
        host: the kind of host that the milliseconds are for.
    """

    before: Load
    after: Load
    layers: tuple[LayerMemory, ...]
    host: str = HOST

    @property
    def next_mib_ms(self) -> float:
        """Predicted milliseconds that a further MiB of parameters less would save."""
        return bus_ms(min(MIB, self.after.off_chip), self.host)

    def __str__(self) -> str:
        from tabulate import tabulate

        rows = [[plain(one.name), *map(_mib, (one.before, one.after))] for one in self.layers]
        for name, part in (("on the chip", "on_chip"), ("streamed", "off_chip")):
            sizes = (getattr(load, part) for load in (self.before, self.after))
            rows.append([name, *map(_mib, sizes)])
        table = tabulate(rows, ["", "before", "after"], disable_numparse=True)
        return f"{table}\n\n{self.outlook}"

    @property
    def outlook(self) -> str:
        """What a further MiB less would buy."""
        if not self.after.off_chip:
            free = CACHE_BYTES - self.after.taken
            return f"A further MiB less buys nothing: all fits, {_mib(free)} are free"
        return f"A further MiB less saves {self.next_mib_ms:.1f} ms (predicted, {self.host})"


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"


def chip_memory(report: ReportData, plan: Plan | None = None, host: str = HOST) -> ChipMemory:
    """The Edge TPU's memory before and after a plan, by default that of all candidates.

    Raises:
        InputError: the plan has a layer that the report has not, or nothing is known of the host.
    """
    rates_of(host)
    total, changes = load_of_network(report), _changes(report, plan)
    layers = []
    for change in changes:
        layers.append(LayerMemory(change.entry.name, change.before.taken, change.after.taken))
    return ChipMemory(total, _after(total, changes), tuple(layers), host)


def predicted_evidence(
    report: ReportData, plan: Plan | None = None, host: str = HOST
) -> dict[str, Evidence]:
    """What the replacements of a plan do to the latency, by layer; ``""`` is all of them together.

    A layer's evidence is for the network with that layer alone replaced.

    Args:
        report: the network as it is, with its input shape and a batch of 1.
        plan: the replacements; by default those of all candidates that the report reckons with.
        host: as for ``predict_latency``.

    Raises:
        InputError: the report has no MACs or is for another batch, the plan has a layer that the
            report has not, or nothing is known of the host.
    """
    before = LatencyFeatures.of(report)
    total = load_of_network(report)
    changes = _changes(report, plan)
    found = {}
    for change in changes:
        found[change.entry.name] = _evidence(before, total, _after(total, [change]), host)
    found[""] = _evidence(before, total, _after(total, changes), host)
    return found


class _Change(NamedTuple):
    entry: PlanEntry
    before: Load
    after: Load


def _changes(report: ReportData, plan: Plan | None) -> list[_Change]:
    plan = plan_of(report, report.candidates) if plan is None else plan
    by_name = {finding.name: finding for finding in report.findings}
    found = []
    for entry in plan.entries:
        if entry.name not in by_name:
            raise InputError(f"the plan is for another model: {report.model} has no {entry.name!r}")
        finding = by_name[entry.name]
        found.append(_Change(entry, load_of(finding), load_after(finding, entry)))
    return found


def _after(total: Load, changes: Iterable[_Change]) -> Load:
    for change in changes:
        total = total - change.before + change.after
    return total


def _evidence(features: LatencyFeatures, before: Load, after: Load, host: str) -> Evidence:
    """The change of latency. What the chip itself takes may save nothing, or twice as much."""
    changed = replace(
        features,
        params_bytes=after.params,
        off_chip_bytes=after.off_chip,
        # reason: MACs of all kinds count alike
        standard_macs=max(0, features.standard_macs + after.macs - before.macs),
        activation_bytes=after.activations,
    )
    first, second = predict_latency(features, host), predict_latency(changed, host)
    bus = bus_ms(before.off_chip - after.off_chip, host)
    chip = first.ms - second.ms - bus
    least, most = sorted((_LEAST * bus, _MOST * bus))
    low, high = least + min(0.0, 2 * chip), most + max(0.0, 2 * chip)
    effect = Effect.FASTER if low > 0 else Effect.SLOWER if high < 0 else Effect.NONE
    return Evidence(
        TARGET,
        Provenance.PREDICTED,
        effect,
        host,
        first.ms,
        second.ms,
        max(0.0, first.ms - high),
        first.ms - low,
        before.off_chip,
        after.off_chip,
        _reason(before, after),
    )


def _reason(before: Load, after: Load) -> str:
    stopped = before.off_chip - after.off_chip
    if not before.off_chip and not after.off_chip:
        return "all parameters fit on the chip already"
    if stopped <= 0:
        return f"{_mib(after.off_chip)} stream, and no less than before"
    if not after.off_chip:
        return f"{_mib(stopped)} no longer stream, all parameters fit on the chip"
    return f"{_mib(stopped)} no longer stream, {_mib(after.off_chip)} still do"
