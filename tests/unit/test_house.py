"""The limits of CONTRIBUTING.md ("What we ask of a change"), so that each file can be read in one go.

The tables below name what is over a limit, and why. They may only shrink: what is over a limit and
is not there fails, and so does what is there and is within the limit.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import sources as package_code

pytestmark = pytest.mark.xdist_group("sources")
ROOT = Path(__file__).parents[2]
MOST_LINES, MOST_LINES_OF_FUNCTION, MOST_PARAMETERS, MOST_CHARACTERS = 400, 60, 8, 100
MOST_LINES_OF_SQL = 6

LONG_FILES: dict[str, str] = {}
"""By path: why it is longer."""
LONG_FUNCTIONS: dict[str, str] = {}
"""By path and name (path:name): why it is longer."""
MANY_PARAMETERS = {
    "esops/recorded_event.py:__new__": "the fields of an event are what a store's plug-in passes",
    "esops/assistants/server.py:events": "its parameters are those of the tool over MCP",
}
"""By path and name: why it takes more."""
LONG_SQL: dict[str, str] = {}
"""By path: why a long statement is not in a .sql file."""

_PRAGMA = re.compile(r"\s*#\s*(noqa|type:).*$")
_SQL = re.compile(r"\s*\(*(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|WITH|COPY)\b")
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def sources() -> Mapping[str, str]:
    """The text of each module, by its path."""
    found = sorted((ROOT / "esops").rglob("*.py"))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in found}


@pytest.fixture(scope="module")
def modules() -> Mapping[str, list[ast.AST]]:
    return {str(path.relative_to(ROOT)): found for path, found in package_code.nodes().items()}


def nodes(modules, kind) -> Iterator[tuple[str, ast.AST]]:
    for path, found in modules.items():
        for node in found:
            if isinstance(node, kind):
                yield path, node


def lines_of(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def parameters_of(function: ast.AST) -> int:
    """How many arguments a caller may pass by a name or place of their own."""
    taken = function.args
    named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs]
    return len(named) - (bool(named) and named[0].arg in {"self", "cls"})


def test_a_file_can_be_read_in_one_go(sources):
    long = {path for path, text in sources.items() if text.count("\n") > MOST_LINES}
    assert long == set(LONG_FILES)


def test_a_function_fits_on_a_screen(modules):
    found = nodes(modules, _FUNCTIONS)
    long = {f"{path}:{it.name}" for path, it in found if lines_of(it) > MOST_LINES_OF_FUNCTION}
    assert long == set(LONG_FUNCTIONS)


def test_a_function_takes_few_parameters(modules):
    found = nodes(modules, _FUNCTIONS)
    many = {f"{path}:{it.name}" for path, it in found if parameters_of(it) > MOST_PARAMETERS}
    assert many == set(MANY_PARAMETERS)


def test_a_line_fits_beside_another_file(sources):
    """Except what a pragma adds to it."""
    long = [
        f"{path}:{number}"
        for path, text in sources.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(_PRAGMA.sub("", line)) > MOST_CHARACTERS
    ]
    assert long == []


def test_a_class_name_means_one_thing(modules):
    """Also one that only its module uses: a traceback and a search show the name alone."""
    places = defaultdict(list)
    for path, node in nodes(modules, ast.ClassDef):
        places[node.name].append(path)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_long_statements_are_in_sql_files(modules):
    long = set()
    for path, node in nodes(modules, (ast.Constant, ast.JoinedStr)):
        if isinstance(node, ast.JoinedStr):
            text = next((it.value for it in node.values if isinstance(it, ast.Constant)), "")
        else:
            text = node.value if isinstance(node.value, str) else ""
        if lines_of(node) > MOST_LINES_OF_SQL and _SQL.match(text):
            long.add(path)
    assert long == set(LONG_SQL)


def test_what_is_over_a_limit_is_found():
    tree = ast.parse(
        "class A:\n def f(self, a, b, c, d, e, f, g, *, h, i): pass\n"
        "X = '''SELECT\n\n\n\n\n\n\n1'''\n"
    )
    ((_, function),) = nodes({"x": list(ast.walk(tree))}, _FUNCTIONS)
    assert parameters_of(function) == MOST_PARAMETERS + 1
    ((_, text),) = nodes({"x": list(ast.walk(tree))}, ast.Constant)
    assert lines_of(text) > MOST_LINES_OF_SQL
    assert _SQL.match(text.value)
