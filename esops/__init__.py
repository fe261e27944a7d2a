"""esops: operate event-sourced systems in production.

The names below are all that a projection needs; they are imported when first used, so that `esops
--help` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esops.events import NewEvent, Position, RecordedEvent
    from esops.projections.definition import Handlers, fold
    from esops.projections.kinds.writes import Write

__version__ = "0.1.0"
__all__ = ["Handlers", "NewEvent", "Position", "RecordedEvent", "Write", "__version__", "fold"]


def __getattr__(name: str) -> Any:
    if name in {"fold", "Handlers"}:
        from esops.projections import definition

        return getattr(definition, name)
    if name == "Write":
        from esops.projections.kinds.writes import Write

        return Write
    if name in {"NewEvent", "Position", "RecordedEvent"}:
        from esops import events

        return getattr(events, name)
    raise AttributeError(f"module 'esops' has no attribute {name!r}")
