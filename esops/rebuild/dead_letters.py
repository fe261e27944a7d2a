"""What an operator does about dead letters: discard them, or replay them with fixed code."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import structlog

from esops import stores
from esops.config import Config
from esops.errors import Refused
from esops.postgres.connection import connect, translated
from esops.projections.fingerprint import Code
from esops.readmodel import migrations, registry
from esops.readmodel.dead_letters import count_dead_letters, discard_dead_letters
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.rebuild.outcome import rows_of_old_code
from esops.running.code import code_of
from esops.running.replay import Replayed, Replayer
from esops.running.work import RunControl, Work

if TYPE_CHECKING:
    from collections.abc import Callable

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
        migrations.upgrade(connection)
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


def replay(
    config: Config,
    name: str,
    *,
    accept_code: bool = False,
    out_of_order: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Replayed]:
    """Replay a projection's dead letters with the code of today, in each version that is not
    retired.

    `accept_code`: also where other code made the rows so far. `out_of_order`: handlers and programs
    get them after events that came later. Raises Refused where one of these is so and was not
    accepted, or where a version is not loaded yet; Busy where a process works on it.
    """
    config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, f"replay {name}") as connection:
        skipped = count_dead_letters(connection, name)
        live = {*registry.LIVE_STATES, "building"}
        found = [
            each
            for each in registry.versions(connection, name)
            if each.state in live and each.version in skipped
        ]
        return [
            _replay(
                config,
                connection,
                each,
                accept_code=accept_code,
                out_of_order=out_of_order,
                say=say,
            )
            for each in found
        ]


def _replay(
    config: Config,
    connection: psycopg.Connection,
    version: Version,
    *,
    accept_code: bool,
    out_of_order: bool,
    say: Callable[[str], None],
) -> Replayed:
    name, settings = version.projection, config.projection(version.projection)
    definition, same = code_of(config, version)
    if not same and not accept_code:
        raise Refused(
            f"the code of {name} has changed since v{version.version} was built",
            hint="If the other rows are right as they are: esops projection dead-letters "
            f"{name} replay --accept-code. Otherwise rebuild it.",
        )
    work = Work.on(name, version.version, definition, settings)
    with stores.open_store(*config.store(version.store)) as store:
        worker = Replayer(
            store,
            config.readmodel_of(name).dsn,
            work,
            RunControl(say=say),
            lock_patience=timedelta(seconds=5),
        )
        try:
            if not out_of_order:
                worker.check_order()
            if not same:
                code = Code(definition, settings, config.directory).fingerprint
                _note_code(connection, worker.version, code)
                position = worker.position
                say(rows_of_old_code(None if position is None else str(position)))
            return worker.replay()
        finally:
            worker.close()


def _note_code(connection: psycopg.Connection, version: Version, code: str) -> None:
    entry = journal.latest(connection, version.projection)
    with connection.transaction():
        registry.note_code(connection, version, code)
        if entry is not None and entry.to_version == version.version:
            detail = {"position": str(version.position), "before": version.fingerprint, "now": code}
            journal.note(connection, entry.rebuild, entry.state, "code accepted", detail)
