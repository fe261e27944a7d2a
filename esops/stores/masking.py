"""What a store needs so that personal data in its events can be masked: all its rows with all their
columns, and a way to replace what is in some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from esops.events import Position, StreamKey
from esops.json_paths import Root

Value = str | bytes | None


@dataclass(frozen=True, slots=True)
class Document:
    """A column that holds an event's data or metadata, or a part of it."""

    column: str
    root: Root
    at: tuple[str, ...] = ()
    """The keys below which the column's content is, where it is only a part."""
    plain: bool = False
    """Whether it is a text and no JSON."""
    checked: bool = False
    """Whether the server makes sure that it is JSON."""
    drops_nulls: bool = False
    """Whether members that are null are left out where it is read."""


class StoredRow(NamedTuple):
    """An event's row, with all columns as they are stored; `state` tells its content from an older
    or newer one.
    """

    key: StreamKey
    version: int
    position: Position
    type: str
    hidden: bool
    columns: Mapping[str, Value]
    state: str = ""


class MaskedRow(NamedTuple):
    """New contents of some columns of a row."""

    row: StoredRow
    columns: Mapping[str, Value]


class Copied(NamedTuple):
    """A row of another table that holds copies of events' data, as JSON."""

    table: str
    json: str
    remedy: str


class Masking(Protocol):
    """The rows of a store's events, and how what is in them is replaced."""

    @property
    def documents(self) -> Sequence[Document]:
        """Where events' data and metadata are."""
        ...

    @property
    def wrapped(self) -> bool:
        """Whether values may be wrapped as {"_type_": …, "_data_": …}."""
        ...

    def check(self, columns: Sequence[str]) -> list[str]:
        """Look whether these columns can be replaced. Returns what an operator should know.

        Raises Refused where rows cannot be changed, by rights or by how the tables are made.
        """
        ...

    def rows(self, stop: Callable[[], None] = lambda: None) -> Iterator[list[StoredRow]]:
        """All rows, those that the store does not give out as events included, in batches of
        bounded memory. `stop` is asked between batches.
        """
        ...

    def write(self, changes: Sequence[MaskedRow]) -> list[StoredRow]:
        """Replace contents in small transactions, without waiting long for a lock.

        Returns the rows that have changed since they were read, and are left as they are.
        """
        ...

    def wait_for_writers(self, stop: Callable[[], None] = lambda: None) -> None:
        """Wait for all transactions that have written events and are not committed yet.

        Raises Busy where that takes more than a minute.
        """
        ...

    def emptied(self) -> Iterator[StreamKey]:
        """The streams that are marked as archived and have no event any more; none where the
        library has no such mark.
        """
        ...

    def copies(self, tables: Sequence[str] = ()) -> Iterator[list[Copied]]:
        """The rows of the library's other tables that may hold copies, and of `tables`."""
        ...
