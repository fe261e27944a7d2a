"""What is in each shape of a type, in words: all fields of the first one, and of each further one
what tells it from the one before that is most like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from esops.schema.shapes import PayloadShape
from esops.schema.type_inventory import TypeInventory

_COMPARED = 50
"""Shapes that a shape is compared with."""


class ShapeFields(NamedTuple):
    """One shape, for a person."""

    hash: str
    like: str | None
    """The hash of the shape that it is compared with."""
    fields: str


def fields_of_shapes(type_: TypeInventory) -> list[ShapeFields]:
    """The shapes of a type in the order of their first events, each once."""
    found: list[ShapeFields] = []
    before: dict[str, PayloadShape] = {}
    for version in type_.ordered():
        shape = version.shape
        if shape.hash in before:
            continue
        known = list(before.values())[-_COMPARED:]
        # The nearest, and the last one among those that are as near.
        like = min(reversed(known), key=lambda each: len(each.fields ^ shape.fields), default=None)
        if like is None or not _is_object(shape) or not _is_object(like):
            found.append(ShapeFields(shape.hash, None, _all(shape)))
        else:
            found.append(ShapeFields(shape.hash, like.hash, _other(like, shape)))
        before[shape.hash] = shape
    return found


def short_kind(shape: PayloadShape) -> str:
    """What a payload without fields is, such as binary; empty for others."""
    return "" if _is_object(shape) else ", ".join(sorted({kind for _, kind in shape.fields}))


def _is_object(shape: PayloadShape) -> bool:
    return len(shape.fields) > 1 or ((), "object") in shape.fields


def _types(shape: PayloadShape) -> dict[str, str]:
    types: dict[str, list[str]] = {}
    for path, kind in shape.listed:
        types.setdefault(path, []).append(kind)
    return {path: " or ".join(kinds) for path, kinds in types.items()}


def _all(shape: PayloadShape) -> str:
    types = _types(shape)
    if len(types) > 1 and types["$"] == "object":
        del types["$"]
    return _listed(types, types)


def _other(like: PayloadShape, shape: PayloadShape) -> str:
    old, new = _types(like), _types(shape)
    parts = []
    if added := [path for path in new if path not in old]:
        parts.append(f"with {_listed(new, added)}")
    if gone := [path for path in old if path not in new]:
        parts.append(f"without {', '.join(gone)}")
    parts += [
        f"{path} is {new[path]}, not {old[path]}"
        for path in new
        if path in old and old[path] != new[path]
    ]
    return "; ".join(parts)


def _listed(types: Mapping[str, str], paths: Iterable[str]) -> str:
    return ", ".join(f"{path} {types[path]}" for path in paths)
