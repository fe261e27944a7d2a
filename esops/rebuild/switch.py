"""The switch: one transaction that points the plain name at another version, forwards or back.

What readers are promised: no error, no missing table, and time never moves back. For the last, the
version that serves is
held still (its checkpoint's row is locked, which holds no table), the other one is brought to or
past its position, and
only then the name is pointed. The lock on the name itself is asked for with a short timeout and
retried, so that a long
reader makes the switch wait, and not everybody behind it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Literal

import psycopg
import structlog
from psycopg import sql

from esops.errors import Refused, Unavailable
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified, translated
from esops.postgres.grants import grant_statements
from esops.readmodel import registry
from esops.readmodel.dependants import dependants
from esops.readmodel.names import ReadModelName, physical_name
from esops.readmodel.registry import Version

log = structlog.get_logger("esops.switch")

Mode = Literal["view", "rename", "hook"]
LOCK_TIMEOUT = timedelta(milliseconds=100)
_PATIENCE = timedelta(seconds=60)


def statements(
    connection: psycopg.Connection,
    names: Sequence[ReadModelName],
    mode: Mode,
    source: Version | None,
    target: Version,
) -> list[str]:
    """The statements of a switch, in order, as the catalogue stands now.

    Raises Refused where a table is gone, or other relations refer to a name in a way that a switch
    would leave behind.
    """
    done: list[str] = []
    for model in names if mode != "hook" else ():
        schema, physical = target.tables[model.name]
        table = catalog.find_table(connection, schema, physical)
        if table is None:
            raise Refused(f"the table {schema}.{physical} of v{target.version} is gone")
        done += _of_one(connection, model, mode, table, source, target)
    return done


def _of_one(
    connection: psycopg.Connection,
    model: ReadModelName,
    mode: Mode,
    target: Table,
    source: Version | None,
    target_version: Version,
) -> list[str]:
    name = model.identifier.as_string(connection)
    current = catalog.find_table(connection, model.schema, model.name)
    done: list[str] = []
    if current is not None and current.kind in "rp":
        assert source is not None
        _refuse_dependants(connection, model, current, "a table that other relations refer to")
        moved = physical_name(model.name, source.version)
        done.append(f"ALTER TABLE {name} RENAME TO {sql.Identifier(moved).as_string(connection)}")
    if mode == "rename":
        if current is not None and current.kind == "v":
            _refuse_dependants(connection, model, current, "a view that other relations refer to")
            done.append(f"DROP VIEW {name}")
        done.append(
            f"ALTER TABLE {qualified(target.schema, target.name).as_string(connection)} "
            f"RENAME TO {sql.Identifier(model.name).as_string(connection)}"
        )
        return done
    # A version that was renamed to the plain name in mode `rename` has just got its suffix.
    physical = (
        target.name
        if target.name != model.name
        else physical_name(model.name, target_version.version)
    )
    columns = ", ".join(
        sql.Identifier(column.name).as_string(connection) for column in target.columns
    )
    body = (
        f"VIEW {name} AS SELECT {columns} FROM "
        f"{qualified(target.schema, physical).as_string(connection)}"
    )
    if current is not None and current.kind == "v" and same_columns(current, target):
        return [*done, f"CREATE OR REPLACE {body}"]
    if current is not None and current.kind == "v":
        _refuse_dependants(
            connection,
            model,
            current,
            "a view that other relations refer to, and its columns change",
        )
        done.append(f"DROP VIEW {name}")
    done.append(f"CREATE {body}")
    if current is not None:
        done += grant_statements(connection, current.oid, name)
        done += _comment(connection, current, name)
        if current.owner != _role(connection):
            done.append(
                f"ALTER VIEW {name} OWNER TO {sql.Identifier(current.owner).as_string(connection)}"
            )
    return done


def same_columns(current: Table, target: Table) -> bool:
    """Whether a view can stay as it is: same names, types and order."""
    return [(c.name, c.type) for c in current.columns] == [(c.name, c.type) for c in target.columns]


def perform(
    connection: psycopg.Connection,
    names: Sequence[ReadModelName],
    mode: Mode,
    source: Version | None,
    target: Version,
    *,
    bring_to: Callable[[Position], None],
    record: Callable[[psycopg.Connection], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    forced: bool = False,
) -> list[str]:
    """Point the plain names at a version, in one transaction. Returns the statements executed.

    `bring_to` brings the target's checkpoint to a position or past it, by other connections, or
    raises. `record` writes
    whatever belongs into the same transaction. `forced` serves the target even where it is behind.

    Raises Unavailable when the lock cannot be had within a minute.
    """
    deadline, attempt = time.monotonic() + _PATIENCE.total_seconds(), 0
    while True:
        attempt += 1
        try:
            with translated():
                done = _attempt(connection, names, mode, source, target, bring_to, record, forced)
            log.info("switched", projection=target.projection, to=target.version, attempt=attempt)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if stop() or time.monotonic() >= deadline:
                raise Unavailable(
                    f"the lock on {_named(names)} could not be had in {attempt} tries: "
                    f"{_blockers(connection, names)}",
                    hint="Nothing changed. Go on with --resume when the long reader is done.",
                ) from None
            say(
                f"waiting for readers of {_named(names)} (try {attempt}: "
                f"{_blockers(connection, names)})"
            )
            time.sleep(random.uniform(0.05, min(0.1 * attempt, 1.0)))  # noqa: S311 - spreads tries, guards nothing
        else:
            return done


def _named(names: Sequence[ReadModelName]) -> str:
    return ", ".join(map(str, names))


def _attempt(
    connection: psycopg.Connection,
    names: Sequence[ReadModelName],
    mode: Mode,
    source: Version | None,
    target: Version,
    bring_to: Callable[[Position], None],
    record: Callable[[psycopg.Connection], None],
    forced: bool,
) -> list[str]:
    with connection.transaction():
        connection.execute(
            f"SET LOCAL lock_timeout = '{int(LOCK_TIMEOUT.total_seconds() * 1000)}ms'".encode()
        )
        held = (
            registry.lock_checkpoint(connection, source.projection, source.version)
            if source is not None
            else None
        )
        if held is not None:
            bring_to(held)
        reached = registry.lock_checkpoint(connection, target.projection, target.version)
        if held is not None and not forced and (reached is None or reached < held):
            raise Refused(
                f"v{target.version} stands at {reached}, behind "
                f"v{source.version if source else '?'} at {held}"
            )
        done = statements(connection, names, mode, source, target)
        for statement in done:
            connection.execute(statement.encode())
        _note_names(connection, names, mode, source, target)
        registry.set_active(
            connection, target.projection, target.version, source.version if source else None
        )
        record(connection)
    return done


def _note_names(
    connection: psycopg.Connection,
    names: Sequence[ReadModelName],
    mode: Mode,
    source: Version | None,
    target: Version,
) -> None:
    """Keep in the registry what the renames did."""
    if source is not None and mode != "hook":
        kept = {
            name: (
                schema,
                physical_name(name, source.version) if physical == name else physical,
            )
            for name, (schema, physical) in source.tables.items()
        }
        if kept != source.tables:
            registry.set_tables(connection, source.projection, source.version, kept)
    if mode == "rename":
        registry.set_tables(
            connection,
            target.projection,
            target.version,
            {model.name: (model.schema, model.name) for model in names},
        )


def _refuse_dependants(
    connection: psycopg.Connection, model: ReadModelName, current: Table, what: str
) -> None:
    found = dependants(connection, current.oid, foreign_keys=current.kind != "v")
    if found:
        raise Refused(
            f"{model} is {what}: {', '.join(found)}; they would go on reading the old version",
            hint="Drop them before the switch and create them again after it.",
        )


def _comment(connection: psycopg.Connection, current: Table, name: str) -> list[str]:
    row = connection.execute("SELECT obj_description(%s, 'pg_class')", (current.oid,)).fetchone()
    if row is None or row[0] is None:
        return []
    return [f"COMMENT ON VIEW {name} IS {sql.Literal(row[0]).as_string(connection)}"]


def _role(connection: psycopg.Connection) -> str:
    row = connection.execute("SELECT current_user").fetchone()
    assert row is not None
    return str(row[0])


def _blockers(connection: psycopg.Connection, names: Sequence[ReadModelName]) -> str:
    rows = connection.execute(
        "SELECT DISTINCT l.pid, coalesce(a.application_name, ''), a.xact_start FROM pg_locks l "
        "LEFT JOIN pg_stat_activity a USING (pid) "
        "WHERE l.relation = ANY(SELECT to_regclass(unnest(%s::text[]))) AND l.granted AND l.pid <> "
        "pg_backend_pid() ORDER BY 3 LIMIT 3",
        ([model.identifier.as_string(connection) for model in names],),
    ).fetchall()
    if not rows:
        return "its holder has gone meanwhile"
    return "held by " + ", ".join(
        f"session {pid} ({name or 'no name'}{f', since {since:%H:%M:%S}' if since else ''})"
        for pid, name, since in rows
    )
