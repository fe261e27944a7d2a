"""What `--resume` says of a rebuild that has ended: only what is true by now."""

from __future__ import annotations

import psycopg

from esops.errors import UsageError
from esops.readmodel import registry
from esops.rebuild import journal
from esops.rebuild.journal import JournalEntry

_ENDED = {journal.ABORTED: "was aborted", journal.ROLLED_BACK: "was rolled back"}


def check_still_true(connection: psycopg.Connection, entry: JournalEntry) -> None:
    """Raises UsageError where what a finished rebuild reported is not so any more: an old "serves
    now" and a 0 would say that its version serves.
    """
    since = _since(connection, entry)
    if not since:
        return
    name, built = entry.projection, entry.to_version
    mode = "" if entry.options.get("in_place") else " --blue-green"
    hint = f"To build a new version: esops rebuild {name}{mode}"
    if registry.version(connection, name, built).state == "standby":
        hint = f"To serve v{built} again: esops projection switch {name} --to {built}. " + hint
    raise UsageError(
        f"{name} has no unfinished rebuild to resume: rebuild {entry.rebuild} {since}", hint=hint
    )


def _since(connection: psycopg.Connection, entry: JournalEntry) -> str:
    """What became of it since; empty where it is as it was."""
    if entry.state in _ENDED:
        return f"{_ENDED[entry.state]} at {entry.updated_at:%Y-%m-%d %H:%M:%S} UTC"
    version = registry.version(connection, entry.projection, entry.to_version)
    if entry.state in (journal.SWITCHED, journal.RETIRED) and version.state != "active":
        now = registry.active(connection, entry.projection)
        serves = "" if now is None else f", and v{now.version} serves now"
        return f"switched to v{entry.to_version}, which is {version.state} by now{serves}"
    if entry.state == journal.VERIFIED and version.state not in ("standby", "active"):
        return f"built v{entry.to_version}, which is {version.state} by now"
    return ""
