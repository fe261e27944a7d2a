"""What an operator asks of work under way, from another terminal: pause, resume, slow down, switch
now or later.

Requests are in `esops.controls`, in the read model's database. Whatever works on a projection looks
at them twice a second.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from esops.config import Config
from esops.errors import UsageError
from esops.postgres.connection import connect, process_name, translated
from esops.readmodel import migrations

_COLUMNS = "paused, postponed, switch_now, limits, by, updated_at"
"""The columns of esops.controls, as ControlRequest has its fields."""


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """What operators have asked for, of one projection.

    `limits` override those that the work was started with. `by` and `at`: who paused it and when,
    while it is paused; else who asked last.
    """

    paused: bool = False
    postponed: bool = False
    switch_now: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)
    by: str | None = None
    at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is asked for, under the documented field names."""
        return {
            "paused": self.paused,
            "postponed": self.postponed,
            "switch_now": self.switch_now,
            "limits": dict(self.limits),
        }


def requested(connection: psycopg.Connection, projection: str) -> ControlRequest:
    """What is asked for of a projection; the defaults where nobody ever asked for anything."""
    if not migrations.has(connection, "controls"):
        return ControlRequest()
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM esops.controls WHERE projection = %s",
        (projection,),
    ).fetchone()
    return ControlRequest() if row is None else ControlRequest(*row)


def request(connection: psycopg.Connection, projection: str, **changed: Any) -> ControlRequest:
    """Change what is asked for of a projection, and return what is asked for now.

    `changed` are fields of ControlRequest; in `limits`, None lifts a limit.
    """
    migrations.install(connection)
    with connection.transaction():
        connection.execute(
            "INSERT INTO esops.controls (projection) VALUES (%s) ON CONFLICT DO NOTHING",
            (projection,),
        )
        row = connection.execute(
            # Two operators at once: the second one changes what the first one has written.
            f"SELECT {_COLUMNS} FROM esops.controls WHERE projection = %s FOR UPDATE",
            (projection,),
        ).fetchone()
        assert row is not None
        before = ControlRequest(*row)
        limits = {
            key: value
            for key, value in {**before.limits, **changed.pop("limits", {})}.items()
            if value is not None
        }
        now = replace(before, limits=limits, **changed)
        stays_paused = before.paused and now.paused
        row = connection.execute(
            "UPDATE esops.controls SET paused = %s, postponed = %s, switch_now = %s, limits = %s, "
            # Whoever asks for something else while it is paused has not paused it.
            "by = CASE WHEN %s THEN by ELSE %s END, "
            "updated_at = CASE WHEN %s THEN updated_at ELSE now() END "
            f"WHERE projection = %s RETURNING {_COLUMNS}",
            (
                *(now.paused, now.postponed, now.switch_now, Jsonb(limits)),
                *(stays_paused, ourselves(), stays_paused, projection),
            ),
        ).fetchone()
        assert row is not None
    return ControlRequest(*row)


def ourselves() -> str:
    """The beginning of the application_name of this process's sessions."""
    return process_name(socket.gethostname(), os.getpid())


def ask(config: Config, name: str, **changed: Any) -> ControlRequest:
    """As `request`, for a projection of the configuration.

        ask(config, "cart_summary", paused=True)
        ask(config, "cart_summary", limits={"max_rate": 5000})

    Raises UsageError for a projection that runs inside its store, where esops has no hand in it.
    """
    check_controllable(config, name)
    with translated(), connect(config.readmodel_of(name).dsn, f"control {name}") as connection:
        return request(connection, name, **changed)


def check_controllable(config: Config, name: str) -> None:
    """Raises UsageError for a projection that runs inside its store, or is not configured."""
    if config.projection(name).kind == "server":
        raise UsageError(
            f"{name} runs inside its store: esops cannot pause or limit it",
            hint="Use the store's own administration.",
        )
