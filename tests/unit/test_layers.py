"""Imports by string, which import-linter does not see (the contract in pyproject.toml holds the rest).

A module may name modules of its own room in a string, for a subprocess or a list of commands.
A string that names another room would be an import that no check sees.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.sources import nodes, trees

pytestmark = pytest.mark.xdist_group("sources")
ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "esops").rglob("*.py"))
    if "files" not in path.parts  # what `esops demo` hands to a user
}
REFERENCE = re.compile(r"(esops(?:\.\w+)+)(?::\w+)?")
USERS_CODE = {
    "esops.projections.definition": "python = module:function of esops.toml",
    "esops.projections.code_graph": "what the code of a projection imports while it runs",
    "esops.projections.arithmetic": "python, in a process of its own",
    "esops.projections.second_fingerprint": "what the code of a projection imports while it runs",
}
"""Modules that import what a user named, with the setting that names it."""
ENTRY_POINTS = {"esops.stores", "esops.layouts"}
"""Groups of entry points are names, and import nothing."""


def room(module: str) -> str:
    """esops.rebuild.steps -> esops.rebuild; each kind of store is a room of its own."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[1:2] == ["stores"] else 2])


def of_call(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def violations(module: str, within: list[ast.AST]) -> list[str]:
    found: list[str] = []
    names_of_loggers = {
        id(argument)
        for node in within
        if isinstance(node, ast.Call) and of_call(node) == "get_logger"
        for argument in node.args
    }
    for node in within:
        if isinstance(node, ast.Call) and of_call(node) in {"import_module", "__import__"}:
            argument = node.args[0]
            first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            if not isinstance(first, ast.Constant) and module not in USERS_CODE:
                found.append(f"{module}:{node.lineno} imports a module by a name that it computes")
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        named = REFERENCE.fullmatch(node.value.rstrip("."))
        if named is None or id(node) in names_of_loggers:
            continue
        if named[1] in ENTRY_POINTS:
            continue
        if named[1] in MODULES and room(named[1]) != room(module):
            found.append(f"{module}:{node.lineno} names {named[1]} in a string")
    return found


def test_no_module_imports_another_room_by_a_string():
    found = [each for module, path in MODULES.items() for each in violations(module, nodes()[path])]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        'importlib.import_module("esops.rebuild.steps")',
        'import_module(f"esops.rebuild.{name}")',
        'DECODERS = {"x": "esops.stores.postgres.layouts.eventsourcing:decode"}',
        "import_module(name)",
        '__import__("esops.cli")',
    ],
)
def test_an_import_by_a_string_is_found(source):
    assert violations("esops.archive.run", list(ast.walk(ast.parse(source))))


@pytest.mark.parametrize(
    "source",
    [
        'structlog.get_logger("esops.rebuild")',
        'command = ["-m", "esops.archive.run"]',
        'to_regclass("esops.marks")',
    ],
)
def test_other_strings_are_left_alone(source):
    assert violations("esops.archive.run", list(ast.walk(ast.parse(source)))) == []


def test_statements_are_ascii():
    """Their comments go to the server, too, and one that is not UTF-8 refuses the rest."""
    found = [path for path in (ROOT / "esops").rglob("*.sql") if not path.read_text().isascii()]
    assert not found


def imported_at_once(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from imported_at_once(node.body)
        elif isinstance(node, ast.Try | ast.ClassDef):
            yield from imported_at_once(node.body)


def needs(module: str) -> set[str]:
    """The modules that have to be there before this one, packages of theirs included."""
    found: set[str] = set()
    for node in imported_at_once(trees()[MODULES[module]].body):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        else:
            names = {f"{node.module}.{each.name}" for each in node.names}
            found |= names & MODULES.keys() or {str(node.module)}
    parts = [name.split(".") for name in found if name in MODULES]
    found = {".".join(each[:end]) for each in parts for end in range(1, len(each) + 1)}
    # Its own packages are being imported already.
    return {name for name in found if name != module and not module.startswith(f"{name}.")}


def test_no_modules_import_each_other():
    """Which of them works first depends on the command: what tests import before hides a circle."""
    try:
        TopologicalSorter({module: needs(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
