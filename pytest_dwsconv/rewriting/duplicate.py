"""A copy of a model to work on, which nothing ties to the original."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from pytest_dwsconv.errors import InputError


def duplicate(model: nn.Module, advice: str = "pass inplace=True") -> nn.Module:
    """A deep copy of the model.

    Raises:
        InputError: the model cannot be copied; ``advice`` is the next step.
    """
    try:
        return deepcopy(model)
    except Exception as error:  # whatever a part's own __deepcopy__, or one that has none, raises
        raise InputError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); {advice}"
        ) from error
