"""One shape of a type: its fields, how they differ from the type's newest shape, and which open
streams have an event of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from esops.errors import NothingFound, UsageError
from esops.moments import moment
from esops.schema.closing import ClosingRule
from esops.schema.history import inventory_of
from esops.schema.inventory import Inventory
from esops.schema.reading import Progress
from esops.schema.shape_streams import ShapeStreams, ShapeStreamsReader
from esops.schema.stream_runs import OpenStreamRow
from esops.schema.type_inventory import TypeInventory, TypeVersion
from esops.schema.versions import versioned
from esops.stores.base import EventStore, Unsettled
from esops.wording import count

_HASH = re.compile(r"[0-9a-f]{4,12}")
_SOME = 10
"""Shapes that a hint names."""
STREAM_COLUMNS = ("stream", "tenant", "category", "events", "last_version", "last_at")


def checked_hash(given: str) -> str:
    """The hash of a shape, or the beginning of one, as somebody typed it. Raises UsageError."""
    found = given.strip().lower()
    if not _HASH.fullmatch(found):
        raise UsageError(
            f"--shape takes a shape's hash, or 4 or more of its hex digits, not {given!r}",
            hint="`esops schema show TYPE` names the shapes of a type.",
        )
    return found


@dataclass
class OneShape:
    """A shape of a type, and the open streams that have it; only while the read is open."""

    base: str
    inventory: Inventory
    versions: list[tuple[TypeInventory, TypeVersion]]
    """Those with this shape, by category and first event."""
    newest: TypeVersion
    """Of all versions of the type: that of the newest event."""
    streams: ShapeStreams

    @property
    def hash(self) -> str:
        """The whole hash."""
        return self.versions[0][1].shape.hash

    @property
    def short(self) -> Unsettled | None:
        """Why some events could not be read; None if all were."""
        return self.inventory.short or self.streams.short

    def fields(self) -> list[dict[str, Any]]:
        """The fields of the shape, each path with its types."""
        types = _types(self.versions[0][1])
        return [{"path": path, "types": several} for path, several in types.items()]

    def differences(self) -> list[dict[str, Any]]:
        """The paths whose types the newest shape has otherwise, and those that only one of them
        has.
        """
        here, newest = _types(self.versions[0][1]), _types(self.newest)
        return [
            {"path": path, "types": here.get(path, []), "newest_types": newest.get(path, [])}
            for path in sorted(here.keys() | newest.keys())
            if here.get(path) != newest.get(path)
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The open streams by name, under the documented field names."""
        return map(_row, self.streams)

    def document(self) -> dict[str, Any]:
        """Everything but the streams, under the documented field names."""
        return {
            "store": self.inventory.store,
            "position": None if self.streams.position is None else str(self.streams.position),
            "type": self.base,
            "shape": self.hash,
            "newest_shape": self.newest.shape.hash,
            "versions": [
                {
                    "category": type_.category,
                    "type": version.stored,
                    "version": version.explicit,
                    "events": version.events,
                    "first": version.first.as_dict(),
                    "last": version.last.as_dict(),
                }
                for type_, version in self.versions
            ],
            "fields": self.fields(),
            "differences": self.differences(),
            "closed": self.inventory.rule.as_dict(),
            "open_streams": self.streams.count,
        }


@contextmanager
def shape_of(
    store: EventStore,
    name: str,
    given: str,
    rule: ClosingRule,
    *,
    category: str | None = None,
    progress: tuple[Progress, Progress] = (lambda *_: None, lambda *_: None),
) -> Iterator[OneShape]:
    """Read the events twice: for the shapes of a type, and for the streams with one of them.

    `given`: what `checked_hash` returns. Raises as `inventory_of`, NothingFound where the type has
    no such shape, and UsageError where it has several.
    """
    found = inventory_of(store, rule, category=category, types=(name,), progress=progress[0])
    if not found.events and found.short is not None:
        raise found.short
    every = [(type_, each) for type_ in found.ordered() for each in type_.ordered()]
    whole = _named(given, name, every)
    with ShapeStreamsReader(store, found, whole, rule) as reader:
        yield OneShape(
            every[0][0].base if every else versioned(name).base,
            found,
            [(type_, each) for type_, each in every if each.shape.hash == whole],
            max((each for _, each in every), key=lambda each: each.last.position),
            reader.read(category, progress[1]),
        )


def _named(given: str, name: str, every: list[tuple[TypeInventory, TypeVersion]]) -> str:
    hashes = sorted({each.shape.hash for _, each in every})
    matching = [each for each in hashes if each.startswith(given)]
    if len(matching) > 1:
        raise UsageError(
            f"{count(len(matching), 'shape')} of {name} begin with {given}",
            hint=f"There are: {_some(matching)}.",
        )
    if not matching:
        begin = {each[: len(given)]: each for each in reversed(hashes)}
        near = difflib.get_close_matches(given, begin, n=1, cutoff=0.5)
        raise NothingFound(
            f"{name} has no shape {given}",
            hint=f"Did you mean {begin[near[0]]}?" if near else f"There is: {_some(hashes)}.",
        )
    return matching[0]


def _some(hashes: list[str]) -> str:
    more = len(hashes) - _SOME
    return ", ".join(hashes[:_SOME]) + (f" and {more:,} more" if more > 0 else "")


def _types(version: TypeVersion) -> dict[str, list[str]]:
    types: dict[str, list[str]] = {}
    for path, type_ in version.shape.listed:
        types.setdefault(path, []).append(type_)
    return types


def _row(row: OpenStreamRow) -> dict[str, Any]:
    tenant = {"tenant": row.key.tenant} if row.key.tenant else {}
    return {
        "stream": row.key.stream,
        **tenant,
        "category": row.category,
        "events": row.hits,
        "last_version": row.version,
        "last_at": None if row.at is None else moment(row.at),
    }
