"""Which rows of Emmett's processors a name stands for: the library keeps one for each version and
partition.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg import sql

from esops.errors import Refused, nearest
from esops.events import Checkpoint, own_names
from esops.postgres.statements import statements
from esops.stores.postgres.layouts.emmett import inline
from esops.stores.postgres.layouts.emmett.inline import PROJECTOR

_SQL = statements(__package__, "handing_over")


class ProcessorRows(NamedTuple):
    """The rows of a schema: its table, and the only partition that is read (None: all)."""

    schema: str
    table: str
    only: str | None


def called(connection: psycopg.Connection, rows: ProcessorRows, name: str) -> list[Checkpoint]:
    """The processors of a name: an id, `id/version` or `id/version/partition`."""
    parts = name.split("/")
    ids = ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]
    there = named(connection, rows, ids)
    # An id may end as a version does.
    return [each for each in there if each.name == name] or [
        each for each in there if each.called(name)
    ]


def named(
    connection: psycopg.Connection, rows: ProcessorRows, ids: list[str] | None
) -> list[Checkpoint]:
    """The processors of some ids (None: all), by their names alone."""
    table = sql.Identifier(rows.schema, rows.table)
    statement = sql.SQL(_SQL["names"]).format(processors=table)
    found = connection.execute(statement, {"names": ids, "only": rows.only}).fetchall()
    return [
        Checkpoint(name, None, "", None, {"version": str(version), "partition": partition})
        for name, version, partition in found
    ]


def the_one(connection: psycopg.Connection, rows: ProcessorRows, name: str) -> Checkpoint:
    """The one processor of a name. Raises Refused where there is none, or several."""
    found = called(connection, rows, name)
    # It would look like a mistyped name, while there is such a projection.
    projection = name.removeprefix(PROJECTOR)
    if not found and (status := inline.status(connection, rows.schema, projection)):
        raise Refused(
            f"Emmett writes the projection {name!r} inline, with each append ({status}): it has "
            "no checkpoint to hand over",
            hint='Set live = "inline", and leave out `checkpoint`.',
        )
    if not found:
        known = list(dict.fromkeys(each.name for each in named(connection, rows, None)))
        raise Refused(f"Emmett has no processor {name!r}", hint=nearest(name, known))
    if len(found) > 1:
        several = [each for names in own_names(found) for each in names[:1]]
        raise Refused(
            f"Emmett has several versions or partitions of the processor {name!r}",
            hint=f"Name one of: {', '.join(several)}.",
        )
    return found[0]
