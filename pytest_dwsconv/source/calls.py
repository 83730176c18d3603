"""The calls that make a convolution, and what their arguments say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.core.conv import ConvSpec, Trait
from pytest_dwsconv.core.quantities import is_whole
from pytest_dwsconv.source.names import Names, NotConstantError

_MODULE = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
_PLAIN = (*_MODULE, "dilation", "groups", "bias", "padding_mode", "device", "dtype")
_TRANSPOSED = (
    *_MODULE,
    "output_padding",
    "groups",
    "bias",
    "dilation",
    "padding_mode",
    "device",
    "dtype",
)


@dataclass(frozen=True)
class Callee:
    """A class or function of torch that makes a convolution; ``parameters`` are in its order."""

    rank: int
    parameters: tuple[str, ...]
    transposed: bool = False
    traits: tuple[Trait, ...] = ()

    @property
    def functional(self) -> bool:
        return Trait.FUNCTIONAL in self.traits


def _callees() -> dict[str, Callee]:
    found: dict[str, Callee] = {}
    for rank in (1, 2, 3):
        modules = {
            f"Conv{rank}d": Callee(rank, _PLAIN),
            f"ConvTranspose{rank}d": Callee(rank, _TRANSPOSED, transposed=True),
            f"LazyConv{rank}d": Callee(rank, _PLAIN[1:], traits=(Trait.SUBCLASS,)),
            f"LazyConvTranspose{rank}d": Callee(
                rank, _TRANSPOSED[1:], transposed=True, traits=(Trait.SUBCLASS,)
            ),
        }
        functions = {
            f"conv{rank}d": Callee(rank, (), traits=(Trait.FUNCTIONAL,)),
            f"conv_transpose{rank}d": Callee(rank, (), transposed=True, traits=(Trait.FUNCTIONAL,)),
        }
        for home in ("torch.nn", "torch.nn.modules", "torch.nn.modules.conv"):
            found |= {f"{home}.{name}": callee for name, callee in modules.items()}
        for home in ("torch.nn.functional", "torch"):
            found |= {f"{home}.{name}": callee for name, callee in functions.items()}
    return found


CALLEES: Mapping[str, Callee] = _callees()
"""By qualified name, under every name torch gives them."""


def spec_of_call(call: cst.Call, callee: Callee, names: Names) -> ConvSpec:
    """What the call's arguments say; what they leave to run time is None."""
    if callee.functional:
        return unknown_spec(callee)
    arguments = _arguments(call, callee)
    unpacked = () if _is_readable(call, arguments) else (Trait.UNPACKED_ARGUMENTS,)
    reader = _Reader(names, arguments, callee.rank, complete=not any(arg.star for arg in call.args))
    return ConvSpec(
        rank=callee.rank,
        in_channels=reader.count("in_channels"),
        out_channels=reader.count("out_channels"),
        kernel_size=reader.sides("kernel_size", least=1),
        stride=reader.sides("stride", least=1, default=1),
        padding=reader.padding(),
        dilation=reader.sides("dilation", least=1, default=1),
        groups=reader.count("groups", default=1),
        bias=reader.bias(),
        padding_mode=reader.word("padding_mode", default="zeros"),
        transposed=callee.transposed,
        traits=(*callee.traits, *unpacked),
    )


def unknown_spec(callee: Callee, traits: tuple[Trait, ...] = ()) -> ConvSpec:
    """A convolution of which only the callee is known."""
    return ConvSpec(
        callee.rank,
        None,
        None,
        None,
        groups=None,
        bias=None,
        padding_mode=None,
        transposed=callee.transposed,
        traits=(*callee.traits, *traits),
    )


def is_depthwise_by_spelling(call: cst.Call, callee: Callee) -> bool:
    """Whether ``groups`` and ``in_channels`` are spelled alike: ``Conv2d(c, c, 3, groups=c)``.

    An expression that calls anything may give two values and does not count.
    """
    arguments = _arguments(call, callee)
    channels, groups = arguments.get("in_channels"), arguments.get("groups")
    if channels is None or groups is None or not channels.deep_equals(groups):
        return False
    return not m.findall(channels, m.Call() | m.Await() | m.Yield() | m.NamedExpr())


def _arguments(call: cst.Call, callee: Callee) -> dict[str, cst.BaseExpression]:
    """Each parameter that is certainly given, with its expression."""
    given: dict[str, cst.BaseExpression] = {}
    positions = iter(callee.parameters)
    for argument in call.args:
        if argument.star == "*":
            positions = iter(())
        elif argument.keyword is not None:
            given[argument.keyword.value] = argument.value
        elif not argument.star:
            name = next(positions, None)
            if name is not None:
                given[name] = argument.value
    return given


def _is_readable(call: cst.Call, given: Mapping[str, cst.BaseExpression]) -> bool:
    """``**rest`` cannot touch what is given by name already; ``*rest`` may be anything."""
    stars = {argument.star for argument in call.args}
    return "*" not in stars and ("**" not in stars or given.keys() >= {"kernel_size", "groups"})


@dataclass(frozen=True)
class _Reader:
    """Arguments as numbers and words, None where they are not constants.

    A default counts only if the arguments are ``complete``: a ``**rest`` may hide one.
    """

    names: Names
    arguments: Mapping[str, cst.BaseExpression]
    rank: int
    complete: bool

    def _value(self, name: str, default: object = None) -> object:
        if name not in self.arguments:
            return default if self.complete else None
        try:
            return self.names.constant(self.arguments[name])
        except NotConstantError:
            return None

    def count(self, name: str, default: int | None = None) -> int | None:
        return _number(self._value(name, default), least=1)

    def sides(self, name: str, least: int, default: int | None = None) -> tuple[int, ...] | None:
        value = self._value(name, default)
        numbers = []
        for side in value if isinstance(value, tuple) else (value,) * self.rank:
            number = _number(side, least)
            if number is None:
                return None
            numbers.append(number)
        return tuple(numbers) if len(numbers) == self.rank else None

    def word(self, name: str, default: str | None = None) -> str | None:
        value = self._value(name, default)
        return value if isinstance(value, str) else None

    def padding(self) -> tuple[int, ...] | str | None:
        return self.word("padding") or self.sides("padding", least=0, default=0)

    def bias(self) -> bool | None:
        value = self._value("bias", default=True)
        return bool(value) if isinstance(value, int) else None


def _number(value: object, least: int) -> int | None:
    return value if is_whole(value, least) else None
