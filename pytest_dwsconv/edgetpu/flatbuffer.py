"""Flatbuffer tables, read by field number, in a time and memory that the file's size bounds.

The library of that name checks nothing: a damaged file makes it read anywhere, and a file of which
many entries are one and the same makes it read that entry again and again. Here every place is
checked, what is shared is read once, and what overlaps is refused.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

_UNSIGNED: Final = {
    width: Struct(f"<{code}") for width, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))
}
_SIGNED: Final = {
    width: Struct(f"<{code}") for width, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}


class DamagedError(ValueError):
    """The bytes are not those of a flatbuffer of this kind."""


class Content:
    """The bytes of a flatbuffer, and what of them may still be read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._unread = len(data)
        self._vectors: dict[tuple[int, str], tuple[Any, ...]] = {}
        self._texts: dict[int, bytes] = {}

    def root(self) -> Table:
        """The table that the first four bytes point to."""
        return Table(self, self.unsigned(0, 4))

    def unsigned(self, position: int, width: int) -> int:
        return int(_UNSIGNED[width].unpack_from(self.data, self._checked(position, width))[0])

    def signed(self, position: int, width: int) -> int:
        return int(_SIGNED[width].unpack_from(self.data, self._checked(position, width))[0])

    def text(self, position: int) -> bytes:
        """The vector of bytes at a position: a string, a blob, or a flatbuffer within this one."""
        if position not in self._texts:
            start, length = self.vector(position, 1)
            self._texts[position] = self.data[start : start + length]
        return self._texts[position]

    def numbers(self, position: int, code: str) -> tuple[Any, ...]:
        """The vector of numbers at a position; ``code`` is their type as ``struct`` writes it."""
        if (position, code) not in self._vectors:
            width = Struct(f"<{code}").size
            start, length = self.vector(position, width)
            self._vectors[position, code] = Struct(f"<{length}{code}").unpack_from(self.data, start)
        return self._vectors[position, code]

    def vector(self, position: int, width: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are."""
        length = self.unsigned(position, 4)
        start = self._checked(position + 4, length * width)
        # reason: all that is read is read once, so that more than all bytes is read twice
        self._unread -= length * width
        if self._unread < 0:
            raise DamagedError("its parts overlap")
        return start, length

    def _checked(self, position: int, length: int) -> int:
        if not 0 <= position <= len(self.data) - length:
            raise DamagedError("it ends before what it refers to")
        return position


class Table:
    """A table of a flatbuffer. A field that is absent has its default, or is empty."""

    def __init__(self, content: Content, position: int) -> None:
        self.position = position
        self._content = content
        self._fields = position - content.signed(position, 4)
        self._size = content.unsigned(self._fields, 2)

    def signed(self, field: int, width: int, default: int = 0) -> int:
        place = self._place(field)
        return default if place is None else self._content.signed(place, width)

    def unsigned(self, field: int, width: int, default: int = 0) -> int:
        place = self._place(field)
        return default if place is None else self._content.unsigned(place, width)

    def text(self, field: int) -> bytes:
        target = self._target(field)
        return b"" if target is None else self._content.text(target)

    def integers(self, field: int, width: int = 4) -> tuple[int, ...]:
        """A vector of signed integers."""
        target = self._target(field)
        return () if target is None else self._content.numbers(target, _SIGNED[width].format[-1])

    def floats(self, field: int) -> tuple[float, ...]:
        """A vector of numbers in single precision."""
        target = self._target(field)
        return () if target is None else self._content.numbers(target, "f")

    def table(self, field: int) -> Table | None:
        target = self._target(field)
        return None if target is None else Table(self._content, target)

    def tables(self, field: int) -> list[Table]:
        """A vector of tables; entries that are the same table are the same object."""
        found: dict[int, Table] = {}
        tables = []
        for target in self._targets(field):
            if target not in found:
                found[target] = Table(self._content, target)
            tables.append(found[target])
        return tables

    def texts(self, field: int) -> list[bytes]:
        """A vector of strings."""
        return [self._content.text(target) for target in self._targets(field)]

    def extent(self, field: int) -> tuple[int, int]:
        """Where a vector of bytes begins and how long it is, without reading it."""
        target = self._target(field)
        if target is None:
            return 0, 0
        return target + 4, self._content.unsigned(target, 4)

    def _place(self, field: int) -> int | None:
        """Where the value of a field is."""
        entry = 4 + 2 * field  # behind the two lengths that a list of fields begins with
        if entry + 2 > self._size:
            return None
        offset = self._content.unsigned(self._fields + entry, 2)
        return self.position + offset if offset else None

    def _target(self, field: int) -> int | None:
        """Where that which a field refers to is."""
        place = self._place(field)
        return None if place is None else place + self._content.unsigned(place, 4)

    def _targets(self, field: int) -> list[int]:
        """Where those are which the vector of a field refers to."""
        target = self._target(field)
        if target is None:
            return []
        start, length = self._content.vector(target, 4)
        places = range(start, start + 4 * length, 4)
        return [place + self._content.unsigned(place, 4) for place in places]
