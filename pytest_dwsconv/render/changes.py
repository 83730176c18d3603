"""What models cost before and after: the rows of one table that every form shows."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.suite.changes import Change, Changes, ChangeStatus, ModelChange
from pytest_dwsconv.render.table import Column

Row = tuple[str, ...]

CHANGE_COLUMNS = (
    Column("name", "model", itemgetter(0)),
    Column("quantity", "quantity", itemgetter(1)),
    Column("before", "before", itemgetter(2), numeric=True),
    Column("after", "after", itemgetter(3), numeric=True),
    Column("difference", "difference", itemgetter(4), numeric=True),
)
LAYER_COLUMNS = (CHANGE_COLUMNS[0]._replace(label="layer"), *CHANGE_COLUMNS[1:])


def rows(changes: Changes) -> list[Row]:
    """One row per quantity of each model with a difference, each with one cell per column."""
    found = []
    for model in changes.shown:
        name = plain(model.name)
        if model.status is not ChangeStatus.CHANGED:
            name = f"{name} ({model.status.value})"
        for change in model.quantities:
            found.append(_row(name, change))
            name = ""
    return found


def layer_rows(model: ModelChange) -> list[Row]:
    """The same for the layers of a model that changed."""
    found = []
    for layer in model.layers:
        name = plain(layer.name)
        for change in (layer.params, layer.macs):
            if change.before != change.after:
                found.append(_row(name, change))
                name = ""
    return found


def _row(name: str, change: Change) -> Row:
    before, after, difference = change.cells()
    if change.too_much:
        difference += ", too much"
    return name, plain(change.noun), before, after, difference


def sentences(changes: Changes) -> Iterator[tuple[ModelChange, str]]:
    """Each model with a difference that is not too much, and that difference on one line."""
    for model in changes.shown:
        if model.too_much:
            continue
        if model.status is ChangeStatus.CHANGED:
            differences = [str(change) for change in model.quantities if change.difference]
        else:
            differences = [model.status.value]
        yield model, plain(f"{model.name}: {', '.join(differences) or 'other layers'}")
