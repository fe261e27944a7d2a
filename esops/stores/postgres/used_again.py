"""Names that were used again after their streams were archived: each stands for two streams.

Emmett looks only at rows that are not archived, and Marten with archived partitions keeps the ids
of the two sides apart, so that an append to an archived stream begins another one at version 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from esops.events import StreamKey
from esops.stores.archived import ArchivedStreams
from esops.stores.parts import WITH_ARCHIVED, Concern
from esops.stores.postgres.column_values import column_values
from esops.stores.postgres.layouts.base import FALSE, Layout
from esops.stores.postgres.layouts.expressions import storable
from esops.wording import count

if TYPE_CHECKING:
    from esops.stores.postgres.store import PostgresStore


def statement(
    streams: sql.Identifier,
    name: sql.Composable,
    tenant: sql.Composable,
    key: Sequence[str],
    scope: sql.Composable,
) -> sql.Composed:
    """Gives stream and tenant of the names with an archived row and one that is not. `key` tells
    the rows of a name from others, beside the mark.
    """
    same = sql.SQL(" AND ").join(
        sql.SQL("a.{0} = s.{0}").format(sql.Identifier(column)) for column in key
    )
    return sql.SQL(
        "SELECT {name}::text, {tenant} FROM {streams} AS s WHERE NOT is_archived AND {scope} AND "
        "EXISTS (SELECT FROM {streams} AS a WHERE a.is_archived AND {same}) ORDER BY 1, 2"
    ).format(name=name, tenant=tenant, streams=streams, scope=scope, same=same)


class PostgresArchived(ArchivedStreams):
    """ArchivedStreams of a Postgres store."""

    def __init__(self, store: PostgresStore) -> None:
        """Over the store's connections."""
        super().__init__(store)
        self._layout, self._control, self._listing = store.layout, store.control, store.listing

    def streams(self) -> Iterator[StreamKey]:
        """By the mark of their events, where the library has one."""
        layout = self._layout
        if layout.archived is FALSE:
            return
        again = set(self.used_again())
        marked = sql.SQL("SELECT DISTINCT {}, {} FROM {} WHERE {} AND {}").format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.events,
            layout.where(WITH_ARCHIVED),
            layout.archived,
        )
        with closing(self._listing()) as reader:
            for batch in reader.read(iter([marked.as_string(None)])):
                for row in zip(*map(column_values, batch.columns), strict=True):
                    key = StreamKey(*row)
                    if key not in again:
                        yield key

    def used_again(self, stream: str | None = None) -> list[StreamKey]:
        """From the library's list of streams."""
        if self._layout.used_again is None:
            return []
        with self._control() as connection:
            return names(connection, self._layout, stream)


def names(
    connection: psycopg.Connection, layout: Layout, stream: str | None = None
) -> list[StreamKey]:
    """The names of a layout that were used again: all, or those that are `stream`."""
    if layout.used_again is None:
        return []
    if stream is not None and not storable([stream]):
        return []
    only = sql.SQL("TRUE" if stream is None else "stream = {}").format(sql.Literal(stream))
    found = connection.execute(
        sql.SQL("SELECT * FROM ({}) AS again (stream, tenant) WHERE {}").format(
            layout.used_again, only
        )
    ).fetchall()
    return [StreamKey(*row) for row in found]


def concerns(connection: psycopg.Connection, layout: Layout, fix: str) -> list[Concern]:
    """What doctor says of them."""
    found = names(connection, layout)
    if not found:
        return []
    message = (
        f"{count(len(found), 'id')} of archived streams used again, such as "
        f"{min(found).stream}: each names two streams"
    )
    return [Concern("reused ids", message, fix)]
