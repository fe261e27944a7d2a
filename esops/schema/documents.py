"""An inventory as JSON, under the documented field names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from esops.schema.changes import FieldChange
from esops.schema.inventory import Inventory
from esops.schema.type_inventory import TypeInventory, TypeVersion

VERSION_COLUMNS = (
    "type", "category", "version", "shape", "stored_type", "events", "bytes", "first_at", "last_at",
    "streams", "open_streams", "superseded", "closed_lately", "last_closes_in_days",
)  # fmt: skip
"""Columns of a row for each version."""


def list_document(found: Inventory) -> dict[str, Any]:
    """What `esops schema list` prints."""
    return {
        "store": found.store,
        "position": None if found.position is None else str(found.position),
        "events": found.events,
        "closed": _closed(found),
        "types": [_type(found, each) for each in found.ordered()],
    }


def show_document(
    found: Inventory, base: str, changes: list[tuple[TypeInventory, list[FieldChange]]]
) -> dict[str, Any]:
    """What `esops schema show` prints."""
    return {
        "store": found.store,
        "position": None if found.position is None else str(found.position),
        "type": base,
        "events": found.events,
        "closed": _closed(found),
        "categories": [
            {
                **_type(found, type_),
                "fields_left_out": type_.fields_left_out,
                "versions": [
                    {**_version(found, type_, each), "fields": fields_of(each)}
                    for each in type_.ordered()
                ],
            }
            for type_, _ in changes
        ],
        "changes": [
            {**change.as_dict(), "category": type_.category}
            for type_, several in changes
            for change in several
        ],
    }


def version_rows(found: Inventory) -> list[dict[str, Any]]:
    """A row for each version of each type."""
    return [
        {
            **_version(found, type_, each),
            "type": type_.base,
            "category": type_.category,
            "stored_type": each.stored,
        }
        for type_ in found.ordered()
        for each in type_.ordered()
    ]


def fields_of(version: TypeVersion) -> list[dict[str, Any]]:
    """The paths of a shape, each with its JSON types."""
    types: dict[str, list[str]] = {}
    for path, type_ in version.shape.listed:
        types.setdefault(path, []).append(type_)
    return [{"path": path, "types": several} for path, several in types.items()]


def _closed(found: Inventory) -> dict[str, Any]:
    window = found.window
    return {
        **found.rule.as_dict(),
        "counted_days": None if window is None else round(window / timedelta(days=1), 3),
        "counted_until": found.newest_at,
    }


def _type(found: Inventory, type_: TypeInventory) -> dict[str, Any]:
    return {
        "type": type_.base,
        "category": type_.category,
        "events": type_.events,
        "bytes": type_.bytes,
        "first_at": type_.first_at,
        "last_at": type_.last_at,
        "maps": type_.maps,
        "all_shapes_as_one": type_.names.everything,
        "versions": [_version(found, type_, each) for each in type_.ordered()],
    }


def _version(found: Inventory, type_: TypeInventory, version: TypeVersion) -> dict[str, Any]:
    days = found.last_closes_in(type_, version)
    return {
        "version": version.explicit,
        "shape": version.shape.hash,
        "type": version.stored,
        "events": version.events,
        "bytes": version.bytes,
        "first_at": version.first_at,
        "last_at": version.last_at,
        "first": version.first.as_dict(),
        "last": version.last.as_dict(),
        "streams": version.streams,
        "open_streams": version.open_streams,
        "superseded": type_.superseded(version),
        "closed_lately": version.closed_since,
        "last_closes_in_days": None if days is None else round(days, 1),
    }
