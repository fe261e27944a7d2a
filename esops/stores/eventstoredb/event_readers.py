"""Who reads the events of a node: persistent subscriptions, and projections that emit.

The filter of a subscription to $all is in no answer of the server, but in the stream where the
server keeps its subscriptions; what a projection reads is told over HTTP. Catch-up subscriptions
leave no trace in the server. Fact: EventStoreDB's PersistentSubscriptionConfig and EventFilter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from esops.errors import ConnectionLost, EsopsError, Unavailable
from esops.stores.eventstoredb.admin import HttpAdmin
from esops.stores.eventstoredb.groups import ALL, ConsumerGroup
from esops.stores.readers import UNKNOWN, EventReader, EventsRead, matching, prefixed

if TYPE_CHECKING:
    from esops.stores.eventstoredb.node import NodeAdmin
    from esops.stores.eventstoredb.store import EventStoreDBStore

_HIDDEN = EventsRead(
    known=False, words="what its filter lets through, and this user may not read that"
)
_BY_CATEGORY = "$by_category"
_FIRST_HYPHEN = re.compile(r"\s*(first\s+)?-\s*")
_CONFIG = "$persistentSubscriptionConfig"


def readers(node: NodeAdmin, store: EventStoreDBStore) -> list[EventReader]:
    """All of a node's readers, without the server's own projections."""
    groups = node.subscriptions.all()
    filters = _filters(store) if any(each.stream == ALL for each in groups) else {}
    names = [each.name for each in node.projections.all()]
    with node.http() as http:
        query = _query(http, _BY_CATEGORY) if _BY_CATEGORY in names else None
        cut = query is None or _FIRST_HYPHEN.fullmatch(str(query.get("query") or "-")) is not None
        found = [_of_group(each, filters, first_hyphen=cut) for each in groups]
        for name in names:
            if not name.startswith("$"):
                found += _of_projection(name, _query(http, name))
    return found


def _query(http: HttpAdmin, name: str) -> Mapping[str, Any] | None:
    """As the server says it; None also where it does not say it to this user."""
    try:
        return http.projection_query(name)
    except ConnectionLost:
        raise
    except Unavailable:
        return None


def _filters(store: EventStoreDBStore) -> Mapping[tuple[str, str], Any] | None:
    """The filter of each subscription (None: it has none); None where that may not be read."""
    try:
        newest = next(store.read_stream(_CONFIG, backwards=True, limit=1), None)
    except EsopsError:
        return None
    entries = [] if newest is None else newest.json().get("entries") or []
    return {(each["stream"], each["group"]): each.get("filter") for each in entries}


def _of_group(
    group: ConsumerGroup,
    filters: Mapping[tuple[str, str], Any] | None,
    *,
    first_hyphen: bool,
) -> EventReader:
    """`first_hyphen`: the server's categories, too, end at the first hyphen of a stream."""
    name = f"{group.stream}::{group.name}"
    if group.stream != ALL:
        reads = _of_stream(group, first_hyphen=first_hyphen)
    elif filters is None or (ALL, group.name) not in filters:
        reads = _HIDDEN
    else:
        reads = _filtered(filters[ALL, group.name])
    return EventReader(name, (name, group.name), "persistent subscription", reads)


def _of_stream(group: ConsumerGroup, *, first_hyphen: bool) -> EventsRead:
    what, separator, of = group.stream.partition("-")
    if what not in {"$ce", "$et"} or not separator:
        links = (group.stream,) if group.resolves else ()
        own = frozenset({group.stream})
        return EventsRead(streams=own, links=links, words=f"stream {group.stream}")
    if not group.resolves:
        return EventsRead(nothing=True, words=f"links of {group.stream} only")
    if what == "$et":
        return EventsRead(types=frozenset({of}), words=f"type {of}")
    if first_hyphen and "-" not in of:
        return EventsRead(categories=frozenset({of}), words=f"category {of}")
    # No category of ours is the same: what is in it has to be read there.
    return EventsRead(nothing=True, links=(group.stream,), words=f"category {of}")


def _filtered(asked: Any) -> EventsRead:
    """What a filter lets through, as the server writes it; prefixes are separated by commas."""
    if not asked:
        return EventsRead()
    data = str(asked.get("data") or "")
    regex = asked.get("type") == "regex"
    passes: Callable[[str], bool] | None
    passes = matching(data) if regex else prefixed(tuple(filter(None, data.split(","))))
    if passes is None:
        return EventsRead(known=False, words=f"what matches {data!r}, which esops cannot read")
    how = "match" if regex else "begin with"
    if asked.get("context") == "streamid":
        return EventsRead(stream_filter=passes, words=f"streams that {how} {data}")
    return EventsRead(type_filter=passes, words=f"types that {how} {data}")


def _of_projection(name: str, query: Mapping[str, Any] | None) -> Iterable[EventReader]:
    """A projection that emits, or of which that is not known. What another one makes stays in the
    server.
    """
    kind = "projection in the server that emits"
    if query is None:
        yield EventReader(name, (name,), kind, UNKNOWN)
        return
    if not query.get("emitEnabled"):
        return
    source = query.get("definition") or {}
    streams, categories = source.get("streams") or [], source.get("categories") or []
    types = [] if source.get("allEvents") else source.get("events") or []
    where = [*(f"stream {each}" for each in streams), *(f"category {each}" for each in categories)]
    reads = EventsRead(
        streams=frozenset(streams),
        categories=frozenset(categories),
        types=frozenset(types),
        links=tuple(streams),
        words=", ".join(where) or "all events",
    )
    yield EventReader(name, (name,), kind, reads)
