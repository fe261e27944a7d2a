"""What an operator does about dead letters: discard them, or replay them with fixed code."""

from __future__ import annotations

import structlog

from esops.config import Config
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations
from esops.readmodel.dead_letters import discard_dead_letters
from esops.rebuild import journal

log = structlog.get_logger("esops.versions")
_NOTED = 100
"""How many positions the journal keeps of what was discarded."""


def discard(config: Config, name: str) -> int:
    """Forget a projection's dead letters: its rows stay without those events. Returns how many.

    The journal keeps a note. Raises UsageError for an unknown projection.
    """
    config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, f"discard {name}") as connection:
        if not migrations.installed(connection):
            return 0
        with connection.transaction():
            gone = discard_dead_letters(connection, name)
            entry = journal.latest(connection, name)
            if gone and entry is not None:
                detail = {
                    "events": len(gone),
                    "first": [f"v{version} at {position}" for version, position in gone[:_NOTED]],
                }
                journal.note(
                    connection, entry.rebuild, entry.state, "dead letters discarded", detail
                )
    log.info("dead letters discarded", projection=name, events=len(gone))
    return len(gone)
