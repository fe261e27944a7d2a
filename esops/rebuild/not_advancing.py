"""Why a version of a read model does not advance: what is known of it at this moment.

Nothing here says that it is stalled; whoever has found that (`esops wait`, `esops status`) asks
here who or what holds it.
"""

from __future__ import annotations

from datetime import datetime

import psycopg

from esops.events import Checkpoint
from esops.postgres.statements import statements
from esops.readmodel import by_ranges, conduct, locks
from esops.readmodel.registry import Version
from esops.running import control

_SQL = statements(__package__, "not_advancing")
NOT_FOLLOWED = "no process follows it; start one: esops run"


def of_version(connection: psycopg.Connection, version: Version) -> list[str]:
    """What keeps a version of esops' own where it is, in words; empty where a process follows it
    and waits for nobody.
    """
    unfinished = by_ranges.unfinished(connection, version)
    if unfinished is not None:
        return [unfinished.message]
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
    holder = locks.holder(connection, locks.version_lock(version.projection, version.version))
    # Between two tries a process that waits for a lock holds none of its own.
    values = {
        "pid": -1 if holder is None else holder.pid,
        "tables": [".".join(each) for each in version.tables.values()],
    }
    waits = [
        f"it waits for a lock of session {pid} ({name}, {state}{_since(since)})"
        for pid, name, state, since in connection.execute(_SQL["against"], values).fetchall()
    ]
    # With a failure, a process tries again and again as well.
    alone = holder is None and not failure and not waits
    found += [*waits, *([NOT_FOLLOWED] if alone else [])]
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
