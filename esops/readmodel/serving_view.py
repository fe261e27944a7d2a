"""The view by which the application reads the version that serves.

It is the application's: whatever was set for it (options, rights, comments, owner) stays
when it is pointed at another version. Postgres would keep only a part of that.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.grants import Change, default_rights, hand_over, rights
from esops.postgres.statements import statements
from esops.readmodel.names import ReadModelName

_SQL = statements(__package__, "serving_view")


def check_unchanged(
    connection: psycopg.Connection, name: ReadModelName, view: Table, source: Table | None
) -> None:
    """Raises Refused where a view does not simply show the table of the version that serves.

    A filter or a column that somebody added would be gone after a switch.
    """
    if source is None or shows(connection, view, source):
        return
    raise Refused(
        f"somebody changed the view {name}: it does not show {source.schema}.{source.name} as it "
        "is, and a switch would undo that",
        hint="Put the change into a view of its own, and set this one back: "
        + set_back(connection, name, view, source),
    )


def shows(connection: psycopg.Connection, view: Table, source: Table) -> bool:
    """Whether a view shows a table as it is: all its columns and rows."""
    row = connection.execute(_SQL["view"], {"view": view.oid, "table": source.oid}).fetchone()
    return row is None or row[1] in row[2]


def set_back(
    connection: psycopg.Connection, name: ReadModelName, view: Table, source: Table
) -> str:
    """The statement that makes a view show a table as it is."""
    table = qualified(source.schema, source.name).as_string(connection)
    shown, all_columns = (tuple(c.name for c in each.columns) for each in (view, source))
    # Postgres replaces a view only where its columns stay, with new ones after them.
    made = "CREATE OR REPLACE" if all_columns[: len(shown)] == shown else "DROP and CREATE"
    columns = ", ".join(sql.Identifier(each).as_string(connection) for each in all_columns)
    view_name = name.identifier.as_string(connection)
    return f"{made} VIEW {view_name} AS SELECT {columns} FROM {table}"


def check_owner(connection: psycopg.Connection, name: ReadModelName, current: Table) -> None:
    """Raises Refused where this role may not change what has the name now, since only its owner
    may.
    """
    row = connection.execute(
        "SELECT current_user, pg_has_role(%s, 'USAGE')", (current.owner,)
    ).fetchone()
    assert row is not None
    role, may = row
    if may:
        return
    what = "VIEW" if current.kind == "v" else "TABLE"
    me, shown = sql.Identifier(role), name.identifier.as_string(connection)
    raise Refused(
        f"{name} belongs to role {current.owner}, so role {role} may not switch it",
        hint=f"Once, as {current.owner} or an administrator: ALTER {what} {shown} OWNER TO "
        f"{me.as_string(connection)}; Or run esops as a member of {current.owner}.",
    )


def show(
    connection: psycopg.Connection,
    name: ReadModelName,
    current: Table | None,
    target: Table,
    physical: str,
    *,
    stays: bool,
) -> list[str]:
    """The statements that make a name a view of the target's table, which has the name `physical`
    by then.

    `current` is what has the name now; `stays`: it is a view that is replaced in its place.
    """
    view = name.identifier.as_string(connection)
    columns = ", ".join(
        sql.Identifier(column.name).as_string(connection) for column in target.columns
    )
    body = (
        f"VIEW {view}{_options(connection, current)} AS SELECT {columns} FROM "
        f"{qualified(target.schema, physical).as_string(connection)}"
    )
    if stays:
        return [f"CREATE OR REPLACE {body}"]
    done = [f"CREATE {body}"]
    if current is None:
        return done
    wanted = rights(connection, current.oid).where(target.has)
    by_default = default_rights(connection, name.schema)
    return [
        *done,
        *_described(connection, view, current, target),
        *hand_over(connection, "VIEW", Change(view, by_default, wanted)),
    ]


def _options(connection: psycopg.Connection, current: Table | None) -> str:
    """The options of a view, which CREATE OR REPLACE would reset: security_invoker among them."""
    if current is None:
        return ""
    row = connection.execute(_SQL["options"], (current.oid,)).fetchone()
    return f" WITH ({row[0]})" if row is not None and row[0] else ""


def _described(
    connection: psycopg.Connection, view: str, current: Table, target: Table
) -> list[str]:
    """The comments on a relation and on its columns."""
    done: list[str] = []
    row = connection.execute("SELECT obj_description(%s, 'pg_class')", (current.oid,)).fetchone()
    if row is not None and row[0] is not None:
        done.append(f"COMMENT ON VIEW {view} IS {_literal(connection, row[0])}")
    names = [column.name for column in target.columns]
    for column, comment in connection.execute(
        _SQL["comments"], {"oid": current.oid, "columns": names}
    ).fetchall():
        done.append(f"COMMENT ON COLUMN {view}.{column} IS {_literal(connection, comment)}")
    return done


def _literal(connection: psycopg.Connection, text: str) -> str:
    return sql.Literal(text).as_string(connection)
