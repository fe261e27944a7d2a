"""What a runner drives: something that turns events into rows of one version's tables, whatever
kind of projection it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psycopg

from esops.events import RecordedEvent
from esops.postgres.catalog import Table


@dataclass(frozen=True)
class VersionTables:
    """The tables of one version, blue or green, and what a projector needs to know of them.

    `by_name` and `keys` go by the names that the application reads.
    """

    projection: str
    version: int
    by_name: Mapping[str, Table]
    keys: Mapping[str, tuple[str, ...]]
    """The columns of each table's key, also while the key itself is not built yet."""
    value_types: Mapping[str, str]
    """By column, the Python type that the projection has written so far."""
    conjoined: bool
    """Whether tenants share the store, so that a stream's id alone is not unique."""
    empty: bool
    """Whether nothing has been written yet."""
    cache: int
    """How many bytes of memory the rows that a fold keeps may take."""
    ensure_keys: Callable[[], None]
    """Builds the keys if they are missing: to be called before a statement that needs them."""
    loading: bool = False
    """Whether nobody reads the tables yet, so that rows may be written as late as memory allows."""
    begins: int | None = None
    """The version of a stream's first event, where a name can begin another stream; else None."""

    @property
    def names(self) -> dict[str, tuple[str, str]]:
        """Schema and physical name of each table."""
        return {name: (table.schema, table.name) for name, table in self.by_name.items()}

    @property
    def only(self) -> tuple[Table, tuple[str, ...]]:
        """The one table and the columns of its key, for kinds that have just one."""
        name, table = next(iter(self.by_name.items()))
        return table, self.keys[name]


class Projector(Protocol):
    """Applies events, and writes the rows that result in the transaction of the checkpoint.

    After any failure it is dropped, and a new one starts at the last checkpoint.
    """

    @property
    def full(self) -> bool:
        """Whether so much has accumulated that it should be written now."""
        ...

    @property
    def most_at_once(self) -> int:
        """How many events it should be given at once at most, so that their rows fit in memory."""
        ...

    @property
    def value_types(self) -> Mapping[str, str]:
        """By column, the Python type that was written; kept with the version."""
        ...

    def apply(self, events: Sequence[RecordedEvent], connection: psycopg.Connection) -> None:
        """Apply events, outside of a transaction. Raises BadEvent."""
        ...

    def flush(self, connection: psycopg.Connection) -> int | None:
        """Write the rows, in the transaction that the connection is in.

        Returns by how much the number of rows changes; None where that is not counted. Raises
        BadEvent.
        """
        ...

    def flushed(self) -> None:
        """The transaction with the last flush has committed: forget what it wrote."""
        ...

    def close(self) -> None:
        """Release what the projector holds: a program, for example."""
        ...
