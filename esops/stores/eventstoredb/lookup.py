"""Questions about single streams, and the names of all of them."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from esops.errors import Denied
from esops.events import StreamInfo, category_of
from esops.stores.archiving import StreamPart
from esops.stores.eventstoredb import bulk
from esops.stores.eventstoredb.connect import Connector, Link
from esops.stores.eventstoredb.errors import StreamGone

SOFT_DELETED = 2**63 - 1
"""The `$tb` of a stream that was deleted softly."""
AT_ONCE = 8
"""Questions about streams that are on their way at the same time."""


def metadata(link: Link, stream: str) -> tuple[dict[str, Any], int | None]:
    """A stream's metadata and their version. A tombstoned stream has none."""
    found = bulk.first(
        link,
        bulk.read_stream_request(f"$${stream}", backwards=True, limit=1),
        f"read the metadata of {stream!r}",
    )
    if not found:
        return {}, None
    try:
        document = found[0].json()
    except orjson.JSONDecodeError:
        # Any client may write this stream; what is no JSON sets nothing.
        document = {}
    return (document if isinstance(document, dict) else {}), found[0].version


def stream_info(
    link: Link, stream: str, closed_by: Sequence[str] = (), *, with_settings: bool = True
) -> StreamInfo | None:
    """What of a stream can be read, its settings, and how it was deleted, if so; None where there
    never was one.

    Raises Denied; for its settings only with `with_settings`, or where nothing else tells of it.
    """
    what = f"read stream {stream!r}"
    category = category_of(stream)
    try:
        last = bulk.first(link, bulk.read_stream_request(stream, backwards=True, limit=1), what)
        settings = _settings(link, stream, needed=with_settings or last is None)
    except StreamGone:
        return StreamInfo(stream, category, 0, 0, -1, None, None, deleted="tombstone")
    if last is None:
        if settings.get("$tb") == SOFT_DELETED:
            return StreamInfo(
                stream, category, 0, 0, -1, None, None, deleted="soft", settings=settings
            )
        return None
    first = bulk.first(link, bulk.read_stream_request(stream, limit=1), what)
    if not first or not last:
        # Too old, all of it: the stream is there, and empty.
        return StreamInfo(stream, category, 0, 0, -1, None, None, settings=settings)
    low, high = first[0], last[0]
    length = high.version - low.version + 1
    closed = high.type in closed_by if closed_by else None
    ends = (low.version, high.version, low.recorded_at, high.recorded_at)
    return StreamInfo(stream, category, length, *ends, settings=settings, closed=closed)


def _settings(link: Link, stream: str, *, needed: bool) -> dict[str, Any]:
    try:
        return metadata(link, stream)[0]
    except Denied:
        if needed:
            raise
        return {}


def lowest_readable(connector: Connector, stream: str) -> int | None:
    """The first version of a stream that clients can read; None where they can read none, or this
    user may not.
    """
    request = bulk.read_stream_request(stream, limit=1)
    try:
        what = f"read stream {stream!r}"
        found = connector.twice(lambda link: bulk.first(link, request, what), what)
    except (Denied, StreamGone):
        return None
    return found[0].version if found else None


def never_scavenged(connector: Connector) -> bool:
    """Whether the server's history of scavenges is not there, of which the last event is kept for
    ever. False where this user may not read it.
    """
    request = bulk.read_stream_request("$scavenges", backwards=True, limit=1)
    try:
        what = "read the history of scavenges"
        return connector.twice(lambda link: bulk.first(link, request, what), what) is None
    except (Denied, StreamGone):
        return False


def count_parts(connector: Connector, parts: Sequence[StreamPart], *, archived: bool) -> list[int]:
    """How many events of each part of a stream can be read."""
    link = connector.link

    def counted(part: StreamPart) -> int:
        return part.overlap(stream_info(link, part.key.stream), archived=archived)

    with ThreadPoolExecutor(AT_ONCE, "esops streams") as pool:
        return list(pool.map(counted, parts))


def infos(
    connector: Connector,
    names: Iterator[str],
    limit: int | None,
    closed_by: Sequence[str] = (),
    denied: list[str] | None = None,
    *,
    with_settings: bool = False,
) -> Iterator[StreamInfo]:
    """The streams of these names that can be read, by name, each once; several asked about at the
    same time. Names of those that this user may not read go into `denied`, if that is given; of
    those whose settings this user may not read, with `with_settings`.

    Names are sorted on disk, so that millions of them need no memory.
    """
    with sqlite3.connect("") as sorted_names, ThreadPoolExecutor(AT_ONCE, "esops streams") as pool:
        sorted_names.execute("CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID")
        sorted_names.executemany(
            "INSERT OR IGNORE INTO names VALUES (?)", ((name,) for name in names)
        )
        link = connector.link

        def look(name: str) -> StreamInfo | None:
            try:
                return stream_info(link, name, closed_by, with_settings=with_settings)
            except Denied:
                if denied is None:
                    raise
                denied.append(name)
                return None

        found = (name for (name,) in sorted_names.execute("SELECT name FROM names ORDER BY name"))
        given = 0
        while chunk := list(itertools.islice(found, AT_ONCE * 8)):
            for info in pool.map(look, chunk):
                # The link of a deleted stream stays in $streams.
                if info is not None and not info.deleted:
                    if limit is not None and given >= limit:
                        return
                    given += 1
                    yield info
