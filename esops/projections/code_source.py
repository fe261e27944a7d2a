"""The source text behind functions, classes and names of a module, without comments and layout."""

from __future__ import annotations

import ast
import dis
import hashlib
import linecache
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from esops.projections.plain_values import plain

Chain = tuple[str, ...]
"""A name and the attributes that are read of it: `rules.vat.RATE`."""
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_ALL = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
SEES_ALL = {"globals", "eval", "exec"}
"""What uses these can use any name of its module."""
_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}


@dataclass
class Source:
    """The syntax tree of a file, and where things are in it."""

    tree: ast.Module
    codes: set[CodeType]
    """Of all functions in it: by these, a function is known to be the one that the file has."""
    with_docs: bool
    """Whether it reads documentation strings by `__doc__`, so that they count."""
    gets_docs: bool
    """Whether it reads them in another way."""
    functions: dict[int, list[FunctionNode]] = field(default_factory=dict)
    """By the first line, which may be a decorator's."""
    classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)

    def function(self, code: CodeType) -> list[FunctionNode]:
        """The nodes that a function's code can be of: mostly one, and none where the file is not
        the one that was loaded.
        """
        if code not in self.codes:
            return []
        here = self.functions.get(code.co_firstlineno, [])
        named = [each for each in here if getattr(each, "name", "<lambda>") == code.co_name]
        if len(named) < 2:
            return named
        inside = [_inside(code, each) for each in named]
        return [each for each, n in zip(named, inside, strict=True) if n == max(inside)]

    def text(self, node: ast.AST, *, as_second: bool = False) -> str:
        """A node without comments, layout and documentation strings, the same in every version of
        Python.
        """
        return "".join(_text(node, self.with_docs or (self.gets_docs and not as_second)))

    def binding(self, name: str) -> list[ast.stmt]:
        """The statements of the module that bind a name, or change what it stands for."""
        return [each for each in self.tree.body if _binds(each, name)]


def source_of(file: str | None, globals_: Mapping[str, Any]) -> Source | None:
    """The source of a file as it is now; None where there is none."""
    if not file or file.startswith("<"):
        return None
    linecache.checkcache(file)
    text = "".join(linecache.getlines(file, dict(globals_)))
    return _parsed(text) if text else None


@lru_cache(maxsize=256)
def _parsed(text: str) -> Source | None:
    try:
        tree = ast.parse(text)
        codes = set(_codes(compile(text, "<source>", "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        return None
    source = Source(tree, codes, "__doc__" in text, "getdoc" in text)
    _index(source, tree, "")
    return source


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _index(source: Source, node: ast.AST, prefix: str) -> None:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, FunctionNode):
            lines = [child.lineno, *(each.lineno for each in getattr(child, "decorator_list", ()))]
            source.functions.setdefault(min(lines), []).append(child)
            inner = f"{prefix}{getattr(child, 'name', '<lambda>')}.<locals>."
        elif isinstance(child, ast.ClassDef):
            source.classes.setdefault(prefix + child.name, []).append(child)
            inner = f"{prefix}{child.name}."
        _index(source, child, inner)


def _inside(code: CodeType, node: FunctionNode) -> int:
    """How many instructions of a function lie in a node, to tell two lambdas of a line apart."""
    begin = (node.lineno, node.col_offset)
    end = (node.end_lineno or 0, node.end_col_offset or 0)
    return sum(
        begin <= (line, column) and (last, last_column) <= end
        for line, last, column, last_column in code.co_positions()
        if None not in (line, last, column, last_column)
    )


def _text(value: object, with_docs: bool) -> Iterator[str]:
    if isinstance(value, ast.AST):
        yield f"{type(value).__name__}("
        for name, inner in ast.iter_fields(value):
            # Fields that a later version of Python added are empty in older code.
            if inner is None or inner == [] or name in {"ctx", "type_comment", "kind"}:
                continue
            if name == "body" and not with_docs and isinstance(value, _DOCUMENTED):
                yield from _text(inner[1:] if _is_documentation(inner[0]) else inner, with_docs)
                continue
            yield f"{name}="
            yield from _text(inner, with_docs)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for each in value:
            yield from _text(each, with_docs)
            yield ","
        yield "]"
    else:
        yield f"{type(value).__name__}:{value!r}"


def _is_documentation(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _binds(statement: ast.stmt, name: str) -> bool:
    """Whether a statement assigns to a name, to a part of it, or calls one of its methods."""
    if isinstance(statement, _ALL):
        return False
    if isinstance(statement, ast.Expr):
        return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(statement))
    for node in ast.walk(statement):
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(
            node.ctx, ast.Load
        ):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name) and root.id == name:
                return True
    return False


def imported_as(source: Source, name: str) -> list[tuple[int, str, str]]:
    """What the module's `from X import Y` bring under a name: level, module and name there."""
    return [
        (node.level, node.module or "", alias.name)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (alias.asname or alias.name) == name
    ]


# --- the names that code uses


def names_in(node: ast.AST, *, with_functions: bool = True) -> set[Chain]:
    """The names in a node with the attributes that are read of them."""
    found: set[Chain] = set()
    waiting: list[ast.AST] = [node]
    while waiting:
        each = waiting.pop()
        chain: list[str] = []
        inner = each
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            found.add((inner.id, *reversed(chain)))
            continue
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not with_functions:
            # The body is looked at with the function itself.
            waiting += [*each.decorator_list, each.args]
            continue
        waiting += ast.iter_child_nodes(each)
    return found


@dataclass
class Uses:
    """What a function's code refers to outside of itself."""

    names: set[Chain] = field(default_factory=set)
    imports: set[tuple[int, str, tuple[str, ...]]] = field(default_factory=set)
    """Imports in the function: level, module, and the names that are taken from it."""


@lru_cache(maxsize=4096)
def uses(code: CodeType, *, as_second: bool = False) -> Uses:
    """The global names that a function uses, and what it imports, inner functions included.

    `as_second`: as esops' second way saw it, which took the bytes of long arguments for
    instructions.
    """
    found = Uses()
    instructions = [
        each for each in dis.get_instructions(code) if as_second or each.opname != "EXTENDED_ARG"
    ]
    for at, each in enumerate(instructions):
        if each.opname in _LOADS:
            chain = [str(each.argval)]
            for following in instructions[at + 1 :]:
                if following.opname not in {"LOAD_ATTR", "LOAD_METHOD"}:
                    break
                chain.append(str(following.argval))
            found.names.add(tuple(chain))
        elif each.opname == "IMPORT_NAME":
            level, names = (before.argval for before in instructions[at - 2 : at])
            found.imports.add((level or 0, str(each.argval), tuple(names or ())))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = uses(constant, as_second=as_second)
            found.names |= inner.names
            found.imports |= inner.imports
    return found


def all_names(code: CodeType) -> set[str]:
    """The names of globals and attributes in a function, inner functions included."""
    inner = [all_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*inner)


def sees_all(function: FunctionType) -> bool:
    """Whether a function may use names of its module that its code does not name."""
    used = all_names(function.__code__)
    known = function.__globals__
    return (
        any(name in SEES_ALL and name not in known for name in used)
        or "__subclasses__" in used
        or {"sys", "modules"} <= used
        or any(known.get(name) is sys.modules for name in used)
    )


def code_text(code: CodeType) -> bytes:
    """What a function does, where it has no source: its code, without names of files and lines."""
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    constants = [
        code_text(each) if isinstance(each, CodeType) else plain(each) or b""
        for each in code.co_consts
    ]
    return digest(code.co_code, repr((names, counts)).encode(), *constants)


def digest(*parts: bytes) -> bytes:
    """A hash of parts that cannot run into each other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.digest()
