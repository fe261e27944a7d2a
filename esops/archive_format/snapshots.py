"""Events that a library has put in the place of older ones.

Marten's CompactStreamAsync deletes the events of a stream up to a version, and replaces the last of
them by `Compacted<T>`, at its number and version and with an id of its own (EventStore.
StreamCompacting.cs, ReplaceEventOperation.cs). With EventNamingStyle.FullTypeName the type is
`JasperFx.Events.Compacted<Shop.T>`. A run from before has the original event, and a run after it
the snapshot.
"""

from __future__ import annotations

import re

SNAPSHOT = "^([a-z0-9_.]+[.])?compacted<"
"""How the type of a snapshot begins: a regular expression for Python, Postgres and DuckDB, in which
upper case counts as lower case.
"""
LAYOUTS = ("marten",)
"""Those whose libraries make them."""
_SNAPSHOT = re.compile(SNAPSHOT, re.IGNORECASE)


def is_snapshot(type: str) -> bool:
    """Whether an event stands for all events of its stream up to its version."""
    return _SNAPSHOT.match(type) is not None
