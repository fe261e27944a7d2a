"""Streams that have lost their first events, so that a fold sees them from the middle on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from esops.events import EventFilter, category_of
from esops.stores.archiving import LateBeginning

if TYPE_CHECKING:
    from esops.stores.base import EventStore

_EXAMPLES, _LOOKED_AT = 5, 200
"""Streams of one type, and events of each, that are looked at for the types of a filter."""


class Shortened(NamedTuple):
    """The streams without their first events that begin with one type of event now."""

    type: str
    streams: int
    events: int
    """How many versions are missing before their first events, all of them together."""
    example: str
    """The name of one of them."""


@dataclass
class _Group:
    streams: int = 0
    events: int = 0
    examples: list[str] = field(default_factory=list)


def by_type(
    store: EventStore, late: Iterable[LateBeginning], filter: EventFilter
) -> list[Shortened]:
    """Streams of a store that begin late, by the type of their first event: those with most streams
    first.

    Left out are those of other categories, as their names tell; those that have no event at all;
    those that a limit of their own explains; and types of which no stream has an event that the
    filter wants, though it has others.
    """
    found: dict[str, _Group] = {}
    first = store.capabilities.first_version
    for each in late:
        name = each.key.stream
        if each.type is None or each.limited or filter.stream not in {None, name}:
            continue
        if filter.category not in {None, category_of(name)}:
            continue
        group = found.setdefault(each.type, _Group())
        group.streams += 1
        group.events += each.below - first
        if len(group.examples) < _EXAMPLES:
            group.examples.append(name)
    return sorted(
        (
            Shortened(kind, group.streams, group.events, min(group.examples))
            for kind, group in found.items()
            if not filter.types or _may_be_wanted(store, group.examples, filter)
        ),
        key=lambda each: (-each.streams, each.type),
    )


def _may_be_wanted(store: EventStore, streams: Iterable[str], filter: EventFilter) -> bool:
    """Whether the filter wants an event of some streams, or nothing tells what they are about."""
    alone = True
    for stream in streams:
        types = [event.type for event in store.read_stream(stream, limit=_LOOKED_AT)]
        if not set(types).isdisjoint(filter.types):
            return True
        alone = alone and len(types) < 2
    return alone
