"""What a server says when it takes no connection, in sentences for an operator.

libpq gives such an answer as text only, without a state. What is not known here, such as an answer
in another language, is left to the caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from esops.errors import ConnectionLost, Unavailable

_SERVER = re.compile(
    r'^connection to server (?P<where>(at|on socket) ".*?"(?: \([^)]*\))?(?:, port \d+)?) failed: '
    r"(?:\w+:  )?"
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer: what it looks like, and what it means; names in braces are groups of it."""

    pattern: re.Pattern[str]
    message: str
    hint: str
    passes: bool = False
    """Whether a later attempt can succeed, without anybody changing the address or a right."""


def _answer(pattern: str, message: str, hint: str, *, passes: bool = False) -> _Answer:
    return _Answer(re.compile(pattern), message, hint, passes)


_ANSWERS = (
    _answer(
        r'database "(?P<name>.*)" does not exist',
        'the server {where} has no database "{name}"',
        "Check dbname in the DSN. Without one, libpq takes the name of the user.",
    ),
    _answer(
        r'role "(?P<name>.*)" does not exist',
        'the server {where} has no role "{name}"',
        "Check the user in the DSN. Without one, libpq takes the name of the system's user.",
    ),
    _answer(
        r"no password supplied",
        "the database denies the login: the server {where} asks for a password, and there is none",
        "Write it into ~/.pgpass, set PGPASSWORD, or name a variable in the DSN: "
        "password=${{SHOP_PASSWORD}}.",
    ),
    _answer(
        r"(?P<what>.*authentication failed.*)",
        "the database denies the login: {what}",
        "Check the user and the password: in the DSN, PGPASSWORD, or ~/.pgpass.",
    ),
    _answer(
        r'role "(?P<name>.*)" is not permitted to log in',
        'the role "{name}" may not log in',
        "Name a role that may, or run ALTER ROLE … LOGIN.",
    ),
    _answer(
        r'permission denied for database "(?P<name>.*)"',
        'this role may not connect to the database "{name}"',
        "Run GRANT CONNECT ON DATABASE … TO its role, as the owner of the database.",
    ),
    _answer(
        r'database "(?P<name>.*)" is not currently accepting connections',
        'the database "{name}" takes no connections',
        "Name another database in the DSN, or run ALTER DATABASE … ALLOW_CONNECTIONS true.",
    ),
    _answer(
        r"(?P<what>(no pg_hba.conf entry|pg_hba.conf rejects).*)",
        "the database denies the login: {what}",
        "Add a line for this role, database and address to the server's pg_hba.conf; with "
        '"no encryption", sslmode=require in the DSN may be enough.',
    ),
    _answer(
        r"(?P<what>too many (connections|clients).*|.*connection slots are reserved.*"
        r"|sorry, too many clients.*)",
        "the server {where} has no connection left: {what}",
        "End some, or raise max_connections or the limit of the role or database. Then try again.",
        passes=True,
    ),
    _answer(
        r"the database system is (?P<what>starting up|shutting down|in recovery mode"
        r"|not yet accepting connections|not accepting connections)",
        "the server {where} is {what}",
        "Wait until it is ready, and run the command again.",
        passes=True,
    ),
)


def refused_login(text: str) -> Unavailable | None:
    """The error for the first line of what libpq says; None where it is none of these.

    ConnectionLost where waiting helps; where somebody has to change something, its parent.
    """
    server = _SERVER.match(text)
    said = text[server.end() :] if server else text
    where = server["where"] if server else "of this address"
    for each in _ANSWERS:
        found = each.pattern.search(said)
        if found is not None:
            message = each.message.format(where=where, **found.groupdict())
            kind = ConnectionLost if each.passes else Unavailable
            return kind(message, hint=each.hint.format())
    return None
