"""Judge a ``.tflite`` file before any compiler has seen it: which operators will map, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Tensor
from pytest_dwsconv.edgetpu.operators import DOCUMENTED, REFUSED, OperatorSupport, support_of
from pytest_dwsconv.errors import InputError

NEWEST_COMPILER = 16
_QUANTIZED = ("INT8", "UINT8")
_NAMED = 5  # layers that a sentence names


class Status(str, Enum):
    """Where an operator will run, as far as is known."""

    MAPS = "maps"
    CPU = "stays on the CPU"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class OperatorJudgement:
    """The judgement on one operator.

    ``runtime`` is the lowest runtime version that is known to run it, 0 for any. ``basis`` says
    what the claim rests on. One that ``follows`` could map, but depends on one that does not.
    """

    operator: str
    layer: str
    status: Status
    reason: str = ""
    runtime: int = 0
    basis: str = DOCUMENTED
    follows: bool = False

    def __str__(self) -> str:
        where = plain(f"{self.operator} ({self.layer}): {self.status.value}")
        return f"{where}: {plain(self.reason)}" if self.reason else where


@dataclass(frozen=True)
class Support:
    """The judgement on a whole file, operators in order of execution.

    ``problems`` are faults of the file as such, for which nothing of it may map. ``caveat`` names
    the largest activation of what maps: the compiler refuses a file with activations that are too
    large, although each operator maps, and nobody has published how large that is.
    """

    operators: tuple[OperatorJudgement, ...]
    problems: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def on_cpu(self) -> tuple[OperatorJudgement, ...]:
        return self._of(Status.CPU)

    @property
    def unknown(self) -> tuple[OperatorJudgement, ...]:
        return self._of(Status.UNKNOWN)

    @property
    def complaints(self) -> tuple[str, ...]:
        """All that is wrong or in doubt, a sentence for each cause with the layers it is found in.

        What follows such an operator is only counted.
        """
        found: dict[tuple[str, str, str], list[str]] = {}
        for one in self.operators:
            if one.status is not Status.MAPS and not one.follows:
                key = one.operator, one.status.value, one.reason
                found.setdefault(key, []).append(one.layer)
        sentences = [*self.problems]
        for (operator, status, reason), layers in found.items():
            named = ", ".join(layers[:_NAMED])
            more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
            sentences.append(f"{operator} ({named}{more}): {status}: {reason}")
        following = sum(one.follows for one in self.operators)
        if following:
            total = len(self.operators)
            sentences.append(f"{following} of {total} operators depend on these and may not map")
        return tuple(map(plain, sentences))

    def _of(self, status: Status) -> tuple[OperatorJudgement, ...]:
        return tuple(judgement for judgement in self.operators if judgement.status is status)

    @property
    def maps(self) -> bool:
        """Whether the whole model runs on the Edge TPU, as far as is known; see ``caveat``."""
        mapped = self._of(Status.MAPS)
        return not self.problems and len(mapped) == len(self.operators)

    def __str__(self) -> str:
        mapped = len(self._of(Status.MAPS))
        total = f"{len(self.operators)} operators: {mapped} map, {len(self.on_cpu)} stay on the CPU"
        lines = [
            f"{total}, {len(self.unknown)} unknown (by the documentation, nothing was compiled)"
        ]
        if self.caveat:
            lines.append(plain(self.caveat))
        lines += [f"the file as a whole: {plain(problem)}" for problem in self.problems]
        return "\n".join([*lines, *map(str, (*self.on_cpu, *self.unknown))])


def judge_model(model: ModelFile, *, compiler: int = NEWEST_COMPILER) -> Support:
    """Judge every operator of a file that is not compiled yet, each with a reason.

    An operator *maps*, *stays on the CPU*, or is *unknown*. The compiler makes one part of the
    model for the Edge TPU, by data flow: what depends on an operator that stays on the CPU stays
    there too. What depends on one that is unknown is unknown.

    Args:
        model: the file.
        compiler: the major version of the Edge TPU compiler, 16 for the newest.

    Raises:
        InputError: ``model`` is not a file that was read, or is compiled already, so that its
            packages and ``on_cpu`` tell what became of it; or ``compiler`` is not a version.
    """
    if not isinstance(model, ModelFile):
        raise InputError(
            f"judge_model takes what read_model returns, not {type(model).__name__}; read it first"
        )
    if model.compiled:
        raise InputError(
            "the model is compiled already; read its packages and on_cpu, or judge the file it "
            "came from"
        )
    if compiler not in range(1, 100):
        raise InputError("compiler is the major version of the Edge TPU compiler, such as 16")
    alone = [_judge(operator, compiler) for operator in model.operators]
    # with every operator that is unknown mapped, and with none of them
    most = _partition(model.operators, [own.status is not Status.CPU for own in alone])
    least = _partition(model.operators, [own.status is Status.MAPS for own in alone])
    judgements = tuple(_placed(position, alone, most, least) for position in range(len(alone)))
    mapped = [
        operator
        for operator, judgement in zip(model.operators, judgements, strict=True)
        if judgement.status is Status.MAPS
    ]
    return Support(judgements, tuple(_problems(model)), _caveat(mapped))


def _placed(
    position: int, alone: list[OperatorJudgement], most: _Partition, least: _Partition
) -> OperatorJudgement:
    """The judgement on an operator at its place in the model, from those on each one alone."""
    own = alone[position]
    if own.status is Status.CPU:
        return own
    if position in most.mapped and position in least.mapped:
        return own
    if position not in most.mapped and position not in least.mapped:
        cause = alone[most.causes[position]]
        reason = f"after {cause.operator} ({cause.layer}), which stays there"
        return replace(own, status=Status.CPU, reason=reason, follows=True)
    if own.status is Status.UNKNOWN:
        return own
    # it is mapped in one partition only, so that an unknown operator decides which one there is
    first = next(i for i, one in enumerate(alone) if one.status is Status.UNKNOWN)
    cause = alone[least.causes.get(position, first)]
    reason = f"after {cause.operator} ({cause.layer}), which is unknown"
    return replace(own, status=Status.UNKNOWN, reason=reason, follows=True)


def _judge(operator: Operator, compiler: int) -> OperatorJudgement:
    """The judgement on an operator as if it were the only one."""
    known = support_of(operator)
    judgement = OperatorJudgement(operator.name, operator.layer, Status.CPU)
    if operator.name in REFUSED:
        reason = "the Edge TPU does not support it"
        return replace(judgement, reason=reason, basis="seen left on the CPU")
    if operator.custom:
        return replace(judgement, reason="a custom operator")
    objection = next(_objections(operator, known), "")
    if known is not None:
        judgement = replace(judgement, runtime=known.runtime, basis=known.basis)
    if objection:
        return replace(judgement, reason=objection, basis=DOCUMENTED)
    doubt = _doubt(operator, known, compiler)
    if known is None or doubt:
        return replace(judgement, status=Status.UNKNOWN, reason=doubt)
    return replace(judgement, status=Status.MAPS, reason=known.caveat)


def _objections(operator: Operator, known: OperatorSupport | None) -> Iterator[str]:
    """What keeps an operator on the CPU for certain."""
    if known is not None and _is_too_new(operator, known):
        highest = known.max_version
        yield f"version {operator.version} of it, and the compiler knows versions up to {highest}"
    for tensor in operator.activations:
        yield from _tensor_objections(tensor)
    if known is not None:
        yield from filter(None, (limit(operator) for limit in known.limits))


def _is_too_new(operator: Operator, known: OperatorSupport) -> bool:
    return known.max_version is not None and operator.version > known.max_version


def _tensor_objections(tensor: Tensor) -> Iterator[str]:
    if tensor.dtype not in _QUANTIZED:
        yield f"it works on {tensor.dtype.lower()}, not on int8 or uint8"
    if tensor.dynamic:
        yield "the shape of a tensor is not static"
    if any(side > 1 for side in tensor.shape[:-3]):
        yield f"more than the 3 innermost dimensions of {tensor.shape} are larger than 1"


def _doubt(operator: Operator, known: OperatorSupport | None, compiler: int) -> str:
    """Why nobody can tell whether an operator maps; empty where that is known."""
    if known is None:
        return "not among the operators that are known to map or not to map"
    if compiler < known.compiler:
        return f"seen to map with compiler {known.compiler}, not verified with {compiler}"
    return next(filter(None, (doubt(operator) for doubt in known.doubts)), "")


def _problems(model: ModelFile) -> Iterator[str]:
    operators = model.operators
    computed = [tensor for operator in operators for tensor in operator.activations]
    if not any(tensor.dtype in _QUANTIZED for tensor in computed):
        yield "the model is not quantised"
    if any(tensor.dynamic for tensor in computed):
        yield "a tensor has no static shape"
    for operator in operators:
        known = support_of(operator)
        if known is not None and _is_too_new(operator, known):
            which = f"{operator.name} version {operator.version} ({operator.layer})"
            yield f"{which} is newer than the compiler"
    outside = [o for o in operators if any(tensor and tensor.outside for tensor in o.inputs)]
    if outside:
        yield (
            f"the parameters of {len(outside)} operators lie behind the flatbuffer, where old "
            "runtimes see none"
        )
    if model.subgraphs > 1:
        yield f"it has {model.subgraphs} subgraphs, and only one is compiled"


def _caveat(mapped: list[Operator]) -> str:
    """What may still keep operators that map on the CPU; empty if there are none."""
    named = [(tensor.shape, operator.layer) for operator in mapped for tensor in operator.outputs]
    named += [(tensor.shape, tensor.name) for o in mapped for tensor in o.activations]
    if not named:
        return ""
    shape, name = max(named, key=lambda pair: math.prod(pair[0]))
    size = math.prod(shape)  # one byte each
    return (
        f"the largest activation is {name}, {shape}, {size:,} bytes: the compiler "
        "refuses a file with activations that are too large, at a limit that is not published; "
        "then use a smaller input, or fewer channels early"
    )


# ------------------------------------------------------------------- by data flow


@dataclass(frozen=True)
class _Partition:
    """The positions of the operators that the compiler makes its one part of.

    ``causes`` has, by position, the operator after which one stays on the CPU that could map.
    """

    mapped: frozenset[int]
    causes: dict[int, int]


def _partition(operators: Sequence[Operator], supported: Sequence[bool]) -> _Partition:
    """The partition of operators in order of execution, of which some are supported.

    By TFLite's rule (``PartitionGraphIntoIndependentNodeSubsets`` in ``graph_info.cc``): the first
    operator decides whether the first subset is for the device or for the CPU. A subset takes each
    operator of its kind whose inputs are there: inputs of the model, constants, and what this
    subset and those before it compute. Of the subsets for the device the compiler maps the first.
    """
    needed = _needed(operators)
    # what runs on the CPU before the part of the device: nothing, if the first operator can map
    before: set[int] = set()
    if supported and not supported[0]:
        for position, sources in enumerate(needed):
            if not supported[position] and sources <= before:
                before.add(position)
    mapped: set[int] = set()
    causes: dict[int, int] = {}
    for position, sources in enumerate(needed):
        if not supported[position]:
            continue
        missing = sources - before - mapped
        if missing:
            # an operator that could map passes on what keeps it
            causes[position] = min(causes.get(source, source) for source in missing)
        else:
            mapped.add(position)
    return _Partition(frozenset(mapped), causes)


def _needed(operators: Sequence[Operator]) -> list[set[int]]:
    """The positions of the operators that compute the inputs of each."""
    computed_by: dict[int, int] = {}  # by the identity of a tensor
    needed = []
    for position, operator in enumerate(operators):
        sources = {computed_by[id(t)] for t in operator.inputs if id(t) in computed_by}
        needed.append(sources)
        for tensor in operator.outputs:
            computed_by[id(tensor)] = position
    return needed
