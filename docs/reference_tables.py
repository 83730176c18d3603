"""The reference of options, keys, fixtures, markers, hooks and commands, read from the code."""

from __future__ import annotations

import inspect
import os
import re
from argparse import ArgumentParser
from types import ModuleType
from typing import Any

from pytest_dwsconv import plugin
from pytest_dwsconv.command import cli, compare, report
from pytest_dwsconv.plugin import fixtures, hookspecs
from pytest_dwsconv.plugin.targets import cpu, edgetpu


class Declared:
    """Stands for pytest's parser, and keeps what is declared."""

    def __init__(self, *modules: ModuleType) -> None:
        self.options: list[tuple[str, str]] = []
        self.keys: list[tuple[str, str]] = []
        for module in modules:
            module.pytest_addoption(self)

    def getgroup(self, *args: str) -> Declared:
        return self

    def addoption(self, name: str, **given: Any) -> None:
        value = given.get("metavar") or "|".join(given.get("choices", ()))
        shown = f"{name}[={value}]" if given.get("nargs") == "?" else f"{name}={value}".strip("=")
        self.options.append((shown, given["help"]))

    def addini(self, name: str, described: str, **given: Any) -> None:
        self.keys.append((name, described))


DECLARED = Declared(plugin, edgetpu, cpu)
FIXTURES = {
    "dws_report": (fixtures.dws_report, fixtures.ReportFixture),
    "dws_budget": (fixtures.budget_fixture, fixtures.BudgetFixture),
    "dws_agreement": (fixtures.agreement_fixture, fixtures.AgreementFixture),
    "edgetpu_latency": (edgetpu.edgetpu_latency, edgetpu.LatencyFixture),
}


def defined(rows: list[tuple[str, str]]) -> str:
    """A definition list; options in its text are code, so that their dashes stay two."""
    found = []
    for name, text in rows:
        marked = re.sub("(--dws[a-z-]+)", r"`\1`", text)
        found.append(f"`{name}`\n: {marked}")
    return "\n\n".join(found)


def options() -> str:
    return defined(DECLARED.options)


def keys() -> str:
    return defined(DECLARED.keys)


def signature_of(called: Any) -> str:
    """How it is called, without ``self`` and annotations."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(called).parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(parameters))


def document_of(described: Any) -> str:
    return " ".join((inspect.getdoc(described) or "").split())


def fixtures_list() -> str:
    rows = [
        (f"{name}{signature_of(called.__call__)}", document_of(fixture))
        for name, (fixture, called) in FIXTURES.items()
    ]
    return defined([*rows, ("edgetpu", document_of(edgetpu.edgetpu))])


def markers() -> str:
    return defined(
        [
            (f"{marker.__name__}{signature_of(marker)}", document_of(marker))
            for marker in (fixtures.dws_budget, fixtures.dws_agreement)
        ]
    )


def hooks() -> str:
    found = [hook for name, hook in vars(hookspecs).items() if name.startswith("pytest_dwsconv_")]
    return defined([(f"{hook.__name__}{signature_of(hook)}", document_of(hook)) for hook in found])


def help_of(parser: ArgumentParser) -> str:
    os.environ["COLUMNS"] = "100"
    return f"```text\n{parser.format_help().strip()}\n```"


TABLES = {
    "options": options,
    "keys": keys,
    "fixtures": fixtures_list,
    "markers": markers,
    "hooks": hooks,
    "command rewrite": lambda: help_of(cli._parser()),
    "command report": lambda: help_of(report._parser()),
    "command compare": lambda: help_of(compare._parser()),
}
