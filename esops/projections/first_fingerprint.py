"""The fingerprint as esops made it at first: only to recognise the versions that have one."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import Any

from esops.projections.definition import (
    Definition,
    ExternalDefinition,
    FoldDefinition,
    Handlers,
    ProcessDefinition,
    SqlDefinition,
)
from esops.readmodel.types import CHECKPOINT


def first_fingerprint(definition: Definition) -> str:
    """A hash of the code that a definition runs.

    Python: the functions and those of the same package that they use; comments and layout do not
    count. A statement: its text. A program: its command and the content of the files that the
    command names. What the application builds has the name of its checkpoint as fingerprint.
    """
    if isinstance(definition, ExternalDefinition):
        return CHECKPOINT + definition.checkpoint
    digest = hashlib.sha256()
    match definition:
        case FoldDefinition():
            _digest_all((definition.evolve, definition.key), digest.update)
        case Handlers():
            for kind, function in sorted(definition.functions.items()):
                digest.update(kind.encode())
                _digest_all((function,), digest.update)
        case SqlDefinition():
            # Spaces and line breaks do not count.
            digest.update(" ".join(definition.text.split()).encode())
        case ProcessDefinition():
            for word in definition.command:
                digest.update(word.encode() + b"\0")
                path = definition.directory / word
                if path.is_file():
                    digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _digest_all(
    functions: Iterable[Callable[..., Any] | None], update: Callable[[bytes], None]
) -> None:
    seen: set[int] = set()
    given = [function for function in functions if function is not None]
    package = (getattr(given[0], "__module__", "") or "").partition(".")[0]
    for function in given:
        _digest(function, package, update, seen)


def _digest(value: object, package: str, update: Callable[[bytes], None], seen: set[int]) -> None:
    """Feed a function, and what it uses of its own package, to `update`; each value once."""
    value = inspect.unwrap(value) if callable(value) else value
    if id(value) in seen:
        return
    seen.add(id(value))
    if not isinstance(value, FunctionType):
        # Other values (from a closure) have no text that is the same in the next process.
        update(
            repr(value).encode()
            if isinstance(value, str | bytes | int | float | tuple | frozenset | dict | list)
            else b""
        )
        return
    try:
        # The syntax tree has neither comments nor layout.
        update(ast.dump(ast.parse(textwrap.dedent(inspect.getsource(value)))).encode())
    except (OSError, SyntaxError, TypeError):
        # No source, as of a lambda in the middle of a line, or of compiled code.
        update(value.__code__.co_code)
    # Helpers and constants of the same package change the rows too. Other packages do not count:
    # their functions are many, and an upgrade would make every version look stale.
    for name in sorted(_names(value.__code__)):
        inner = value.__globals__.get(name)
        same_package = (getattr(inner, "__module__", None) or "").partition(".")[0] == package
        if isinstance(inner, FunctionType) and same_package:
            _digest(inner, package, update, seen)
        elif isinstance(inner, str | bytes | int | float | tuple | frozenset | dict | list):
            update(f"{name}={inner!r}".encode())
    for cell in value.__closure__ or ():
        _digest(cell.cell_contents, package, update, seen)


def _names(code: CodeType) -> set[str]:
    """The global names that a function uses, those of its inner functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names
