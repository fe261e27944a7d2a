"""Names that were used again after their streams were archived: each stands for two streams.

Emmett looks only at rows that are not archived, and Marten with archived partitions keeps the ids
of the two sides apart, so that an append to an archived stream begins another one at version 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from esops.events import StreamKey
from esops.stores.parts import Concern
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.expressions import storable
from esops.wording import count


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
