"""Who reads a store's events, and which of them, as far as the store itself tells.

Checkpoints say how far a processor is. This says what it gets to see: a whole category, the types
of a filter, everything; or that nobody but its own code knows that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esops.events import Checkpoint, RecordedEvent

if TYPE_CHECKING:
    from esops.stores.base import EventStore


@dataclass(frozen=True, slots=True)
class EventsRead:
    """Which events a reader gets: those that match everything that is given."""

    known: bool = True
    """False where the reader's own code chooses; then nothing else is given."""
    streams: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    tenant: str = ""
    stream_filter: Callable[[str], bool] | None = None
    type_filter: Callable[[str], bool] | None = None
    links: tuple[str, ...] = ()
    """Streams that may have links to events of others, which it gets too: they are found there."""
    nothing: bool = False
    """Whether it gets no event at all."""
    asleep: str = ""
    """Why it gets nothing for now, where it would otherwise."""
    words: str = "all events"
    """The same for a person."""

    @property
    def by_stream(self) -> bool:
        """Whether it depends on the stream of an event, and not only on its category and type."""
        return bool(self.streams) or self.stream_filter is not None

    def admits(self, event: RecordedEvent) -> bool:
        """Whether the reader gets an event, other than by a link."""
        return (
            not self.nothing
            and (not self.types or event.type in self.types)
            and (not self.categories or event.category in self.categories)
            and (not self.streams or event.stream in self.streams)
            and self.tenant in {"", event.tenant}
            and (self.type_filter is None or self.type_filter(event.type))
            and (self.stream_filter is None or self.stream_filter(event.stream))
        )


UNKNOWN = EventsRead(known=False, words="events that only its own code chooses")


@dataclass(frozen=True, slots=True)
class EventReader:
    """A processor of an application, a consumer group, a projection of a server, and the like."""

    name: str
    names: tuple[str, ...]
    """All names by which a configuration may call it."""
    kind: str
    """What it is, for a person."""
    reads: EventsRead


def readers_of(store: EventStore) -> list[EventReader]:
    """All readers that a store knows of, without what the store and its library run for
    themselves.
    """
    if store.admin is not None:
        return store.admin.readers()
    processors = [each for each in store.checkpoints() if each.kind == "processor"]
    published = [] if store.sql is None else store.sql.published()
    return [*map(_by_checkpoint, processors), *published]


def _by_checkpoint(found: Checkpoint) -> EventReader:
    reads = UNKNOWN
    if found.types or found.category is not None or found.stream is not None:
        reads = EventsRead(
            streams=frozenset(() if found.stream is None else (found.stream,)),
            categories=frozenset(() if found.category is None else (found.category,)),
            types=frozenset(found.types),
            tenant=found.tenant,
            words=_words(found),
        )
    # A consumer of message-db is known by the identifier that it adds to its position stream.
    identifier = found.name.partition(":position-")[2]
    names = (*found.names, *filter(None, (identifier,)))
    return EventReader(names[0], names, "processor", reads)


def _words(found: Checkpoint) -> str:
    parts = [
        f"{what} {value}"
        for what, value in (
            ("stream", found.stream),
            ("category", found.category),
            ("tenant", found.tenant or None),
        )
        if value is not None
    ]
    if found.types:
        parts.append(f"{len(found.types)} types" if len(found.types) > 1 else found.types[0])
    return ", ".join(parts)


def prefixed(prefixes: tuple[str, ...]) -> Callable[[str], bool]:
    """A filter by the beginning of a name."""
    return lambda name: name.startswith(prefixes)


def matching(expression: str) -> Callable[[str], bool] | None:
    """A filter by a regular expression of .NET anywhere in a name; None where Python cannot read
    it, or would read a class less another (`[a-z-[x]]`) as something else.
    """
    if re.search(r"\[[^\]]+-\[", expression):
        return None
    try:
        compiled = re.compile(expression)
    except re.error:
        return None
    return lambda name: compiled.search(name) is not None
