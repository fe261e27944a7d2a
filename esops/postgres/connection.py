"""Connections to Postgres, and its errors in sentences for an operator."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors, sql

from esops.errors import ConnectionLost, EsopsError, Unavailable, UsageError
from esops.postgres.values import Cursor, adapters

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
_ADAPTERS = adapters()
_PASSWORD = re.compile(r"(password\s*=\s*)('[^']*'|\S+)|(://[^:/@\s]*:)[^@\s]*(?=@)", re.IGNORECASE)


def connect(dsn: str, purpose: str) -> psycopg.Connection:
    """Open an autocommit connection that names its purpose in pg_stat_activity.

    The server notices within half a second when this process dies, and ends the session with its
    locks and statements. Raises Unavailable, or UsageError for a DSN that libpq cannot read.
    """
    with translated():
        try:
            connection = psycopg.connect(
                dsn,
                autocommit=True,
                connect_timeout=10,
                application_name=application_name(purpose),
                context=_ADAPTERS,
                cursor_factory=Cursor,
            )
        except psycopg.ProgrammingError as error:
            raise UsageError(
                f"the DSN cannot be read: {_first_line(error)}",
                hint="Write it as a URL (postgresql://…) or as key=value pairs.",
            ) from None
        connection.execute("SET TIME ZONE 'UTC'")
        if connection.info.server_version >= 140000:
            # A server on macOS or Windows cannot check its clients; there a dead session ends
            # later.
            with suppress(psycopg.errors.InvalidParameterValue):
                connection.execute("SET client_connection_check_interval = '500ms'")
    return connection


def application_name(purpose: str) -> str:
    """`esops <host>:<pid> <purpose>`, cut to the 63 bytes that Postgres keeps."""
    return f"{process_name(socket.gethostname(), os.getpid())} {purpose}"[:63]


def process_name(host: str, pid: int) -> str:
    """The beginning of the application name of a process of esops."""
    return f"esops {host[:20]}:{pid}"


def database_of(connection: psycopg.Connection) -> str:
    """A text that identifies a database among all servers: the identifier that its cluster was
    created with, and its name.
    """
    row = connection.execute(
        "SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()"
    ).fetchone()
    assert row is not None
    return str(row[0])


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
        raise Unavailable(
            f"the database denies this role a right: {_first_line(error)}",
            hint="Grant the right, or use another role in the DSN.",
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
    """Whether the connection is gone, so that another attempt on a new one can succeed."""
    if error.sqlstate is not None:
        return error.sqlstate in LOST_STATES
    # Without a state the error does not come from the server, but from libpq: no answer arrived.
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def qualified(schema: str, name: str) -> sql.Identifier:
    """The quoted name of a table, with its schema."""
    return sql.Identifier(schema, name)


def _lost(text: str) -> Unavailable:
    """The error for what libpq says when there is no connection.

    A denied login does not get better by waiting, so it is no ConnectionLost.
    """
    text = re.sub(r"^(connection failed|connection is bad): ", "", text)
    if _DENIED.search(text):
        return Unavailable(
            f"the database denies the login: {text}",
            hint="Check the user, the password and the database in the DSN.",
        )
    return ConnectionLost(
        f"the database cannot be reached: {text}",
        hint="Check that the server is running and that the DSN names it.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return _without_secrets(lines[0]) if lines else type(error).__name__


def _without_secrets(text: str) -> str:
    return _PASSWORD.sub(lambda found: (found[1] or found[3]) + "***", text)
