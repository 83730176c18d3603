"""Which codes count: ``--select`` and ``--ignore``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.rulebook import RULEBOOK
from pytest_dwsconv.errors import InputError


@dataclass(frozen=True)
class Selection:
    """Codes or their beginnings (``DWS2``). An empty ``select`` takes all; ``ignore`` goes first.

    What is not selected is not listed; without DWS001 nothing is rewritten.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __contains__(self, code: str) -> bool:
        if code.startswith(self.ignore):
            return False
        return not self.select or code.startswith(self.select)


def checked_codes(asked_by: str, given: Iterable[str]) -> tuple[str, ...]:
    """Codes, which may be separated by commas.

    Raises:
        InputError: one is not the beginning of a code.
    """
    codes: list[str] = []
    for each in given:
        codes += [code.strip().upper() for code in each.split(",") if code.strip()]
    for code in codes:
        if not any(known.startswith(code) for known in RULEBOOK):
            raise InputError(
                f"{asked_by}: there is no code {quoted(code)}; there are {', '.join(RULEBOOK)}, "
                "and beginnings such as DWS2"
            )
    return tuple(codes)
