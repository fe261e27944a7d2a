"""Makes the rows of some streams again from all their events up to the checkpoint, since what is in
these events has changed.

Only of a fold that is keyed by the stream: each of its rows is made of one stream's events and of
nothing else. And only where the store, with its archive, still gives each event of these streams.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import timedelta

from esops import stores
from esops.archive_format.snapshots import is_snapshot
from esops.config import Config
from esops.errors import EsopsError, Refused
from esops.events import RecordedEvent, StreamKey
from esops.postgres.connection import translated
from esops.projections.definition import FoldDefinition
from esops.readmodel.dead_letters import positions_of
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent
from esops.readmodel.types import Key
from esops.running.code import code_of
from esops.running.replay import Replayer
from esops.running.work import Work


class Refolder(Replayer):
    """The one process that works on a version: nobody follows it at the same time."""

    def refold(self, streams: Collection[StreamKey]) -> None:
        """Make the rows of some streams again, in one transaction.

        Raises Refused where that would not give each row as all its events make it, or where the
        projection's code does not take them.
        """
        version = self.version
        if self.position is None:
            raise Refused(f"{version.projection} v{version.version} is not loaded yet")
        self._streams = sorted(streams)
        with translated():
            self._skipped_before = positions_of(
                self.connection, version.projection, version.version
            )
        for key in self._streams:
            self._check_complete(key)
        fold = self._new_fold()
        keys = set[Key]()
        try:
            with translated():
                for event in self._events():
                    keys |= fold.keys([event], self.connection)[1]
                with self.connection.transaction():
                    self._write_again(keys)
        except EsopsError:
            raise
        except (BadEvent, Exception) as error:
            raise Refused(
                f"the code of {version.projection} fails on the events as they are now"
            ) from error

    def _check_complete(self, key: StreamKey) -> None:
        info = self._store.stream_info(key.stream)
        if info is None or (info.archived and not self._work.events.archived):
            raise Refused(f"the store does not give all events of stream {key.stream}")
        first = expected = self._store.capabilities.first_version
        for event in self._store.read_stream(key.stream):
            if event.tenant != key.tenant:
                continue
            if expected == first and event.type in self._work.begins_with:
                expected = event.version
            elif expected == first and is_snapshot(event.type):
                # At whatever version: a library may have put it in the place of one event alone.
                raise Refused(
                    f"stream {key.stream} begins with {event.type!r}, which stands for events that "
                    f"are gone, and the code of {self._work.projection} does not begin with it "
                    "(begins_with)"
                )
            if event.version != expected:
                raise Refused(f"the store does not give all events of stream {key.stream}")
            expected += 1

    def _events(self) -> Iterator[RecordedEvent]:
        wanted = set(self._streams)
        for stream in sorted({key.stream for key in self._streams}):
            of_stream = replace(self._work.events, stream=stream)
            for batch in self._store.read_all(None, self.position, of_stream):
                for event in batch.events:
                    if (
                        StreamKey(event.stream, event.tenant) in wanted
                        and event.position not in self._skipped_before
                    ):
                        yield event


def is_keyed_by_stream(config: Config, version: Version) -> bool:
    """Whether a version is of a fold that is keyed by the stream, as far as its code can be had."""
    try:
        definition, _ = code_of(config, version)
    except EsopsError:
        return False
    return isinstance(definition, FoldDefinition) and definition.key is None


def refold(config: Config, version: Version, streams: Collection[StreamKey]) -> None:
    """Make the rows of some streams in one version again, with the code that built it.

    Raises Busy where a process follows the version, and Refused where it needs a rebuild.
    """
    settings = config.projection(version.projection)
    definition, same = code_of(config, version)
    if not isinstance(definition, FoldDefinition) or definition.key is not None:
        raise Refused(f"{version.projection} is no fold that is keyed by the stream")
    if not same:
        raise Refused(
            f"the code of {version.projection} has changed since v{version.version} was built"
        )
    work = Work.on(version.projection, version.version, definition, settings)
    with stores.open_store(*config.store(version.store)) as store:
        worker = Refolder(
            store,
            config.readmodel_of(version.projection).dsn,
            work,
            lock_patience=timedelta(0),
        )
        try:
            worker.refold(streams)
        finally:
            worker.close()
