"""The streams of an archive, counted from its events."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from esops.events import EventFilter, StreamInfo, StreamKey, category_of
from esops.moments import moment
from esops.postgres.statements import statements
from esops.stores.archive.files import ArchiveFiles
from esops.stores.archive.reading import microseconds
from esops.stores.archived import ArchivedStreams
from esops.stores.base import EventStore
from esops.stores.many_streams import ManyStreams

_SQL = statements(__package__, "streams")
_SIZE = "sum(octet_length(data) + coalesce(octet_length(metadata), 0))"


def streams_of(
    files: ArchiveFiles,
    filter: EventFilter,
    limit: int | None,
    closed_by: Sequence[str],
    *,
    measured: bool,
) -> Iterator[StreamInfo]:
    """See EventStore.streams."""
    where, values = files.where(filter)
    closed = "NULL"
    if closed_by:
        types = ", ".join(["?"] * len(closed_by))
        closed = f"coalesce(max(version) FILTER (WHERE type IN ({types})) = max(version), FALSE)"
    at = microseconds("recorded_at")
    bound = f" LIMIT {limit}" if limit is not None else ""
    statement = _SQL["counted"].format(
        first_at=f"min({at})",
        last_at=f"max({at})",
        closed=closed,
        size=_SIZE if measured else "NULL",
        stored=files.database.stored(filter.stream),
        where=where,
        bound=bound,
        categories=files.database.categories.of_streams(),
    )
    for row in files.rows(statement, [*closed_by, *values]):
        name, tenant, length, first, last, first_at, last_at, closes, taken, own, said = row
        low, high = (None if at is None else moment(at) for at in (first_at, last_at))
        yield StreamInfo(
            name,
            own if said else own or category_of(name),
            length,
            first,
            last,
            low,
            high,
            tenant=tenant,
            closed=closes,
            bytes=taken,
        )


class ArchiveStreams(ManyStreams):
    """ManyStreams of an archive."""

    def __init__(self, store: EventStore, files: ArchiveFiles) -> None:
        """`files` are those of the store."""
        super().__init__(store)
        self._files = files

    def categories_of(self, streams: Collection[StreamKey]) -> Mapping[StreamKey, str | None]:
        """As the store had them."""
        named = super().categories_of(streams)
        if not self._files.runs or not streams or not self._files.database.categories.kept:
            return named
        marks = ", ".join(["?"] * len(streams))
        rows = self._files.ask(
            "SELECT stream, tenant, first_category, said FROM "
            f"({self._files.database.categories.of_streams()}) WHERE stream IN ({marks})",
            [each.stream for each in streams],
        )
        own = {StreamKey(stream, tenant): found for stream, tenant, *found in rows}
        unknown = (None, False)
        return {
            each: category if said else category or named[each]
            for each in named
            for category, said in [own.get(each, unknown)]
        }


class AllArchived(ArchivedStreams):
    """ArchivedStreams of an archive: all of its streams."""

    def streams(self) -> Iterator[StreamKey]:
        """All that it has."""
        return self._store.many_streams.keys()
