"""What the public names take, return and raise can be imported from where they can."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, get_origin

import pytest

import pytest_dwsconv
from pytest_dwsconv import edgetpu

PACKAGE = "pytest_dwsconv"


def public_definitions(value: Any) -> Iterator[Any]:
    """The function; or the class and its bases, methods and properties that are this package's."""
    if not inspect.isclass(value):
        yield value
        return
    for base in value.__mro__:
        if base.__module__.partition(".")[0] != PACKAGE:
            continue
        yield base
        for name, member in vars(base).items():
            if name.startswith("_") and name != "__init__":
                continue
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(function, FunctionType):
                yield function


def imported_from_package(module: str) -> dict[str, str]:
    """The names that a module defines or imports from this package, with where they are from."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            found.update({alias.asname or alias.name: str(node.module) for alias in node.names})
        elif isinstance(node, ast.ClassDef):
            found[node.name] = module
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found.update(dict.fromkeys(names, module))
    return found


def annotated_names(definition: Any) -> set[str]:
    annotations = getattr(definition, "__annotations__", {})
    public = [text for name, text in annotations.items() if name[0] != "_" and name != "self"]
    return set(re.findall(r"\b[A-Z]\w*", " ".join(map(str, public))))


def raised_names(definition: Any) -> set[str]:
    """What the docstring says that it raises."""
    section = re.search(r"Raises:\n(.*)", inspect.getdoc(definition) or "", re.DOTALL)
    lines = textwrap.dedent(section[1]).splitlines() if section else []
    return {line.partition(":")[0] for line in lines if re.match(r"\w+Error:", line)}


PUBLIC = [
    pytest.param(module, name, id=f"{module.__name__}.{name}")
    for module in (pytest_dwsconv, edgetpu)
    for name in module.__all__
]


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_what_a_public_name_mentions_is_public(module: ModuleType, name: str) -> None:
    mentioned = set()
    for definition in public_definitions(getattr(module, name)):
        if getattr(definition, "__module__", "").partition(".")[0] != PACKAGE:
            continue
        origins = imported_from_package(definition.__module__)
        ours = set()
        for word, origin in origins.items():
            named = getattr(import_module(origin), word, None)
            # reason: to Python 3.10 an alias such as Mapping[str, int] is a class as well
            if inspect.isclass(named) and get_origin(named) is None:
                ours.add(word)
        mentioned |= annotated_names(definition) & ours
        mentioned |= raised_names(definition) - vars(builtins).keys()
    assert mentioned <= {*pytest_dwsconv.__all__, *module.__all__}


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_a_public_name_has_a_docstring(module: ModuleType, name: str) -> None:
    if name not in ("Batches", "Budgets"):  # aliases, which cannot have one
        assert inspect.getdoc(getattr(module, name))


@pytest.mark.parametrize("module", [pytest_dwsconv, edgetpu])
def test_errors_are_one_family(module: ModuleType) -> None:
    errors = [getattr(module, name) for name in module.__all__ if name.endswith("Error")]
    assert errors
    assert all(issubclass(error, pytest_dwsconv.DwsconvError) for error in errors)
