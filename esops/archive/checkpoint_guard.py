"""Nothing is removed that somebody has not read yet.

Readers are the versions of esops' own read models and the application's processors. What a reader
reads, and how far it is, is data that the layout gives (`esops.events.Checkpoint`). A reader whose
position is unknown has read nothing of what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from esops.archive import registered
from esops.archive.registered import Registered
from esops.archive.unread import RunEvents
from esops.config import Config
from esops.errors import Refused, UsageError, nearest
from esops.events import Checkpoint, StreamKey, own_names
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.stores.base import EventStore
from esops.wording import count

log = structlog.get_logger("esops.archive")

_SHOWN = 5
Unread = Callable[[Checkpoint], int]
"""How many of the events that would be removed a reader has not read, or may not have read."""


@dataclass(frozen=True, slots=True)
class Late:
    """A reader that has not read all events yet."""

    who: str
    where: str
    """How far it is."""
    unread: int
    names: frozenset[str]
    """By which `--despite` can name it."""
    name: str
    """The one of these that a hint shows."""
    more: str = ""

    def __str__(self) -> str:
        unread = f"{count(self.unread, 'event')} of these may be unread"
        return f"{self.who} ({self.where}; {unread}){self.more}"


def behind(config: Config, store: EventStore, store_name: str, unread: Unread) -> list[Late]:
    """The readers of a store that have not read all of some events.

    Raises Unavailable if a read model cannot be asked, AnotherLog if one was made from another
    history of the store.
    """
    processors = [each for each in store.checkpoints() if each.kind == "processor"]
    return [
        *_processors_behind(processors, unread),
        *_projections_behind(config, store, store_name, processors, unread),
    ]


def _processors_behind(processors: Sequence[Checkpoint], unread: Unread) -> Iterator[Late]:
    for each, names in zip(processors, own_names(processors), strict=True):
        if events := unread(each):
            # A name of several would ignore others as well.
            own = names[0] if names else each.names[-1]
            known = frozenset(names or each.names)
            yield Late(f"processor {own!r}", _where(each), events, known, own)


def _projections_behind(
    config: Config,
    store: EventStore,
    store_name: str,
    processors: Sequence[Checkpoint],
    unread: Unread,
) -> Iterator[Late]:
    for each in registered.versions_of_store(config, store, store_name):
        if _is_a_processors(each, processors) or _stands_still(each.version):
            continue
        version = each.version
        position = None if each.doubt else version.position
        reader = Checkpoint(
            each.name, position, version.state, version.updated_at, evidence=each.doubt
        )
        if events := unread(reader):
            who = f"projection {version.projection} v{version.version}"
            own = f"{each.name}/{version.version}"
            names = frozenset({each.name, own})
            yield Late(who, _where(reader), events, names, own, _strange(each))


def _is_a_processors(each: Registered, processors: Sequence[Checkpoint]) -> bool:
    """Whether a processor of the application keeps a version fresh: then that is the reader. What
    the application writes with each append has no reader.
    """
    version, settings = each.version, each.settings
    if settings and settings.live == "inline" and version.position is None:
        return version.state in registry.LIVE_STATES
    kept = version.checkpoint
    if kept is None and settings and settings.live == "app" and version.state == "active":
        kept = settings.checkpoint
    return (
        kept is not None
        and version.position is None
        and any(each.called(kept) for each in processors)
    )


def _stands_still(version: Version) -> bool:
    """Whether a version that does not serve was made by the application: esops follows none of
    these, and a rollback to one looks whether it would miss what was archived.
    """
    known = version.position or version.fingerprint or version.lost
    return version.state == "standby" and known is None


def _where(reader: Checkpoint) -> str:
    if reader.position is None and reader.evidence:
        return f"it is not known where it stands: {reader.evidence}"
    return "it has read nothing" if reader.position is None else f"it is at {reader.position}"


def _strange(each: Registered) -> str:
    """What else is to be known of a version that esops.toml does not have by its name."""
    known = each.version.projection
    if each.settings is None:
        return "; esops.toml does not name it, and another one may"
    if known != each.name:
        return f"; nobody follows it before `esops projection rename {known} {each.name}`"
    return ""


def check_despite(
    config: Config, store: EventStore, store_name: str, despite: Sequence[str]
) -> None:
    """Raises UsageError with the nearest names where `--despite` names no reader of the store."""
    if not despite:
        return
    known = behind(config, store, store_name, lambda _: 1)
    names = sorted(set().union(*(each.names for each in known)))
    for each in despite:
        if each not in names:
            raise UsageError(
                f"--despite {each}: no projection or processor reads store {store_name} by this "
                "name",
                hint=nearest(each, names),
            )


def refuse_unless_read(
    config: Config,
    store: EventStore,
    store_name: str,
    events: RunEvents,
    despite: Sequence[str] = (),
) -> None:
    """Raises Refused if somebody has not read all events of a run, except those readers that
    `despite` names.
    """
    found = behind(config, store, store_name, events.unread)
    ignored = [each for each in found if not each.names.isdisjoint(despite)]
    late = [each for each in found if each not in ignored]
    if late:
        more = f" and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
        # Those that were given belong to it: what is printed is to be run as it is.
        named = " ".join(f"--despite {quoted(each.name)}" for each in (*ignored, *late))
        raise Refused(
            f"the run would remove events up to position {events.last}, and "
            f"{count(len(late), 'reader has', 'readers have')} not read all of them yet: "
            f"{', '.join(map(str, late[:_SHOWN]))}{more}",
            hint="Wait until they have caught up, or remove those that nobody needs. With "
            f"{named} the run removes the events anyway; with --despite-checkpoints it asks "
            "nobody.",
        )
    for each in ignored:
        log.warning("removing events in spite of a reader", reader=str(each))


def quoted(name: str) -> str:
    """A name as a shell takes it."""
    plain = all(each.isalnum() or each in "_-./:@" for each in name)
    return name if plain else "'{}'".format(name.replace("'", "'\\''"))


def needed_streams(store: EventStore) -> dict[StreamKey, str]:
    """The streams of which an event has to stay, each with the reason: the application's library
    could not begin without the event at which a processor stands.
    """
    return {
        each.holds_stream: f"processor {each.name!r} is at one of its events, and its library "
        "looks that event up"
        for each in store.checkpoints()
        if each.holds_stream is not None
    }
