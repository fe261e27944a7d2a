"""Why a version of a read model does not advance: what is known of it at this moment.

Nothing here says that it is stalled; whoever has found that (`esops wait`, `esops status`) asks
here who or what holds it.
"""

from __future__ import annotations

from datetime import datetime

import psycopg

from esops.events import Checkpoint
from esops.postgres.statements import statements
from esops.readmodel import conduct, locks
from esops.readmodel.registry import Version
from esops.running import control

_SQL = statements(__package__, "not_advancing")


def of_version(connection: psycopg.Connection, version: Version) -> list[str]:
    """What keeps a version of esops' own where it is, in words; empty where a process follows it
    and waits for nobody.
    """
    found = []
    asked = control.requested(connection, version.projection)
    if asked.paused:
        found.append(
            f"paused{_since(asked.at)}{f' by {asked.by}' if asked.by else ''}; resume it with: "
            f"esops projection resume {version.projection}"
        )
    failure = conduct.failure(connection, version)
    if failure is not None:
        found.append(str(failure))
    lock = locks.version_lock(version.projection, version.version)
    holder = locks.holder(connection, lock)
    if holder is None:
        # With a failure, a process tries again and again, and holds the lock in between.
        found += [] if failure else ["no process follows it; start one: esops run"]
        return found
    rows = connection.execute(_SQL["blocking"], {"pid": holder.pid}).fetchall()
    for pid, name, state, since in rows:
        found.append(
            f"its process {holder.process} waits for a lock of session {pid} ({name}, "
            f"{state}{_since(since)})"
        )
    return found


def of_processor(reader: Checkpoint) -> str:
    """What the store says of an application's processor, in words."""
    said = [reader.state] if reader.state not in ("unknown", "tracked") else []
    said += [reader.evidence] if reader.evidence else []
    dead = reader.detail.get("dead letters")
    said += [f"{dead} dead letters"] if dead else []
    return f"the application's processor {reader.name} makes it" + (
        f": {', '.join(said)}" if said else ""
    )


def _since(moment: datetime | None) -> str:
    return "" if moment is None else f" since {moment:%Y-%m-%d %H:%M:%S} UTC"
