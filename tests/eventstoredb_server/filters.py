"""Filters of reads of $all: by event type or stream name, by prefixes or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.eventstoredb_server.calls import Status, invalid_argument
from tests.eventstoredb_server.storage import Record

Passes = Callable[[Record], bool]


def everything(_: Record) -> bool:
    return True


def described(options) -> dict | None:
    """A filter as the server writes it down: prefixes with commas between them."""
    if options.WhichOneof("filter_option") != "filter":
        return None
    which = options.filter.WhichOneof("filter")
    expression = getattr(options.filter, which)
    return {
        "context": "eventtype" if which == "event_type" else "streamid",
        "type": "regex" if expression.regex else "prefix",
        "data": expression.regex or ",".join(expression.prefix),
        "isAllStream": True,
    }


def from_options(options) -> Passes:
    """Read `filter` of a read's or a persistent subscription's options. Raises Status."""
    if options.WhichOneof("filter_option") != "filter":
        return everything
    asked = options.filter
    which = asked.WhichOneof("filter")
    if which is None:
        raise invalid_argument(f"'{asked}' is not a valid FilterOptions")
    expression = getattr(asked, which)
    attribute = "type" if which == "event_type" else "stream"
    if expression.regex:
        try:
            search = re.compile(expression.regex).search
        except re.error as error:
            raise Status("UNKNOWN", "Exception was thrown by handler.") from error
        return lambda record: search(getattr(record, attribute)) is not None
    prefixes = tuple(expression.prefix)
    return lambda record: getattr(record, attribute).startswith(prefixes)
