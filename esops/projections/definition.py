"""What a user writes as a projection, and how esops finds it.

Python functions become projections by a decorator and are named in esops.toml as `module:function`;
statements and programs are named there directly.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from esops.errors import UsageError, nearest
from esops.events import RecordedEvent
from esops.projections.arithmetic import importing
from esops.readmodel.types import Key, Row

if TYPE_CHECKING:
    from esops.settings import ProjectionSettings

Evolve = Callable[[Row | None, RecordedEvent], Row | None]
KeyFunction = Callable[[RecordedEvent], Key]


@dataclass(frozen=True)
class FoldDefinition:
    """A fold: for each key, the row so far and the next event give the next row.

    `evolve` gets None for the first event of a key, and returns None where there is to be no row.
    `key` is None for the name of the stream (after the tenant where the table's key has two
    columns); otherwise it returns a value, or a tuple for a key of several columns. A row need not
    have the columns of its key; if it has them, they must be equal to the key.
    """

    evolve: Evolve
    key: KeyFunction | None

    def __call__(self, row: Row | None, event: RecordedEvent) -> Row | None:
        """Call the function itself, as in a unit test."""
        return self.evolve(row, event)


def fold(key: str | KeyFunction = "stream") -> Callable[[Evolve], FoldDefinition]:
    """The decorator that makes `(row or None, event) -> row or None` a projection of kind `fold`.

    `key` is "stream" or a function of the event. Raises UsageError for any other text.
    """
    if isinstance(key, str) and key != "stream":
        raise UsageError(f"fold(key={key!r}): the key must be 'stream' or a function of the event")

    def decorate(evolve: Evolve) -> FoldDefinition:
        return FoldDefinition(evolve, None if isinstance(key, str) else key)

    return decorate


_PROGRAM_TIMEOUT = timedelta(seconds=60)
HandlerFunction = Callable[[RecordedEvent, Any], None]


class Handlers:
    """A projection of kind `handlers`: functions by type of event, which write to the version's
    tables.
    """

    def __init__(self) -> None:
        """Handlers are added with `on`."""
        self._by_type: dict[str, HandlerFunction] = {}

    def on(self, *types: str) -> Callable[[HandlerFunction], HandlerFunction]:
        """The decorator that makes `(event, write) -> None` the handler of these types of events.

        Raises UsageError for a type that has a handler already.
        """
        if not types:
            raise UsageError("Handlers.on() needs at least one type of event")

        def decorate(function: HandlerFunction) -> HandlerFunction:
            for each in types:
                if each in self._by_type:
                    raise UsageError(f"two functions handle events of type {each!r}")
                self._by_type[each] = function
            return function

        return decorate

    def handler(self, kind: str) -> HandlerFunction | None:
        """The function for a type of event; None where there is none."""
        return self._by_type.get(kind)

    @property
    def functions(self) -> dict[str, HandlerFunction]:
        """All functions, by type of event."""
        return dict(self._by_type)


@dataclass(frozen=True)
class SqlDefinition:
    """A projection of kind `sql`: a statement over a range of positions."""

    path: Path
    text: str


@dataclass(frozen=True)
class ProcessDefinition:
    """A projection of kind `process`: a program that speaks the protocol of esops."""

    command: tuple[str, ...]
    directory: Path
    timeout: timedelta


@dataclass(frozen=True)
class ExternalDefinition:
    """A projection of kind `external`: the application builds it, and its checkpoint tells how far
    it is.
    """

    checkpoint: str


Definition = FoldDefinition | Handlers | SqlDefinition | ProcessDefinition | ExternalDefinition


def load_definition(settings: ProjectionSettings, directory: Path, where: str) -> Definition:
    """Load the code of a projection; Python is also looked for in the folder of esops.toml.

    `where` names its section, for errors. Raises UsageError where the code cannot be loaded.
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


@contextmanager
def _nothing_compiled_is_kept() -> Iterator[None]:
    """Import without leaving bytecode beside the user's files.

    Python takes bytecode for that of a file whose second and size are the same, so that code which
    is changed within a second would run as it was.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _imported(reference: str, directory: Path, where: str, kind: type[T], hint: str) -> T:
    """The object that `module:name` names, which must be of the given type."""
    with importing(where, reference.partition(":")[0], directory) as made:
        # Only what would be accepted is suggested.
        found = _named(reference, directory, where, lambda value: isinstance(value, kind))
        if not isinstance(found, kind):
            raise UsageError(f"{where}: {reference} is no projection of this kind", hint=hint)
        made.append(found)
    return found


def load_function(reference: str, directory: Path, where: str) -> Callable[..., Any]:
    """The function that `module:name` names; the module is also looked for in a folder.

    `where` names the option, for errors. Raises UsageError where it cannot be loaded.
    """
    found = _named(reference, directory, where, callable)
    if not callable(found):
        raise UsageError(f"{where}: {reference} is a {type(found).__name__}, and no function")
    return found


def _named(reference: str, directory: Path, where: str, fits: Callable[[object], bool]) -> object:
    """What `module:name` names; `fits` says what may be suggested where the name is wrong."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{where}: {reference!r} does not have the form module:function")
    # The user's modules lie beside esops.toml, wherever the command is run.
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        with _nothing_compiled_is_kept():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The user's module may be missing, or one that it imports: only the first is about
        # esops.toml.
        if error.name is not None and (
            module_name == error.name or module_name.startswith(error.name + ".")
        ):
            raise UsageError(
                f"{where}: there is no Python module {module_name!r}",
                hint=f"It must be in {directory} or installed.",
            ) from None
        raise UsageError(f"{where}: module {module_name!r} cannot be imported: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a script without a guard for __main__ may call sys.exit()
        raise UsageError(
            f"{where}: module {module_name!r} cannot be imported: {blame(error)}"
        ) from error
    found: object = getattr(module, attribute, None)
    if found is None:
        there_are = [name for name, value in vars(module).items() if fits(value)]
        raise UsageError(
            f"{where}: module {module_name!r} has no {attribute!r}",
            hint=nearest(attribute, there_are),
        )
    return found


def blame(error: BaseException) -> str:
    """An exception of the user's code in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if not frames:
        return text
    last = frames[-1]
    return f"{text} (in {last.name}, {last.filename}:{last.lineno})"
