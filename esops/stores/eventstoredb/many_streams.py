"""Questions about many streams of a node, several on their way at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from esops.events import EventFilter, StreamInfo
from esops.stores.archiving import StreamPart
from esops.stores.base import EventStore
from esops.stores.eventstoredb import lookup
from esops.stores.eventstoredb.connect import Connector
from esops.stores.eventstoredb.listing import StreamNames
from esops.stores.many_streams import ManyStreams


class NodeStreams(ManyStreams):
    """ManyStreams of a node."""

    def __init__(self, store: EventStore, connector: Connector, listing: StreamNames) -> None:
        """`listing` has the names of all streams."""
        super().__init__(store)
        self._connector, self._listing = connector, listing

    def allowed(
        self,
        filter: EventFilter,
        denied: list[str],
        *,
        counted: bool = False,
        closed_by: Sequence[str] = (),
        measured: bool = False,  # noqa: ARG002 - a node does not say what a stream takes
        with_settings: bool = False,
    ) -> Iterator[StreamInfo]:
        """Any stream may have an ACL. `counted`: with the names from $all."""
        names = self._listing.each(filter, counted=counted)
        return lookup.infos(
            self._connector, names, None, closed_by, denied, with_settings=with_settings
        )

    def count_parts(self, parts: Sequence[StreamPart], *, archived: bool = False) -> list[int]:
        """By the ends of the streams, several asked about at the same time."""
        return lookup.count_parts(self._connector, parts, archived=archived)
