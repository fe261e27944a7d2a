"""Streams that have lost their first events, so that a fold sees them from the middle on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from esops.archive_format.snapshots import is_snapshot
from esops.errors import Denied
from esops.events import EventFilter
from esops.stores.archiving import LateBeginning
from esops.wording import count

if TYPE_CHECKING:
    from esops.stores.base import EventStore

_EXAMPLES, _LOOKED_AT = 5, 200
"""Streams of one type and category, and events of each, that are looked at for a filter's types."""
_WHOLE = 20
"""Whole streams of a category that are looked at where the store cannot be asked for its types."""
_CATEGORIES = 50
"""Categories that are asked about; more are no way to tell streams apart."""


class Shortened(NamedTuple):
    """The streams without their first events that begin with one type of event now."""

    type: str
    streams: int
    events: int
    """How many versions are missing before their first events, all of them together."""
    example: str
    """The name of one of them."""


class LateGroup(NamedTuple):
    """The streams without their first events of one type of event and of one category."""

    type: str
    category: str | None
    """None where nothing tells."""
    streams: int
    events: int
    """As in Shortened."""
    example: str
    wanted: bool
    """Whether a filter wants one of the events that they still have."""


@dataclass
class _Counted:
    streams: int = 0
    events: int = 0
    examples: list[str] = field(default_factory=list)


def relevant(
    groups: Iterable[LateGroup], filter: EventFilter, are_others: Callable[[str], bool]
) -> list[Shortened]:
    """What of some groups a filter may want, by the type of their first event: those with most
    streams first.

    What is gone may have had any type. So with types in the filter a group is left out only where
    streams of its category that are whole tell, by `are_others`, that the filter wants nothing of
    this category.
    """
    asked: dict[str, bool] = {}
    found: dict[str, Shortened] = {}
    for each in sorted(groups, key=lambda each: (-each.streams, each.example)):
        if filter.types and filter.category is None and not each.wanted and each.category:
            if each.category not in asked and len(asked) < _CATEGORIES:
                asked[each.category] = are_others(each.category)
            if asked.get(each.category):
                continue
        known = found.get(each.type, Shortened(each.type, 0, 0, each.example))
        found[each.type] = known._replace(
            streams=known.streams + each.streams,
            events=known.events + each.events,
            example=min(known.example, each.example),
        )
    return sorted(found.values(), key=lambda each: (-each.streams, each.type))


def by_type(
    store: EventStore, late: Iterable[LateBeginning], filter: EventFilter
) -> list[Shortened]:
    """Streams of a store that begin late, as `relevant` gives them.

    Left out are also those that have no event at all, and those that a limit of their own explains.
    """
    found: dict[tuple[str, str | None], _Counted] = {}
    first = store.capabilities.first_version
    for each in late:
        if each.type is None or each.limited:
            continue
        group = found.setdefault((each.type, each.category), _Counted())
        group.streams += 1
        group.events += each.below - first
        if len(group.examples) < _EXAMPLES:
            group.examples.append(each.key.stream)

    def are_others(category: str) -> bool:
        of_them = EventFilter(category=category, archived=True)
        passes = store.names.any_passes(replace(of_them, types=filter.types))
        whole = (
            info.name
            for info in store.many_streams.allowed(of_them, [])
            if info.length and info.first_version == first
        )
        if passes is None:
            some = list(islice(whole, _WHOLE))
            return bool(some) and not _is_wanted(store, some, filter)
        return not passes and next(whole, None) is not None

    return relevant(
        (
            LateGroup(
                kind,
                category,
                group.streams,
                group.events,
                min(group.examples),
                not filter.types or _is_wanted(store, group.examples, filter),
            )
            for (kind, category), group in found.items()
        ),
        filter,
        are_others,
    )


def _is_wanted(store: EventStore, streams: Iterable[str], filter: EventFilter) -> bool:
    """Whether the filter wants an event of some streams, or may: this user may not read one."""
    try:
        return any(
            event.type in filter.types
            for stream in streams
            for event in store.read_stream(stream, limit=_LOOKED_AT)
        )
    except Denied:
        return True


def not_taken(found: Iterable[Shortened], begins_with: Collection[str]) -> list[Shortened]:
    """Those that begin with what code does not take for what was before it."""
    return [each for each in found if each.type not in begins_with]


def remedy(projection: str, found: Sequence[Shortened], rebuild: str = "") -> str:
    """What the operator can do; `rebuild` is the command where none is under way."""
    types = json.dumps([each.type for each in found[:3]], ensure_ascii=False)
    return (
        "If the code can begin with such an event, as with a snapshot: begins_with = "
        f"{types} in [projections.{projection}]. If rows may lack what was in these events: "
        f"{rebuild}--accept-shortened. See `esops docs rebuild-compacted-streams`."
    )


def example(store: EventStore, found: Sequence[Shortened]) -> str:
    """The first of what was found in a store, with a stream's name."""
    return f"in store {store.name}, {in_words(found[0])} (one is {found[0].example!r})"


def in_words(each: Shortened) -> str:
    """Such streams: how many, what they begin with, and how much they have lost."""
    begin = "stream begins" if each.streams == 1 else "streams begin"
    if is_snapshot(each.type):
        # It has the version of the last event that it stands for.
        events = count(each.events + each.streams, "event")
        return f"{each.streams:,} {begin} with {each.type!r}, which stands for {events}"
    has = "has" if each.streams == 1 else "have"
    return (
        f"{each.streams:,} {begin} with {each.type!r} and {has} lost the "
        f"{count(each.events, 'event')} before it"
    )
