"""Which version of its schema an event says that it has.

A type's name may end in one, as Marten's mapping with a schema version (`order_placed_v2`) and many
teams have it; the metadata may name one, as message-db's `schemaVersion` does; and the Python
library eventsourcing keeps the version of the class in the state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from esops.schema.shapes import value_of

VERSION_KEYS = ("schemaVersion", "schema_version", "$schemaVersion", "eventVersion")
"""Keys of the metadata, the first that is there counts."""
CLASS_VERSION = "class_version"
"""The key in a state of the Python library eventsourcing; left out for version 1."""
MARK = b"ersion"
"""Metadata without these bytes names no version: most is not decoded."""
_SUFFIX = re.compile(
    r"(?s)(?P<base>.+?)"
    r"(?:[_:.\-][vV](?P<number>\d+(?:\.\d+)*)|(?<=[a-z0-9])V(?P<joined>\d+))"
)


class VersionedName(NamedTuple):
    """A type's name without the version that it ends in, and that version; None: it has none."""

    base: str
    version: str | None


def versioned(stored: str) -> VersionedName:
    """Take a stored type's name apart: `order_placed_v2`, `OrderPlacedV2`, `order-placed:v2`."""
    found = _SUFFIX.fullmatch(stored)
    if found is None:
        return VersionedName(stored, None)
    return VersionedName(found["base"], found["number"] or found["joined"])


def version_in(metadata: bytes, keys: Iterable[str] = VERSION_KEYS) -> str | None:
    """The version that an event's metadata names; None where it names none."""
    if MARK not in metadata:
        return None
    value = value_of(metadata)
    found = _as_text(value, keys)
    if found is None and isinstance(value, dict):
        found = _as_text(value.get("headers"), keys)  # Marten's, which the application writes
    return found


def class_version(data: bytes) -> str | None:
    """The version of the class in a state of the Python library eventsourcing."""
    if b'"class_version"' not in data:
        return None
    return _as_text(value_of(data), (CLASS_VERSION,))


def _as_text(value: Any, keys: Iterable[str]) -> str | None:
    if not isinstance(value, dict):
        return None
    for key in keys:
        named = value.get(key)
        # A number or a short text; anything else is no version.
        if isinstance(named, int | float | str) and not isinstance(named, bool):
            text = str(named)
            if text and len(text) <= 40:
                return text
    return None
