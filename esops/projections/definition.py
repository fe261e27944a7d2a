"""What a user writes: a Python function, made a projection by a decorator, and found by its name in
esops.toml.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from esops.errors import UsageError, nearest
from esops.events import RecordedEvent
from esops.readmodel.types import CHECKPOINT, Key, Row

if TYPE_CHECKING:
    from esops.settings import ProjectionSettings

Evolve = Callable[[Row | None, RecordedEvent], Row | None]
KeyFunction = Callable[[RecordedEvent], Key]


@dataclass(frozen=True)
class FoldDefinition:
    """A fold: for each key, its row so far and the next event give the next row.

    `evolve` gets None for the first event of a key and returns None where there is to be no row.
    `key` is None for the
    stream's name (with its tenant before it where the table's key has two columns), or gives a
    value, or a tuple for a key
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


_PROGRAM_TIMEOUT = timedelta(seconds=60)
HandlerFunction = Callable[[RecordedEvent, Any], None]


class Handlers:
    """Functions by type of event, each of which writes to the version's tables: a projection of
    kind `handlers`.
    """

    def __init__(self) -> None:
        """No handler yet."""
        self._by_type: dict[str, HandlerFunction] = {}

    def on(self, *types: str) -> Callable[[HandlerFunction], HandlerFunction]:
        """Make a function `(event, write) -> None` the handler of these types.

        Raises UsageError for a type that has one.
        """
        if not types:
            raise UsageError("Handlers.on() takes the types of events that the function handles")

        def decorate(function: HandlerFunction) -> HandlerFunction:
            for each in types:
                if each in self._by_type:
                    raise UsageError(f"two functions handle events of type {each!r}")
                self._by_type[each] = function
            return function

        return decorate

    def handler(self, kind: str) -> HandlerFunction | None:
        """The function for a type; None where it is not handled."""
        return self._by_type.get(kind)

    @property
    def functions(self) -> dict[str, HandlerFunction]:
        """All, by type."""
        return dict(self._by_type)


@dataclass(frozen=True)
class SqlDefinition:
    """A statement over a range of positions: a projection of kind `sql`."""

    path: Path
    text: str


@dataclass(frozen=True)
class ProcessDefinition:
    """A program that speaks the protocol: a projection of kind `process`."""

    command: tuple[str, ...]
    directory: Path
    timeout: timedelta


@dataclass(frozen=True)
class ExternalDefinition:
    """What the application itself builds, known by its checkpoint: a projection of kind
    `external`.
    """

    checkpoint: str


Definition = FoldDefinition | Handlers | SqlDefinition | ProcessDefinition | ExternalDefinition


def load_definition(settings: ProjectionSettings, directory: Path, where: str) -> Definition:
    """A projection's code, with the configuration's folder on Python's path.

    Raises UsageError that says what is wrong with it.
    """
    match settings.kind:
        case "sql":
            assert settings.statement is not None
            path = directory / settings.statement
            try:
                return SqlDefinition(path, path.read_text(encoding="utf-8").strip())
            except OSError as error:
                raise UsageError(
                    f"{where}.statement: {path} cannot be read: {error.strerror}"
                ) from None
        case "process":
            return ProcessDefinition(
                settings.command, directory, settings.timeout or _PROGRAM_TIMEOUT
            )
        case "external":
            assert settings.checkpoint is not None
            return ExternalDefinition(settings.checkpoint)
        case "handlers":
            return _imported(
                settings.python,
                directory,
                f"{where}.python",
                Handlers,
                "Make it Handlers() from esops.",
            )
        case _:
            hint = 'Decorate the function with @fold(key="stream") from esops.'
            return _imported(settings.python, directory, f"{where}.python", FoldDefinition, hint)


T = TypeVar("T")


def _imported(reference: str, directory: Path, where: str, kind: type[T], hint: str) -> T:
    """What `module:name` is."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{where}: {reference!r} is not of the form module:function")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (
            module_name == error.name or module_name.startswith(error.name + ".")
        ):
            raise UsageError(
                f"{where}: there is no Python module {module_name!r}",
                hint=f"It is looked for in {directory} and where Python looks.",
            ) from None
        raise UsageError(f"{where}: module {module_name!r} cannot be imported: {error}") from error
    except Exception as error:
        raise UsageError(
            f"{where}: module {module_name!r} cannot be imported: {blame(error)}"
        ) from error
    found = getattr(module, attribute, None)
    if found is None:
        there_are = [name for name, value in vars(module).items() if isinstance(value, kind)]
        raise UsageError(
            f"{where}: module {module_name!r} has no {attribute!r}",
            hint=nearest(attribute, there_are),
        )
    if not isinstance(found, kind):
        raise UsageError(f"{where}: {reference} is not a projection of this kind", hint=hint)
    return found


def fingerprint(definition: Definition) -> str:
    """A hash of the code that a definition runs: it tells whether a version was built by the code
    that is there now.

    Of Python, the functions and those of the same package that they name; comments and layout do
    not change it. Of a statement, its
    text. Of a program, its command and the content of the files that are named in it. What the
    application builds is known by its
    checkpoint's name, which is given as it is.
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
        update(
            repr(value).encode()
            if isinstance(value, str | bytes | int | float | tuple | frozenset | dict | list)
            else b""
        )
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
