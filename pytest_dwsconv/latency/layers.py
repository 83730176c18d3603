"""Convolutions compared with their replacements, each at its own shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pytest_dwsconv.core.conv import ConvSpec, transposed_sides
from pytest_dwsconv.core.jsonio import to_plain
from pytest_dwsconv.core.latency.comparison import Comparison, Conditions, Speed
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.latency.machine import this_machine
from pytest_dwsconv.latency.runs import Run, current_conditions, ready, torch_dtype
from pytest_dwsconv.latency.store import Store
from pytest_dwsconv.latency.turns import compare, time_in_turns
from pytest_dwsconv.progress import Progress
from pytest_dwsconv.separable.modules import CONVS, TRANSPOSED
from pytest_dwsconv.separable.replacement import initial, replacement

AnyConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Candidate = tuple[ConvSpec, PlanEntry]
"""A convolution with its input shape, and a replacement of it."""
_Group = dict[str, Candidate]
"""One convolution with several replacements, by what each comparison is kept as."""

TOGETHER = 4
"""Convolutions that are exported in one process, which takes seconds to begin."""


def time_layers(
    candidates: Sequence[Candidate],
    conditions: Conditions | None = None,
    *,
    remeasure: bool = False,
    seconds: float = 0.3,
) -> list[Comparison]:
    """Tell how many times as fast each replacement is as its convolution, on this CPU.

    With LiteRT each is exported, which takes about a second, and for every few convolutions some
    more. Only numbers and shapes count, so weights are random ones. Layers that differ in
    nothing but their names are measured once. All replacements of a convolution are timed in turns
    with it.
    Results are kept in the user's cache folder, except those that are too noisy.

    Args:
        candidates: convolutions of reports, as ``finding.spec``, with the entries of a plan.
        conditions: threads, memory format and runtime; by default those of this process.
        remeasure: measure again what is known.
        seconds: how long the rounds of one replacement may take, on average.

    Returns:
        A comparison for each candidate, in their order; its ``second_ms`` is the replacement's.

    Raises:
        InputError: a convolution has no input shape, or an entry is for another convolution.
        ExportError: a layer cannot be exported.
        EdgeTpuError: exported layers cannot be run.
        MissingDependencyError: LiteRT needs a package that is not installed.
    """
    conditions = conditions or current_conditions()
    keys = [_key(spec, entry) for spec, entry in candidates]
    store = Store(this_machine(conditions.runtime), conditions)
    known = {} if remeasure else store.read()
    groups: dict[str, _Group] = {}
    for key, candidate in zip(keys, candidates, strict=True):
        if key not in known:
            groups.setdefault(_shape_key(candidate[0]), {})[key] = candidate
    with Progress("timing", len(groups), "convolution") as progress:
        waiting = list(groups.values())
        while waiting:
            together, waiting = waiting[:TOGETHER], waiting[TOGETHER:]
            for measured in _measured(together, conditions, seconds):
                known |= measured
                store.add({key: found for key, found in measured.items() if _is_certain(found)})
                progress.advance()
    return [known[key] for key in keys]


def _is_certain(found: Comparison) -> bool:
    return found.is_precise or found.verdict is Speed.SLOWER


def _key(spec: ConvSpec, entry: PlanEntry) -> str:
    """What was compared, without the layer's name."""
    entry.check(spec)
    return json.dumps([_shape_key(spec), to_plain(replace(entry, name=""))])


def _shape_key(spec: ConvSpec) -> str:
    # reason: a transposed convolution may be asked for another output
    output = spec.output_shape if spec.transposed else None
    return json.dumps(to_plain(replace(spec, output_shape=output, traits=())))


def _measured(
    groups: Sequence[_Group], conditions: Conditions, seconds: float
) -> Iterator[dict[str, Comparison]]:
    """Comparisons of convolutions, each with several replacements."""
    made = [_runs(group, conditions) for group in groups]
    for group, runs, times in zip(groups, made, _times(made, conditions, seconds), strict=True):
        original, *others = times
        spec, _ = next(iter(group.values()))
        [image] = runs[0].inputs
        batch = image.shape[0] if image.ndim == spec.rank + 2 else 1
        found = {}
        for key, other in zip(group, others, strict=True):
            found[key] = compare(original, other, conditions, batch)
        yield found


def _times(
    made: Sequence[Sequence[Run]], conditions: Conditions, seconds: float
) -> Iterator[Sequence[Sequence[float]]]:
    if conditions.is_litert:
        from pytest_dwsconv.latency.litert import time_exported

        for timed in time_exported(made, conditions, seconds):
            yield timed.turns
        return
    for runs in made:
        with ready(runs, conditions) as calls:
            times = time_in_turns(calls, seconds * (len(calls) - 1))
        yield times


def _runs(group: _Group, conditions: Conditions) -> list[Run]:
    """A convolution and its replacements, with a random input."""
    spec, _ = next(iter(group.values()))
    if spec.input_shape is None:
        raise InputError(
            "a convolution without an input shape cannot be measured: analyse the model with its "
            "input size"
        )
    dtype = torch_dtype(conditions)
    with torch.random.fork_rng(devices=[]):
        conv = _convolution(spec)
        layers = [conv, *(_replaced(conv, entry) for _, entry in group.values())]
        image = torch.randn(spec.input_shape, dtype=dtype)
    return [Run(layer.to(dtype), [image]) for layer in layers]


_SETTINGS = ("stride", "padding", "dilation", "groups", "bias", "padding_mode")


def _convolution(spec: ConvSpec) -> AnyConv:
    settings: dict[str, Any] = {name: getattr(spec, name) for name in _SETTINGS}
    unknown = [name for name, value in settings.items() if value is None]
    if unknown or spec.in_channels is None or spec.out_channels is None or not spec.kernel_size:
        raise InputError("a convolution whose numbers are not known cannot be measured")
    if spec.transposed:
        del settings["padding_mode"]  # reason: there are only zeros
        conv: type[Any] = TRANSPOSED[spec.rank]
        settings["output_padding"] = _output_padding(spec)
    else:
        conv = CONVS[spec.rank]
    made: AnyConv = conv(spec.in_channels, spec.out_channels, spec.kernel_size, **settings)
    return made


def _output_padding(spec: ConvSpec) -> tuple[int, ...]:
    """By what a transposed convolution's output is larger than its other settings say."""
    if spec.input_shape is None or spec.output_shape is None:
        return (0,) * spec.rank
    sides = transposed_sides(spec, spec.input_shape[-spec.rank :])
    found = spec.output_shape[-spec.rank :]
    return tuple(side - usual for side, usual in zip(found, sides, strict=True))


def _replaced(conv: AnyConv, entry: PlanEntry) -> nn.Module:
    factors, _ = initial(conv.weight, entry, "fresh")
    return replacement(conv, entry, factors)
