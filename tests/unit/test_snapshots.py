"""What a person reads is kept in tests/snapshots, so that a change of wording shows up in review.

`help/` has the help of each command and group. `errors/` has the texts of all errors, hints and
findings, a file for each folder of esops: they are read from the source, and `{…}` stands for what is
put in.

After a change of wording that you want: `make snapshots`, and look at the difference.
"""

from __future__ import annotations

import ast
import difflib
import functools
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import typer

from tests.support.sources import nodes, trees
from tests.unit.test_help import commands_by_path

ROOT = Path(__file__).parents[2]
SNAPSHOTS = ROOT / "tests" / "snapshots"
RENEW = os.environ.get("ESOPS_RENEW_SNAPSHOTS") == "1"


def room_of(module: str) -> str:
    """The folder below esops/ that a module is in."""
    return "esops" if module.count("/") == 1 else module.split("/")[1]


ROOMS = sorted(
    {room_of(file.relative_to(ROOT).as_posix()) for file in (ROOT / "esops").rglob("*.py")}
)


def compare(name: str, text: str) -> str:
    """The difference between a text and the snapshot of that name, empty where there is none.

    Writes the snapshot where snapshots are renewed.
    """
    path = SNAPSHOTS / name
    if RENEW:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = (each.splitlines(keepends=True) for each in (kept, text))
    return "".join(difflib.unified_diff(*lines, f"tests/snapshots/{name}", "what esops says now"))


def assert_same(differences: Iterable[str]) -> None:
    found = [each for each in differences if each]
    assert not found, "\n".join([*found, "if you want these changes: make snapshots"])


def file_of(path: tuple[str, ...]) -> str:
    return f"help/{'-'.join(path)}.txt"


def help_of(path):
    known, context = commands_by_path(), None
    for end in range(1, len(path) + 1):
        command = known[path[:end]]
        context = typer.Context(
            command,
            parent=context,
            info_name=path[end - 1],
            **command.context_settings,
            terminal_width=100,
        )
    lines = [line.rstrip() for line in known[path].get_help(context).splitlines()]
    return "\n".join(lines) + "\n"


def test_help():
    assert_same(compare(file_of(path), help_of(path)) for path in commands_by_path())


@pytest.mark.xdist_group("sources")
def test_errors():
    assert_same(compare(f"errors/{room}.txt", "\n".join(texts_of(room))) for room in ROOMS)


def test_there_is_no_snapshot_of_what_is_gone():
    kept = {each.relative_to(SNAPSHOTS).as_posix() for each in SNAPSHOTS.rglob("*.txt")}
    gone = (
        kept
        - {file_of(path) for path in commands_by_path()}
        - {f"errors/{room}.txt" for room in ROOMS}
    )
    for name in gone if RENEW else ():
        (SNAPSHOTS / name).unlink()
    assert RENEW or gone == set()


# -- reading texts from source

OTHERS = {"ValueError", "PydanticCustomError", "Finding"}
"""What else carries a text to an operator: a problem of the configuration, a finding of doctor."""
TEXTS = {"PydanticCustomError": (1,), "Finding": (2, 3)}
"""Which arguments the texts are, by position; the first, where nothing is said here."""
HINTS = ("hint", "fix")


@functools.cache
def classes_of_errors():
    """The names of EsopsError and of all that derive from it, wherever they are defined."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for module in nodes().values()
        for node in module
        if isinstance(node, ast.ClassDef)
    }
    found = {"EsopsError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def texts_of(room):
    classes = classes_of_errors() | OTHERS
    for path, tree in trees().items():
        name = path.relative_to(ROOT).as_posix()
        found = sorted(set(texts_in(tree, classes))) if room_of(name) == room else []
        if found:
            yield f"## {name}\n"
            yield from (f"{each}\n" for each in found)


def texts_in(tree, classes):
    for names, call in calls(tree, {}):
        kind = name_of(call.func)
        if kind not in classes:
            continue
        # A name stands for what it was given last before the call.
        function = {
            name: [each for each in values if each.lineno < call.lineno][-1:]
            for name, values in names.items()
        }
        texts = [call.args[at] for at in TEXTS.get(kind, (0,)) if at < len(call.args)]
        hints = [keyword.value for keyword in call.keywords if keyword.arg in HINTS]
        said = [wording(each, function) for each in texts]
        if any(any(c.isalpha() for c in strip(each)) for each in said):
            first, *rest = [*said, *(wording(each, function) for each in hints)]
            yield "\n".join([f"{kind}: {first}", *(f"    hint: {each}" for each in rest)])


def name_of(function):
    """`errors.NotFound` -> NotFound; None for what has no name."""
    return getattr(function, "attr", None) or getattr(function, "id", None)


def strip(text):
    """A text without what is put into it."""
    while "{" in text and "}" in text[text.index("{") :]:
        start = text.index("{")
        text = text[:start] + text[text.index("}", start) + 1 :]
    return text


def calls(node, names):
    """Each call below a node, with all values that its function gives to its own names."""
    for child in ast.iter_child_nodes(node):
        inner = names
        if isinstance(child, ast.FunctionDef):
            inner = {**names}
            for each in ast.walk(child):
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                    inner[each.targets[0].id] = [*inner.get(each.targets[0].id, ()), each.value]
        if isinstance(child, ast.Call):
            yield names, child
        yield from calls(child, inner)


def wording(node, names, depth=3):
    """A text as it is written, with `{…}` for what is put in and `|` between alternatives."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(wording(each, names, depth) for each in node.values)
    if isinstance(node, ast.FormattedValue):
        inner = wording(node.value, {}, depth)
        if not isinstance(node.value, ast.IfExp):
            inner = f"{{{ast.unparse(node.value)}}}"
        return f"'{inner}'" if node.conversion == ord("r") else inner
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return wording(node.left, names, depth) + wording(node.right, names, depth)
    if isinstance(node, ast.IfExp):
        return f"({wording(node.body, names, depth)} | {wording(node.orelse, names, depth)})"
    if isinstance(node, ast.Name) and depth and names.get(node.id):
        return wording(names[node.id][0], names, depth - 1)
    return f"{{{ast.unparse(node)}}}"
