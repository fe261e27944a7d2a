"""Which projector a definition takes, and what its tables must be like."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from esops.errors import Refused, UsageError
from esops.postgres.catalog import Table
from esops.postgres.connection import database_of
from esops.projections.definition import (
    Definition,
    ExternalDefinition,
    FoldDefinition,
    Handlers,
    ProcessDefinition,
    SqlDefinition,
)
from esops.projections.kinds import sql as sql_kind
from esops.projections.kinds.fold import Fold, check_key
from esops.projections.kinds.handlers import Handling
from esops.projections.kinds.process import Processing
from esops.projections.projector import Green, Projector
from esops.stores.base import EventStore


def open_projector(definition: Definition, green: Green) -> Projector | None:
    """The projector of a version; None for one that is made by statements over ranges."""
    match definition:
        case FoldDefinition():
            return Fold(definition, green)
        case Handlers():
            return Handling(definition, green)
        case ProcessDefinition():
            return Processing(definition, green)
        case SqlDefinition():
            return None
        case ExternalDefinition():
            raise Refused(
                f"{green.projection} is built by the application: esops applies no event to it"
            )


def of_one_database(
    definition: Definition, store: EventStore, connection: psycopg.Connection
) -> None:
    """Raises Refused where a statement would have to read events of another database than its
    tables'.
    """
    if not isinstance(definition, SqlDefinition):
        return
    events, here = store.database(), database_of(connection)
    if events != here:
        raise Refused(
            "a projection of kind 'sql' reads the events where its tables are, and store "
            f"{store.name} is "
            + ("no Postgres database" if events is None else "in another database"),
            hint="Use kind 'fold' or 'handlers', which read from any store.",
        )


def check(definition: Definition, tables: Sequence[Table], *, conjoined: bool) -> None:
    """Raises UsageError or Refused where the tables, or the definition, do not fit the kind."""
    match definition:
        case FoldDefinition():
            check_key(definition, tables[0], tables[0].key, conjoined=conjoined)
        case SqlDefinition():
            sql_kind.check(definition)
        case Handlers() | ProcessDefinition():
            for table in tables:
                if not table.key:
                    raise UsageError(
                        f"{table.schema}.{table.name} has no primary key, by which rows are "
                        "written and compared",
                        hint="Add PRIMARY KEY (…) to the table's DDL.",
                    )
