"""The one reader and writer of stored JSON.

A dataclass is an object with one key per field, and its type hints are the schema. Numbers are
finite and from 0, for nothing that is stored can be negative; ``Positive`` and ``Seconds`` exclude
0. Every key has to be there, save those of ``OMITTED`` fields, and no other key may be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from math import inf
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.quantities import LARGEST, is_whole
from pytest_dwsconv.errors import FormatError, InputError

_T = TypeVar("_T")
_Reader = Callable[[object], Any]

_POSITIVE = "above 0"
Positive = Annotated[int, _POSITIVE]
"""A whole number from 1."""
Seconds = Annotated[float, _POSITIVE]
"""A time above 0."""

OMITTED = MappingProxyType({"omitted": True})
"""Metadata of a field that the JSON lacks while it has its default, as files of releases without
that field do.
"""

_KINDS = {
    "measured": "the JSON of a whole run, which holds a report for each model",
    "findings": "a report",
    "layers": "a plan",
    "models": "a baseline",
    "samples": "a measurement",
}
"""The kind of file that has this key, for a message to whoever gave another kind."""


@dataclass(frozen=True)
class Document:
    """A kind of file.

    ``kind`` is its name in messages, ``version`` the schema version that this release reads and
    writes, ``remedy`` what to do about a file of another version.
    """

    kind: str
    version: int
    remedy: str

    def to_dict(self, value: object) -> dict[str, Any]:
        """A dataclass as plain data, after the schema's version."""
        return {"schema_version": self.version, **to_plain(value)}

    def from_json(self, text: str, cls: type[_T]) -> _T:
        """The dataclass that a text describes.

        Raises:
            FormatError: the text is not JSON, has a key twice, or is not such a document.
        """
        return self.from_dict(self.parsed(text), cls)

    def parsed(self, text: str) -> Any:
        """What is in a JSON text.

        Raises:
            FormatError: the text is not JSON, or has a key twice.
        """
        try:
            return json.loads(text, object_pairs_hook=_once_each)
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"not a {self.kind} in JSON: {error}") from error

    def from_dict(self, data: object, cls: type[_T], besides: Collection[str] = ()) -> _T:
        """The dataclass that ``to_dict`` described.

        Keys ``besides`` its fields may be there, and are the caller's to check.

        Raises:
            FormatError: ``data`` is of another kind or schema version, or a key is missing, not
                known, of the wrong type or out of range; the message names it.
        """
        if not isinstance(data, Mapping):
            raise FormatError(f"not a {self.kind}: {quoted(data)} is not an object")
        kind = next((kind for key, kind in _KINDS.items() if key in data), f"a {self.kind}")
        if kind != f"a {self.kind}":
            raise FormatError(f"not a {self.kind}: it is {kind}")
        if "schema_version" not in data:
            raise FormatError(f"not a {self.kind}: it has no schema_version")
        version = data["schema_version"]
        if not is_whole(version):
            raise FormatError(
                f"not a {self.kind}: schema_version: {quoted(version)} is not a whole number"
            )
        if version != self.version:
            raise FormatError(
                f"a {self.kind} of schema version {quoted(version)} cannot be read; this release "
                f"reads version {self.version}: {self.remedy}"
            )
        others = {"schema_version", *besides}
        body = {key: value for key, value in data.items() if key not in others}
        found: _T = from_plain(cls, body, self.kind)
        return found


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice, as a merge can leave it: one of the two would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {quoted(key)} is there twice")
        found[key] = value
    return found


def to_plain(value: Any) -> Any:
    """Dataclasses as dictionaries, tuples as lists, members of enumerations as their words."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in fields(value)
            if not ("omitted" in field.metadata and getattr(value, field.name) == _default(field))
        }
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def from_plain(hint: Any, data: object, kind: str) -> Any:
    """What ``to_plain`` described, of this type: a dataclass, or a union of several.

    Raises:
        FormatError: it is something else; the message begins with ``kind`` and names the field.
    """
    try:
        return _reader(hint)(data)
    except _MismatchError as mismatch:
        raise FormatError(f"not a {kind}: {mismatch}") from mismatch.__cause__


# --------------------------------------------------------------------------- by type


class _MismatchError(Exception):
    """What is wrong, and the way to it from the outside: ``findings[3].params``."""

    def __init__(self, problem: str, misfit: int = 0) -> None:
        super().__init__(problem)
        self.problem, self.misfit = problem, misfit
        """By how many keys an object is another than the one that was read."""
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = "".join(self.path).removeprefix(".")
        return f"{place}: {self.problem}" if place else self.problem


@cache
def _reader(hint: Any) -> _Reader:
    """The function that makes a value of this type of plain data."""
    if hint in _SCALARS:
        return partial(_scalar, *_SCALARS[hint])
    if is_dataclass(hint):
        return partial(_object, hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None:
        return partial(_word, {word.value: word for word in hint})
    if origin in (Union, UnionType):
        return partial(_one_of, list(map(_reader, arguments)))
    if issubclass(origin, Mapping):
        return partial(_mapping, _reader(arguments[1]))
    readers = [_reader(member) for member in arguments if member is not Ellipsis]
    return partial(_list, readers, arguments[-1] is Ellipsis)


_NUMBER = (int, float)
_SCALARS: dict[Any, tuple[Any, str, float | None]] = {
    int: (int, "a whole number from 0", -1),
    Positive: (int, "a whole number from 1", 0),
    float: (_NUMBER, "a finite number from 0", -1),
    Seconds: (_NUMBER, "a finite number above 0", 0),
    str: (str, "text", None),
    bool: (bool, "true or false", None),
    NoneType: (NoneType, "null", None),
}
"""The types of each, what it is in words, and what a number is above."""


def _scalar(kinds: Any, wanted: str, above: float | None, data: Any) -> Any:
    fits = isinstance(data, kinds)
    if fits and above is not None:
        fits = not isinstance(data, bool) and above < data < inf
    if not fits:
        raise _MismatchError(f"{quoted(data)} is not {wanted}")
    if above is not None and data > LARGEST:
        raise _MismatchError(f"{quoted(data)} is too large")
    return data


def _word(by_value: Mapping[str, Enum], data: object) -> Enum:
    if not isinstance(data, str) or data not in by_value:
        raise _MismatchError(f"{quoted(data)} is not {' or '.join(map(repr, by_value))}")
    return by_value[data]


def _list(readers: Sequence[_Reader], any_length: bool, data: object) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        raise _MismatchError(f"{quoted(data)} is not a list")
    if any_length:
        readers = [*readers] * len(data)
    if len(data) != len(readers):
        raise _MismatchError(f"{quoted(data)} is not a list of {len(readers)}")
    return tuple(_each("[{}]".format, readers, dict(enumerate(data))))


def _mapping(reader: _Reader, data: object) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise _MismatchError(f"{quoted(data)} is not an object")
    for key in data:
        if not isinstance(key, str):
            raise _MismatchError(f"the key {quoted(key)} is not text")
    values = _each(lambda key: f"[{quoted(key)}]", [reader] * len(data), data)
    return dict(zip(data, values, strict=True))


def _each(
    way: Callable[[Any], str], readers: Iterable[_Reader], data: Mapping[Any, object]
) -> list[Any]:
    """What the readers make of all items; ``way`` says how to get to the one of a key."""
    values = []
    for reader, (key, item) in zip(readers, data.items(), strict=True):
        try:
            values.append(reader(item))
        except _MismatchError as mismatch:
            mismatch.path = (way(key), *mismatch.path)
            raise
    return values


def _one_of(readers: Sequence[_Reader], data: object) -> Any:
    """As the first that can read it; else the complaint of the one that it resembles most."""
    mismatches = []
    for reader in readers:
        try:
            return reader(data)
        except _MismatchError as mismatch:
            mismatches.append(mismatch)
    value = quoted(data)
    inside = [one for one in mismatches if one.path or not one.problem.startswith(value)]
    if inside:
        raise max(inside, key=lambda mismatch: (-mismatch.misfit, len(mismatch.path)))
    problems = [mismatch.problem.removeprefix(value) for mismatch in mismatches]
    raise _MismatchError(f"{value}{' and'.join(problems)}")


@cache
def _fields_of(cls: Any) -> tuple[dict[str, _Reader], list[str]]:
    """The readers of its fields by name, and which of them JSON has to have."""
    hints = get_type_hints(cls, include_extras=True)
    needed = [field.name for field in fields(cls) if "omitted" not in field.metadata]
    return {field.name: _reader(hints[field.name]) for field in fields(cls)}, needed


def _object(cls: Any, data: object) -> Any:
    if not isinstance(data, Mapping):
        raise _MismatchError(f"{quoted(data)} is not an object")
    readers, needed = _fields_of(cls)
    missing = [name for name in needed if name not in data]
    unknown = [quoted(key) for key in data if key not in readers]
    misfit = len(missing) + len(unknown)
    if missing:
        raise _MismatchError(f"it lacks {', '.join(missing)}", misfit)
    if unknown:
        shown = ", ".join(unknown[:5])
        raise _MismatchError(f"it has keys that this release does not know: {shown}", misfit)
    values = _each(".{}".format, [readers[name] for name in data], data)
    try:
        return cls(**dict(zip(data, values, strict=True)))
    except InputError as error:  # reason: what a class asks of its fields together
        raise _MismatchError(str(error)) from error
