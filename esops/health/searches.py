"""Whether indexes find events by the ids that traces follow."""

from __future__ import annotations

from collections.abc import Iterator

from esops.health.findings import Finding
from esops.settings import TraceSettings
from esops.stores.base import EventStore
from esops.stores.searching import SoughtIds, search_for
from esops.trace.lookup import ANNOUNCED

_NONE = ("00000000-0000-0000-0000-000000000000",)
_WORDS = {
    "event_id": "their own ids",
    "correlation_id": "correlation ids",
    "causation_id": "the ids of their causes",
    "trace_id": "W3C trace ids",
}


def examine(subject: str, store: EventStore, keys: TraceSettings) -> Iterator[Finding]:
    """Which indexes a trace would need, and the statements that create them; a small store needs
    none. Nothing is searched.
    """
    if store.search is None or store.sql is None:
        return
    scanned, statements, events = list[str](), dict[str, None](), 0
    for kind, words in _WORDS.items():
        under = {"correlation_id": keys.correlation, "event_id": ()}.get(kind, keys.causation)
        sought = SoughtIds(kind, ("0" * 32,) if kind == "trace_id" else _NONE, under)
        found = search_for(store.search, sought)
        if found.scans is not None and found.remedy:
            scanned.append(words)
            statements.update(dict.fromkeys(found.remedy.splitlines()))
            events = max(events, found.scans)
    if events > ANNOUNCED:
        yield Finding(
            "ESOPS-D074",
            subject,
            f"no index finds events by {_listed(scanned)}: `esops trace` reads about {events:,} "
            "events for each such search",
            "\n    ".join(statements),
        )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
