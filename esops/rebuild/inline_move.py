"""Which version serves, of a table that the application writes with each append: from one that
exists to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from esops.config import Config
from esops.errors import Refused
from esops.postgres.connection import connect, translated
from esops.readmodel.registry import Version
from esops.rebuild import going_back, inline_switch, journal, switch
from esops.rebuild.freshness import check_not_given_up
from esops.rebuild.ready_to_go_back import Going, Ready, look
from esops.rebuild.retiring import take_lock
from esops.rebuild.session import Session
from esops.rebuild.snapshots import SnapshotPatience
from esops.rebuild.switched import Accepted, Switched
from esops.rebuild.target import Target, resolve
from esops.stores import open_store
from esops.stores.base import EventStore
from esops.wording import count

Choose = Callable[[psycopg.Connection], tuple[Version | None, Version]]
"""Gives the version that serves, and the one that is to."""


@dataclass(frozen=True)
class InlineMove:
    """A switch between versions of one projection."""

    config: Config
    name: str
    accepted: Accepted
    patience: SnapshotPatience
    stop: Callable[[], bool]
    say: Callable[[str], None]

    def run(self, choose: Choose, *, back: bool, dry_run: bool) -> Switched:
        """Switch, or say what a switch would do. Raises as lifecycle's switch_to, and Stopped."""
        config, dsn = self.config, self.config.readmodel_of(self.name).dsn
        if dry_run:
            with translated(), connect(dsn, f"switch {self.name}") as connection:
                take_lock(connection, self.name, upgrade=False)
                target = resolve(config, self.name, None, connection)
                with open_store(target.store_name, config.store(target.store_name)[1]) as store:
                    going = self._going(connection, target, store, choose, back=back)
                    return self._look(connection, going)
        session = Session(dsn, self.name, self.stop, self.say)
        try:
            with translated():
                target = resolve(config, self.name, None, session.connection)
                with open_store(target.store_name, config.store(target.store_name)[1]) as store:
                    going = self._going(session.connection, target, store, choose, back=back)
                    return self._go(session, going)
        finally:
            session.close()

    def _going(
        self,
        connection: psycopg.Connection,
        target: Target,
        store: EventStore,
        choose: Choose,
        *,
        back: bool,
    ) -> Going:
        entry = journal.latest(connection, self.name)
        if entry is not None and entry.finished_at is None:
            raise Refused(
                f"rebuild {entry.rebuild} of {self.name} is not finished: {entry.state}",
                hint=f"Drop it first: esops rebuild {self.name} --blue-green --abort",
            )
        serving, wanted = choose(connection)
        if serving is None:
            raise Refused(
                f"no version of {self.name} serves, so the application writes to none",
                hint=f"Rebuild: esops rebuild {self.name} --blue-green",
            )
        if wanted.store != store.name:
            raise Refused(
                f"v{wanted.version} of {self.name} is of store {wanted.store}, and esops.toml "
                f"names {store.name} now",
                hint=f"Nothing was changed. Name {wanted.store}, or rebuild.",
            )
        check_not_given_up(wanted)
        accepted = self.accepted
        return Going(
            self.config, target, store, serving, wanted, back, accepted.code, accepted.stale
        )

    def _look(self, connection: psycopg.Connection, going: Going) -> Switched:
        ready = look(connection, going, self.stop)
        prepared = switch.prepare(connection, going.what)
        return Switched(
            self.name,
            going.serving.version,
            going.wanted.version,
            ready.standing.end,
            [inline_switch.lock_statement(connection, going.what), *prepared.statements],
            notes=[
                *_notes(going, ready),
                *ready.notes,
                *prepared.carried.notes(),
                *switch.left_stale(connection, going.what),
            ],
        )

    def _go(self, session: Session, going: Going) -> Switched:
        old, new = going.serving.version, going.wanted.version
        self.say(f"{self.name}: from v{old}, which serves now, to v{new}")
        ready = look(session.connection, going, self.stop)
        done = going_back.go(session, going, ready, self.patience, self.stop, self.say)
        return Switched(self.name, old, new, done.position, (), went_back=done)


def _notes(going: Going, ready: Ready) -> list[str]:
    """What a plan says beside its statements."""
    wanted = going.wanted.version
    lacks = count(ready.behind, "event")
    looked = f"{count(ready.checked.rows, 'row')} of v{wanted} were looked at, and are right"
    return [
        f"v{wanted} has not advanced since it served, and gets {lacks} first",
        looked if ready.checked.rows else f"no row of v{wanted} could be looked at",
    ]
