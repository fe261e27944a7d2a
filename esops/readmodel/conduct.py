"""How a version was kept fresh since it was built: by other code, or not at all, and why.

It is in the log of the rebuild that built the version, and only ever added to: what is added last
says what is so now.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from esops.errors import EsopsError
from esops.escaping import visible_lines
from esops.postgres.statements import statements
from esops.readmodel.registry import Version

_SQL = statements(__package__, "conduct")
OTHER_CODE, OWN_CODE, FAILED, FIXED = "other code", "own code", "failed", "fixed"
LEFT_ALONE = "left alone"
_HOW_FRESH = FAILED, FIXED, LEFT_ALONE


@dataclass(frozen=True, slots=True)
class OtherCode:
    """From which position on a version was advanced by other code than it was built by."""

    at: datetime
    host: str
    position: str | None

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {"at": self.at, "host": self.host, "position": self.position}

    def __str__(self) -> str:
        where = "from its start" if self.position is None else f"from position {self.position} on"
        return f"advanced {where} by other code than it was built by, so its rows are of both"


@dataclass(frozen=True, slots=True)
class FollowFailure:
    """Why a version is not kept fresh: since when the same reason, and what to do."""

    since: datetime
    reason: str
    hint: str | None
    by: str

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {"since": self.since, "reason": self.reason, "hint": self.hint, "by": self.by}

    def __str__(self) -> str:
        return f"fails since {self.since:%Y-%m-%d %H:%M:%S} UTC ({self.by}): {self.reason}"


def other_code(connection: psycopg.Connection, version: Version) -> OtherCode | None:
    """Where other code began to advance a version; None where only its own code ever did."""
    notes = _notes(connection, version, (OTHER_CODE, OWN_CODE))
    here = None if version.position is None else str(version.position)
    for number, (at, event, detail) in enumerate(notes):
        # Where it had got to when the next one began, or now.
        later = notes[number + 1][2].get("position") if number + 1 < len(notes) else here
        if event == OTHER_CODE and later != detail.get("position"):
            return OtherCode(at, detail["host"], detail.get("position"))
    return None


def note_code(connection: psycopg.Connection, version: Version, other: str | None) -> None:
    """Note which code advances a version from now on: its own (None), or other code, by its
    fingerprint. Adds nothing where that is noted already.
    """
    notes = _notes(connection, version, (OTHER_CODE, OWN_CODE))
    last = notes[-1][2].get("fingerprint") if notes else None
    if last != other:
        at = None if version.position is None else str(version.position)
        event = OWN_CODE if other is None else OTHER_CODE
        _add(connection, version, event, {"position": at, "fingerprint": other})


def failure(connection: psycopg.Connection, version: Version) -> FollowFailure | None:
    """Why a version is not kept fresh now; None where nothing failed, or it was advanced since."""
    notes = _notes(connection, version, _HOW_FRESH)
    if not notes or notes[-1][1] != FAILED:
        return None
    at, _, detail = notes[-1]
    if version.updated_at is not None and version.updated_at > at:
        return None
    return FollowFailure(
        at, detail["reason"], detail.get("hint"), f"{detail['host']}:{detail['pid']}"
    )


def note_failure(
    connection: psycopg.Connection, version: Version, error: EsopsError, by: int
) -> None:
    """Note why a version's process ended, which the process with the id `by` starts again. Adds
    nothing where the same reason is noted already.
    """
    # It may be of a user's exception, and hold anything.
    reason = visible_lines(error.message)
    known = failure(connection, version)
    if known is None or known.reason != reason:
        hint = {"hint": visible_lines(error.hint)} if error.hint else {}
        _add(connection, version, FAILED, {"reason": reason, "pid": by, **hint})


def note_fixed(connection: psycopg.Connection, version: Version) -> None:
    """Note that a version is kept fresh again."""
    notes = _notes(connection, version, _HOW_FRESH)
    if notes and notes[-1][1] != FIXED:
        _add(connection, version, FIXED, {})


def left_alone(connection: psycopg.Connection, version: Version) -> bool:
    """Whether `esops run` leaves a version alone that stands by, since other code built it than
    there was then.
    """
    if version.state != "standby":
        return False
    notes = _notes(connection, version, _HOW_FRESH)
    if not notes or notes[-1][1] != LEFT_ALONE:
        return False
    return version.updated_at is None or version.updated_at <= notes[-1][0]


def note_left_alone(connection: psycopg.Connection, version: Version) -> None:
    """Note that a version that stands by is left alone. Adds nothing where that is noted."""
    if not left_alone(connection, version):
        _add(connection, version, LEFT_ALONE, {})


def _notes(
    connection: psycopg.Connection, version: Version, events: tuple[str, ...]
) -> list[tuple[datetime, str, Mapping[str, Any]]]:
    values = {
        "projection": version.projection,
        "version": version.version,
        "events": list(events),
    }
    return connection.execute(_SQL["notes"], values).fetchall()


def _add(
    connection: psycopg.Connection, version: Version, event: str, detail: Mapping[str, Any]
) -> None:
    values = {
        "projection": version.projection,
        "version": version.version,
        "step": version.state,
        "event": event,
        "detail": Jsonb({"host": socket.gethostname(), "pid": os.getpid(), **detail}),
    }
    connection.execute(_SQL["add"], values)
