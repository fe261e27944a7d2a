"""Why a server takes no connection, in a sentence of its own for each reason."""

from __future__ import annotations

import pytest

from esops.errors import ConnectionLost
from esops.postgres.refused_logins import refused_login

_AT = 'connection to server at "127.0.0.1", port 5432 failed: '
_ON = 'connection to server on socket "/tmp/.s.PGSQL.5432" failed: '


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            f'{_AT}FATAL:  database "nope" does not exist',
            'the server at "127.0.0.1", port 5432 has no database "nope"',
            "dbname",
        ),
        (
            f'{_ON}FATAL:  role "{{x}}" does not exist',
            'the server on socket "/tmp/.s.PGSQL.5432" has no role "{x}"',
            "user",
        ),
        (
            f'{_AT}FATAL:  password authentication failed for user "shop"',
            'the database denies the login: password authentication failed for user "shop"',
            "password",
        ),
        (f"{_AT}fe_sendauth: no password supplied", "asks for a password", "${SHOP_PASSWORD}"),
        (f'{_AT}FATAL:  role "app" is not permitted to log in', 'role "app" may not', "LOGIN"),
        (f'{_AT}FATAL:  permission denied for database "d"', "may not connect", "GRANT CONNECT"),
        (
            f'{_AT}FATAL:  database "template0" is not currently accepting connections',
            '"template0" takes no connections',
            "ALLOW_CONNECTIONS",
        ),
        (
            f'{_AT}FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", no encryption',
            "denies the login: no pg_hba.conf entry",
            "sslmode",
        ),
    ],
)
def test_what_has_to_be_changed_is_named(said, message, hint):
    error = refused_login(said)
    assert message in error.message
    assert hint in error.hint
    # Nothing waits for what only a person can change.
    assert not isinstance(error, ConnectionLost)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("FATAL:  the database system is starting up", "is starting up"),
        ("FATAL:  the database system is not yet accepting connections", "is not yet accepting"),
        ("FATAL:  sorry, too many clients already", "has no connection left"),
        ('FATAL:  too many connections for role "app"', "has no connection left"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "has no connection left",
        ),
    ],
)
def test_what_passes_is_waited_for(said, message):
    error = refused_login(_AT + said)
    assert message in error.message
    assert isinstance(error, ConnectionLost)


def test_what_no_server_said_is_left_to_the_caller():
    assert refused_login(f"{_AT}Connection refused") is None
