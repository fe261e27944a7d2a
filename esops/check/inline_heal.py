"""Chosen rows of a table that the application writes in the transaction of each append: they are
made right row by row among its writers (rebuild/row_repair.py), whatever the checkpoint of anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import psycopg

from esops.check.heal import Healed
from esops.check.served_rows import RowKey
from esops.errors import Refused, Stopped
from esops.events import StreamKey
from esops.projections.definition import Definition, FoldDefinition
from esops.readmodel.registry import Version
from esops.rebuild.refolded import RefoldedRows
from esops.rebuild.row_repair import RowRepair
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore

_PATIENCE = timedelta(seconds=30)
"""For rows that somebody else has locked, or has written since they were compared."""
_UNKNOWN = "events of it are gone or archived, or no event tells of it"
_BUSY = (
    f"others have locked or written it whenever esops looked in {_PATIENCE.total_seconds():.0f} s"
)


def heal_inline(
    connection: psycopg.Connection,
    store: EventStore,
    version: Version,
    definition: Definition,
    settings: ProjectionSettings,
    wanted: tuple[Sequence[RowKey], Sequence[str]],
    *,
    write: bool,
    stop: Callable[[], bool],
) -> Healed:
    """Compare the rows of some keys and streams, and make right those that differ, where `write`.

    Raises Refused where rows are not of one stream each, or the code fails; Stopped.
    """
    if not isinstance(definition, FoldDefinition) or definition.key is not None:
        raise Refused(
            f"the rows of {version.projection} are of the events of several streams, so that no "
            "single one can be made again under a lock",
            hint=f"Rebuild: esops rebuild {version.projection} --blue-green",
        )
    rows = RefoldedRows(connection, store, version, definition, settings.verify)
    repair = RowRepair(connection, rows, settings)
    keys, streams = wanted
    named = left = sorted({*map(rows.stream, keys), *map(StreamKey, streams)})
    result = Healed(version.projection, version.version, keys=len(left))
    there = rows.there(map(rows.key, left))
    if not write:
        for found in repair.differing(left):
            for name, some in (("update", found.wrong), ("insert", found.missing)):
                result.differing.setdefault(name, []).extend(
                    rows.key(each) for each in sorted(some)
                )
            result.unknown.update({rows.key(each): _UNKNOWN for each in found.unchecked})
        result.note_absent(map(rows.key, named), there)
        return result
    deadline = time.monotonic() + _PATIENCE.total_seconds()
    while left:
        busy = set[StreamKey]()
        for healed in repair.repair(left):
            result.updated += healed.healed
            result.unfit.update({rows.key(each): why for each, why in healed.unfit.items()})
            result.unknown.update({rows.key(each): _UNKNOWN for each in healed.unchecked})
            busy |= healed.busy
            if stop():
                raise Stopped("stopped; the rows that were made right stay so")
        left = sorted(busy)
        if left and time.monotonic() > deadline:
            result.unfit.update({rows.key(each): _BUSY for each in left})
            break
    result.note_absent(map(rows.key, named), there | rows.there(map(rows.key, named)))
    return result
