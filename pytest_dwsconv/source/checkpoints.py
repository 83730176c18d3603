"""Where a source file loads trained weights, which will not fit what is rewritten."""

from __future__ import annotations

import re

import libcst as cst

from pytest_dwsconv.source.reading.syntax import Parsed

_LOADS = re.compile(
    r"_?load_state_dict|load_state_dict_from_url|load_pretrained|load_checkpoint"
    r"|load_from_checkpoint|build_model_with_cfg"
)
_NOT_MODELS = re.compile(r"opt|sched|scaler|warmup", re.IGNORECASE)


def first_load(parsed: Parsed) -> int | None:
    """The line of the first call that loads weights into a model, by the name it has."""
    lines = []
    for call in parsed.nodes(cst.Call):
        *owner, name = parsed.code(call.func).split(".")
        if _LOADS.fullmatch(name) and not (owner and _NOT_MODELS.search(owner[-1])):
            lines.append(parsed.line(call))
    return min(lines, default=None)
