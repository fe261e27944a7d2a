"""A stream of which one part is in a store and one in its archive, as one."""

from __future__ import annotations

from dataclasses import replace
from typing import overload

from esops.events import StreamInfo


@overload
def together(hot: StreamInfo, cold: StreamInfo | None) -> StreamInfo: ...
@overload
def together(hot: StreamInfo | None, cold: StreamInfo | None) -> StreamInfo | None: ...
def together(hot: StreamInfo | None, cold: StreamInfo | None) -> StreamInfo | None:
    """The stream as both parts make it; versions that are in both count once."""
    if hot is None or cold is None:
        return hot or cold
    if not hot.length:
        # Such as a stream whose events were all removed: what is read of it is the archive's.
        return replace(cold, archived=True, deleted=hot.deleted, settings=hot.settings)
    if not cold.length:
        return hot
    both = min(hot.last_version, cold.last_version) - max(hot.first_version, cold.first_version) + 1
    both = max(0, min(both, hot.length, cold.length))
    newest = cold if cold.last_version > hot.last_version else hot
    size = None
    if hot.bytes is not None and cold.bytes is not None:
        # Which of them are in both is not known by size: on average, they are as large.
        size = hot.bytes + round(cold.bytes * (cold.length - both) / cold.length)
    return replace(
        hot,
        category=hot.category or cold.category,
        length=hot.length + cold.length - both,
        first_version=min(hot.first_version, cold.first_version),
        last_version=newest.last_version,
        first_at=min((at for at in (hot.first_at, cold.first_at) if at is not None), default=None),
        last_at=max((at for at in (hot.last_at, cold.last_at) if at is not None), default=None),
        closed=newest.closed,
        bytes=hot.bytes if size is None else size,
    )
