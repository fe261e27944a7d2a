"""How rows of some keys are made again, for a heal: a fold by stream from the events of each
stream, every other kind from one pass over the log.

`bring` makes them outside of any lock, as of a checkpoint. By the time that the version's row is
held the checkpoint may have moved: `touched` says whose rows may be other ones now, and
`bring_held` makes them as of there, of few events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from esops.check.log_pass import LogPass
from esops.check.refold import refold
from esops.check.scratch import Scratch, texts_of
from esops.check.served_rows import RowKey
from esops.events import EventFilter, Position, StreamKey
from esops.readmodel.types import Key
from esops.running.control import ControlRequest
from esops.running.throttle import Throttle
from esops.stores.base import EventStore

FEW = 2_000
"""Events that are read while others wait for the version's row, at most."""


class TooMuchSince(Exception):
    """More events than can be read while others wait."""


class Course(Protocol):
    """Makes rows of some keys in the temporary tables."""

    few: int
    """How many keys are made under the lock at once, at most."""

    def bring(self, keys: Sequence[RowKey], until: Position) -> dict[RowKey, str]:
        """Make the rows as of a position; returns the keys whose rows nobody knows, and why."""
        ...

    def touched(
        self, keys: Collection[RowKey], after: Position, until: Position
    ) -> Collection[RowKey]:
        """The keys whose rows may be other ones at a later position. Raises TooMuchSince."""
        ...

    def bring_held(self, keys: Sequence[RowKey], until: Position) -> dict[RowKey, str]:
        """As `bring`, in a transaction that holds the version. Raises TooMuchSince."""
        ...

    def spoil(self) -> None:
        """What was made in a transaction was rolled back."""
        ...


class StreamCourse:
    """A fold that is keyed by the stream."""

    few = 5

    def __init__(
        self, store: EventStore, scratch: Scratch, filter: EventFilter, away: str | None
    ) -> None:
        """`filter` is the projection's. `away`: why a stream without an event may have had some."""
        self._store, self._scratch, self._filter, self._away = store, scratch, filter, away

    def bring(self, keys: Sequence[RowKey], until: Position) -> dict[RowKey, str]:
        """From the events of their streams."""
        scratch = self._scratch
        refolded = refold(scratch, [scratch.stream(each) for each in keys], until)
        unknown = {scratch.key(stream): why for stream, why in refolded.items()}
        if self._away is not None:
            made = scratch.made()
            unknown.update({each: self._away for each in keys if each not in made | unknown.keys()})
        return unknown

    def touched(
        self, keys: Collection[RowKey], after: Position, until: Position
    ) -> Collection[RowKey]:
        """Those whose streams have events in between."""
        if after == until:
            return ()
        if self._store.counts.between(after, until) > FEW:
            raise TooMuchSince
        wanted, found = set(keys), set[RowKey]()
        for batch in self._store.read_all(after, until, self._filter):
            for event in batch.events:
                found.add(self._scratch.key(StreamKey(event.stream, event.tenant)))
        return wanted & found

    def bring_held(self, keys: Sequence[RowKey], until: Position) -> dict[RowKey, str]:
        """From all events of their streams: these are few."""
        return self.bring(keys, until)

    def spoil(self) -> None:
        """They are made from the beginning each time."""


class _Unhindered(Throttle):
    """Never waits: others wait for what is done."""

    def look(self, *, now: bool = False) -> ControlRequest:  # noqa: ARG002
        """Nothing is asked for."""
        return ControlRequest()


class LogCourse:
    """Every other kind: one pass over the log, which each call continues."""

    few = 1_000

    def __init__(
        self,
        store: EventStore,
        scratch: Scratch,
        throttle: Throttle,
        wanted: Callable[[Key], bool] | None,
        stop: Callable[[], bool],
    ) -> None:
        """`wanted`: the only keys of a fold whose rows are made."""
        self._store, self._scratch, self._throttle = store, scratch, throttle
        self._wanted, self._stop = wanted, stop
        self._pass = LogPass(scratch)
        self._unhindered = _Unhindered("", "")

    def bring(self, keys: Sequence[RowKey], until: Position) -> dict[RowKey, str]:  # noqa: ARG002
        """From all events."""
        at = self._scratch.position
        if at is not None and at > until:
            # The checkpoint was set back, as where a version was restored: it is another course.
            self._scratch.empty()
        try:
            self._pass.advance(until, self._throttle, stop=self._stop, wanted=self._wanted)
        except BaseException:
            self.spoil()
            raise
        return {}

    def touched(
        self, keys: Collection[RowKey], after: Position, until: Position
    ) -> Collection[RowKey]:
        """All of them, where there is any event in between."""
        return () if after == until or not self._store.counts.between(after, until) else keys

    def bring_held(
        self,
        keys: Sequence[RowKey],  # noqa: ARG002
        until: Position,
    ) -> dict[RowKey, str]:
        """By the events since."""
        if self._store.counts.between(self._scratch.position, until) > FEW:
            raise TooMuchSince
        self._pass.advance(until, self._unhindered, wanted=self._wanted)
        return {}

    def spoil(self) -> None:
        """The temporary tables do not have what the position says."""
        self._scratch.empty()


def only_keys(scratch: Scratch, keys: Collection[RowKey]) -> Callable[[Key], bool] | None:
    """Which keys of a fold's are among some; None where only the server could tell."""
    if not scratch.plain_keys:
        return None
    wanted = frozenset(keys)
    return lambda key: texts_of(key) in wanted
