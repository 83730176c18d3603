"""SeparableConvTranspose1d/2d/3d as modules, against ``nn.ConvTranspose1d/2d/3d``."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv.core.conv import ConvSpec, Form, full_size, separable_cost
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.modules import TRANSPOSED
from pytest_dwsconv.separable.transposed import SEPARABLE_TRANSPOSED, SeparableConvTranspose2d

FORMS = list(Form)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def exact(conv: Any, form: Form) -> Any:
    """The replacement of the largest size, with the convolution's own kernel and bias."""
    spec = ConvSpec(
        len(conv.kernel_size), conv.in_channels, conv.out_channels, conv.kernel_size,
        groups=conv.groups, transposed=True,
    )  # fmt: skip
    new = SEPARABLE_TRANSPOSED[spec.rank](
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        conv.output_padding, conv.groups, conv.bias is not None, conv.dilation,
        form=form, size=full_size(spec, form), dtype=conv.weight.dtype,
    )  # fmt: skip
    new.weight, new.bias = conv.weight, conv.bias
    return new


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_it_is_exact_at_full_size(rank: int, groups: int, form: Form) -> None:
    conv: Any = TRANSPOSED[rank]
    plain = conv(8, 6, 3, 2, 1, 1, groups, True, 2, dtype=torch.float64)
    new = exact(plain, form)
    x = torch.randn(2, 8, *(5, 4, 3)[:rank], dtype=torch.float64)
    torch.testing.assert_close(new(x), plain(x), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(new(x[0]), plain(x[0]), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(new.weight.detach(), plain.weight, rtol=1e-6, atol=1e-7)
    larger = [2 * side + 1 for side in x.shape[2:]]
    wanted = plain(x, output_size=larger)
    torch.testing.assert_close(new(x, output_size=larger), wanted, rtol=1e-6, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_costs_what_the_formulas_say_and_pytorch_counts(data: st.DataObject) -> None:
    form, groups = data.draw(st.sampled_from(FORMS)), data.draw(st.integers(1, 3))
    rank, stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    channels, filters = (groups * data.draw(st.sampled_from([2, 4, 6])) for _ in range(2))
    kernel_size = tuple(data.draw(st.integers(1, 4)) for _ in range(rank))
    bias = data.draw(st.booleans())
    x = torch.zeros(2, channels, *(5, 4, 3)[:rank])
    spec = ConvSpec(rank, channels, filters, kernel_size, groups=groups, bias=bias, transposed=True)
    size = {Form.BOTTLENECK: 4 * groups, Form.GROUPED: 2}.get(form, 1)
    conv = SEPARABLE_TRANSPOSED[rank](
        channels, filters, kernel_size, stride, groups=groups, bias=bias, form=form, size=size
    )
    with FlopCounterMode(display=False) as counter:
        out = conv(x)
    cost = separable_cost(spec.shaped(tuple(x.shape), tuple(out.shape)), form, size)
    assert cost is not None
    assert cost.params == sum(p.numel() for p in conv.parameters())
    assert cost.macs == counter.get_total_flops() // 2


@pytest.mark.parametrize("form", FORMS)
def test_it_keeps_the_attributes_that_people_read(form: Form) -> None:
    plain = nn.ConvTranspose2d(8, 6, (3, 4), 2, 1, (1, 0), 2, True, (1, 2))
    new = exact(plain, form)
    for name in (
        "in_channels out_channels kernel_size stride padding dilation groups padding_mode "
        "transposed output_padding"
    ).split():
        assert getattr(new, name) == getattr(plain, name), name
    assert new.weight.shape == plain.weight.shape
    assert new.bias is plain.bias


@pytest.mark.parametrize("form", FORMS)
def test_what_is_set_on_it_works_as_on_the_transposed_convolution(form: Form) -> None:
    plain = nn.ConvTranspose2d(8, 6, 3, 2, 1, dtype=torch.float64)
    new = exact(plain, form)
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64)
    for copied in (new, copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        for one in (plain, copied):
            one.stride, one.padding, one.output_padding = (3, 2), (0, 1), (2, 1)
        assert copied.output_padding == copied.depthwise.output_padding == (2, 1)
        torch.testing.assert_close(copied(x), plain(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_scripted_compiled_and_exported(form: Form) -> None:
    new, x = exact(nn.ConvTranspose2d(4, 4, 3, 2, 1), form).eval(), torch.randn(1, 4, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reason: newer PyTorch deprecates scripting
        scripted: Any = torch.jit.script(new)
    torch.testing.assert_close(scripted(x), new(x))
    exported: Any = torch.export.export(new, (x,)).module()
    torch.testing.assert_close(exported(x), new(x))
    compiled: Any = torch.compile(new, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), new(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding_mode": "reflect"}, 'SeparableConvTranspose2d: Only "zeros"'),
        ({"output_padding": (1, 1, 1)}, "output_padding must be one number or 2"),
        ({"padding": "same"}, "padding must be"),
        ({"form": "bottleneck"}, "form='bottleneck' needs its size"),
    ],
)
def test_arguments_that_there_are_not(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SeparableConvTranspose2d(4, 6, 3, **arguments)
