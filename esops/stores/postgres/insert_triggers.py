"""What the application has put between an insert and a table: triggers and rules.

A restore inserts, so they decide whether what was removed comes back as it was. Triggers are fired
on a copy of the table before anything is removed; a rule, which rewrites the statement, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import errors, sql

from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.session import use_own_path
from esops.postgres.statements import statements

_SQL = statements(__package__, "insert_triggers")
_HINT = (
    'Nothing was removed. With remove = "keep", esops archives the events and removes nothing; '
    "or change the trigger so that it leaves rows that come back as they are."
)


def refuse_rules(connection: psycopg.Connection, table: catalog.Table) -> None:
    """Raises Refused where rules rewrite what is inserted into a table."""
    found = [row[0] for row in connection.execute(_SQL["rules"], (table.oid,)).fetchall()]
    if found:
        raise Refused(
            f"rules of {table.schema}.{table.name} rewrite inserts, so that what is removed would "
            f"not come back as it is: {', '.join(found)}",
            hint='With remove = "keep", esops archives the events and removes nothing; or put a '
            "trigger in the place of the rule.",
        )


def fire_on_copy(
    connection: psycopg.Connection, table: catalog.Table, copy: sql.Composable
) -> list[str]:
    """Give a copy the triggers that an insert into the table fires, for the transaction that the
    connection is in; returns their names.

    Raises Refused where what one does cannot be tried there.
    """
    found = connection.execute(_SQL["triggers"], {"oid": table.oid}).fetchall()
    if not found:
        return []
    into = f" ON {copy.as_string(connection)} "
    made: dict[str, str] = {}
    for name, definition, on, depends in found:
        statement = definition.replace(on, into, 1)
        if made.get(name) == statement:
            continue  # several partitions have the same one
        if depends:
            raise _untried(name, table, "it looks at the schema or the number of its table")
        try:
            connection.execute(statement.encode())
        except errors.Error as error:
            raise _untried(name, table, str(error).splitlines()[0]) from None
        made[name] = statement
    use_own_path(connection)
    return list(made)


def names_of_triggers(connection: psycopg.Connection, table: catalog.Table) -> list[str]:
    """The triggers that an insert into a table fires."""
    found = connection.execute(_SQL["triggers"], {"oid": table.oid}).fetchall()
    return list(dict.fromkeys(row[0] for row in found))


@contextmanager
def taken_back() -> Iterator[None]:
    """Turns what the server says of rows that it does not take back into Refused."""
    try:
        yield
    except (errors.IntegrityError, errors.DataError, errors.InternalError) as error:
        raise Refused(
            "the store does not take what the archive has: " + str(error).splitlines()[0],
            hint="Nothing of these streams was written. Restore the rows that a foreign key names, "
            "or disable a trigger for the time of the restore; or restore into another store with "
            "--into.",
        ) from error


def refuse_changed(
    connection: psycopg.Connection, what: str, columns: Sequence[str], table: catalog.Table
) -> None:
    """Raises Refused for what did not come back as it was."""
    triggers = names_of_triggers(connection, table)
    name = f"{table.schema}.{table.name}"
    why = f"; triggers of {name} fire: {', '.join(triggers)}" if triggers else ""
    remedy = (
        f"Disable them for the time of the restore (ALTER TABLE {name} DISABLE TRIGGER …), or"
        if triggers
        else "Look at the table; or"
    )
    raise Refused(
        f"{what} would not come back as it was: the store would have another "
        f"{', '.join(columns)}{why}",
        hint=f"Nothing of these streams was written. {remedy} restore into another store with "
        "--into.",
    )


def _untried(name: str, table: catalog.Table, why: str) -> Refused:
    return Refused(
        f"trigger {name} of {table.schema}.{table.name} fires when events come back, and esops "
        f"cannot try what it does to them: {why}",
        hint=_HINT,
    )
