"""What a store can do, and the one answer of a command that needs more.

A capability is a field of `Capabilities`, or a part of the store (`store.archiving`, …) that is not
None. Whoever needs one that is missing raises `missing(store, NAME)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol, TypeVar

from esops.errors import UsageError

Part = TypeVar("Part")
Name = Literal[
    "append",
    "archiving",
    "backwards",
    "masking",
    "lengths",
    "search",
    "shards",
    "sql",
    "admin",
    "checkpoints to set",
]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond being read, as far as it is no part of its own."""

    append: bool = False
    """Events can be appended by esops."""
    count_between: bool = False
    """It can say how many events lie between two positions; otherwise that is an estimate."""
    shards: bool = False
    """Its streams can be split into shards by a hash of their names, for several readers."""
    tenants: bool = False
    """The same stream id may stand for two streams, of two tenants."""
    named_tenants: bool = False
    """Its events say of which tenant they are, also where only one tenant's are read."""
    checkpoints: bool = False
    """It keeps the positions of the application's own processors."""
    uuid_streams: bool = False
    """Its streams are named by UUIDs only."""
    uuid_events: bool = False
    """The ids of its events are UUIDs only."""
    keeps_ids: bool = True
    """An event keeps the id that it is appended with."""
    hidden_rows: bool = False
    """Its streams may have rows that are no events, such as skipped ones, which an archive run
    takes along.
    """
    names_begin_again: bool = False
    """The name of an archived stream can be used for another one, whose versions begin again."""
    server_streams: bool = False
    """Streams whose names begin with `$` are the server's own, and nobody's events."""
    first_version: int = 1
    """The version of a stream's first event."""
    position_parts: int = 1
    """How many numbers make up a position."""
    settling: timedelta = timedelta(seconds=10)
    """How long a command waits for the events that were committed before it to settle."""


class MissingCapability(UsageError):
    """The store cannot do what the command needs."""


_ANSWERS: dict[Name, tuple[str, str]] = {
    "append": (
        "takes no events from esops",
        "Name a store that does: one with a layout of a library, EventStoreDB, or a plug-in's.",
    ),
    "archiving": (
        "cannot be archived by esops, and archived events cannot be restored into it as they were",
        "`esops docs stores` lists the stores that can be archived.",
    ),
    "backwards": (
        "cannot be read from its end",
        "Name how many events are wanted, with --last N: all are read, and the last N are kept.",
    ),
    "masking": (
        "has no event that esops could change",
        "EventStoreDB needs its licensed redactor, run on each node (docs: erase-personal-data).",
    ),
    "lengths": (
        "cannot say how long its streams are",
        "`esops docs stores` lists the stores that `esops audit` can look at.",
    ),
    "search": (
        "cannot search for events by id",
        "Read a stream with `esops events --stream NAME`, or all events with `esops events`.",
    ),
    "shards": (
        "cannot split its streams into shards for several readers",
        "Leave the option out: one process reads all events.",
    ),
    "sql": (
        "is not in a Postgres database, so SQL cannot read its events",
        "Use kind 'fold' or 'handlers', which read from any store.",
    ),
    "admin": (
        "runs no projections of its own",
        "A projection of kind 'server' needs an EventStoreDB store.",
    ),
    "checkpoints to set": (
        "keeps no checkpoints of an application that esops could set",
        'live = "esops" lets esops keep the projection fresh.',
    ),
}


class Named(Protocol):
    """Anything with a name, such as a store."""

    @property
    def name(self) -> str:
        """The name in esops.toml."""
        ...


def missing(store: Named, what: Name) -> MissingCapability:
    """The error, to be raised, which says what a store cannot do and what to do instead."""
    sentence, hint = _ANSWERS[what]
    return MissingCapability(f"store {store.name} {sentence}", hint=hint)


def require(store: Named, part: Part | None, what: Name) -> Part:
    """A part of a store. Raises MissingCapability where the store does not have it."""
    if part is None:
        raise missing(store, what)
    return part
