"""The events that a row of one key is made of: those of its stream, or, where a function makes the
key, those of the whole log, from which whoever asks picks its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from esops.errors import EsopsError, Stopped, UsageError
from esops.events import EventFilter, Position, RecordedEvent, StreamKey
from esops.projections.kinds.fold_key import of_stream
from esops.readmodel.types import Key
from esops.running.throttle import Throttle
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore, settled
from esops.stores.filters import no_stream
from esops.trace.log import parse_position


@dataclass(frozen=True)
class Seen:
    """How the reading is followed and stopped."""

    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None
    progress: Callable[[int], None] = lambda _: None
    throttle: Throttle | None = None

    def passed(self, events: int, before: int) -> None:
        """Note that more events of the log are read; wait where an operator wants it.

        Raises Stopped.
        """
        if self.stop():
            raise Stopped("stopped while the log was read")
        if self.throttle is not None:
            self.throttle.spend(events)
            self.throttle.wait()
        self.progress(before + events)


@dataclass(frozen=True)
class Ending:
    """Where the reading ends: after a version of the stream, or a position of the log."""

    version: int | None = None
    position: Position | None = None


class OneKey:
    """What a key is made of."""

    def __init__(
        self,
        store: EventStore,
        settings: ProjectionSettings,
        key: Key,
        key_columns: Sequence[str],
        by_stream: bool,
    ) -> None:
        """`by_stream`: the key is that of a stream."""
        self._store, self._settings, self._filter = store, settings, settings.filter
        self.stream: StreamKey | None = None
        if by_stream:
            parts = key if isinstance(key, tuple) else (key,)
            named = dict(zip(of_stream(key_columns), map(str, parts), strict=True))
            self.stream = StreamKey(**named)
        # Of a key without a tenant, the store has or reads just one.
        self._tenants = len(key_columns) > 1

    def ending(self, at: str | None, seen: Seen) -> Ending:
        """Where it ends: at what the operator wrote, or else at what is settled now.

        Raises UsageError, and Stopped where the newest events do not settle in time.
        """
        if self.stream is not None:
            if at is not None and not at.lstrip("-").isdigit():
                raise UsageError(
                    f"--at {at}: of a key that is one stream, name the stream's version",
                    hint="`esops events --stream NAME` shows the versions.",
                )
            return Ending(version=None if at is None else int(at))
        head, unsettled = settled(self._store, None, seen.stop, seen.say)
        if at is None:
            if unsettled is not None:
                seen.say(f"{unsettled.message}")
            return Ending(position=head)
        position = parse_position(at)
        if len(position) != self._store.capabilities.position_parts:
            raise UsageError(f"--at {at}: that is no position of store {self._store.name}")
        return Ending(position=position if head is None else min(position, head))

    def events(self, ending: Ending, seen: Seen) -> Iterator[Sequence[RecordedEvent]]:
        """The events up to there, in order, in batches."""
        if self.stream is not None:
            yield from self._of_stream(self.stream, ending.version)
            return
        if ending.position is None:
            return
        total = self._store.counts.between(None, ending.position)
        seen.say(
            f"a function makes the key, so that all events of the log are read, about {total:,}"
        )
        read = 0
        for batch in self._store.read_all(None, ending.position, self._filter):
            yield batch.events
            seen.passed(len(batch.events), read)
            read += len(batch.events)

    def _of_stream(self, key: StreamKey, last: int | None) -> Iterator[Sequence[RecordedEvent]]:
        wanted = replace(self._filter, stream=key.stream)
        for batch in self._store.read_all(None, None, wanted):
            own = [event for event in batch.events if self._is_own(event, key)]
            yield own if last is None else [event for event in own if event.version <= last]

    def _is_own(self, event: RecordedEvent, key: StreamKey) -> bool:
        return not self._tenants or event.tenant == key.tenant

    def nothing(self, written: str) -> EsopsError:
        """The error, to be raised, for a key without any event."""
        name = self._store.name
        if self.stream is None:
            return UsageError(
                f"store {name} has no event of the key {written}",
                hint="The key function makes the key of each event that passes the filter.",
            )
        # Of tenants that share the store, several may have a stream of that name.
        there = self._store.streams(EventFilter(stream=self.stream.stream, archived=True))
        own = self.stream.tenant
        info = next((each for each in there if not self._tenants or each.tenant == own), None)
        if info is None:
            return no_stream(self._store, self.stream.stream)
        if info.archived and not self._filter.archived:
            return UsageError(
                f"stream {self.stream.stream} of store {name} is archived, and the projection "
                "leaves archived streams out",
                hint="A projection reads them with include_archived = true.",
            )
        return UsageError(
            f"stream {self.stream.stream} of store {name} has no event, up to where it was read, "
            "that passes the projection's filter"
        )

    def note(self) -> str | None:
        """What a reader has to know of these events."""
        if self.stream is None:
            return None
        first = self._store.capabilities.first_version
        events = self._store.read_stream(self.stream.stream)
        event = next((each for each in events if self._is_own(each, self.stream)), None)
        if event is None or event.version <= first or event.type in self._settings.begins_with:
            return None
        return (
            f"the first events of stream {self.stream.stream} are gone: it begins with "
            f"version {event.version}, so that the row lacks what was in them"
        )
