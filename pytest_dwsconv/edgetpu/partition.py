"""Which operators the Edge TPU compiler makes its one part of, by data flow, as TFLite partitions.

TFLite's rule (``PartitionGraphIntoIndependentNodeSubsets`` in ``graph_info.cc``): the first
operator decides whether the first subset is for the device or for the CPU. A subset takes each
operator of its kind whose inputs are there: inputs of the model, constants, and what this subset
and those before it compute. Of the subsets for the device the compiler maps the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dwsconv.edgetpu.modelfile import Operator


@dataclass(frozen=True)
class Partition:
    """The positions of the operators that are mapped, and why the others are not.

    ``causes`` has, by position, the operator after which one stays on the CPU that could map.
    """

    mapped: frozenset[int]
    causes: dict[int, int]


def partition(operators: Sequence[Operator], supported: Sequence[bool]) -> Partition:
    """The partition of operators in order of execution, of which some are supported."""
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
    return Partition(frozenset(mapped), causes)


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
