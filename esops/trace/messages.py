"""Whether a cause that is no stored event is a message, or an event that is missing.

An id does not say which. But libraries name either events (EventStoreDB's convention, Emmett's
processors) or messages that no store keeps (Wolverine), so the events around show which it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from esops.causality import looks_like_uuid, one_writing
from esops.events import EventFilter, Position
from esops.stores.base import EventStore
from esops.trace.graph import Keys, Node, node

_AROUND = 500
"""Events after a trace's event, and of the store's first ones, that are asked what they name."""
_LOOKED_UP = 100
"""Causes that are looked for among all events."""
_REFERENCE = re.compile(r"(.+)/(\d+)\Z", re.DOTALL)

_ALIKE = 20
"""Ids of events: this many of one kind of UUID show that all are."""

Exists = Callable[[Sequence[str]], bool]
"""Whether any event of all stores has one of these ids."""


def parse_reference(name: str) -> tuple[str, int] | None:
    """Read `stream/version`; None if it is an id."""
    found = _REFERENCE.match(name)
    return (found[1], int(found[2])) if found else None


def messages(
    stores: Iterable[EventStore],
    nodes: Sequence[Node],
    unresolved: Sequence[Node],
    keys: Keys,
    exists: Exists,
) -> set[str]:
    """Of the causes that `unresolved` events name, those that are messages, each in the writing
    that all writings of an id share.

    `nodes`: all events that were found. A cause by stream and version is always an event. An id is
    a message's where no event has an id of its form (a text in a store of UUIDs, or a UUID of
    another kind), or where the events around name several such ids and none of them is an event's.
    Where nothing tells, it is not.
    """
    found: set[str] = set()
    for store in stores:
        theirs = [each for each in unresolved if each.store == store.name]
        names = {
            each.cause_key
            for each in theirs
            if each.cause_key is not None and parse_reference(each.cause_key) is None
        }
        if not names:
            continue
        around = _around(store, theirs, keys)
        around += [each for each in nodes if each.store == store.name]
        found |= _of_another_form({each.key for each in around}, names)
        likely = {name for name in names - found if _shows_messages(around, name)}
        if likely and not _names_events(around, {each.key for each in nodes}, names, exists):
            found |= likely
    return found


def _around(store: EventStore, theirs: Sequence[Node], keys: Keys) -> list[Node]:
    first = Position(min(each.order for each in theirs))
    found: list[Node] = []
    # What has not settled yet is not waited for: there is enough to see without it.
    head = store.head(timedelta(0)).position
    for after, until in ((first, head), (None, first)):
        if until is not None:
            for batch in store.read_all(after, until, EventFilter(archived=True), _AROUND):
                found += [node(store.name, event, keys) for event in batch.events]
    return found


def _ids(around: Iterable[Node]) -> dict[str, Node]:
    """The ids that events name as causes: no spans, no streams, and not their correlation."""
    return {
        each.cause_key: each
        for each in around
        if each.cause_key is not None
        and each.cause_span is None
        and not each.names_correlation
        and parse_reference(each.cause_key) is None
    }


def _of_another_form(ids: set[str], names: set[str]) -> set[str]:
    """Of these causes, those that do not look like any event's id: libraries make the ids of
    messages otherwise. Wolverine's are no UUIDs of RFC 9562, and Marten's events have those.
    """
    if not all(map(looks_like_uuid, ids)):
        return set()
    texts = {name for name in names if not looks_like_uuid(name)}
    forms = set(map(_form, ids))
    # Random digits look like each form now and then, and a few ids show nothing.
    if len(ids) < _ALIKE or len(forms) > 1 or forms == {""}:
        return texts
    return texts | {name for name in names - texts if _form(name) not in forms}


def _form(identifier: str) -> str:
    """The version of a UUID of RFC 9562; empty for another one."""
    plain = one_writing(identifier)
    return plain[12] if plain[16] in "89ab" and plain[12] in "12345678" else ""


def _shows_messages(around: Sequence[Node], name: str) -> bool:
    """Whether there is more to judge by than one event."""
    events = {(each.stream, each.version) for each in around if each.cause_key == name}
    return len(events) > 1 or bool(_ids(around).keys() - {name})


def _names_events(
    around: Sequence[Node], known: set[str], unresolved: set[str], exists: Exists
) -> bool:
    """Whether any cause that these events name is an event."""
    named = _ids(around).keys() - unresolved
    if not named.isdisjoint(known | {each.key for each in around}):
        return True
    return bool(named) and exists(sorted(named)[:_LOOKED_UP])
