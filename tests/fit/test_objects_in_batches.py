"""Batches that hold arrays and objects: a forward may write into them, and they are kept."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.training.distillation import distill
from pytest_dwsconv.rewriting.rewrite import rewrite


def images(count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(8 * count, 4, 4, 4, generator=generator)
    return list(F.interpolate(small, 12, mode="bilinear").split(8))


class OnArrays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 12, 3)

    def forward(self, x: Tensor, scale: Any) -> Tensor:
        scale *= 2
        return self.a(x) * float(scale.sum())  # type: ignore[no-any-return]


def test_arrays_among_the_arguments_are_kept_too() -> None:
    numpy = pytest.importorskip("numpy")
    batches = [(x, numpy.ones(1)) for x in images()]
    rewrite(OnArrays().eval(), init="fit", calibration=batches, refine=2)
    assert [float(scale[0]) for _, scale in batches] == [1.0] * 6


class OnObjects(nn.Module):
    """Its tensor and its array come in some object, and it may write into both."""

    def __init__(self, writes: bool, unpack: Callable[[Any], tuple[Tensor, Any]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.writes, self.unpack = writes, unpack
        self.a, self.b = nn.Conv2d(4, 12, 3), nn.Conv2d(12, 12, 3)
        self.eval()

    def forward(self, batch: Any) -> Tensor:
        x, scale = self.unpack(batch)
        if self.writes:
            x -= 1
            scale *= 2
        else:
            x, scale = x - 1, scale * 2
        return self.b(self.a(x * float(scale[0])).relu())  # type: ignore[no-any-return]


@dataclass
class Sample:
    image: Tensor
    scale: Any


class Entries(dict[str, Any]):
    pass


class Items(list[Any]):
    pass


Unpack = Callable[[Any], tuple[Tensor, Any]]
by_attribute: Unpack = lambda batch: (batch.image, batch.scale)  # noqa: E731
by_key: Unpack = lambda batch: (batch["image"], batch["scale"])  # noqa: E731
OBJECTS: dict[str, tuple[Callable[[Tensor, Any], Any], Unpack]] = {
    "dataclass": (Sample, by_attribute),
    "namespace": (lambda x, scale: SimpleNamespace(image=x, scale=scale), by_attribute),
    "user dictionary": (lambda x, scale: UserDict(image=x, scale=scale), by_key),
    "subclass of dict": (lambda x, scale: Entries(image=x, scale=scale), by_key),
    "subclass of list": (lambda x, scale: Items([x, scale]), tuple),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_objects_in_batches_hold_is_kept_too(kind: str) -> None:
    numpy = pytest.importorskip("numpy")
    make, unpack = OBJECTS[kind]
    outcomes = []
    for writes in (True, False):
        model = OnObjects(writes, unpack)
        batches = [(make(x, numpy.ones(1)),) for x in images()]
        fitted = rewrite(model, init="fit", calibration=batches, refine=1, verify=False)
        student = rewrite(model).model
        distilled = distill(student, model, batches, held_out=batches[:2], steps=4, check_every=2)
        outcomes.append((fitted.held_out_errors, distilled.held_out_loss))
        for (batch,), x in zip(batches, images(), strict=True):
            image, scale = unpack(batch)
            assert torch.equal(image, x)
            assert float(scale[0]) == 1.0
    assert outcomes[0] == outcomes[1]


def test_an_object_that_cannot_be_copied_is_refused() -> None:
    model = OnObjects(True, by_key)
    batches = [(MappingProxyType({"image": x}),) for x in images()]
    message = "^the inputs hold a mappingproxy, which cannot be copied .*: pass its tensors in"
    with pytest.raises(InputError, match=message):
        rewrite(model, init="fit", calibration=batches)
    with pytest.raises(InputError, match=message):
        distill(rewrite(model).model, model, batches, steps=2)
    for (batch,), x in zip(batches, images(), strict=True):
        assert torch.equal(batch["image"], x)
