"""Events that a library has put in the place of older ones.

Marten's CompactStreamAsync deletes the events of a stream up to a version, and replaces the last of
them by `Compacted<T>`, at its number and version and with an id of its own (EventStore.
StreamCompacting.cs, ReplaceEventOperation.cs). A run from before has the original event, and a run
after it the snapshot.
"""

from __future__ import annotations

SNAPSHOT = "compacted"
"""How the type of a snapshot begins, in lower case."""


def is_snapshot(type: str) -> bool:
    """Whether an event stands for all events of its stream up to its version."""
    return type.lower().startswith(SNAPSHOT)
