"""Whether events would come back in the order of their versions, where others of their stream were
given new positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from esops.archive.archived_groups import events_of_streams
from esops.archive.compare import only
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.events import StreamKey, StreamRef
from esops.stores.base import EventStore, require


class Misplaced(NamedTuple):
    """An event of the store that would be on the wrong side of what comes back of its stream."""

    older: bool
    """Whether it is older than what comes back, and would come after it; otherwise it is newer, and
    would come before it.
    """
    version: int
    number: int
    first: int
    """The number of the first event that would come back, or of the last where this is newer."""


def misplaced(
    run: Run, manifest: Manifest, digests: Sequence[Digest], store: EventStore
) -> dict[StreamKey, Misplaced]:
    """The streams of a run that would be out of order in the store at their old positions.

    By the last part of a position: it is drawn from one sequence, while transactions may overlap.
    Reads all events of these streams. Raises Damaged, Missing, Unavailable.
    """
    column = f"position_{manifest.position_parts}"
    of = {digest.key: digest for digest in digests}
    names = frozenset(digest.stream for digest in digests)
    back: dict[StreamKey, tuple[int, int]] = {}

    def archived(key: StreamKey, _: int, number: int) -> None:
        low, high = back.get(key, (number, number))
        back[key] = (min(low, number), max(high, number))

    events = (only(batch, [*of]) for batch in events_of_streams(run, manifest, names))
    _each(events, column, archived)
    found: dict[StreamKey, Misplaced] = {}

    def there(key: StreamKey, version: int, number: int) -> None:
        digest, (low, high) = of[key], back[key]
        if version < digest.first_version and number > low:
            found[key] = Misplaced(True, version, number, low)
        elif version > digest.last_version and number < high:
            found.setdefault(key, Misplaced(False, version, number, high))

    archiving = require(store, store.archiving, "archiving")
    refs = (StreamRef(digest.stream, digest.tenant, digest.events) for digest in digests)
    _each(archiving.export(refs, []), column, there)
    return found


def _each(
    batches: Iterable[pa.RecordBatch], column: str, visit: Callable[[StreamKey, int, int], None]
) -> None:
    for batch in batches:
        columns = (
            batch.column(name).to_pylist() for name in ("stream", "tenant", "version", column)
        )
        for stream, tenant, version, number in zip(*columns, strict=True):
            visit(StreamKey(stream, tenant), version, number)
