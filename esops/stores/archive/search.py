"""Finding archived events by their ids, or by ids in their metadata, in SQL over the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from esops.causality import (
    CAUSATION_KEYS,
    CAUSATION_STREAM,
    CORRELATION_KEYS,
    TRACE_KEYS,
    TRACEPARENT,
)
from esops.stores.parts import SearchResult
from esops.stores.searching import IdSearch, SoughtIds


class ArchiveSearch(IdSearch):
    """Search of an archive."""

    def __init__(self, found: Callable[[str, Sequence[Any]], SearchResult]) -> None:
        """`found` gives the events for which a condition holds, with the values of its `?`."""
        self._found = found

    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """Find events by a scan of the files."""
        if sought.kind == "event_id":
            return self._found(*_by_id(sought.values))
        return self._found(*_by_metadata(sought))


def _by_id(ids: Sequence[str]) -> tuple[str, list[str]]:
    # Ids are stored as 16 bytes where they are UUIDs, and as text otherwise.
    values = [*ids, *(value.replace("-", "").lower() for value in ids)]
    return f"coalesce(id_text, lower(hex(id))) IN ({', '.join('?' * len(values))})", values


def _by_metadata(sought: SoughtIds) -> tuple[str, list[str]]:
    match sought.kind:
        case "trace_id":
            wanted: Sequence[str] = (*CORRELATION_KEYS, *TRACE_KEYS)
        case "correlation_id":
            wanted = sought.keys or CORRELATION_KEYS
        case _:
            wanted = sought.keys or (*CAUSATION_KEYS, CAUSATION_STREAM)
    among = ", ".join("?" * len(sought.values))
    conditions = [f"{_value(key)} IN ({among})" for key in wanted]
    if sought.kind == "trace_id":
        # OpenTelemetry puts the trace id into the middle of a traceparent.
        conditions += [
            f"regexp_extract({_value(key)}, '^..-([0-9a-f]{{32}})-', 1) IN ({among})"
            for key in (TRACEPARENT, *(sought.keys or CAUSATION_KEYS))
        ]
    return f"({' OR '.join(conditions)})", [*sought.values] * len(conditions)


def _value(key: str) -> str:
    # Metadata is whatever the application wrote: what is no UTF-8 or no JSON has no ids.
    return f"json_extract_string(try(decode(metadata)), '$.\"{key}\"')"
