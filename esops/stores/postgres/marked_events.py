"""The events that a mark of a log names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from esops.errors import UnreadableMark
from esops.events import Position
from esops.stores.parts import Mark


class Marked(NamedTuple):
    """An event as a mark names it. `content`: what tells it from another where ids are made up."""

    position: str
    id: str
    stream: str
    version: int
    tenant: str
    content: str | None


def is_same(one: Marked, other: Marked) -> bool:
    """Whether two are one event."""
    return (one.id, one.content) == (other.id, other.content)


def rewritten(now: Marked, before: Marked) -> bool:
    """Whether an event that has no id of its own may be the one before with other content, as where
    personal data was masked.

    In a log that was restored to an earlier time, no event after such a one is the same.
    """
    return now.id == before.id and now.content != before.content


def marked_events(mark: Mark) -> list[Marked]:
    """The events that a mark names. Raises UnreadableMark where it is none of ours."""
    try:
        events = [Marked(*each) for each in mark["events"]]
        for each in events:
            Position.parse(each.position)
        dict(mark.get("log") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableMark from error
    return events


def same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two logs are one table, as far as that can be known for sure."""
    names = ("system", "timeline", "database", "table")
    known = one.get("system") is not None and one.get("timeline") is not None
    return one == other or (known and all(one.get(each) == other.get(each) for each in names))
