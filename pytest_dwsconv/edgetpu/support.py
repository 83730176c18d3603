"""Judge a ``.tflite`` file, before any compiler has seen it, by what the Edge TPU's vendor
documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Tensor
from pytest_dwsconv.edgetpu.operators import REFUSED, SUPPORTED, Row
from pytest_dwsconv.errors import InputError

_QUANTIZED = ("INT8", "UINT8")


class Status(str, Enum):
    """Where an operator will run, as far as the documentation tells."""

    MAPS = "maps"
    CPU = "stays on the CPU"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judgement:
    """One operator, in order of execution. ``runtime`` is the lowest runtime version documented for
    it, 0 for any.
    """

    operator: str
    layer: str
    status: Status
    reason: str = ""
    runtime: int = 0

    def __str__(self) -> str:
        where = plain(f"{self.operator} ({self.layer}): {self.status.value}")
        return f"{where}: {plain(self.reason)}" if self.reason else where


@dataclass(frozen=True)
class Support:
    """The judgement on a whole file. ``problems`` are faults of the file as such, for which nothing
    of it may map.
    """

    operators: tuple[Judgement, ...]
    problems: tuple[str, ...] = ()

    @property
    def on_cpu(self) -> tuple[Judgement, ...]:
        return tuple(judgement for judgement in self.operators if judgement.status is Status.CPU)

    @property
    def unknown(self) -> tuple[Judgement, ...]:
        return tuple(
            judgement for judgement in self.operators if judgement.status is Status.UNKNOWN
        )

    @property
    def maps(self) -> bool:
        """Whether the documentation says that the whole model runs on the Edge TPU."""
        return not self.problems and all(
            judgement.status is Status.MAPS for judgement in self.operators
        )

    def __str__(self) -> str:
        mapped = len(self.operators) - len(self.on_cpu) - len(self.unknown)
        total = f"{len(self.operators)} operators: {mapped} map, {len(self.on_cpu)} stay on the CPU"
        lines = [
            f"{total}, {len(self.unknown)} unknown (by the documentation, nothing was compiled)"
        ]
        lines += [f"the file as a whole: {plain(problem)}" for problem in self.problems]
        return "\n".join([*lines, *(str(judgement) for judgement in (*self.on_cpu, *self.unknown))])


def judge_model(model: ModelFile) -> Support:
    """Judge every operator of a file that is not compiled yet: *maps*, *stays on the CPU* or
    *unknown*, with a reason.

    The compiler makes one partition: the first operator it does not support, and all after it, stay
    on the CPU. An operator after one that is unknown is unknown itself. A QUANTIZE that takes the
    float input of the model stays on the CPU and ends nothing.

    Raises:
        InputError: the file is compiled already, so that its packages and ``on_cpu`` tell what
            became of it.
    """
    if model.compiled:
        raise InputError(
            "the model is compiled already; read its packages and on_cpu, or judge the file it "
            "came from"
        )
    judgements: list[Judgement] = []
    stop: Judgement | None = None
    for position, operator in enumerate(model.operators):
        own = _judge(operator)
        judgements.append(own if stop is None else _after(own, stop))
        entry = position == 0 and operator.name == "QUANTIZE"
        if (
            own.status is not Status.MAPS
            and not entry
            and (stop is None or stop.status is Status.UNKNOWN)
        ):
            stop = own if stop is None or own.status is Status.CPU else stop
    return Support(tuple(judgements), tuple(_problems(model)))


def _after(own: Judgement, stop: Judgement) -> Judgement:
    if own.status is Status.CPU:
        return own
    if stop.status is Status.CPU:
        return replace(
            own,
            status=Status.CPU,
            reason=f"after {stop.operator} ({stop.layer}), which stays there",
        )
    if own.status is Status.UNKNOWN:
        return own
    return replace(
        own, status=Status.UNKNOWN, reason=f"after {stop.operator} ({stop.layer}), which is unknown"
    )


def _judge(operator: Operator) -> Judgement:
    row = SUPPORTED.get(operator.name)
    judgement = Judgement(
        operator.name, operator.layer, Status.CPU, runtime=row.runtime if row else 0
    )
    if row is None or operator.custom:
        return replace(judgement, reason=_unsupported(operator))
    reason = next(_objections(operator, row), "")
    if reason:
        return replace(judgement, reason=reason)
    if row.doubt:
        return replace(judgement, status=Status.UNKNOWN, reason=row.doubt)
    return replace(judgement, status=Status.MAPS, reason=row.caveat)


def _unsupported(operator: Operator) -> str:
    if operator.name in REFUSED:
        return "the Edge TPU does not support it"
    return (
        "a custom operator"
        if operator.custom
        else "not among the operators the vendor lists as supported"
    )


def _objections(operator: Operator, row: Row) -> Iterator[str]:
    if row.max_version is not None and operator.version > row.max_version:
        yield f"version {operator.version} of it, and the compiler knows versions up to {row.max_version}"
    for tensor in operator.activations:
        yield from _tensor_objections(tensor)
    yield from filter(None, (limit(operator) for limit in row.limits))


def _tensor_objections(tensor: Tensor) -> Iterator[str]:
    if tensor.dtype not in _QUANTIZED:
        yield f"it works on {tensor.dtype.lower()}, not on int8 or uint8"
    if tensor.dynamic:
        yield "the shape of a tensor is not static"
    if any(side > 1 for side in tensor.shape[:-3]):
        yield f"more than the 3 innermost dimensions of {tensor.shape} are larger than 1"


def _problems(model: ModelFile) -> Iterator[str]:
    operators = model.operators
    computed = [tensor for operator in operators for tensor in operator.activations]
    if not any(tensor.dtype in _QUANTIZED for tensor in computed):
        yield "the model is not quantised"
    if any(tensor.dynamic for tensor in computed):
        yield "a tensor has no static shape"
    for operator in operators:
        row = SUPPORTED.get(operator.name)
        if row is not None and row.max_version is not None and operator.version > row.max_version:
            yield f"{operator.name} version {operator.version} ({operator.layer}) is newer than the compiler"
    outside = [
        operator
        for operator in operators
        if any(tensor and tensor.outside for tensor in operator.inputs)
    ]
    if outside:
        yield f"the parameters of {len(outside)} operators lie behind the flatbuffer, where old runtimes see none"
    if model.subgraphs > 1:
        yield f"it has {model.subgraphs} subgraphs, and only one is compiled"
