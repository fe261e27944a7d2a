"""Finding archived events by their ids, or by ids in their metadata, in SQL over the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from esops.events import CAUSATION_KEYS, CAUSATION_STREAM, CORRELATION_KEYS, TRACEPARENT
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
    by_correlation = sought.kind == "correlation_id"
    wanted = sought.keys or (
        CORRELATION_KEYS if by_correlation else (*CAUSATION_KEYS, CAUSATION_STREAM)
    )
    # Metadata is whatever the application wrote: what is no UTF-8 or no JSON has no ids.
    each = [f"json_extract_string(try(decode(metadata)), '$.\"{key}\"')" for key in wanted]
    among = ", ".join("?" * len(sought.values))
    conditions = [f"{value} IN ({among})" for value in each]
    values = [*sought.values] * len(each)
    if by_correlation:
        # OpenTelemetry puts the trace id into the middle of the traceparent.
        traceparent = f"json_extract_string(try(decode(metadata)), '$.{TRACEPARENT}')"
        conditions.append(f"regexp_extract({traceparent}, '^..-([0-9a-f]{{32}})-', 1) IN ({among})")
        values += sought.values
    return f"({' OR '.join(conditions)})", values
