"""What a module does while it is imported, apart from giving names to things: it fills objects,
patches other modules, registers functions.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator

from esops.projections.code_source import Source

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def effects(source: Source) -> list[ast.stmt]:
    """The statements of a module that do more than define or bind a name."""
    return [each for each in source.tree.body if _does_more(each)]


def registered(source: Source, by_project: Callable[[ast.AST], bool]) -> Iterator[ast.AST]:
    """What registers functions and classes of a module, in this order: their decorators and names,
    without their bodies. `by_project` tells the decorators of the project from others.
    """
    for each in source.tree.body:
        if isinstance(each, Definition):
            decorators = [one for one in each.decorator_list if by_project(one)]
            if decorators:
                yield from (*decorators, ast.Name(each.name, ast.Load()))


def decorated_by(source: Source, name: str) -> list[ast.stmt]:
    """The functions and classes of a module that are decorated by what a name stands for."""
    return [
        each
        for each in source.tree.body
        if isinstance(each, Definition)
        and any(_root(decorator) == name for decorator in each.decorator_list)
    ]


def imports(source: Source, package: str) -> set[str]:
    """The modules that are imported with a module, its packages too; some may be other names."""
    found = {package} if package else set()
    for node in _outside_functions(source.tree):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = full_name(node.level, node.module or "", package)
            found |= {full, *(f"{full}.{each.name}" for each in node.names)}
    return {inner for each in found for inner in _with_packages(each)}


def from_stars(source: Source) -> list[tuple[int, str]]:
    """What a module imports with `from … import *`: level and module."""
    return [
        (node.level, node.module or "")
        for node in _outside_functions(source.tree)
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]


def full_name(level: int, module: str, package: str) -> str:
    """The whole name of a module that is imported in a package."""
    return importlib.util.resolve_name("." * level + module, package) if level else module


def _with_packages(name: str) -> Iterator[str]:
    words = name.split(".")
    yield from (".".join(words[: n + 1]) for n in range(len(words)))


def _does_more(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant()):
            return False
        case ast.Expr() | ast.Delete() | ast.For() | ast.While() | ast.With():
            return True
        case ast.AsyncFor() | ast.AsyncWith() | ast.Match():
            return True
        case ast.Assign(targets=targets):
            return any(_sets_a_part(each) for each in targets)
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            return _sets_a_part(target)
        case ast.If(test=test, body=body, orelse=orelse):
            return any(map(_does_more, orelse if _never_imported(test) else [*body, *orelse]))
        case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=finalbody):
            inner = [one for each in handlers for one in each.body]
            return any(map(_does_more, [*body, *inner, *orelse, *finalbody]))
    return False


def _sets_a_part(target: ast.expr) -> bool:
    return any(isinstance(each, ast.Attribute | ast.Subscript) for each in ast.walk(target))


def _never_imported(test: ast.expr) -> bool:
    """Whether an `if` is for programs or for checks of types."""
    if any(isinstance(each, ast.Not | ast.NotEq) for each in ast.walk(test)):
        return False
    words = {each.id for each in ast.walk(test) if isinstance(each, ast.Name)}
    words |= {each.attr for each in ast.walk(test) if isinstance(each, ast.Attribute)}
    return bool(words & {"TYPE_CHECKING", "__name__"})


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and _never_imported(child.test):
            for each in child.orelse:
                yield each
                yield from _outside_functions(each)
        elif not isinstance(child, _INNER):
            yield child
            yield from _outside_functions(child)
