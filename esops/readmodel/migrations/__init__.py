"""esops' own tables, in numbered steps, and the way from any older form of them to the newest.

`NNN.sql` beside this file are the steps, in their order. What was released never changes: whatever
comes later is a file with the next number. A step runs once in each database, so it may alter
tables; it has to leave them usable by a process of the version before, which may still be running.

The table esops.schema_migrations says which steps a database has. The first four steps are older
than that table: where it is missing, the tables that are there tell the number.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

from esops.errors import Busy, Refused, Unavailable
from esops.postgres import catalog, publications
from esops.postgres.grants import grant_statements
from esops.postgres.statements import script, statements

_SQL = statements(__package__, "queries")
_STEP = re.compile(r"(\d{3})\.sql")
_CREATED = re.compile(r"CREATE TABLE IF NOT EXISTS esops\.(\w+)")
_LOCK_TIMEOUT = "10s"
_REMEMBERED_SECONDS = 5.0
"""For so long a session is not asked again whether the tables are in the newest form: a process
that found them so may continue beside a newer one anyway.
"""
_found_newest: WeakKeyDictionary[psycopg.Connection, float] = WeakKeyDictionary()
"""When a session last found them so."""
before_writing: list[Callable[[psycopg.Connection], None]] = []
"""Called with each session in which somebody is about to write, after the tables are in place. Each
uses a session of its own, and raises nothing.
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: its number, and the statements that bring the tables from the one before to it."""

    number: int
    sql: LiteralString


@cache
def known() -> tuple[Migration, ...]:
    """The steps that this esops knows, in their order."""
    numbers = sorted(
        found[1] for each in files(__package__).iterdir() if (found := _STEP.fullmatch(each.name))
    )
    return tuple(Migration(int(number), script(__package__, number)) for number in numbers)


def newest() -> int:
    """The number of the last step, which is the schema that this esops reads and writes."""
    return known()[-1].number


@cache
def own_tables() -> frozenset[str]:
    """The names of all tables that esops makes in its schema, in any step."""
    made = (name for each in known() for name in _CREATED.findall(each.sql))
    return frozenset({"schema_migrations", *made})


def schema_number(connection: psycopg.Connection) -> int:
    """The number of a database's last step, which may be newer than this esops; 0 where esops never
    was.

    Costs two short reads where esops is, takes no lock and needs no right but to read.
    """
    row = connection.execute(_SQL["counted"]).fetchone()
    assert row is not None
    if not row[0]:
        row = connection.execute(_SQL["recognise"]).fetchone()
        assert row is not None
        counted, recognised = row
        if not counted:
            return int(recognised)
    row = connection.execute(_SQL["last_step"]).fetchone()
    assert row is not None
    return int(row[0])


def installed(connection: psycopg.Connection) -> bool:
    """Whether esops' tables are there, in the newest form or in an older one that can be read.

    Raises Refused where a newer esops made them.
    """
    return _remembered(connection) or _number(connection) > 0


def has(connection: psycopg.Connection, table: str) -> bool:
    """Whether there is this table of esops' own, which came with one of the steps."""
    return _remembered(connection) or catalog.exists(connection, f"esops.{table}")


def plan(connection: psycopg.Connection) -> list[str]:
    """The statements that `install` would run now, word for word; none where all is in place.

    Raises Refused where a newer esops made the tables, or where a publication would publish them.
    """
    number = _number(connection)
    steps = [each for each in known() if each.number > number]
    if not steps:
        return []
    # A new column of an old table stops a subscriber as well.
    publications.check_new_tables(connection, "esops", "esops' own tables")
    found = connection.execute(_SQL["there_already"]).fetchone()
    assert found is not None
    schema, tables, versions, owner = found
    result = [] if schema else ["CREATE SCHEMA esops"]
    result.append(_SQL["create_schema_migrations"])
    created = ["schema_migrations"]
    for step in steps:
        result.append(step.sql.strip())
        created += _CREATED.findall(step.sql)
    if versions is not None:
        # Roles that were granted rights on the older tables work with the new ones as well, without
        # the administrator who granted them.
        for table in created:
            if table not in tables:
                result += grant_statements(connection, versions, f"esops.{table}")
                if owner is not None:
                    name = sql.Identifier(owner).as_string(connection)
                    result.append(f"GRANT ALL ON esops.{table} TO {name}")
    result.append(_record(newest()))
    return result


def plan_lines(statements: Sequence[str]) -> list[str]:
    """The statements of `plan` as lines of a plan that a person reads; none for none."""
    if not statements:
        return []
    lines = [line for each in statements for line in f"{each.removesuffix(';')};".splitlines()]
    return ["  -- once, for esops' own tables", *(f"  {line}".rstrip() for line in lines)]


def upgrade(connection: psycopg.Connection) -> None:
    """Bring esops' tables to the newest form where an older esops made them; create none.

    For whoever is about to write to them. Raises as `install` does.
    """
    if installed(connection):
        install(connection)


def install(connection: psycopg.Connection) -> None:
    """Bring esops' tables to the newest form, or make them, and tell `before_writing` so.

    Raises as `_install` does.
    """
    _install(connection)
    for tell in before_writing:
        tell(connection)


def _install(connection: psycopg.Connection) -> None:
    """Bring esops' tables to the newest form, or make them; nothing where they are in it.

    All or nothing, in one transaction, under a lock that makes a second process wait and then find
    nothing to do. The connection must not be in a transaction. Raises Refused where a newer esops
    made the tables or a publication would publish them, Unavailable where the role may not change
    them, and Busy where somebody else holds them for longer than ten seconds.
    """
    number = newest() if _remembered(connection) else _number(connection)
    if number == newest():
        return
    try:
        with connection.transaction():
            # Each statement has to see what the process before us committed while we waited for the
            # lock, whatever isolation the role has by default.
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            connection.execute(_SQL["lock"])
            for statement in plan(connection):
                connection.execute(statement.encode())
    except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction) as error:
        raise _denied(connection, number, error) from error
    except errors.UniqueViolation as error:
        raise _two_active(connection) or error from error
    except errors.LockNotAvailable as error:
        raise Busy(
            f"esops' own tables have to be changed, but another session has held them for "
            f"{_LOCK_TIMEOUT}",
            hint="Try again. If it stays so, look for a long transaction in pg_stat_activity.",
        ) from error


def _remembered(connection: psycopg.Connection) -> bool:
    found = _found_newest.get(connection)
    return found is not None and time.monotonic() - found < _REMEMBERED_SECONDS


def _number(connection: psycopg.Connection) -> int:
    """The number of the last step. Raises Refused where a newer esops made the tables."""
    number = schema_number(connection)
    if number > newest():
        raise Refused(
            f"a newer esops made esops' own tables in this database: they are at schema {number}, "
            f"and this one knows schema {newest()}",
            hint="Upgrade esops on this machine; nothing was read or changed.",
        )
    # What a transaction sees may be rolled back.
    if number == newest() and connection.info.transaction_status == TransactionStatus.IDLE:
        _found_newest[connection] = time.monotonic()
    return number


def _record(number: int) -> str:
    try:
        esops = version("esops")
    except PackageNotFoundError:  # run from a checkout that is not installed
        esops = "unknown"
    return _SQL["record"] % (sql.Literal(esops).as_string(None), number)


def two_active(connection: psycopg.Connection) -> list[tuple[str, list[int], int | None]]:
    """Projections of which an older esops noted several versions as serving: those versions, and
    the one that the last switch pointed readers at.
    """
    return connection.execute(_SQL["two_active"]).fetchall()


def remedy_of_two(projection: str, versions: Sequence[int], switched_to: int | None) -> str:
    """What to do where several versions are noted as serving."""
    wrong = [each for each in versions if each != switched_to]
    numbers = ", ".join(map(str, wrong or versions))
    statement = (
        "UPDATE esops.versions SET state = 'standby' WHERE projection = "
        f"{sql.Literal(projection).as_string(None)} AND version IN ({numbers});"
    )
    last = f" The last switch was to v{switched_to}." if switched_to is not None else ""
    return (
        f"Look which of their tables readers see (\\d+ in psql).{last} Then let the others stand "
        f"by: {statement}"
    )


def _two_active(connection: psycopg.Connection) -> Refused | None:
    """The error where the index on the version that serves cannot be made."""
    for projection, versions, switched_to in two_active(connection):
        serving = " and ".join(f"v{each}" for each in versions)
        return Refused(
            f"esops' own tables say that {serving} of {projection} serve at the same time, as an "
            "older esops could leave them. Nothing was changed",
            hint=remedy_of_two(projection, versions, switched_to),
        )
    return None


def _denied(connection: psycopg.Connection, number: int, error: psycopg.Error) -> Unavailable:
    what = (
        f"esops' own tables have to be brought from schema {number} to {newest()}"
        if number
        else "esops' own tables have to be created, once"
    )
    reason = error.diag.message_primary or str(error)
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return Unavailable(
            f"{what}, and the database takes no writes: {reason}",
            hint="Is it a replica? Give the read model's DSN of the primary.",
        )
    row = connection.execute(_SQL["owner_of_schema"]).fetchone()
    role = sql.Identifier(connection.info.user).as_string(connection)
    if row is None:
        database = sql.Identifier(connection.info.dbname).as_string(connection)
        remedy = (
            f"GRANT CREATE ON DATABASE {database} TO {role}; "
            f"or: CREATE SCHEMA esops AUTHORIZATION {role};"
        )
    else:
        owner = sql.Identifier(row[0]).as_string(connection)
        remedy = (
            f"Run the same command once as {row[0]}, who owns the schema esops; "
            f"or: GRANT {owner} TO {role};"
        )
    return Unavailable(f"{what}, and this role may not do that: {reason}", hint=remedy)
