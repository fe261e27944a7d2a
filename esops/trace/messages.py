"""What a cause is that was not found: a message, or an event that is gone.

An id does not say which. What the store's other events name shows it only where that was found: an
event among the causes shows that events are named. Causes that were not found either show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from esops.causality import looks_like_uuid, one_writing
from esops.events import EventFilter, Position
from esops.stores.base import EventStore
from esops.trace.graph import CauseKind, Forest, Keys, Name, Node, node
from esops.trace.lookup import Lookup

_AROUND = 500
"""Events after a trace's event, and of the store's first ones, that are asked what they name."""
_LOOKED_UP = 100
"""Causes that are looked for among all events."""
_ALIKE = 20
"""Ids of events: this many of one kind of UUID show that all are."""


def judge(lookup: Lookup, forest: Forest) -> dict[tuple[str, Name], CauseKind]:
    """What the causes are that are no event of the forest, for each store whose events name them.

    A cause by stream and version is always an event. An id is a message's where a store has it as
    one, or where it is of a form that no event's id has (a text in a store of UUIDs, or a UUID
    that is none of RFC 9562's). It is an event's that is gone where the store's events are known
    to name events. Where nothing tells, it can be either.
    """
    found: dict[tuple[str, Name], CauseKind] = {}
    unresolved = [
        each
        for each, kind in zip(forest.nodes, forest.kinds, strict=True)
        if kind in ("missing", "unknown", "correlation")
    ]
    for store in lookup.stores:
        theirs = [each for each in unresolved if each.store == store.name]
        names = {
            each.cause_key
            for each in theirs
            if isinstance(each.cause_key, str) and not each.names_correlation
        }
        kinds: dict[Name, CauseKind] = {}
        if names:
            kinds |= _kinds(lookup, store, [it for it in theirs if it.cause_key in names], names)
        for each in theirs:
            name = each.cause_key
            if name is None:
                continue
            place = (store.name, name)
            unasked = place not in lookup.asked and not each.names_correlation
            if place in lookup.left_out or (unasked and kinds.get(name) != "message"):
                found[place] = "not_loaded"
            elif name in kinds:
                found[place] = kinds[name]
    return found


def _kinds(
    lookup: Lookup, store: EventStore, theirs: Sequence[Node], names: set[str]
) -> dict[Name, CauseKind]:
    """What the ids are that a store's events name, as far as anything tells."""
    kept = lookup.messages(sorted(each.cause for each in theirs if each.cause is not None))
    messages = names & kept
    rest = names - messages
    if rest:
        around = _around(store, theirs, lookup.keys)
        around += [each for each in lookup.nodes.values() if each.store == store.name]
        messages |= _of_another_form({each.key for each in around}, rest)
        rest -= messages
    kinds: dict[Name, CauseKind] = dict.fromkeys(messages, "message")
    if rest and _names_events(lookup, around, names):
        kinds |= dict.fromkeys(rest, "missing")
    return kinds


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


def _of_another_form(ids: set[str], names: set[str]) -> set[str]:
    """Of these causes, those that do not look like any event's id: libraries make the ids of
    messages otherwise. Wolverine's are no UUIDs of RFC 9562, and Marten's events have those.

    Its versions show nothing: a library that made other ones before may have written the event.
    """
    if not all(map(looks_like_uuid, ids)):
        return set()
    texts = {name for name in names if not looks_like_uuid(name)}
    # Random digits look like an RFC's now and then, and a few ids show nothing.
    if len(ids) < _ALIKE or not all(map(_is_of_rfc, ids)):
        return texts
    return texts | {name for name in names - texts if not _is_of_rfc(name)}


def _is_of_rfc(identifier: str) -> bool:
    """Whether a UUID is one of RFC 9562."""
    plain = one_writing(identifier)
    return plain[16] in "89ab" and plain[12] in "12345678"


def _names_events(lookup: Lookup, around: Sequence[Node], unresolved: set[str]) -> bool:
    """Whether any id that these events name as their cause is an event's."""
    named = {
        each.cause_key
        for each in around
        if isinstance(each.cause_key, str)
        and each.cause_span is None
        and not each.names_correlation
    } - unresolved
    known = {each.key for each in around} | {each.key for each in lookup.nodes.values()}
    if not named.isdisjoint(known):
        return True
    return bool(named) and lookup.exists(sorted(named)[:_LOOKED_UP])
