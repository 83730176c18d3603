"""What a plan saves on the Edge TPU: parameters that no longer stream, and milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.latency.evidence import EDGETPU, Effect, Evidence, Provenance
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.plan import Plan, PlanEntry, plan_of
from pytest_dwsconv.core.quantities import mebibytes
from pytest_dwsconv.edgetpu.compiler import Compilation, CompilerReport
from pytest_dwsconv.edgetpu.loads import (
    CACHE_BYTES,
    Load,
    is_exported,
    load_after,
    load_of,
    load_of_network,
)
from pytest_dwsconv.edgetpu.modelfile import ModelFile
from pytest_dwsconv.edgetpu.prediction import (
    HOST,
    LatencyFeatures,
    bus_ms,
    predict_latency,
    rates_of,
)
from pytest_dwsconv.errors import InputError

MIB = 2**20


# Between variants of one network, of which at least 0.25 MiB more of the one stream, the measured
# difference is 0.75 to 1.17 times the predicted one: ``benchmarks/edgetpu_latency.py`` prints it.
_LEAST, _MOST = 0.75, 4 / 3

Compiled = Compilation | CompilerReport | ModelFile
"""What tells how much streams of a compiled network."""


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

        rows = [[plain(one.name), *map(mebibytes, (one.before, one.after))] for one in self.layers]
        for name, part in (("on the chip", "on_chip"), ("streamed", "off_chip")):
            sizes = (getattr(load, part) for load in (self.before, self.after))
            rows.append([name, *map(mebibytes, sizes)])
        table = tabulate(rows, ["", "before", "after"], disable_numparse=True)
        return f"{table}\n\n{self.outlook}"

    @property
    def outlook(self) -> str:
        """What a further MiB less would buy."""
        if not self.after.off_chip:
            free = CACHE_BYTES - self.after.taken
            return f"A further MiB less buys nothing: all fits, {mebibytes(free)} are free"
        return f"A further MiB less saves {self.next_mib_ms:.2g} ms (predicted, {self.host})"


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

    Layers that do not run are in no file, and are left out.

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
    whole = ChipMemory(total, _after(total, changes), (), host)
    streams = whole.after.off_chip
    outlook = f"; a further MiB less saves {whole.next_mib_ms:.2g} ms" if streams else ""
    found[""] = _evidence(before, total, whole.after, host, outlook)
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
        if is_exported(finding):
            found.append(_Change(entry, load_of(finding), load_after(finding, entry)))
    return found


def _after(total: Load, changes: Iterable[_Change]) -> Load:
    for change in changes:
        total = total - change.before + change.after
    return total


def _evidence(
    features: LatencyFeatures, before: Load, after: Load, host: str, outlook: str = ""
) -> Evidence:
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
        EDGETPU,
        Provenance.PREDICTED,
        effect,
        host,
        first.ms,
        second.ms,
        max(0.0, first.ms - high),
        first.ms - low,
        before.off_chip,
        after.off_chip,
        f"{_reason(before, after)}{outlook}",
    )


def _reason(before: Load, after: Load) -> str:
    stopped = before.off_chip - after.off_chip
    if not before.off_chip and not after.off_chip:
        return "all parameters fit on the chip already"
    if before == after:
        return f"nothing is replaced, {mebibytes(after.off_chip)} stream"
    if stopped <= 0:
        return f"{mebibytes(after.off_chip)} stream, and no less than before"
    if not after.off_chip:
        return f"{mebibytes(stopped)} no longer stream, all parameters fit on the chip"
    return f"{mebibytes(stopped)} no longer stream, {mebibytes(after.off_chip)} still do"


def compiler_evidence(before: Compiled, after: Compiled) -> dict[str, Evidence]:
    """What the compiler reports to stream of a network and of its rewrite; ``""`` is its only key.

    It tells no time, and nothing of single layers.

    Args:
        before: what ``compile_model`` returns for the network, its report, or what ``read_model``
            returns for the compiled file.
        after: the same for the rewritten network.

    Raises:
        InputError: one of them does not tell what streams.
    """
    first, second = _as_compiled(before), _as_compiled(after)
    if second.on_cpu > first.on_cpu:
        left = f"{second.on_cpu} operators on the CPU, {first.on_cpu} before"
        reason = f"the compiler leaves {left}, and does not tell what they take"
        return {"": Evidence.unknown(EDGETPU, reason)}
    effect, reason = Effect.NONE, f"{mebibytes(second.streamed)} stream, as before"
    if second.streamed != first.streamed:
        effect = Effect.FASTER if second.streamed < first.streamed else Effect.SLOWER
        reason = f"{mebibytes(second.streamed)} still stream"
    if not second.streamed:
        already = "" if first.streamed else " already"
        reason = f"all parameters fit on the chip{already}"
    found = Evidence(
        EDGETPU,
        Provenance.COMPILER,
        effect,
        streamed_before=first.streamed,
        streamed_after=second.streamed,
        reason=reason,
    )
    return {"": found}


class _AsCompiled(NamedTuple):
    streamed: int
    """Bytes of parameters at every inference."""
    on_cpu: int
    """Operators that stay there."""


def _as_compiled(source: Compiled) -> _AsCompiled:
    if isinstance(source, Compilation):
        source = source.file
    if isinstance(source, ModelFile) and source.compiled:
        return _AsCompiled(source.parameters_streamed, len(source.on_cpu))
    if isinstance(source, CompilerReport) and source.off_chip_used is not None:
        return _AsCompiled(source.off_chip_used, sum(row.count for row in source.on_cpu))
    raise InputError(
        f"{type(source).__name__} does not tell what streams: give what compile_model returns, or "
        "read_model for a compiled file"
    )
