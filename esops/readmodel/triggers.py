"""A table's own triggers. With `switch = "rename"` they belong to what serves: in the switch's
transaction they move from the table that served to the one that serves from then on, so that each
change that readers see fires them once, and none while green is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres.catalog import Table
from esops.postgres.statements import statements

_SQL = statements(__package__, "triggers")
_ENABLED = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


@dataclass(frozen=True, slots=True)
class MovedTriggers:
    """The statements that remove triggers from the table that served, under the name of readers,
    and those that make them again once the other table has this name.
    """

    before: list[str]
    after: list[str]


def moved(
    connection: psycopg.Connection, serving: Table, target: Table, name: str
) -> MovedTriggers:
    """How triggers move to another table; one that it has already, by its DDL, stays where it is.
    `name` is the quoted name of what serves.

    Raises Refused where a trigger uses a column that the target does not have.
    """
    there = {row[0] for row in _triggers(connection, target)}
    done = MovedTriggers([], [])
    for trigger, definition, enabled, comment, columns in _triggers(connection, serving):
        if trigger in there:
            continue
        lost = [
            column
            for column in columns
            if not target.has(column) or target.column(column).type != serving.column(column).type
        ]
        if lost:
            raise Refused(
                f"the trigger {trigger} of {serving.schema}.{serving.name} uses the column "
                f"{lost[0]}, which the new version does not have or has with another type",
                hint=f"Right before the switch, run: DROP TRIGGER {trigger} ON {name}; --no-switch "
                "builds and verifies the new version in the meantime.",
            )
        done.before.append(f"DROP TRIGGER {trigger} ON {name}")
        done.after.append(definition)
        if enabled in _ENABLED:
            done.after.append(f"ALTER TABLE {name} {_ENABLED[enabled]} TRIGGER {trigger}")
        if comment is not None:
            text = sql.Literal(comment).as_string(connection)
            done.after.append(f"COMMENT ON TRIGGER {trigger} ON {name} IS {text}")
    return done


def _triggers(
    connection: psycopg.Connection, table: Table
) -> list[tuple[str, str, str, str | None, list[str]]]:
    return connection.execute(_SQL["triggers"], {"oid": table.oid}).fetchall()
