"""What the judge is asked for: the replacement to reckon with, and what to leave alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from pytest_dwsconv.core.conv import ConvSpec, Order, parse_order
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError


@dataclass(frozen=True)
class Policy:
    """What the judge is asked for: the replacement to reckon with, and what to leave alone.

    ``select`` and ``ignore`` are shell-style patterns on qualified names (``layer3.*``); an empty
    ``select`` takes all. ``subclasses``, ``functional`` and ``few_channels`` let the judge look
    past the rules about those; without ``transposed``, transposed convolutions are left alone.
    """

    depth_multiplier: int = 1
    order: Order = Order.DEPTHWISE_FIRST
    min_saving: float = 1.0
    subclasses: bool = False
    functional: bool = False
    few_channels: bool = False
    transposed: bool = True
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the settings; an order may be given by its word, as for ``rewrite``."""
        # reason: object.__setattr__ is the only way into a frozen dataclass
        multiplier = whole_number("depth_multiplier", self.depth_multiplier)
        object.__setattr__(self, "depth_multiplier", multiplier)
        object.__setattr__(self, "order", parse_order(self.order))
        number = isinstance(self.min_saving, (int, float))
        if not number or isinstance(self.min_saving, bool) or not self.min_saving >= 1:
            raise InputError(
                f"min_saving must be at least 1, not {quoted(self.min_saving)}: less is no saving"
            )
        for flag in ("subclasses", "functional", "few_channels", "transposed"):
            if not isinstance(getattr(self, flag), bool):
                raise InputError(f"{flag} is True or False, not {quoted(getattr(self, flag))}")
        for field in ("select", "ignore"):
            object.__setattr__(self, field, checked_patterns(getattr(self, field), field))

    def order_for(self, spec: ConvSpec) -> Order:
        """The order to reckon with: ``order``, but pointwise first where the inputs are few."""
        # reason: a pointwise part at the output's resolution may need more MACs than there were
        enlarges = spec.transposed and prod(spec.stride or ()) > 1
        if enlarges or (not self.few_channels and spec.has_few_inputs):
            return Order.POINTWISE_FIRST
        return self.order

    def leaves_out(self, *names: str) -> bool:
        """Whether the patterns leave out a convolution known by any of these names."""
        if self.select and not matches(names, self.select):
            return True
        return bool(self.ignore) and matches(names, self.ignore)


def checked_patterns(given: object, asked_by: str) -> tuple[str, ...]:
    """Shell-style patterns as a tuple.

    Raises:
        InputError: they are not a list of strings.
    """
    if isinstance(given, str):
        raise InputError(f"{asked_by} takes a list of patterns, not one string: [{quoted(given)}]")
    if not isinstance(given, Iterable):
        raise InputError(
            f"{asked_by} takes a list of patterns such as ['layer3.*'], not {quoted(given)}"
        )
    patterns = tuple(given)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(
                f"{asked_by} takes a list of patterns such as ['layer3.*'], "
                f"and {quoted(pattern)} is not a string"
            )
    return patterns


def matches(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether one of the names is like one of the shell-style patterns."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
