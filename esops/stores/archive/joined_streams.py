"""The streams of a store and its archive, each as both together have it."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from esops.archive_format.disk_map import DiskMap
from esops.events import EventFilter, Position, StreamInfo, StreamKey
from esops.stores.archive.together import together
from esops.stores.base import EVERYTHING
from esops.stores.many_streams import ManyStreams
from esops.stores.whole_streams import WholeStreams

if TYPE_CHECKING:
    from esops.stores.archive.joined import JoinedStore


class JoinedStreams(ManyStreams):
    """ManyStreams of a store and its archive."""

    def __init__(self, store: JoinedStore) -> None:
        """`hot` and `cold` of the store are asked."""
        super().__init__(store)
        self._joined, self._hot = store, store.hot

    def allowed(
        self,
        filter: EventFilter,
        denied: list[str],
        *,
        counted: bool = False,
        closed_by: Sequence[str] = (),
        measured: bool = False,
        with_settings: bool = False,
    ) -> Iterator[StreamInfo]:
        """As the store itself allows it: an archived part of a stream is not all of it."""
        hot = self._hot.many_streams.allowed(
            filter,
            denied,
            counted=counted,
            closed_by=closed_by,
            measured=measured,
            with_settings=with_settings,
        )
        names: set[str] | None = None
        for info in each_together(self._joined, hot, filter, closed_by, measured=measured):
            names = set(denied) if names is None else names  # the hot store has been asked by now
            if info.name not in names:
                yield info

    def whole(
        self,
        streams: Sequence[StreamKey],
        until: Position,
        filter: EventFilter = EVERYTHING,
        begins_with: Collection[str] = (),
    ) -> WholeStreams:
        """From the hot store where it has all events of a stream. Where a name can begin another
        stream, what it has may be a later one alone.
        """
        if self._joined.capabilities.names_begin_again:
            return super().whole(streams, until, filter, begins_with)
        hot = self._hot.many_streams.whole(streams, until, filter, begins_with)
        there = {StreamKey(each.stream, each.tenant) for each in hot.events} - hot.lacking.keys()
        rest = [each for each in streams if each not in there]
        if not rest:
            return hot
        joined = super().whole(rest, until, filter, begins_with)
        of_hot = (each for each in hot.events if StreamKey(each.stream, each.tenant) in there)
        events = sorted([*of_hot, *joined.events], key=lambda event: event.position)
        return WholeStreams(events, joined.lacking)

    def categories_of(self, streams: Collection[StreamKey]) -> Mapping[StreamKey, str | None]:
        """As the store itself has them; those of what is archived as they were."""
        hot = self._hot.many_streams.categories_of(streams)
        unknown = [each for each in streams if hot[each] is None]
        if not unknown:
            return hot
        return {**hot, **self._joined.cold.many_streams.categories_of(unknown)}


def each_together(
    store: JoinedStore,
    hot_streams: Iterator[StreamInfo],
    filter: EventFilter,
    closed_by: Sequence[str],
    *,
    measured: bool,
) -> Iterator[StreamInfo]:
    """Streams of the hot store and those of the archive, by name; where a name was used again, the
    earlier stream comes after the one that bears it now.
    """
    again = set(store.hot.archived.used_again())
    # There may be many millions: they are put together on disk, not in memory.
    with DiskMap() as both:
        for info in hot_streams:
            both.put(info.name, info.tenant, pickle.dumps([info]))
        archived = store.renewed().streams(filter, closed_by=closed_by, measured=measured)
        for info in archived:
            cold, hot = replace(info, archived=True), both.get(info.name, info.tenant)
            found = [cold]
            if hot is not None:
                (own,) = pickle.loads(hot)  # noqa: S301 - packed above
                found = [own, cold] if cold.key in again else [together(own, cold)]
            both.put(info.name, info.tenant, pickle.dumps(found))
        yield from chain.from_iterable(map(pickle.loads, both))
