"""The calls that make a convolution, and what their arguments say about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.core.conv import ConvSpec, Trait
from pytest_dwsconv.core.quantities import is_whole
from pytest_dwsconv.source.reading.constants import Constants, NotConstantError

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


def specs_of_call(given: Sequence[cst.Arg], callee: Callee, constants: Constants) -> list[ConvSpec]:
    """What the call's arguments say; what they leave to run time is None.

    Several where the file gives several values for the kernel size or the groups.
    """
    if callee.functional:
        return [unknown_spec(callee)]
    arguments, complete = _arguments(given, callee, constants)
    # what is given by name cannot be in what is unpacked as well
    readable = complete or arguments.keys() >= {"kernel_size", "groups"}
    traits = callee.traits if readable else (*callee.traits, Trait.UNPACKED_ARGUMENTS)
    found = []
    for some in _choices(arguments, constants):
        reader = _Reader(constants, some, callee.rank, complete)
        found.append(reader.spec(callee, traits))
    return found


def _choices(
    arguments: Mapping[str, cst.BaseExpression], constants: Constants
) -> Iterator[dict[str, cst.BaseExpression]]:
    """The arguments with each of the alternatives for the kernel size and the groups."""
    names = [name for name in ("kernel_size", "groups") if name in arguments]
    for chosen in product(*(constants.alternatives(arguments[name]) for name in names)):
        yield {**arguments, **dict(zip(names, chosen, strict=True))}


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


def is_depthwise_by_spelling(
    given: Sequence[cst.Arg], callee: Callee, constants: Constants
) -> bool:
    """Whether ``groups`` and ``in_channels`` are spelled alike: ``Conv2d(c, c, 3, groups=c)``.

    An expression that calls anything may give two values and does not count.
    """
    arguments, _ = _arguments(given, callee, constants)
    channels, groups = arguments.get("in_channels"), arguments.get("groups")
    if channels is None or groups is None or not channels.deep_equals(groups):
        return False
    return not m.findall(channels, m.Call() | m.Await() | m.Yield() | m.NamedExpr())


def _arguments(
    arguments: Sequence[cst.Arg], callee: Callee, constants: Constants
) -> tuple[dict[str, cst.BaseExpression], bool]:
    """Each parameter that is certainly given, with its expression; and whether these are all."""
    given: dict[str, cst.BaseExpression] = {}
    complete = True
    positions = iter(callee.parameters)
    for argument in arguments:
        if argument.star == "*":
            elements = constants.elements(argument.value)
            if elements is None:
                elements, complete, positions = [], False, iter(())
            given |= zip(islice(positions, len(elements)), elements, strict=False)
        elif argument.star == "**":
            entries = constants.entries(argument.value)
            complete = complete and entries is not None
            given |= entries or {}
        elif argument.keyword is not None:
            given[argument.keyword.value] = argument.value
        else:
            given |= zip(islice(positions, 1), [argument.value], strict=False)
    return given, complete


@dataclass(frozen=True)
class _Reader:
    """Arguments as numbers and words, None where they are not constants.

    A default counts only if the arguments are ``complete``: a ``**rest`` may hide one.
    """

    constants: Constants
    arguments: Mapping[str, cst.BaseExpression]
    rank: int
    complete: bool

    def _value(self, name: str, default: object = None) -> object:
        if name not in self.arguments:
            return default if self.complete else None
        try:
            return self.constants.value(self.arguments[name])
        except NotConstantError:
            return None

    def spec(self, callee: Callee, traits: tuple[Trait, ...]) -> ConvSpec:
        return ConvSpec(
            rank=callee.rank,
            in_channels=self.count("in_channels"),
            out_channels=self.count("out_channels"),
            kernel_size=self.sides("kernel_size", least=1),
            stride=self.sides("stride", least=1, default=1),
            padding=self.padding(),
            dilation=self.sides("dilation", least=1, default=1),
            groups=self.count("groups", default=1),
            bias=self.bias(),
            padding_mode=self.word("padding_mode", default="zeros"),
            transposed=callee.transposed,
            traits=traits,
        )

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
