"""Reading what ``to_json`` and ``to_dict`` wrote: JSON of a schema version that this release knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pytest_dwsconv.errors import FormatError


def parsed(text: str, kind: str) -> Any:
    """What is in a JSON text.

    Raises:
        FormatError: ``text`` is not JSON, or has a key twice; ``kind`` says what it should have
            been, such as "report".
    """
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"not a {kind} in JSON: {error}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As json does it, but for a key that is there twice, as a merge can leave it: one of the two
    would be lost.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice"
        )
    return found


def of_version(data: Any, version: int, kind: str, remedy: str) -> Mapping[str, Any]:
    """``data``, which is a mapping with that ``schema_version``.

    Raises:
        FormatError: it is no mapping or has no version, or another one; then the ``remedy`` is part
            of the message.
    """
    if not isinstance(data, Mapping) or "schema_version" not in data:
        raise FormatError(f"not a {kind}: it has no schema_version")
    if data["schema_version"] != version:
        raise FormatError(
            f"a {kind} of schema version {data['schema_version']!r} cannot be read; this release "
            "reads version "
            f"{version}: {remedy}"
        )
    return data
