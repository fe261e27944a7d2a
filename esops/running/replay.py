"""Replays the dead letters of a version with the code of today, each exactly once.

Of a fold, the rows of their keys are made again from all events up to the checkpoint, since a row
depends on the order of its events. Handlers and programs get the skipped events now, each in a
transaction of its own: after events that came later, so that older values may replace newer ones.
Nobody but the author knows whether they do, so that is refused unless the operator vouches for it.
What was replayed is no dead letter any more from the same commit on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from esops.errors import Refused
from esops.events import Position, RecordedEvent, StreamKey
from esops.postgres.connection import translated
from esops.projections.definition import FoldDefinition
from esops.projections.kinds import open_projector
from esops.projections.kinds.fold import Fold
from esops.readmodel import registry
from esops.readmodel.dead_letters import fails_still, positions_of, remove_dead_letters
from esops.readmodel.fence import raise_fence
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent
from esops.readmodel.types import Key
from esops.running.apply import Applier
from esops.stores.shortened import by_type, example, not_taken, remedy
from esops.wording import count

_SHOWN = 5


@dataclass
class Replayed:
    """What became of the dead letters of a version."""

    version: int
    replayed: int = 0
    failed: dict[Position, str] = field(default_factory=dict)
    """Why the others are dead letters still."""


class Replayer(Applier):
    """The one process that works on a version: nobody follows it at the same time."""

    @property
    def version(self) -> Version:
        """The version as it was when its lock was taken."""
        return self._checkpoint.version

    def check_order(self) -> None:
        """Raises Refused, with the streams, where a dead letter would be applied after events that
        came later, by code that may write older values over newer ones.
        """
        version = self.version
        with translated():
            skipped = positions_of(self.connection, version.projection, version.version)
        if not skipped or self.position is None or isinstance(self._projector, Fold | None):
            return
        later, streams, newer = 0, set[str](), dict[str, int]()
        for event in self._events():
            if event.position in skipped:
                streams.add(event.stream)
            elif streams:
                later += 1
                if event.stream in streams:
                    newer[event.stream] = newer.get(event.stream, 0) + 1
        if not later:
            return
        most = sorted(newer, key=lambda stream: (-newer[stream], stream))
        shown = ", ".join(f"{stream} ({newer[stream]:,})" for stream in most[:_SHOWN])
        more = f" and {count(len(most) - _SHOWN, 'other')}" if len(most) > _SHOWN else ""
        of_streams = f"of their own streams: {shown}{more}" if most else "of other streams"
        raise Refused(
            f"{count(len(skipped), 'dead letter')} of {version.projection} v{version.version} "
            f"would be applied after {count(later, 'event')} that came later, {of_streams}; what "
            "these wrote may be replaced with older values",
            hint=f"Nothing was changed. Rebuild it: esops rebuild {version.projection} "
            "--blue-green. If its code does the same in any order, as a sum does: --out-of-order.",
        )

    def replay(self) -> Replayed:
        """Replay all dead letters of the version. Raises Refused where it is not loaded yet."""
        version = self.version
        found = Replayed(version.version)
        with translated():
            skipped = positions_of(self.connection, version.projection, version.version)
        if not skipped:
            return found
        if self.position is None:
            raise Refused(
                f"{version.projection} v{version.version} is not loaded yet",
                hint=f"Continue with: esops rebuild {version.projection} --blue-green --resume",
            )
        events = [event for event in self._events() if event.position in skipped]
        for position in skipped - {event.position for event in events}:
            found.failed[position] = "the store does not give this event"
        if isinstance(self._projector, Fold):
            self._fold_again(events, found)
        else:
            for event in events:
                self._one(event, found)
        with translated():
            for position, reason in found.failed.items():
                fails_still(self.connection, version.projection, version.version, position, reason)
        return found

    def _events(self) -> Iterator[RecordedEvent]:
        assert self.position is not None
        for batch in self._store.read_all(None, self.position, self._work.events):
            yield from batch.events

    def _one(self, event: RecordedEvent, found: Replayed) -> None:
        """An event of its own, in a transaction with the end of its dead letter."""
        version = self.version
        projector = open_projector(self._work.definition, self._tables)
        if projector is None:
            raise Refused(
                f"{version.projection} is of kind sql, and a statement cannot apply single events",
                hint=f"Rebuild it, or forget them: esops projection dead-letters "
                f"{version.projection} discard",
            )
        try:
            with translated(), self.connection.transaction():
                registry.lock_checkpoint(self.connection, version.projection, version.version)
                raise_fence(self.connection, version.projection, version.version)
                projector.apply([event], self.connection)
                projector.flush(self.connection)
                remove_dead_letters(
                    self.connection, version.projection, version.version, [event.position]
                )
        except BadEvent as bad:
            found.failed[event.position] = bad.reason
        else:
            found.replayed += 1
        finally:
            projector.close()

    def _fold_again(self, events: list[RecordedEvent], found: Replayed) -> None:
        """The rows of the events' keys, from all their events; without the keys that fail."""
        keys: dict[Position, Key] = {}
        fold = self._new_fold()
        for event in events:
            try:
                with translated():
                    keys[event.position] = fold.keys([event], self.connection)[0][0]
            except BadEvent as bad:
                found.failed[event.position] = bad.reason
        bad_keys: dict[Key, str] = {}
        while wanted := set(keys.values()) - set(bad_keys):
            try:
                with translated(), self.connection.transaction():
                    self._write_again(wanted)
                    self._check_whole(
                        [each for each in events if keys.get(each.position) in wanted]
                    )
                    done = [position for position, key in keys.items() if key in wanted]
                    version = self.version
                    remove_dead_letters(self.connection, version.projection, version.version, done)
            except _Again as again:
                bad_keys.update(again.fails)
            except BadEvent as bad:
                # Rows that the table does not take together: nobody knows which.
                bad_keys.update(dict.fromkeys(wanted, bad.reason))
            else:
                found.replayed += len(done)
                break
        for position, key in keys.items():
            if key in bad_keys:
                found.failed[position] = bad_keys[key]

    def _check_whole(self, events: list[RecordedEvent]) -> None:
        """Raises Refused where the rows of some events' keys lack what streams have lost, so that
        the rows that are there may be better.
        """
        definition, work, store = self._work.definition, self._work, self._store
        if isinstance(definition, FoldDefinition) and definition.key is None:
            of_rows = {StreamKey(event.stream, event.tenant) for event in events}
            late = (
                each for each in store.losses.late_beginnings(work.filter) if each.key in of_rows
            )
            found = by_type(store, late, replace(work.filter, types=()))
        else:
            found = store.losses.shortened(work.filter)
        found = not_taken(found, work.begins_with)
        if found:
            raise Refused(
                f"{example(store, found)}: rows of {work.projection} v{work.version} made again "
                "would lack what is gone",
                hint="Nothing was changed. "
                + remedy(work.projection, found, f"esops rebuild {work.projection} --blue-green "),
            )

    def _new_fold(self) -> Fold:
        fold = open_projector(self._work.definition, self._tables)
        assert isinstance(fold, Fold)
        return fold

    def _write_again(self, wanted: set[Key]) -> None:
        """Write the rows of some keys from their events, in the transaction that is open.

        Raises _Again with the keys that fail.
        """
        version, connection, fails = self.version, self.connection, dict[Key, str]()
        registry.lock_checkpoint(connection, version.projection, version.version)
        raise_fence(connection, version.projection, version.version)
        self._ensure_keys()
        fold = self._new_fold()
        change = -fold.rows.delete(connection, list(wanted))
        for event in self._events():
            try:
                [key], _ = fold.keys([event], connection)
            except BadEvent:
                continue  # the key of another dead letter cannot be made
            if key not in wanted or key in fails:
                continue
            try:
                fold.apply([event], connection)
            except BadEvent as bad:
                fails[key] = f"{bad.reason} (at position {event.position})"
            if fold.full:
                change += fold.flush(connection)
                fold.flushed()
        if fails:
            raise _Again(fails)
        change += fold.flush(connection)
        registry.add_rows(connection, version, change, fold.value_types)


class _Again(Exception):
    """Some keys fail: what was written is rolled back, and written without them."""

    def __init__(self, fails: dict[Key, str]) -> None:
        super().__init__(f"{len(fails)} keys fail")
        self.fails = fails
