"""Forwards that write in place: the fit is that of the same forward without, and data are kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import chain, islice, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.replay import CalibrationData
from pytest_dwsconv.fit.training.distillation import distill
from pytest_dwsconv.rewriting.rewrite import rewrite

Write = Callable[[Tensor], object]


def images(seed: int = 1, count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(8 * count, 4, 4, 4, generator=generator)
    return list(F.interpolate(small, 12, mode="bilinear").split(8))


class Writing(nn.Module):
    """Writes into its input, and into the outputs of its first convolution."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write = write
        self.a, self.b = nn.Conv2d(4, 12, 3, padding=1), nn.Conv2d(12, 12, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.write(x)
        y = self.a(x)
        if y.shape[1:] != x.shape[1:]:
            self.write(y)
        return self.b(y.relu())  # type: ignore[no-any-return]


# -- every operator that PyTorch says writes


class WritingOnce(nn.Module):
    def __init__(self, write: Write) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write, self.a = write, nn.Conv2d(4, 12, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.write(x)
        return self.a(x)  # type: ignore[no-any-return]


UNKNOWN = object()
X = torch.linspace(0.1, 0.9, 2 * 4 * 6 * 6).view(2, 4, 6, 6)
TENSORS = (
    torch.full((2, 4, 6, 6), 0.5),
    torch.arange(288).view(2, 4, 6, 6) % 3 == 0,
    torch.full((2, 4, 6, 6), 1),
    torch.tensor([0]),
    torch.tensor(0.5),
    torch.tensor([[0.5]]),
)
SAMPLES: dict[str, tuple[Any, ...]] = {
    "Tensor": TENSORS,
    "Optional[Tensor]": (None, TENSORS[0]),
    "List[Tensor]": ([TENSORS[0]],),
    "List[Optional[Tensor]]": ([TENSORS[1]], [TENSORS[3]]),
    "number": (0.5, 1),
    "Optional[number]": (0.5,),
    "float": (0.5,),
    "int": (1, 0),
    "bool": (False,),
    "List[int]": ([1], [2, 4, 6, 6], [6]),
    "List[number]": ([0.5],),
    "str": ("sum", "amax"),
}


def written(schema: torch._C.FunctionSchema) -> bool:
    return any(
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in schema.arguments
    )


def writers() -> Iterator[tuple[str, Iterator[Write]]]:
    """Every operator that writes into its first argument, with possible calls of it."""
    for schema in torch._C._jit_get_all_schemas():
        name = schema.name.removeprefix("aten::")
        internal = name.startswith("_") and not name.startswith("_foreach")
        in_place = schema.name.startswith("aten::") and name.endswith("_") and written(schema)
        if in_place and not internal:
            yield f"{name}.{schema.overload_name}", calls(schema)


def filling() -> Iterator[tuple[str, Iterator[Write]]]:
    """Every function of one or two tensors of one shape that takes ``out``."""
    schemas = torch._C._jit_get_all_schemas()
    names = {schema.name.removeprefix("aten::") for schema in schemas if written(schema)}
    for name in sorted(names & set(dir(torch))):
        if not name.startswith("_") and not name.endswith("_"):
            function = getattr(torch, name)
            yield f"{name} out", iter([into(function, X), into(function, X, TENSORS[0])])


def into(function: Any, *args: Tensor) -> Write:
    def call(x: Tensor) -> None:
        plain = function(*args)
        assert isinstance(plain, Tensor)
        assert plain.shape == x.shape  # else PyTorch resizes what is written into, and warns
        function(*args, out=x)

    return call


def choices(argument: torch._C.Argument) -> tuple[Any, ...]:
    kind = str(argument.type)
    if argument.alias_info is not None and argument.alias_info.is_write:
        return ("written",) if kind == "Tensor" else ("written list",)
    if argument.has_default_value() and kind not in ("Optional[number]", "Optional[Tensor]"):
        return (UNKNOWN,)
    return SAMPLES.get(kind, (UNKNOWN,))


def calls(schema: torch._C.FunctionSchema) -> Iterator[Write]:
    """Calls of the operator on a tensor to write into, with arguments of the right types."""
    packet = getattr(torch.ops.aten, schema.name.removeprefix("aten::"))
    operator = getattr(packet, schema.overload_name or "default")
    for values in product(*map(choices, schema.arguments)):

        def call(x: Tensor, values: tuple[Any, ...] = values) -> None:
            targets = {"written": x, "written list": [x]}
            args, kwargs = [], {}
            for argument, sample in zip(schema.arguments, values, strict=True):
                value = targets.get(sample, sample) if isinstance(sample, str) else sample
                if argument.kwarg_only and sample is not UNKNOWN:
                    kwargs[argument.name] = value
                elif sample is not UNKNOWN:
                    args.append(value)
            with torch.no_grad():
                operator(*args, **kwargs)

        yield call


def usable(call: Write) -> bool:
    """Whether the operator takes these arguments, writes, and writes the same each time."""
    results = [X.clone(), X.clone()]
    try:
        for result in results:
            call(result)
    except Exception:  # whatever an operator says to arguments that are not its own
        return False
    same_kind = all(result.shape == X.shape and result.dtype == X.dtype for result in results)
    return same_kind and torch.equal(*results) and not torch.equal(results[0], X)


def test_every_operator_that_writes_is_repeated_and_keeps_the_data() -> None:
    lost, changed, refused, count = [], [], set(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated operators
        for name, possible in chain(writers(), filling()):
            call = next(filter(usable, islice(possible, 200)), None)
            if call is None:
                continue
            count += 1
            batch, model = X.clone(), WritingOnce(call)
            with torch.no_grad():
                expected = model(X.clone())
            try:
                data = CalibrationData(model, [batch])
                outputs = [data.outputs(0, {})[0] for _ in range(2)]
            except InputError:
                refused.add(name)
            else:
                if not all(torch.equal(output, expected) for output in outputs):
                    lost.append(name)
            if not torch.equal(batch, X) or batch._version:
                changed.append(name)
    assert not lost
    assert not changed
    assert count > 300
    # reason: called as torch.ops.aten._foreach_add_ they give nothing that could be recorded
    assert all(name.startswith("_foreach") for name in refused)


# -- whole fits beside those of the same forward written without


class Plain(Writing):
    """The same with what a function gives in place of what it writes."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(change)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.change(self.a(self.change(x))).relu())  # type: ignore[no-any-return]


def first(x: Tensor, count: int = 1) -> Tensor:
    """Whether an element is of one of the first channels."""
    return (torch.arange(x.shape[1]) < count).view(-1, 1, 1).expand(x.shape)


def item(x: Tensor) -> None:
    for channel in range(x.shape[1]):
        x[:, channel] = (x[:, channel] - 0.5) / 2


def augmented(x: Tensor) -> None:
    x[:, :2] -= 0.5


def masked(x: Tensor) -> None:
    x[x > 0.5] = 0


def listed(x: Tensor) -> None:
    x[:, [0, 1]] += 1


def unbound(x: Tensor) -> None:
    for part in x.unbind(1):
        part.mul_(2)


def copied(x: Tensor) -> None:
    one, other = x.chunk(2, 1)
    one.copy_(other)


def seen_before(x: Tensor) -> None:
    view = x.view(-1)
    x.mul_(2)
    view.add_(1)


def put(x: Tensor) -> None:
    x.index_put_((torch.tensor([0]), torch.tensor([1])), torch.tensor(2.0))


def exchanged(x: Tensor) -> None:
    x.data = x * 2


def placed_elsewhere(x: Tensor) -> None:
    x.set_(x * 2)  # type: ignore[call-overload]


FORMS: dict[str, tuple[Write, Callable[[Tensor], Tensor]]] = {
    "item": (item, lambda x: (x - 0.5) / 2),
    "augmented": (augmented, lambda x: torch.where(first(x, 2), x - 0.5, x)),
    "masked": (masked, lambda x: torch.where(x > 0.5, 0, x)),
    "masked_fill_": (lambda x: x.masked_fill_(x > 0.5, 0), lambda x: torch.where(x > 0.5, 0, x)),
    "listed": (listed, lambda x: torch.where(first(x, 2), x + 1, x)),
    "view": (lambda x: x[:, 0].zero_(), lambda x: torch.where(first(x), 0, x)),
    "every view": (unbound, lambda x: x * 2),
    "from a view": (copied, lambda x: torch.cat([x.chunk(2, 1)[1]] * 2, 1)),
    "seen before": (seen_before, lambda x: x * 2 + 1),
    "put": (
        put,
        lambda x: torch.where(
            (torch.arange(len(x)) == 0).view(-1, 1, 1, 1) & first(x, 2) & ~first(x), 2.0, x
        ),
    ),
    "out": (lambda x: torch.sub(x, 0.5, out=x), lambda x: x - 0.5),
    "out of a view": (
        lambda x: torch.sub(x[:, :1], 0.5, out=x[:, :1]),
        lambda x: torch.where(first(x), x - 0.5, x),
    ),
    "foreach": (lambda x: torch._foreach_mul_(list(x.chunk(2, 1)), 2), lambda x: x * 2),
    "inplace": (lambda x: F.threshold(x, 0.5, 0, inplace=True), lambda x: F.threshold(x, 0.5, 0)),
    "data": (lambda x: x.data.mul_(2), lambda x: x * 2),
    "detached": (lambda x: x.detach()[:, :1].mul_(2), lambda x: torch.where(first(x), x * 2, x)),
    "exchanged": (exchanged, lambda x: x * 2),
    "placed elsewhere": (placed_elsewhere, lambda x: x * 2),
    "product with itself": (lambda x: x.mul_(x.sigmoid()), lambda x: x * x.sigmoid()),
}


UNTRAINABLE = {"every view", "from a view", "foreach", "out", "out of a view", "placed elsewhere"}
"""PyTorch has no gradients of these."""


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, options) for form in FORMS for options in ({}, {"refine": 2})),
        *((form, {"budget": 1300}) for form in ("item", "augmented", "detached")),
    ],
    ids=str,
)
def test_the_fit_is_that_of_the_same_forward_without_writes(
    form: str, options: dict[str, Any]
) -> None:
    write, change = FORMS[form]
    batches, kept = images(), images()
    options = {"refine": 0, **options}
    if options["refine"] and form in UNTRAINABLE:
        with pytest.raises(InputError, match=r"^Writing cannot be trained: .*; pass refine=0"):
            rewrite(Writing(write), init="fit", calibration=batches, **options)
    else:
        found = rewrite(Writing(write), init="fit", calibration=batches, **options)
        wanted = rewrite(Plain(change), init="fit", calibration=images(), **options)
        assert found.plan == wanted.plan
        assert found.calibration_errors == pytest.approx(wanted.calibration_errors, rel=1e-3)
        assert found.held_out_errors == pytest.approx(wanted.held_out_errors, rel=1e-3)
    assert all(map(torch.equal, batches, kept))


def past_pytorch(x: Tensor) -> None:
    x.numpy()[:] *= 2


def through_storage(x: Tensor) -> None:
    x.untyped_storage().copy_((x * 2).untyped_storage())


def as_numbers_of_another_type(x: Tensor) -> None:
    torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)).mul_(2)


def into_what_a_gradient_needs(x: Tensor) -> None:
    torch.clamp_min(x, 0.25, out=x)


@pytest.mark.parametrize(
    "write",
    [past_pytorch, through_storage, as_numbers_of_another_type, into_what_a_gradient_needs],
)
@pytest.mark.parametrize("count", [1, 6])
def test_writes_that_cannot_be_followed_are_refused(write: Write, count: int) -> None:
    batches = images(count=count)
    with pytest.raises(InputError, match=r"cannot be fitted.*; use init='svd'$"):
        rewrite(Writing(write), init="fit", calibration=batches, refine=0)
    assert all(map(torch.equal, batches, images(count=count)))


@pytest.mark.parametrize("form", ["item", "data", "inplace", "detached"])
def test_training_keeps_the_batches(form: str) -> None:
    model, batches = Writing(FORMS[form][0]), images()
    student = rewrite(model, (8, 4, 12, 12)).model
    distill(student, model, batches, held_out=batches[:2], steps=4, check_every=2)
    assert all(map(torch.equal, batches, images()))


def test_statistics_written_without_a_count_of_the_writes_are_kept() -> None:
    mean, variance = torch.zeros(4), torch.ones(4)
    write: Write = lambda x: x.copy_(F.batch_norm(x, mean, variance, training=True))  # noqa: E731
    data = CalibrationData(WritingOnce(write), images(count=1))
    before = mean.clone(), variance.clone()
    data.outputs(0, {})
    assert torch.equal(mean, before[0])
    assert torch.equal(variance, before[1])
