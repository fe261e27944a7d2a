"""What a store itself shows of events that are gone: its archive may be an older copy of itself, or
a new one in the place of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import orjson

from esops.archive_format.snapshots import LAYOUTS, SNAPSHOT, is_snapshot
from esops.errors import Refused
from esops.events import EventFilter, Position, StreamKey, category_of
from esops.postgres.statements import statements
from esops.stores.archive.archived_away import collect, without
from esops.stores.archiving import LateBeginning, TenantScope
from esops.stores.base import EVERYTHING, WITH_ARCHIVED, EventStore
from esops.stores.losses import StreamLosses
from esops.stores.parts import Halves
from esops.stores.shortened import Shortened, by_type
from esops.wording import count

if TYPE_CHECKING:
    from esops.archive_format.manifest import Manifest
    from esops.archive_format.runs import Run
    from esops.stores.archive.joined import JoinedStore
    from esops.stores.archive.store import ArchiveStore

_SQL = statements(__package__, "beginnings")
_Gaps = Iterator[tuple[LateBeginning, Sequence[tuple[int, int, int]]]]
"""Streams, and what of their first versions is missing: from, to, how many events."""


@dataclass
class Lost:
    """Events that neither the store nor the archive has."""

    stream: str = ""
    """One of the streams."""
    low: int = 0
    high: int = 0
    """Which of its versions."""
    streams: int = 0
    events: int = 0


def check_begins(store: EventStore, halves: Halves) -> None:
    """Raises Refused where a stream's first events are neither in the store nor in the archive.

    Of a stream that left the store wholly only the library's own list of streams can tell.
    """
    cold = halves.cold
    lost = lost_beginnings(halves.hot, cold.runs, store.tenant_scope, cold)
    if not lost.streams:
        return
    if halves.renewed() is not cold:
        check_begins(store, halves)  # an archive run has moved events in the meantime
        return
    itself = "If the application removed them itself: --without-archived."
    if not cold.runs:
        raise Refused(
            f"the first events of stream {lost.stream!r} are not in store {store.name} any more, "
            f"and the archive {cold.repository.address} has no run of this store: is it the "
            "archive that they went to?",
            hint=f"Is the disk mounted, and the prefix right? {itself}",
        )
    others = f" ({count(lost.events, 'event')} of {lost.streams:,} streams are missing in all)"
    raise Refused(
        f"versions {lost.low} to {lost.high} of stream {lost.stream!r} are neither in store "
        f"{store.name} nor in the archive {cold.repository.address}"
        f"{others if lost.streams > 1 else ''}: was the archive replaced by an older copy of "
        "itself?",
        hint=f"Restore the newest copy of the archive, with its folders runs and catalog. {itself}",
    )


def lost_beginnings(
    store: EventStore,
    runs: Sequence[tuple[Run, Manifest]],
    scope: TenantScope | None,
    cold: ArchiveStore | None = None,
) -> Lost:
    """The first events of streams that neither a store nor some archived runs have.

    `scope`: the only tenant whose archived events are the store's. `cold`: the store of these runs;
    then events for which a snapshot in it stands are not lost.
    """
    lost = Lost()
    first = store.capabilities.first_version
    late = _not_archived(without_beginning(store), first, runs, scope)
    for each, gaps in late if cold is None else _without_snapshot(late, cold):
        lost.streams += 1
        lost.events += sum(events for _, _, events in gaps)
        if lost.streams == 1:
            lost.stream, lost.low, lost.high = each.key.stream, gaps[0][0], gaps[-1][1]
    return lost


def _without_snapshot(late: _Gaps, cold: ArchiveStore) -> _Gaps:
    """Those that lack something behind what a snapshot in an archive stands for."""
    from esops.archive_format.disk_map import DiskMap

    with DiskMap() as snapshots:
        asked = False
        for each, gaps in late:
            if not asked:
                asked = True
                for found in snapshots_in(cold, EventFilter()):
                    snapshots.put(*found.key, str(found.below).encode())
            stands = snapshots.get(*each.key)
            if stands is None or gaps[-1][1] >= int(stands):
                yield each, gaps


class JoinedLosses(StreamLosses):
    """StreamLosses of a store and its archive: those whose first events neither has."""

    def __init__(self, store: JoinedStore) -> None:
        """`hot` and `cold` of the store are looked at."""
        super().__init__(store)
        self._joined = store

    def late_beginnings(self, filter: EventFilter = WITH_ARCHIVED) -> Iterator[LateBeginning]:
        """Those of the hot store whose first events the archive does not have either, and those of
        which the archive has a snapshot.
        """
        store = self._joined
        first, cold = store.capabilities.first_version, store.cold
        hot = store.hot.losses.late_beginnings(filter)
        late = _not_archived(hot, first, cold.runs, store.tenant_scope)
        # A library's snapshot may have been archived as well, and be nowhere else. First, since the
        # hot store's list knows of such a stream only that it is empty.
        return _each_once(chain(snapshots_in(cold, filter), (each for each, _ in late)))

    def shortened(
        self,
        filter: EventFilter = EVERYTHING,
        after: Position | None = None,  # noqa: ARG002 - what is archived has positions of its own
    ) -> list[Shortened]:
        """Those of the hot store whose first events the archive does not have either."""
        store = self._joined
        # Which is a short question, as a rule.
        if not store.hot.losses.shortened(filter):
            return by_type(store, snapshots_in(store.cold, filter), filter)
        return by_type(store, self.late_beginnings(filter), filter)

    def compacted_after(self, position: Position, filter: EventFilter) -> list[Shortened]:
        """Those of the hot store: what is in an archive stays as it is."""
        return self._joined.hot.losses.compacted_after(position, filter)


class ArchiveLosses(StreamLosses):
    """StreamLosses of an archive."""

    def __init__(self, store: ArchiveStore) -> None:
        """Those of a store."""
        super().__init__(store)
        self._cold = store

    def late_beginnings(self, filter: EventFilter = WITH_ARCHIVED) -> Iterator[LateBeginning]:
        """Also those whose library put a snapshot in the place of the first event alone."""
        yield from super().late_beginnings(filter)
        first = self._cold.capabilities.first_version
        yield from (each for each in snapshots_in(self._cold, filter) if each.below == first)


def _each_once(late: Iterator[LateBeginning]) -> Iterator[LateBeginning]:
    from esops.archive_format.disk_map import DiskMap

    with DiskMap() as seen:
        for each in late:
            if seen.get(*each.key) is None:
                seen.put(*each.key, b"1")
                yield each


def snapshots_in(cold: ArchiveStore, filter: EventFilter) -> Iterator[LateBeginning]:
    """The streams in which an archive has a snapshot, and not the event in whose place it is."""
    if not any(manifest.layout in LAYOUTS for _, manifest in cold.runs):
        return
    for name, tenant, version, kind, category in cold.files.about_streams(
        _SQL["snapshots"], filter, snapshot=SNAPSHOT
    ):
        key = StreamKey(name, tenant)
        yield LateBeginning(key, version, kind, category=category or category_of(name))


def _not_archived(
    late: Iterator[LateBeginning],
    first: int,
    runs: Sequence[tuple[Run, Manifest]],
    scope: TenantScope | None,
) -> _Gaps:
    """Those whose first events some archived runs do not have either, with the versions missing."""
    # Imported only where there is an archive.
    from esops.archive_format.disk_map import DiskMap

    begins = next(late, None)
    if begins is None:
        return
    with DiskMap() as archived:
        for number, (run, manifest) in enumerate(runs):
            collect(archived, number, run, manifest, EventFilter(), scope)
        for each in chain([begins], late):
            known = archived.get(*each.key)
            ranges = orjson.loads(known)[3] if known else []
            # A snapshot is in the place of the last event that it stands for.
            end = each.below - (each.type is None or not is_snapshot(each.type))
            gaps = without([(first, end, end - first + 1)], ranges)
            if gaps:
                yield each, gaps


def without_beginning(store: EventStore) -> Iterator[LateBeginning]:
    """The streams whose first events are gone, and neither by a limit of their own nor for a
    snapshot that their library put in their place.
    """
    return (
        each
        for each in store.losses.late_beginnings()
        if not each.limited and (each.type is None or not is_snapshot(each.type))
    )
