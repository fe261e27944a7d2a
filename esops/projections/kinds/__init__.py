"""The kinds of projections: which projector a definition needs, and what its tables must be
like.
"""

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
from esops.projections.kinds.fold import Fold
from esops.projections.kinds.fold_key import check_key
from esops.projections.kinds.handlers import Handling
from esops.projections.kinds.process import Processing
from esops.projections.kinds.sql import check_range
from esops.projections.projector import Projector, VersionTables
from esops.stores.base import EventStore


def open_projector(definition: Definition, tables: VersionTables) -> Projector | None:
    """The projector of a definition; None for kind `sql`, whose statements the runner runs
    itself.

    Raises Refused where the application builds the table, and where nobody can say how the code
    calculates (arithmetic.py).
    """
    match definition:
        case FoldDefinition():
            return Fold(definition, tables)
        case Handlers():
            return Handling(definition, tables)
        case ProcessDefinition():
            return Processing(definition, tables)
        case SqlDefinition():
            return None
        case ExternalDefinition():
            raise Refused(
                f"the application builds {tables.projection}: esops applies no events to it"
            )


def of_one_database(
    definition: Definition, store: EventStore, connection: psycopg.Connection
) -> None:
    """Raises Refused where a statement would have to read events from another database than the one
    its tables are in.
    """
    if not isinstance(definition, SqlDefinition):
        return
    if store.sql is not None and store.sql.database() == database_of(connection):
        return
    if store.halves is not None:
        where = "joined with an archive, whose events no statement reads"
    else:
        where = "no Postgres database" if store.sql is None else "in another database"
    raise Refused(
        "a projection of kind 'sql' reads the events in the database of its tables, but store "
        f"{store.name} is {where}",
        hint="Use kind 'fold' or 'handlers', which read from any store.",
    )


def check(definition: Definition, tables: Sequence[Table], *, conjoined: bool) -> None:
    """Raises UsageError or Refused where the definition or its tables do not fit the kind."""
    match definition:
        case FoldDefinition():
            check_key(definition, tables[0], tables[0].key, conjoined=conjoined)
        case SqlDefinition():
            check_range(definition)
        case Handlers() | ProcessDefinition():
            for table in tables:
                if not table.key:
                    raise UsageError(
                        f"{table.schema}.{table.name} has no primary key; rows are written and "
                        "compared by it",
                        hint="Add PRIMARY KEY (…) to the table's DDL.",
                    )
