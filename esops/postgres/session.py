"""What esops sets in a session before it asks anything, so that no setting of a role, a database or
an address changes what a query means or says.

pg_dump and its relatives do the same. All of it is one statement, and its answer is what the server
has set, so that the settings are read back in the same round trip. Each setting and its reason:
docs/explanation/sessions.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache

import psycopg
from psycopg import sql

from esops.errors import Refused, UnfitSession, UnreadableEncoding
from esops.postgres.statements import statements

_SQL = statements(__package__, "session")
OURS = sql.SQL(_SQL["ours"])
"""A query for the server processes of esops' own sessions in a database."""
_SETTINGS = {
    # How values are written and read. The order of day and month in DateStyle stays the role's:
    # SQL of the user may rely on it, and ISO output does not depend on it.
    "client_encoding": "UTF8",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "xmloption": "content",
    "TimeZone": "UTC",
    # What a statement means.
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    "array_nulls": "on",
    # Rows that a query would leave out without a word.
    "row_security": "off",
    "gin_fuzzy_search_limit": "0",
    # Transactions.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # Jobs take as long as they take; whoever needs a limit sets it for its own statements.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
_SINCE = {
    140000: {"idle_session_timeout": "0"},
    170000: {"transaction_timeout": "0"},
}
"""Settings by the first version of the server that has them."""
_FIXED = {
    "session_replication_role": "origin",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
}
"""What only a superuser may set, and with what other value rows or checks would be missing."""
_CONDITION = "{condition}"
_UNKNOWN_BYTES = "SQL_ASCII"


@dataclass(frozen=True, slots=True)
class SessionPurpose:
    """What a session is for, as far as its settings depend on it."""

    own_path: bool
    """Whether names without a schema are looked up in the search path of the role. Otherwise only
    in pg_catalog.
    """
    read_only: bool = False


WORK = SessionPurpose(own_path=True)
"""The user's SQL, and what it calls, runs here: DDL, statements, triggers, default values."""
READ = SessionPurpose(own_path=False)
"""Only SQL of esops' own runs here, and it names the schema of everything that is not Postgres'."""
BULK = replace(READ, read_only=True)


_reads_only: list[bool] = []
"""Not empty where no session of this process may write."""


def only_read() -> None:
    """Make every session that this process opens from now on read-only: the server itself refuses
    each write. For a process that answers whoever asks, such as `esops mcp`.
    """
    _reads_only.append(True)


_within: ContextVar[float | None] = ContextVar("statements within", default=None)


@contextmanager
def statements_within(seconds: float | None) -> Iterator[None]:
    """Let the server end each statement that takes longer, in sessions that this thread opens
    inside; None sets no limit.

    For looks that nobody waits for as long as they take, such as those of `esops serve`.
    """
    token = _within.set(seconds)
    try:
        yield
    finally:
        _within.reset(token)


def statement_limit() -> float | None:
    """The limit of `statements_within` that holds here, in seconds."""
    return _within.get()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the first connection to an address found out, for the later ones of this process."""

    version: int
    """As in server_version_num."""
    checks_clients: bool
    """Whether the server can notice that a client has gone while a statement runs."""
    options: str | None
    """The address' own `options`, which the server takes at login; None behind a pooler, which does
    not pass them on.
    """


def at_login(facts: ServerFacts) -> dict[str, str]:
    """What a driver that looks at the catalogue before anything can be set is given at login."""
    if facts.options is None:
        return {}
    ours = "-c search_path= -c quote_all_identifiers=off -c statement_timeout=0"
    return {"options": f"{facts.options} {ours}".strip()}


def set_up(facts: ServerFacts, purpose: SessionPurpose, pid: int | None = None) -> str:
    """The statement that sets a session up.

    Its one row is for `check`. There is no row, and nothing is set, where the server process is not
    the one with this `pid`: then a pooler stands between, and it is not esops' session.
    """
    condition = "true"
    if pid is not None:
        condition = f"pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid:d}"
    wanted = tuple(_wanted(facts, purpose).items())
    return _statement(wanted, own_path=purpose.own_path).replace(_CONDITION, condition)


@cache
def _statement(wanted: tuple[tuple[str, str], ...], *, own_path: bool) -> str:
    """The statement of `set_up`, with a placeholder for its condition."""
    values = [
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(
            sql.Literal(name), sql.Literal(value)
        )
        for name, value in wanted
    ]
    fixed = [sql.SQL("pg_catalog.current_setting({})").format(sql.Literal(name)) for name in _FIXED]
    # In this order: the path that is set second comes from the one that is kept first.
    path = sql.SQL("pg_catalog.current_setting('esops.path')" if own_path else "''")
    paths = sql.SQL(_SQL["keep_path"]), sql.SQL(_SQL["set_path"]).format(path)
    return (
        sql.SQL(_SQL["set_up"])
        .format(
            settings=sql.SQL(", ").join([*paths, *fixed, *values]),
            condition=sql.SQL(_CONDITION),
        )
        .as_string(None)
    )


def check(facts: ServerFacts, purpose: SessionPurpose, row: Sequence[object]) -> bool:
    """Check what `set_up` read back; returns whether the server is a replica.

    Raises UnfitSession for a setting that is another one, UnreadableEncoding.
    """
    encoding, replica, _, durable, _, path, *rest = row
    if encoding == _UNKNOWN_BYTES:
        raise UnreadableEncoding(
            "the database has the encoding SQL_ASCII, so nobody can say which characters its text "
            "consists of",
            hint="Dump it and restore it into a database with the encoding that its text really "
            "has: createdb --template=template0 --encoding=UTF8.",
        )
    wanted = {**_FIXED, **_wanted(facts, purpose)}
    found_by_name = dict(zip(wanted, rest, strict=True))
    if not purpose.own_path:
        wanted["search_path"], found_by_name["search_path"] = "", path
    if durable == "off":
        wanted["synchronous_commit"], found_by_name["synchronous_commit"] = "on", durable
    if not all(isinstance(each, str) for each in rest):
        # ADBC has read the types of the server under settings of the role (at_login).
        raise UnfitSession(
            "a setting of this role makes the types of the database unreadable for bulk reads",
            hint="Run ALTER ROLE … RESET quote_all_identifiers and RESET search_path, or name the "
            "database's own port instead of the pooler's.",
        )
    for name, value in wanted.items():
        found = str(found_by_name[name])
        # DateStyle is ISO, and the order of day and month.
        if found.partition(",")[0].lower() != value.lower():
            raise UnfitSession(
                f"the session has {name} = {found}, and esops needs {value}",
                hint=f"Run ALTER ROLE … RESET {name} (or ALTER DATABASE … RESET {name}), and leave "
                "it out of the address.",
            )
    return bool(replica)


def led_to_replica() -> Refused:
    """Why events are not read where an address that names several servers has led to this one."""
    return Refused(
        "the address led to a replica, which may lack events that the primary has",
        hint="Name the primary alone, or add target_session_attrs=read-write.",
    )


def refuse_replica(connection: psycopg.Connection) -> None:
    """Raises Refused where the server is a replica."""
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    if row is None or row[0]:
        raise led_to_replica()


def use_own_path(connection: psycopg.Connection) -> None:
    """Look names up in the role's own search path, for the transaction that the connection is in:
    SQL of the user runs, or triggers do.
    """
    connection.execute(_SQL["own_path"])


def _wanted(facts: ServerFacts, purpose: SessionPurpose) -> dict[str, str]:
    reads_only = purpose.read_only or bool(_reads_only)
    wanted = {**_SETTINGS, "default_transaction_read_only": "on" if reads_only else "off"}
    for version, settings in _SINCE.items():
        if facts.version >= version:
            wanted.update(settings)
    if not purpose.own_path:
        # Compiling gains nothing for what esops itself asks, and what is planned without scans of
        # tables looks so expensive that each statement would be compiled.
        wanted["jit"] = "off"
    if facts.checks_clients:
        wanted["client_connection_check_interval"] = "500ms"
    if (limit := _within.get()) is not None:
        # The server gives a time back in its largest whole unit; so it stays as it is written.
        wanted["statement_timeout"] = f"{int(limit) * 1000 + 1}ms"
    return wanted
