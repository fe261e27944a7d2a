"""What is known of a projection beside its versions: an unfinished rebuild, and what operators ask
of the work on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from esops.config import Config
from esops.postgres.connection import connect, translated
from esops.readmodel import locks, registry
from esops.rebuild import journal
from esops.rebuild.journal import JournalEntry
from esops.rebuild.verification.result import enough
from esops.running import control
from esops.running.control import ControlRequest


@dataclass(frozen=True, slots=True)
class Affected:
    """What a pause or a limit is for now. None and nothing where nothing works."""

    rebuild: int | None = None
    """The unfinished rebuild."""
    builds: int | None = None
    """The version that it builds."""
    serving: int | None = None
    """The version that serves, where an `esops run` keeps it fresh."""
    standing_by: tuple[int, ...] = ()
    """Those that stand by, and that it keeps fresh too."""

    def __bool__(self) -> bool:
        """Whether anything works on it."""
        return bool(self.rebuild or self.serving or self.standing_by)

    def __str__(self) -> str:
        parts = []
        if self.rebuild is not None:
            parts.append(f"rebuild {self.rebuild} (v{self.builds})")
        if self.serving is not None:
            parts.append(f"what `esops run` does for v{self.serving}, which serves")
        elif self.standing_by:
            names = ", ".join(f"v{each}" for each in self.standing_by)
            parts.append(f"what `esops run` does for {names}")
        return ", and ".join(parts)


def affected(connection: psycopg.Connection, name: str) -> Affected:
    """What works on a projection now: an unfinished rebuild, and an `esops run`."""
    entry = journal.latest(connection, name)
    if entry is not None and entry.finished_at is not None:
        entry = None
    followed = [
        each
        for each in registry.versions(connection, name)
        if each.state in registry.LIVE_STATES
        and locks.holder(connection, locks.version_lock(name, each.version)) is not None
    ]
    return Affected(
        None if entry is None else entry.rebuild,
        None if entry is None else entry.to_version,
        next((each.version for each in followed if each.state == "active"), None),
        tuple(each.version for each in followed if each.state == "standby"),
    )


def look(config: Config, name: str) -> dict[str, Any]:
    """Under the documented field names: `paused`, `limits`, `postponed`, and the rebuild that is
    `unfinished`.

    Of a projection that runs inside its store nothing can be asked, and its journal is there.
    """
    if config.projection(name).kind == "server":
        return {**_asked(ControlRequest()), "unfinished": None}
    with translated(), connect(config.readmodel_of(name).dsn, "show") as connection:
        entry = journal.latest(connection, name)
        works = locks.holder(connection, locks.rebuild_lock(name)) is not None
        found = None if entry is None else unfinished(entry, works=works)
        return {**_asked(control.requested(connection, name)), "unfinished": found}


def unfinished(entry: JournalEntry, *, works: bool) -> dict[str, Any] | None:
    """A rebuild that is not finished, under the documented field names; None where it is.

    `works`: whether a process works on it now.
    """
    if entry.finished_at is not None:
        return None
    in_place = bool(entry.options.get("in_place"))
    command = f"esops rebuild {entry.projection}" + ("" if in_place else " --blue-green")
    return {
        "rebuild": entry.rebuild,
        "state": entry.state,
        "to_version": entry.to_version,
        "reason": entry.reason,
        "works": works,
        "resume": f"{command} --resume",
        "max_diff": let_through(entry),
        # One in place has changed what serves, and cannot be undone.
        "abort": None if in_place else f"{command} --abort",
    }


def let_through(entry: JournalEntry) -> str | None:
    """The `--max-diff` that lets through what a rebuild was paused for; None where rows did not
    differ, or that would not help.
    """
    found = entry.verification or {}
    if entry.state != journal.PAUSED or entry.resume_state != journal.FOLLOWING:
        return None
    if not found.get("differing") or found.get("failed_assertions"):
        return None
    return enough(found["differing"], found.get("compared") or found.get("rows_blue"))


def in_words(rebuild: Mapping[str, Any], name: str) -> str | None:
    """A line about a rebuild that waits for somebody to resume it; None while a process works."""
    if rebuild["works"]:
        return None
    stands = f"has stopped in state {rebuild['state']}, and no process works on it"
    if rebuild["state"] == journal.PAUSED:
        stands = "is paused" + (f": {rebuild['reason']}" if rebuild["reason"] else "")
    drop = f", or drop it with: {rebuild['abort']}" if rebuild["abort"] else ""
    continuing = f"continue with: {rebuild['resume']}"
    if rebuild.get("max_diff"):  # without it, it would compare again and stop again
        continuing = (
            "if the differences are what you want, continue with: "
            f"{rebuild['resume']} --max-diff {rebuild['max_diff']}"
        )
    return f"rebuild {rebuild['rebuild']} of {name} {stands}; {continuing}{drop}"


def _asked(request: ControlRequest) -> dict[str, Any]:
    return {
        "paused": {"by": request.by, "since": request.at} if request.paused else None,
        "limits": dict(request.limits),
        "postponed": request.postponed,
    }
