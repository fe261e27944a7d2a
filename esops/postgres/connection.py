"""Connections to Postgres, and its errors in sentences for an operator."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict

from esops.errors import ConnectionLost, EsopsError, RowSecurity, Unavailable, UsageError
from esops.postgres import publications
from esops.postgres.pooling import same_session, session_of
from esops.postgres.refused_logins import refused_login
from esops.postgres.session import (
    WORK,
    ServerFacts,
    SessionPurpose,
    check,
    set_up,
    statement_limit,
)
from esops.postgres.used_up import used_up
from esops.postgres.values import Cursor, adapters
from esops.settings.addresses import PublishedAddress, problem_of_dsn

LOST_STATES = frozenset(
    {"57P01", "57P02", "57P03", "57P05", "08000", "08003", "08006", "08001", "08004"}
    | {"25P03", "25P04"}
)
_STOOD_STILL = re.compile(r"due to (idle-in-transaction|transaction) timeout", re.IGNORECASE)
_LOST_TEXTS = re.compile(
    r"connection (to server|refused|reset|is closed|pointer)|server closed the connection"
    r"|the connection is (closed|lost)|terminating connection|starting up|shutting down"
    r"|could not receive data|no connection to the server"
    r"|SSL SYSCALL|Broken pipe",
    re.IGNORECASE,
)
_ADAPTERS = adapters()
_IN_FUNCTION = re.compile(r"PL/\w+ |SQL function ")
"""A line of CONTEXT that names a function; others show a statement, which may have values."""
_NO_OPTIONS = re.compile(r"unsupported startup parameter", re.IGNORECASE)
_BY_POLICY = re.compile(r'affected by row-level security policy for table "(?P<table>.*)"')
_ATTEMPTS = 4
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
"""Seconds, and how many go unanswered; libpq's parameters."""
_PASSWORD = re.compile(r"(password\s*=\s*)('[^']*'|\S+)|(://[^:/@\s]*:)[^@\s]*(?=@)", re.IGNORECASE)


def connect(dsn: str, purpose: str, session: SessionPurpose = WORK) -> psycopg.Connection:
    """Open an autocommit connection that names its purpose in pg_stat_activity, in a session whose
    settings are esops' own (session.py).

    The server notices within half a second when this process dies, and ends the session with its
    locks and statements. Raises Unavailable, UsageError for an address that cannot be read, and
    Refused for a session that cannot be esops' own (PooledSession, UnreadableEncoding).
    """
    with translated():
        connection = _open(dsn, purpose)
        try:
            _take(connection, dsn, session)
            if isinstance(dsn, PublishedAddress):
                publications.allow(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def server_of(dsn: str) -> ServerFacts:
    """What is known of the server behind an address; connects where nothing is known yet.

    Raises as `connect`.
    """
    if dsn not in _servers:
        connect(dsn, "look").close()
    return _servers[dsn]


_servers: dict[str, ServerFacts] = {}
"""By address, for the life of the process."""
_pooled: set[str] = set()
"""Addresses of poolers that were found to keep sessions."""


def _open(dsn: str, purpose: str) -> psycopg.Connection:
    problem = problem_of_dsn(dsn)
    if problem is not None:
        raise UsageError(f"the address of the database cannot be read: {problem}")
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=10,
            client_encoding="UTF8",
            application_name=application_name(purpose),
            context=_ADAPTERS,
            cursor_factory=Cursor,
            **keepalives(dsn),
        )
    except psycopg.ProgrammingError:
        # Not what libpq says: it repeats the address, with the password.
        raise UsageError(
            "the address of the database cannot be read",
            hint="Write it as a URL (postgresql://…) or as key=value pairs.",
        ) from None


def keepalives(dsn: str) -> dict[str, Any]:
    """The parameters by which a connection notices within half a minute that the server's machine
    is gone; those that the address or its service sets itself are left out.

    Raises what psycopg raises for a service that cannot be reached.
    """
    given = conninfo_to_dict(dsn)
    if "service" in given or "PGSERVICE" in os.environ:
        given |= _of_service(dsn)
    return {name: value for name, value in _KEEPALIVES.items() if name not in given}


def _of_service(dsn: str) -> dict[str, str]:
    """What is set in a service file, which only libpq finds: a connection has it."""
    if dsn not in _services:
        with psycopg.connect(dsn, connect_timeout=10) as probe:
            _services[dsn] = probe.info.get_parameters()
    return _services[dsn]


_services: dict[str, dict[str, str]] = {}
"""By address, for the life of the process."""


def _take(connection: psycopg.Connection, dsn: str, session: SessionPurpose) -> None:
    """Make a new session esops' own."""
    info = connection.info
    facts = _servers.get(dsn) or ServerFacts(
        info.server_version, info.server_version >= 140000, None
    )
    pid = same_session(connection) if dsn in _pooled else info.backend_pid
    row = None
    for _ in range(_ATTEMPTS):
        try:
            row = connection.execute(set_up(facts, session, pid).encode()).fetchone()
        except errors.QueryCanceled:
            continue  # by the role's statement_timeout, which this is about to take off
        except errors.InvalidParameterValue:
            if not facts.checks_clients:
                raise
            # A server on macOS or Windows cannot check its clients; there a dead session ends
            # later.
            facts = replace(facts, checks_clients=False)
            continue
        if row is not None or dsn in _pooled:
            break
        pid = session_of(connection, lambda: _open(dsn, "probe"))
        _pooled.add(dsn)
    if row is None:
        raise Unavailable(
            "the session could not be set up",
            hint="Check the role's statement_timeout, and that the address is not that of a pooler "
            "in transaction mode.",
        )
    check(facts, session, row)
    if dsn not in _servers:
        options = None if dsn in _pooled else info.get_parameters().get("options", "")
        facts = replace(facts, options=options)
    _servers[dsn] = facts


def application_name(purpose: str) -> str:
    """`esops <host>:<pid> <purpose>`, cut to the 63 bytes that Postgres keeps."""
    return f"{process_name(socket.gethostname(), os.getpid())} {purpose}"[:63]


def rename(connection: psycopg.Connection, purpose: str) -> None:
    """Give a connection another purpose, in pg_stat_activity too."""
    connection.execute(
        "SELECT set_config('application_name', %s, false)", (application_name(purpose),)
    )


def process_name(host: str, pid: int) -> str:
    """The beginning of the application name of a process of esops."""
    return f"esops {host[:20]}:{pid}"


def database_of(connection: psycopg.Connection) -> str:
    """A text that identifies a database among all servers: the identifier that its cluster was
    created with, and its name. Neither can change while a connection lasts.
    """
    found = _databases.get(connection)
    if found is None:
        row = connection.execute(
            "SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()"
        ).fetchone()
        assert row is not None
        found = _databases[connection] = str(row[0])
    return found


_databases: WeakKeyDictionary[psycopg.Connection, str] = WeakKeyDictionary()
"""By connection, for as long as that is used."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of psycopg and ADBC into Unavailable or ConnectionLost, where they are the
    server's; let all others through.
    """
    try:
        yield
    except EsopsError:
        raise
    except errors.InsufficientPrivilege as error:
        if error.diag.source_function == "check_enable_rls":
            raise _row_security(_first_line(error)) from error
        function = _function_of(error.diag.context)
        hint = "Grant the right, or use another role in the DSN."
        if function:
            hint += " A SECURITY DEFINER function has the rights of its owner."
        raise Unavailable(
            f"the database denies this role a right: {_first_line(error)}"
            f"{f', in {function}' if function else ''}",
            hint=hint,
        ) from error
    except (errors.InvalidPassword, errors.InvalidAuthorizationSpecification) as error:
        raise Unavailable(
            f"the database denies the login: {_first_line(error)}",
            hint="Check the user and the password.",
        ) from error
    except errors.InvalidCatalogName as error:
        raise Unavailable(
            _first_line(error), hint="Check the name of the database in the DSN."
        ) from error
    except errors.UntranslatableCharacter as error:
        raise _untranslatable() from error
    except psycopg.Error as error:
        ours = _of_server(error)
        if ours is not None:
            raise ours from error
        raise
    except Exception as error:
        # While a result is fetched, Arrow raises what the driver says as an OSError of its own.
        fetching = isinstance(error, OSError) and str(error).startswith("[libpq]")
        if fetching or type(error).__module__.startswith("adbc_driver_manager"):
            raise _of_bulk(_first_line(error), getattr(error, "sqlstate", None)) from error
        raise


def _of_server(error: psycopg.Error) -> EsopsError | None:
    """One of our errors for a lost connection, for a server that has used something up, and for a
    statement that took longer than the limit that holds here; None for all others.
    """
    if is_lost(error):
        return _lost(_first_line(error))
    full = used_up(error.sqlstate, _first_line(error))
    if full is not None:
        return full
    limit = statement_limit()
    if limit is None or not isinstance(error, errors.QueryCanceled):
        return None
    return Unavailable(
        f"a statement took longer than {limit:.0f} s, so the database ended it",
        hint="Is the server overloaded, or a table locked? `esops doctor` looks.",
    )


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that another attempt on a new one can succeed."""
    if error.sqlstate is not None:
        return error.sqlstate in LOST_STATES
    # Without a state the error does not come from the server, but from libpq: no answer arrived.
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def qualified(schema: str, name: str) -> sql.Identifier:
    """The quoted name of a table, with its schema."""
    return sql.Identifier(schema, name)


def _of_bulk(text: str, state: str | None) -> EsopsError:
    """One of our errors for one of the bulk reader's, which has a state, but no class."""
    if state in LOST_STATES or _LOST_TEXTS.search(text):
        return ConnectionLost(text)
    if state == "42501" and _BY_POLICY.search(text):
        return _row_security(text)
    if state == "22P05":
        return _untranslatable()
    return used_up(state, text) or Unavailable(f"the database failed: {text}")


def _row_security(text: str) -> RowSecurity:
    found = _BY_POLICY.search(text)
    table = f" on the table {found['table']}" if found else ""
    return RowSecurity(
        f"row security{table} hides rows from esops' role, so a part would pass for the whole",
        hint="Run ALTER ROLE … BYPASSRLS for esops' role, or make it a member of the role that "
        "owns the table. `esops doctor` prints the statement.",
    )


def _untranslatable() -> UsageError:
    return UsageError(
        "a text has a character that the database's encoding does not have",
        hint="Nothing in this database can have that name or value. A database with the encoding "
        "UTF8 holds every character.",
    )


def _lost(text: str) -> Unavailable:
    """The error for what libpq says when there is no connection.

    A denied login does not get better by waiting, so it is no ConnectionLost.
    """
    text = re.sub(r"^(connection failed|connection is bad): ", "", text)
    if _STOOD_STILL.search(text):
        return ConnectionLost(
            "esops stood still in a transaction that others wait for, so the server ended it; "
            "nothing of that transaction was done",
            hint="Was the process paused, or its machine overloaded? Run the command again; a "
            "rebuild continues with --resume.",
        )
    if _NO_OPTIONS.search(text):
        return Unavailable(
            "a pooler before the database does not accept the options of this address",
            hint="Leave `options` out of the address, and PGOPTIONS out of the environment. "
            "ALTER ROLE … SET does the same.",
        )
    return refused_login(text) or ConnectionLost(
        f"the database cannot be reached: {text}",
        hint="Check that the server is running and that the DSN names it.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return _without_secrets(lines[0]) if lines else type(error).__name__


def _function_of(context: str | None) -> str:
    """The function that an error came up in, such as a trigger's, as Postgres says it."""
    return next((line for line in (context or "").splitlines() if _IN_FUNCTION.match(line)), "")


def _without_secrets(text: str) -> str:
    return _PASSWORD.sub(lambda found: (found[1] or found[3]) + "***", text)
