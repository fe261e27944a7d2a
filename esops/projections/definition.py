"""What a user writes: a Python function, made a projection by a decorator, and found by its name in esops.toml."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from esops.errors import UsageError, nearest
from esops.events import RecordedEvent

Row = dict[str, Any]
Key = Any
Evolve = Callable[[Row | None, RecordedEvent], Row | None]
KeyFunction = Callable[[RecordedEvent], Key]


@dataclass(frozen=True)
class FoldDefinition:
    """A fold: for each key, its row so far and the next event give the next row.

    `evolve` gets None for the first event of a key and returns None where there is to be no row. `key` is None for the
    stream's name (with its tenant before it where the table's key has two columns), or gives a value, or a tuple for a key
    of several columns. A row need not hold its key's columns; if it does, they must be the key.
    """

    evolve: Evolve
    key: KeyFunction | None

    def __call__(self, row: Row | None, event: RecordedEvent) -> Row | None:
        """Call the function itself, as in a unit test."""
        return self.evolve(row, event)


def fold(key: str | KeyFunction = "stream") -> Callable[[Evolve], FoldDefinition]:
    """Make a function `(row or None, event) -> row or None` a projection of kind `fold`.

    `key` is "stream" or a function of the event. Raises UsageError for any other text.
    """
    if isinstance(key, str) and key != "stream":
        raise UsageError(f"fold(key={key!r}): a key is 'stream' or a function of the event")

    def decorate(evolve: Evolve) -> FoldDefinition:
        return FoldDefinition(evolve, None if isinstance(key, str) else key)

    return decorate


def load_definition(reference: str, directory: Path, where: str) -> FoldDefinition:
    """Import `module:name`, with the configuration's folder on the path. Raises UsageError that says what is wrong with it."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{where}: {reference!r} is not of the form module:function")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UsageError(
                f"{where}: there is no Python module {module_name!r}",
                hint=f"It is looked for in {directory} and where Python looks.",
            ) from None
        raise UsageError(f"{where}: module {module_name!r} cannot be imported: {error}") from error
    except Exception as error:
        raise UsageError(f"{where}: module {module_name!r} cannot be imported: {blame(error)}") from error
    found = getattr(module, attribute, None)
    if found is None:
        folds = [name for name, value in vars(module).items() if isinstance(value, FoldDefinition)]
        raise UsageError(f"{where}: module {module_name!r} has no {attribute!r}", hint=nearest(attribute, folds))
    if not isinstance(found, FoldDefinition):
        raise UsageError(
            f"{where}: {reference} is not a projection", hint='Decorate the function with @fold(key="stream") from esops.'
        )
    return found


def fingerprint(definition: FoldDefinition) -> str:
    """A hash of the code that a definition runs: its functions and those of the same package that they name.

    It tells whether a version was built by the code that is there now. Comments and layout do not change it.
    """
    digest = hashlib.sha256()
    seen: set[int] = set()
    package = (getattr(definition.evolve, "__module__", "") or "").partition(".")[0]
    for function in (definition.evolve, definition.key):
        if function is not None:
            _digest(function, package, digest.update, seen)
    return digest.hexdigest()[:16]


def blame(error: BaseException) -> str:
    """An exception in a line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if not frames:
        return text
    last = frames[-1]
    return f"{text} (in {last.name}, {last.filename}:{last.lineno})"


def _digest(value: object, package: str, update: Callable[[bytes], None], seen: set[int]) -> None:
    value = inspect.unwrap(value) if callable(value) else value
    if id(value) in seen:
        return
    seen.add(id(value))
    if not isinstance(value, FunctionType):
        update(repr(value).encode() if isinstance(value, str | bytes | int | float | tuple | frozenset | dict | list) else b"")
        return
    try:
        update(ast.dump(ast.parse(textwrap.dedent(inspect.getsource(value)))).encode())
    except (OSError, SyntaxError, TypeError):
        update(value.__code__.co_code)
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
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names
