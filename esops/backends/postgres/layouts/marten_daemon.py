"""What Marten's daemon and options leave in the database: how far its shards are, and what an operator should look at.

Facts: Marten's schema sources and its daemon's gap detection; see docs/reference/layouts.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import LiteralString

import psycopg
from psycopg import sql

from esops.backends.postgres import catalog
from esops.backends.postgres.layouts.base import Concern
from esops.events import Checkpoint, Position

_ORPHANED = timedelta(days=1)
"""How long a shard may stand still behind a moving high-water mark before it is asked about."""
TABLES = ("mt_high_water_skips", "mt_doc_deadletterevent")
_C = sql.Identifier


def checkpoints(connection: psycopg.Connection, schema: str) -> list[Checkpoint]:
    """The daemon's shards with their dead letters, and its high-water mark with the gaps that it passed."""
    if catalog.find_table(connection, schema, "mt_event_progression") is None:
        return []
    skips = _counted(connection, schema, "mt_high_water_skips", "'HighWaterMark'")
    letters = _counted(connection, schema, "mt_doc_deadletterevent", "data->>'ProjectionName' || ':' || (data->>'ShardName')")
    rows = connection.execute(
        sql.SQL("SELECT name, last_seq_id, last_updated FROM {} ORDER BY name").format(_C(schema, "mt_event_progression"))
    ).fetchall()
    found = []
    for name, number, updated in rows:
        mark = name.startswith("HighWaterMark")
        what, count = ("gaps passed", skips.get(name)) if mark else ("dead letters", letters.get(name))
        detail = {what: str(count)} if count else {}
        position = None if number is None else Position((number,))
        found.append(Checkpoint(name, position, "high-water mark" if mark else "shard", updated, detail))
    return found


def _counted(connection: psycopg.Connection, schema: str, table: str, by: LiteralString) -> dict[str, int]:
    """The rows of a table that may be missing, by the name of a progression row."""
    if catalog.find_table(connection, schema, table) is None:
        return {}
    return dict(connection.execute(sql.SQL(f"SELECT {by}, count(*) FROM {{}} GROUP BY 1").format(_C(schema, table))).fetchall())


def concerns(connection: psycopg.Connection, schema: str, streams: catalog.Table) -> list[Concern]:
    """Ids that name two streams, and progress that nobody makes any more."""
    found = []
    if "is_archived" in streams.partitioned_by:
        key = sql.SQL(", ").join(_C(column) for column in streams.key if column != "is_archived")
        both = "SELECT {key} FROM {streams} WHERE is_archived INTERSECT SELECT {key} FROM {streams} WHERE NOT is_archived"
        names = {"key": key, "streams": _C(schema, "mt_streams")}
        again = connection.execute(
            sql.SQL(f"SELECT *, count(*) OVER () FROM ({both}) AS both_sides LIMIT 1").format(**names)
        ).fetchone()
        if again is not None:
            message = f"{again[-1]:,} ids of archived streams are used again, such as {again[-2]}: each names two streams"
            fix = "Let Marten keep ids unique (UseArchivedStreamPartitioning with mt_streams_identity), and archive the second by hand."
            found.append(Concern("reused ids", message, fix))
    if catalog.find_table(connection, schema, "mt_event_progression") is not None:
        orphans = sql.SQL(
            "SELECT p.name, p.last_seq_id, p.last_updated FROM {} p JOIN {} m ON m.name = 'HighWaterMark' "
            "WHERE p.name NOT LIKE 'HighWaterMark%' AND p.last_seq_id < m.last_seq_id AND p.last_updated < m.last_updated - {} ORDER BY 1"
        ).format(*[_C(schema, "mt_event_progression")] * 2, sql.Literal(_ORPHANED))
        for name, number, updated in connection.execute(orphans).fetchall():
            message = (
                f"progression row {name} stands at {number} since {updated:%Y-%m-%d %H:%M} while the high-water mark moves on"
            )
            delete = sql.SQL("DELETE FROM {} WHERE name = {};").format(_C(schema, "mt_event_progression"), sql.Literal(name))
            found.append(
                Concern(
                    "orphan progress", message, f"{delete.as_string(connection)}  -- if its projection is gone; else start it"
                )
            )
    return found
