"""Before anything is removed: would it come back? Rows of a run are restored for a trial, a sample
or all of them.

The sample finds what a table does to all of its rows, such as a generated column whose source is
gone. What a single value does is seen when it is removed, since each is compared there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pyarrow as pa

from esops.archive.context import RunContext
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.stores.base import require

_FILES = 3
_ROWS = 400
"""Of each of these files."""
_STREAMS_AT_ONCE = 2_048


def prove(context: RunContext, manifest: Manifest) -> int:
    """Try a restore of a run; returns how many events were tried.

    Raises Refused where one would not come back as it is.
    """
    archiving = require(context.store, context.store.archiving, "archiving")
    if not archiving.restores:
        return 0
    if context.prove:
        for rows in _stream_rows(context.run, manifest):
            context.check_stop()
            archiving.prove(rows, ())
        return archiving.prove((), _all(context, manifest))
    rows = next(_stream_rows(context.run, manifest), [])
    return archiving.prove(rows[:_ROWS], _sample(context.run, manifest))


def _all(context: RunContext, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    done = 0
    for entry in manifest.event_files:
        for batch in context.run.batches(entry):
            context.check_stop()
            context.lease.check()
            yield batch
            done += batch.num_rows
            context.progress("events tried", done, manifest.events)


def _sample(run: Run, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """Rows of the first and last file, and of one between: from their beginning and end, and from
    all over.
    """
    files = manifest.event_files
    drawn = [files[0], *random.sample(files[1:-1], min(1, len(files[1:-1]))), files[-1]]
    for entry in {each.name: each for each in drawn[:_FILES]}.values():
        left = _ROWS
        for batch in run.batches(entry):
            step = max(1, batch.num_rows // max(1, min(left, _ROWS // 4)))
            some = batch.take(pa.array(range(0, batch.num_rows, step))).slice(0, max(left, 1))
            yield some
            left -= some.num_rows
            if left <= 0:
                break


def _stream_rows(run: Run, manifest: Manifest) -> Iterator[list[str | None]]:
    for entry in manifest.stream_files:
        for batch in run.batches(entry, _STREAMS_AT_ONCE):
            yield batch.column("row").to_pylist()
