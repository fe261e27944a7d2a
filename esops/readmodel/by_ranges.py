"""Versions whose rows are replaced range by range: until the last range is done, some rows are of
the old code and some of the new, and the version has no checkpoint, as one that was adopted from
the application. The ranges tell them apart.
"""

from __future__ import annotations

import psycopg

from esops.errors import Busy, EsopsError, Refused
from esops.readmodel import locks
from esops.readmodel.registry import LIVE_STATES, Version
from esops.readmodel.shards import shards_of


def unfinished(connection: psycopg.Connection, version: Version) -> EsopsError | None:
    """The error of whoever needs a version that a rebuild by ranges has not finished: Busy while a
    process works on it, and Refused where none does. None where there is no such rebuild.
    """
    if version.state not in LIVE_STATES or version.position is not None:
        return None
    if not shards_of(connection, version):
        return None
    name = version.projection
    what = f"the rows of {name} v{version.version} are being replaced by ranges"
    holder = locks.holder(connection, locks.rebuild_lock(name))
    if holder is not None:
        return Busy(
            f"{what}, by {holder.process}",
            hint="Nothing else advances it until then. Try again when that rebuild has ended.",
        )
    return Refused(
        f"{what}, and no process is working on it",
        hint=f"Finish it with: esops rebuild {name} --resume",
    )
