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
class Green:
    """A version's tables, and what a projector needs to know of them.

    `tables` and `keys` go by plain names. `conjoined`: stream ids are not unique across tenants.
    `empty`: nothing is written yet.
    `ensure_keys` is to be called before the first statement that needs one.
    """

    projection: str
    version: int
    tables: Mapping[str, Table]
    keys: Mapping[str, tuple[str, ...]]
    value_types: Mapping[str, str]
    conjoined: bool
    empty: bool
    cache_rows: int
    ensure_keys: Callable[[], None]

    @property
    def names(self) -> dict[str, tuple[str, str]]:
        """Schema and physical name of each table."""
        return {name: (table.schema, table.name) for name, table in self.tables.items()}

    @property
    def only(self) -> tuple[Table, tuple[str, ...]]:
        """The one table and its key, of kinds that have just one."""
        name, table = next(iter(self.tables.items()))
        return table, self.keys[name]


class Projector(Protocol):
    """Applies events, and writes what came of them in the checkpoint's transaction.

    Dropped after any failure.
    """

    @property
    def full(self) -> bool:
        """Whether there is so much to write that it should be."""
        ...

    @property
    def value_types(self) -> Mapping[str, str]:
        """The Python types that were written, by column; kept with the version."""
        ...

    def apply(self, events: Sequence[RecordedEvent], connection: psycopg.Connection) -> None:
        """Take events, outside of a transaction. Raises BadEvent."""
        ...

    def flush(self, connection: psycopg.Connection) -> int | None:
        """Write, in the transaction that the connection is in; the change in the number of rows,
        where it is known. Raises BadEvent.
        """
        ...

    def flushed(self) -> None:
        """Take note that the transaction with the flush has committed."""
        ...

    def close(self) -> None:
        """Let go of whatever it holds."""
        ...
