"""esops: operate event-sourced systems in production.

The names below are all that a projection needs; they are imported when first used, so that `esops --help` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esops.events import NewEvent, Position, RecordedEvent
    from esops.projections.definition import fold

__version__ = "0.1.0"
__all__ = ["NewEvent", "Position", "RecordedEvent", "__version__", "fold"]


def __getattr__(name: str) -> Any:
    if name == "fold":
        from esops.projections.definition import fold

        return fold
    if name in {"NewEvent", "Position", "RecordedEvent"}:
        from esops import events

        return getattr(events, name)
    raise AttributeError(f"module 'esops' has no attribute {name!r}")
