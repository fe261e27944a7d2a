"""Whether a rebuild in place can be aborted: as long as it has changed no row that serves."""

from __future__ import annotations

import psycopg

from esops.readmodel import registry
from esops.readmodel.shards import shards_of
from esops.rebuild import journal


def changed_nothing(connection: psycopg.Connection, entry: journal.JournalEntry) -> bool:
    """Whether an unfinished rebuild in place has changed no row yet: it has not begun, or none of
    its ranges is replaced and the checkpoint from before is known.
    """
    version = registry.version(connection, entry.projection, entry.to_version)
    ranges = shards_of(connection, version)
    if ranges:
        replaced = any(each.position == each.until for each in ranges)
        return journal.BEFORE in entry.options and not replaced
    return journal.PLANNED in (entry.state, entry.resume_state)
