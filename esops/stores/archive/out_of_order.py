"""Whether a store and its archive, joined, have a stream in the order of its versions: where some
of its pieces came back at new positions, those that are archived alone would come before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import orjson

from esops.errors import Refused
from esops.events import StreamKey
from esops.stores.archive.store import ArchiveStore
from esops.stores.archiving import StreamPart
from esops.stores.base import EventStore

if TYPE_CHECKING:
    from esops.archive_format.disk_map import DiskMap

_AT_ONCE = 5_000
_Piece = tuple[StreamKey, int, int, str]
"""Versions of a stream, and the name of the run that has them."""


def check_order(hot: EventStore, cold: ArchiveStore) -> None:
    """Raises Refused where the archive alone has events of a stream that belong behind older ones
    which the store has at new positions. Reads lists of streams where runs were restored so.
    """
    from esops.archive_format.disk_map import DiskMap

    if not cold.renumbered:
        return
    with DiskMap() as ends:
        _collect(ends, cold)
        pieces = _newer(ends, cold)
        while group := list(islice(pieces, _AT_ONCE)):
            _check(group, hot, cold)


def _collect(ends: DiskMap, cold: ArchiveStore) -> None:
    """Where each stream ends in runs that were restored at new positions."""
    for run, manifest in cold.runs:
        for digest, _ in run.streams(manifest) if run.renumbered else ():
            known = ends.get(*digest.key)
            if known is None or orjson.loads(known) > digest.last_version:
                ends.put(*digest.key, orjson.dumps(digest.last_version))


def _newer(ends: DiskMap, cold: ArchiveStore) -> Iterator[_Piece]:
    for run, manifest in cold.runs:
        for digest, _ in run.streams(manifest):
            end = ends.get(*digest.key)
            if end is not None and digest.last_version > orjson.loads(end):
                yield digest.key, digest.first_version, digest.last_version, run.name


def _check(pieces: Sequence[_Piece], hot: EventStore, cold: ArchiveStore) -> None:
    parts = [
        StreamPart(key, low, high)
        for key, first, last, _ in pieces
        for low, high in ((0, first - 1), (first, last))
    ]
    counts = iter(hot.many_streams.count_parts(parts, archived=False))
    for key, first, last, run in pieces:
        before, inside = next(counts), next(counts)
        if not before or inside > last - first:
            continue
        older = next(
            (
                event
                for event in hot.read_stream(key.stream, first, backwards=True)
                if event.tenant == key.tenant
            ),
            None,
        )
        newer = next(
            (
                event
                for event in cold.read_stream(key.stream, first - 1)
                if event.tenant == key.tenant and event.version >= first
            ),
            None,
        )
        if older is not None and newer is not None and older.position > newer.position:
            raise Refused(
                f"stream {key.stream} would be read out of order: store {hot.name} has its "
                f"version {older.version} at a new position, {older.position}, and the archive "
                f"alone has the newer version {newer.version}, at {newer.position}",
                hint="The rest of the stream has to come back in the same way: "
                f"esops archive restore {run} --renumber.",
            )
