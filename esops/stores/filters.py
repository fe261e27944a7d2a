"""Whether a filter can find anything: a name that no event has is most often a mistake."""

from __future__ import annotations

import difflib
from dataclasses import replace

from esops.errors import NoStream, NothingFound, UsageError, nearest
from esops.events import EventFilter
from esops.stores.base import EventStore
from esops.stores.names import What


def unknown_names(store: EventStore, filter: EventFilter) -> list[tuple[What, str]]:
    """The types and the category of a filter that no event of the store has, archived or not.

    What cannot be found out quickly counts as known.
    """
    named: list[tuple[What, str, EventFilter]] = [
        ("event type", name, EventFilter(types=(name,), archived=True)) for name in filter.types
    ]
    if filter.category is not None:
        one = EventFilter(category=filter.category, archived=True)
        named.append(("category", filter.category, one))
    missing: list[tuple[What, str]] = []
    for what, name, one in named:
        passes = store.names.any_passes(one)
        if passes is None:
            break  # the next questions would take as long
        if not passes:
            missing.append((what, name))
    return missing


def check_filter(store: EventStore, filter: EventFilter, where: str = "") -> list[str]:
    """What to say of names in a filter that no event of the store has.

    `where` begins the sentence, such as "projections.carts: ". Raises UsageError with the nearest
    names where no event at all passes. An empty store knows no names, so nothing is said of it, nor
    where the store cannot answer quickly.
    """
    if not filter.types and filter.category is None:
        return []
    passes = store.names.any_passes(filter)
    if passes is None or (passes and len(filter.types) < 2):
        return []
    missing = unknown_names(store, filter)
    if passes:
        return [_unknown(store, where, *each) for each in missing]
    if not store.names.any_passes(EventFilter(archived=True)):
        return []
    if missing:
        what, name = missing[0]
        raise UsageError(
            _unknown(store, where, what, name), hint=nearest(name, store.names.of(what))
        )
    if not filter.archived and store.names.any_passes(replace(filter, archived=True)):
        raise UsageError(
            f"{where}all events of store {store.name} that pass the filter are in archived streams",
            hint="A projection reads those with include_archived = true.",
        )
    raise UsageError(
        f"{where}no event of store {store.name} passes the filter: it has the types and the "
        "category, but not together",
    )


def nothing_passes(
    store: EventStore, filter: EventFilter, *, known_to_be_none: bool = False
) -> NothingFound | None:
    """The error where no event of the store has the names of a filter, of itself or together, in
    one sentence; None where some have, or the store cannot answer quickly.

    `known_to_be_none`: the log was read, and none was found.
    """
    if filter.everything:
        return None
    every = replace(filter, archived=True)
    passes = store.names.any_passes(every)
    if passes or (passes is None and not known_to_be_none):
        return None
    if passes is False and not store.names.any_passes(EventFilter(archived=True)):
        return None  # an empty store knows no names
    missing = unknown_names(store, filter)
    if not missing and filter.tenant is not None:
        one = EventFilter(tenant=filter.tenant, archived=True)
        if store.names.any_passes(one) is False:
            return NothingFound(f"store {store.name} has no event of tenant {filter.tenant!r}")
    if missing:
        what, name = missing[0]
        names = store.names.of(what)
        return NothingFound(
            _unknown(store, "", what, name), hint=nearest(name, names) if names else None
        )
    named = _named(filter)
    together = " together" if len(named) > 1 and passes is not None else ""
    return NothingFound(f"store {store.name} has no event of {' and '.join(named)}{together}")


def only_archived(store: EventStore, filter: EventFilter) -> str | None:
    """What to say where all events that pass are in archived streams; None where that is not so, or
    not known.
    """
    every = replace(filter, archived=True)
    if (
        filter.archived
        or not store.names.any_passes(every)
        or store.names.any_passes(filter) is not False
    ):
        return None
    return (
        f"store {store.name} has no such event: all of them are in archived streams, which "
        "`esops trace stream` and `esops audit stream` show"
    )


def _named(filter: EventFilter) -> list[str]:
    """What a filter names, in words."""
    types = " or ".join(map(repr, filter.types))
    parts = (
        ("type", types),
        ("category", filter.category and repr(filter.category)),
        ("stream", filter.stream and repr(filter.stream)),
        ("tenant", filter.tenant and repr(filter.tenant)),
    )
    return [f"{what} {name}" for what, name in parts if name]


def no_stream(store: EventStore, name: str) -> NoStream:
    """The error, to be raised, for a stream that a store does not have."""
    names = (each for each in store.names.of("stream") if each != name)  # its events may be gone
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    also = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    hint = f"{also}List the streams of the store with: esops audit streams --all"
    return NoStream(store.name, name, hint)


def _unknown(store: EventStore, where: str, what: What, name: str) -> str:
    return f"{where}store {store.name} has no event of {what.removeprefix('event ')} {name!r}"
