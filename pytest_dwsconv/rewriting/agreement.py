"""How far one network does what another does, on inputs without labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.limits import AgreementLimits
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.quantities import told_apart
from pytest_dwsconv.errors import InputError, TracingError
from pytest_dwsconv.fit.preconditions import check_batches
from pytest_dwsconv.fit.replay import given
from pytest_dwsconv.rewriting.outputs import outputs
from pytest_dwsconv.tracing.process_state import RandomNumbers


@dataclass(frozen=True)
class Agreement:
    """How far a student does what its teacher does.

    Attributes:
        student: the class of one network.
        teacher: the class of the other.
        error: the relative error of the outputs, sqrt(sum (s - t)^2 / sum t^2) over all batches; of
            several outputs the largest. Infinite where the student gives NaN or infinity.
        top1: the share of samples for which both give the highest score to the same class; None
            where the networks give anything but one tensor of class scores (samples, classes).
        samples: how many samples ``top1`` is of, 0 where it is None.
        batches: how many batches were compared.
    """

    student: str
    teacher: str
    error: float
    top1: float | None
    samples: int
    batches: int

    def __str__(self) -> str:
        return f"{_compared(self, AgreementLimits(None, None))}."


def measure_agreement(student: nn.Module, teacher: nn.Module, batches: Iterable[Any]) -> Agreement:
    """Compare two networks on inputs without labels, as a rewritten network with its original.

    Both run in evaluation mode and without gradients, and are left as found, as are the random
    numbers and the batches.

    Args:
        student: the network that is to do what the other does.
        teacher: the network that it is compared with, not the same object.
        batches: each a tensor, a tuple of positional arguments or a mapping of keyword arguments;
            gone through once.

    Raises:
        InputError: the batches cannot be used or there are none, the two are one network, or their
            outputs cannot be compared.
        TracingError: a network fails on a batch.
    """
    check_batches("batches", batches)
    _check_networks(student, teacher)
    compared, numbers = _Comparison(), RandomNumbers()
    try:
        for index, batch in enumerate(batches):
            # reason: each is run with the random numbers as found, so that both draw the same
            wanted = _outputs("teacher", teacher, index, batch)
            compared.add(index, _outputs("student", student, index, batch), wanted)
    finally:
        numbers.put_back()  # reason: batches may be drawn by chance too
    if not compared.batches:
        raise InputError("batches gives none: pass a list or a data loader of the networks' inputs")
    return Agreement(
        type(student).__name__,
        type(teacher).__name__,
        compared.error,
        compared.agreeing / compared.samples if compared.samples else None,
        compared.samples,
        compared.batches,
    )


def shortfall(found: Agreement, limits: AgreementLimits) -> str:
    """A sentence with both figures and what to do, empty where both limits are kept.

    Raises:
        InputError: ``min_top1`` is given and the networks give no class scores.
    """
    min_top1, max_error = limits
    if min_top1 is not None and found.top1 is None:
        raise InputError(
            "min_top1 is for networks that give one tensor of class scores, (samples, classes), "
            f"and {plain(found.teacher)} does not: give max_error in its place"
        )
    few = min_top1 is not None and found.top1 is not None and found.top1 < min_top1
    far = max_error is not None and found.error > max_error
    if not few and not far:
        return ""
    return (
        f"{_compared(found, limits)}: fit it with init='fit' on more calibration batches, raise "
        "depth_multiplier, or train it further with distill."
    )


def _compared(found: Agreement, limits: AgreementLimits) -> str:
    min_top1, max_error = limits
    error, limit = told_apart(found.error, max_error)
    deviation = f"a relative output error of {error}"
    if max_error is not None:
        deviation += f" (at most {limit})"
    if found.top1 is None:
        times = "1 batch" if found.batches == 1 else f"{found.batches} batches"
        return plain(f"{found.student} follows {found.teacher} with {deviation} on {times}")
    share, limit = told_apart(100 * found.top1, None if min_top1 is None else 100 * min_top1)
    agreed = f"{found.student} agrees with {found.teacher} on {share} % of {found.samples} samples"
    if min_top1 is not None:
        agreed += f" (at least {limit} %)"
    return plain(f"{agreed}, with {deviation}")


def _check_networks(student: object, teacher: object) -> None:
    for name, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network, nn.Module):
            raise InputError(
                f"{name} must be a torch.nn.Module, not {type(network).__name__}: rewrite gives "
                ".model"
            )
        if any(tensor.is_meta for tensor in chain(network.parameters(), network.buffers())):
            raise InputError(
                f"{name} has weights on the meta device, which hold no values: load or initialise "
                "them first"
            )
    if student is teacher:
        raise InputError(
            "student and teacher are one network, which agrees with itself: rewrite a copy, "
            "without inplace=True, and compare that with the original"
        )


def _outputs(role: str, network: nn.Module, index: int, batch: Any) -> list[Tensor]:
    """The tensors of floating point that a network gives for a batch."""
    try:
        given_back = outputs(network, given(batch))
    except TracingError as error:
        raise TracingError(
            f"batch {index} of {role}: {error}; batches must give inputs of the network, without "
            "labels"
        ) from error.__cause__
    found = []
    for value in given_back.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(value)
    if not any(output.numel() for output in found):
        raise InputError(
            f"{role} gives no output of floating point on batch {index}, so there is nothing to "
            "compare"
        )
    return found


class _Comparison:
    """Sums over the batches so far."""

    def __init__(self) -> None:
        self.batches = self.samples = self.agreeing = 0
        self._has_classes = True
        self._squares: list[tuple[float, float]] = []
        """Of each output the squared difference, and the teacher's square."""

    @property
    def error(self) -> float:
        return max(_relative(*squares) for squares in self._squares)

    def add(self, index: int, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
        shapes = [[tuple(output.shape) for output in outputs] for outputs in (found, wanted)]
        known = len(self._squares) or len(wanted)
        if shapes[0] != shapes[1] or len(wanted) != known:
            raise InputError(
                f"student and teacher must give tensors of the same shapes, and on batch {index} "
                f"they give {shapes[0]} and {shapes[1]}: compare what they compute before they "
                "select from it"
            )
        if not all(bool(torch.isfinite(output).all()) for output in wanted):
            raise InputError(f"teacher gives NaN or infinity on batch {index}: leave it out")
        # reason: not every device has float64, nor are both networks on one
        pairs = [(s.cpu().double(), t.cpu().double()) for s, t in zip(found, wanted, strict=True)]
        before = self._squares or [(0.0, 0.0)] * known
        self._squares = []
        for (difference, square), (student, teacher) in zip(before, pairs, strict=True):
            distance = float((student - teacher).square().sum())
            self._squares.append((difference + distance, square + float(teacher.square().sum())))
        self.batches += 1
        self._count_classes(pairs)

    def _count_classes(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        student, teacher = pairs[0]
        if len(pairs) > 1 or teacher.dim() != 2 or teacher.shape[1] < 2:
            self._has_classes = False
        if not self._has_classes:
            self.samples = self.agreeing = 0
            return
        same = student.argmax(1) == teacher.argmax(1)
        self.samples += len(teacher)
        self.agreeing += int((same & torch.isfinite(student).all(1)).sum())


def _relative(difference: float, square: float) -> float:
    # reason: of a student that gives NaN nothing is known but that it is far off
    if not difference < inf:
        return inf
    if not square:
        return inf if difference else 0.0
    return sqrt(difference / square)
