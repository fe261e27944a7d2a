"""Connections to Postgres, and libpq's errors as an operator wants to read them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors, sql

from esops.errors import ConnectionLost, EsopsError, Unavailable, UsageError

LOST_STATES = frozenset(
    {"57P01", "57P02", "57P03", "57P05", "08000", "08003", "08006", "08001", "08004"}
)
_LOST_TEXTS = re.compile(
    r"connection (to server|refused|reset|is closed|pointer)|server closed the connection"
    r"|the connection is (closed|lost)|terminating connection|starting up|shutting down"
    r"|could not receive data|no connection to the server"
    r"|SSL SYSCALL|Broken pipe",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r'authentication failed|(role|database) ".*" does not exist|no pg_hba.conf entry'
    r"|no password supplied"
)
_PASSWORD = re.compile(r"(password\s*=\s*)('[^']*'|\S+)|(://[^:/@\s]*:)[^@\s]*(?=@)", re.IGNORECASE)


def connect(dsn: str, purpose: str) -> psycopg.Connection:
    """Open an autocommit connection that names its purpose in pg_stat_activity.

    The server notices within half a second when this process has died, so that nothing of ours
    outlives us.
    Raises Unavailable, or UsageError for a DSN that libpq cannot read.
    """
    with translated():
        try:
            connection = psycopg.connect(
                dsn, autocommit=True, connect_timeout=10, application_name=application_name(purpose)
            )
        except psycopg.ProgrammingError as error:
            raise UsageError(
                f"the DSN cannot be read: {_first_line(error)}", hint="Write it as libpq wants it."
            ) from None
        connection.execute("SET TIME ZONE 'UTC'")
        if connection.info.server_version >= 140000:
            # A server on macOS or Windows cannot look after its clients in this way; there a dead
            # session just ends later.
            with suppress(psycopg.errors.InvalidParameterValue):
                connection.execute("SET client_connection_check_interval = '500ms'")
    return connection


def application_name(purpose: str) -> str:
    """`esops <host>:<pid> <purpose>`, cut to what Postgres keeps of it."""
    return f"{process_name(socket.gethostname(), os.getpid())} {purpose}"[:63]


def process_name(host: str, pid: int) -> str:
    """How a process of esops begins its application name."""
    return f"esops {host[:20]}:{pid}"


def database_of(connection: psycopg.Connection) -> str:
    """What names a database over all servers: the number that its cluster was made with, and its
    name.
    """
    row = connection.execute(
        "SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()"
    ).fetchone()
    assert row is not None
    return str(row[0])


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's and ADBC's errors into ours; a lost connection becomes ConnectionLost."""
    try:
        yield
    except EsopsError:
        raise
    except errors.InsufficientPrivilege as error:
        raise Unavailable(
            f"the database denies this role a right: {_first_line(error)}",
            hint="Grant it, or use another role in the DSN.",
        ) from error
    except (errors.InvalidPassword, errors.InvalidAuthorizationSpecification) as error:
        raise Unavailable(
            f"the database denies the login: {_first_line(error)}", hint="Check user and password."
        ) from error
    except errors.InvalidCatalogName as error:
        raise Unavailable(
            _first_line(error), hint="Check the database's name in the DSN."
        ) from error
    except psycopg.Error as error:
        if is_lost(error):
            raise _lost(_first_line(error)) from error
        raise
    except Exception as error:
        if type(error).__module__.startswith("adbc_driver_manager"):
            text = _first_line(error)
            if _LOST_TEXTS.search(text) or getattr(error, "sqlstate", None) in LOST_STATES:
                raise ConnectionLost(_without_secrets(text)) from error
        raise


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that asking again on a new one can help."""
    if error.sqlstate is not None:
        return error.sqlstate in LOST_STATES
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def qualified(schema: str, name: str) -> sql.Identifier:
    """A table's quoted name with its schema."""
    return sql.Identifier(schema, name)


def _lost(text: str) -> Unavailable:
    """What libpq says when there is no connection: a login that is denied will not get better by
    waiting.
    """
    text = re.sub(r"^(connection failed|connection is bad): ", "", text)
    if _DENIED.search(text):
        return Unavailable(
            f"the database denies the login: {text}",
            hint="Check user, password and database in the DSN.",
        )
    return ConnectionLost(
        f"the database cannot be reached: {text}",
        hint="Check that the server runs and the DSN names it.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return _without_secrets(lines[0]) if lines else type(error).__name__


def _without_secrets(text: str) -> str:
    return _PASSWORD.sub(lambda found: (found[1] or found[3]) + "***", text)
