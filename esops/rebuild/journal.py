"""The journal of rebuilds: the only state that a rebuild has, so that any process can resume where
another one died.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from esops.escaping import visible_lines
from esops.postgres.statements import statements
from esops.readmodel import migrations
from esops.readmodel.composition import Composition, TablePart
from esops.readmodel.registry import Version

PLANNED, PROVISIONED, CATCHING_UP, FOLLOWING, VERIFIED = (
    "planned",
    "provisioned",
    "catching-up",
    "following",
    "verified",
)
SWITCHED, PAUSED, ABORTED, ROLLED_BACK, RETIRED = (
    "switched",
    "paused",
    "aborted",
    "rolled-back",
    "retired",
)
TESTED, REBUILT = "tested", "rebuilt"
INLINE = "switched inline"
"""What the log says of a switch to a table that the application writes itself."""
COMPOSITION = "what the tables have"
HEALED = "rows are right"
"""What it says when no row of old or mixed logic is left after such a switch."""
LEFT = "left by the application"
"""What it says of the version that was written until then, with what is in its rows."""
OLD_CODE_ENDED = "old code has ended"
"""What it says when the operator has said so, and rows of the old code may be left."""
BEFORE = "before"
"""The option that has the checkpoint from before, which a rebuild by ranges has set aside."""
HOOK_OWED, HOOK_ENDED = "hook owed", "hook ended"
"""What it says of the hook after the switch: with the switch, and when the hook has succeeded."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One rebuild as the journal has it.

    `resume_state` is the state from which a paused rebuild is resumed; `seconds` is its working
    time so far.
    """

    rebuild: int
    projection: str
    state: str
    resume_state: str | None
    from_version: int | None
    to_version: int
    options: Mapping[str, Any]
    verification: Mapping[str, Any] | None
    reason: str | None
    host: str
    pid: int
    seconds: float
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


_SQL = statements(__package__, "journal")


def begin(
    connection: psycopg.Connection,
    projection: str,
    from_version: int | None,
    to_version: int,
    options: Mapping[str, Any],
) -> JournalEntry:
    """Enter a planned rebuild."""
    row = connection.execute(
        _SQL["begin"],
        {
            "projection": projection,
            "from_version": from_version,
            "to_version": to_version,
            "options": Jsonb(dict(options)),
            **_process(),
        },
    ).fetchone()
    assert row is not None
    entry = JournalEntry(*row)
    note(connection, entry.rebuild, PLANNED, "done")
    return entry


def latest(connection: psycopg.Connection, projection: str) -> JournalEntry | None:
    """The newest rebuild of a projection, finished or not."""
    if not migrations.installed(connection):
        return None
    row = connection.execute(_SQL["latest"], (projection,)).fetchone()
    return None if row is None else JournalEntry(*row)


def reopen(connection: psycopg.Connection, entry: JournalEntry) -> JournalEntry:
    """Make an unfinished rebuild this process's own, in the state from which it is resumed."""
    # A paused rebuild remembers the state it worked in; one that died is still in it.
    state = entry.resume_state if entry.state == PAUSED and entry.resume_state else entry.state
    row = connection.execute(
        _SQL["reopen"], {"state": state, "rebuild": entry.rebuild, **_process()}
    ).fetchone()
    assert row is not None
    note(connection, entry.rebuild, state, "resumed")
    return JournalEntry(*row)


def enter(
    connection: psycopg.Connection, rebuild: int, state: str, *, finished: bool = False
) -> None:
    """Note that a state has been reached."""
    connection.execute(_SQL["enter"], {"state": state, "finished": finished, "rebuild": rebuild})


def pause(connection: psycopg.Connection, entry: JournalEntry, state: str, reason: str) -> None:
    """Note that work stopped in a state, and why."""
    reason = visible_lines(reason)  # it may be of a user's exception, and hold anything
    connection.execute(_SQL["pause"], {"state": state, "reason": reason, "rebuild": entry.rebuild})
    note(connection, entry.rebuild, state, "paused", {"reason": reason})


def retire_after(connection: psycopg.Connection, rebuild: int, seconds: float | None) -> None:
    """Note after how many seconds blue may go, or that it stays (None): what a resumed rebuild was
    given counts.
    """
    connection.execute(_SQL["retire_after"], {"rebuild": rebuild, "seconds": seconds})


def load_in_one(connection: psycopg.Connection, rebuild: int) -> None:
    """Keep that one process loads, and not several, as was planned."""
    connection.execute(_SQL["load_in_one"], (rebuild,))


def keep_before(connection: psycopg.Connection, rebuild: int, before: Mapping[str, Any]) -> None:
    """Keep what a rebuild by ranges has set aside, in the transaction that does so."""
    connection.execute(_SQL["keep_before"], (Jsonb({BEFORE: dict(before)}), rebuild))


def keep_blue(connection: psycopg.Connection, projection: str, version: int) -> None:
    """Cancel the `--retire-after` of earlier rebuilds for a version that serves again: the next
    one to replace it says what becomes of it.
    """
    connection.execute(_SQL["keep_blue"], (projection, version))


def add_seconds(connection: psycopg.Connection, rebuild: int, seconds: float) -> float:
    """Add working time; returns the sum."""
    row = connection.execute(
        "UPDATE esops.rebuilds SET seconds = seconds + %s WHERE rebuild = %s RETURNING seconds",
        (seconds, rebuild),
    ).fetchone()
    return float(row[0]) if row else seconds


def keep_verification(
    connection: psycopg.Connection, rebuild: int, verification: Mapping[str, Any] | None
) -> None:
    """Keep the outcome of a comparison."""
    connection.execute(
        "UPDATE esops.rebuilds SET verification = %s WHERE rebuild = %s",
        (None if verification is None else Jsonb(dict(verification)), rebuild),
    )


@dataclass(frozen=True, slots=True)
class InlineSwitch:
    """A switch to a table that the application writes, after which old code may write rows.

    `from_version` served before. `code` is the fingerprint of the code that built the version.
    `healed`: no row of old or mixed logic is left. `old_code_ended`: the operator has said that
    nobody writes such rows any more.
    """

    rebuild: int
    since: datetime
    from_version: int | None
    code: str | None
    healed: bool
    old_code_ended: bool


def switched_inline(
    connection: psycopg.Connection, projection: str, version: int
) -> InlineSwitch | None:
    """The last such switch to a version; None where there was none."""
    values = {
        "projection": projection,
        "version": version,
        "switched": INLINE,
        "healed": HEALED,
        "ended": OLD_CODE_ENDED,
    }
    row = connection.execute(_SQL["switched_inline"], values).fetchone()
    return None if row is None else InlineSwitch(*row)


def unhealed(connection: psycopg.Connection, projection: str, version: int) -> InlineSwitch | None:
    """The switch after which rows of a version may be of old or mixed logic; None where nothing
    says so.
    """
    found = switched_inline(connection, projection, version)
    return None if found is None or found.healed else found


def keep_composition(
    connection: psycopg.Connection,
    rebuild: int,
    versions: tuple[int, int],
    tables: Mapping[str, Composition],
) -> None:
    """Keep what the tables of a version have, by name, for a switch from it to another one:
    `versions` are the numbers of both.
    """
    parts = {name: [[p.kind, p.name, p.text] for p in each] for name, each in tables.items()}
    detail = {"of": versions[0], "for": versions[1], "tables": parts}
    note(connection, rebuild, PLANNED, COMPOSITION, detail)


def kept_composition(
    connection: psycopg.Connection, source: Version, target: Version
) -> dict[str, Composition]:
    """What the tables of a version had when it was last kept for a switch to another one; empty
    where it was not.
    """
    values = {
        "event": COMPOSITION,
        "projection": source.projection,
        "of": source.version,
        "for": target.version,
    }
    row = connection.execute(_SQL["composition"], values).fetchone()
    found = row[0] if row is not None else {}
    return {name: [TablePart(*part) for part in parts] for name, parts in found.items()}


def went_back(connection: psycopg.Connection, to: Version, from_version: int, *, back: bool) -> int:
    """Enter a switch of an inline table to a version that stood by, in its transaction; returns
    its number. `back`: it is the one that served before.
    """
    before = latest(connection, to.projection)
    entry = begin(connection, to.projection, from_version, to.version, {"back": back})
    enter(connection, entry.rebuild, SWITCHED, finished=True)
    if back:
        detail = {"from": from_version, "to": to.version}
        note(connection, entry.rebuild, SWITCHED, "rolled back", detail)
        if before is not None and before.to_version == from_version:
            enter(connection, before.rebuild, ROLLED_BACK, finished=True)
    keep_blue(connection, to.projection, to.version)
    return entry.rebuild


def accepted_code(
    connection: psycopg.Connection, projection: str, version: int
) -> list[Mapping[str, Any]]:
    """Where the operator vouched for other code while a version was built: when, on which host, and
    the position up to which the rows are of the code before (None: not known).
    """
    values = {"projection": projection, "version": version}
    rows = connection.execute(_SQL["accepted_code"], values).fetchall()
    return [{"at": at, "host": host, "position": position} for at, host, position in rows]


def moved(
    connection: psycopg.Connection, to: Version, from_version: int | None, *, back: bool
) -> None:
    """Note that `switch` or a rollback (`back`) made a version serve, in its transaction."""
    entry = latest(connection, to.projection)
    if entry is not None and back:
        detail = {"from": from_version, "to": to.version}
        note(connection, entry.rebuild, entry.state, "rolled back", detail)
    if entry is not None and back and entry.to_version == from_version:
        enter(connection, entry.rebuild, ROLLED_BACK, finished=True)
    # A rebuild that ended with --no-switch is finished by this switch.
    elif entry is not None and entry.to_version == to.version:
        enter(connection, entry.rebuild, SWITCHED, finished=True)
    keep_blue(connection, to.projection, to.version)


def owes_hook(connection: psycopg.Connection, rebuild: int) -> bool:
    """Whether the hook after a switch has not ended well, and what was switched to still serves."""
    values = {"rebuild": rebuild, "owed": HOOK_OWED, "ended": HOOK_ENDED}
    row = connection.execute(_SQL["owes_hook"], values).fetchone()
    return row is not None


def rolled_back(connection: psycopg.Connection, projection: str) -> datetime | None:
    """When a rollback made the version serve that serves now; None where something else did."""
    row = connection.execute(_SQL["rolled_back"], (projection,)).fetchone()
    return None if row is None else row[0]


def due(connection: psycopg.Connection, projections: Sequence[str]) -> list[tuple[str, int]]:
    """The versions before a switch that `--retire-after` gave a time, which is over."""
    if not migrations.installed(connection):
        return []
    return connection.execute(_SQL["due"], (list(projections),)).fetchall()


def note(
    connection: psycopg.Connection,
    rebuild: int,
    step: str,
    event: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add a line to a rebuild's log."""
    connection.execute(
        "INSERT INTO esops.rebuild_log (rebuild, step, event, detail) VALUES (%s, %s, %s, %s)",
        (rebuild, step, event, Jsonb(dict(detail or {}))),
    )


def _process() -> dict[str, Any]:
    """Who works on it: this process."""
    return {"host": socket.gethostname(), "pid": os.getpid()}
