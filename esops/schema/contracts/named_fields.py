"""Whether a schema names a field: it may allow more than it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from esops.json_paths import Step, Steps, Wild
from esops.schema.shapes import is_data

_CHOICES = ("anyOf", "oneOf")
_CONDITIONS = ("if", "then", "else")
_ANNOTATIONS = frozenset(
    {
        "$comment",
        "$id",
        "$schema",
        "default",
        "deprecated",
        "description",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Keywords that ask nothing of a value."""
_DEEPEST = 60
_Place = tuple[Any, jsonschema_rs.Resolver]


class NamedFields:
    """The fields that the schema of one type names."""

    def __init__(self, schema: Any, resolver: jsonschema_rs.Resolver) -> None:
        """`resolver` leads from the schema's own place to what it refers to."""
        self._root = (schema, resolver)

    def unnamed(self, fields: frozenset[Steps]) -> list[Steps]:
        """Those of some paths that no schema names, each without what lies below it."""
        known: dict[Steps, list[_Place]] = {(): list(_all_of(self._root))}
        found = []
        for steps in sorted(fields, key=len):
            if not steps:
                continue
            above = known.get(steps[:-1])
            if above is None:
                continue  # below one that is not named, or of which nothing is said
            if any(_is_open(schema) for schema, _ in above):
                continue
            members = [member for each in above for member in _step(each, steps[-1])]
            below = [place for each in members for place in _all_of(each)]
            if below:
                known[steps] = below
                continue
            # Where nothing is named, the names may be data, such as those of people.
            found.append(steps if any(map(_names_members, above)) else (*steps[:-1], Wild.EVERY))
        return list(dict.fromkeys(found))

    def without_data(self, steps: Steps) -> Steps:
        """A path without names of members where the schema names none: these may be data."""
        kept: list[Step] = []
        there = list(_all_of(self._root))
        for step in steps:
            known = any(_names_members(each) or _has_property(each, step) for each in there)
            kept.append(step if known or not isinstance(step, str) else Wild.EVERY)
            inner = [each for place in there for each in _step(place, step)]
            there = [each for place in inner for each in _all_of(place)]
        return tuple(kept)


def _has_property(place: _Place, name: Step) -> bool:
    schema, _ = place
    return isinstance(schema, dict) and name in (schema.get("properties") or {})


def _names_members(place: _Place) -> bool:
    schema, _ = place
    return isinstance(schema, dict) and bool(
        schema.get("properties") or schema.get("patternProperties")
    )


def _is_open(schema: Any) -> bool:
    """Whether a schema says of a value that it may be anything: then all that is in it is meant."""
    return schema is True or (
        isinstance(schema, dict)
        and all(key in _ANNOTATIONS or key.startswith("x-") for key in schema)
    )


def _all_of(place: _Place, depth: int = 0) -> Iterator[_Place]:
    """A schema and all that apply at the same place, references followed."""
    schema, resolver = place
    if depth > _DEEPEST:
        return
    if not isinstance(schema, dict):
        yield place
        return
    yield place
    if isinstance(schema.get("$id"), str):
        resolver = resolver.lookup(schema["$id"]).resolver
    reference = schema.get("$ref", schema.get("$dynamicRef"))
    if isinstance(reference, str):
        target = resolver.lookup(reference)
        yield from _all_of((target.contents, target.resolver), depth + 1)
    beside = [
        *(schema[key] for key in _CONDITIONS if key in schema),
        *(schema.get("allOf") or ()),
        *(schema.get("dependentSchemas") or {}).values(),
    ]
    choices = [each for key in _CHOICES for each in schema.get(key) or ()]
    # What asks nothing means anything as a choice, and says nothing beside others.
    for each in (*choices, *(each for each in beside if not _is_open(each))):
        if each is not False:
            yield from _all_of((each, resolver), depth + 1)


def _step(place: _Place, step: Step) -> Iterator[_Place]:
    """The schemas of a member or element."""
    schema, resolver = place
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("$id"), str):
        resolver = resolver.lookup(schema["$id"]).resolver
    found: list[Any] = []
    if step is Wild.EVERY:
        found += [schema[key] for key in ("items", "contains") if key in schema]
        found += schema.get("prefixItems") or ()
        # Names that are data: what the schema says of any name is meant.
        found += (schema.get("patternProperties") or {}).values()
        found += [each for name, each in (schema.get("properties") or {}).items() if is_data(name)]
    else:
        if step in (schema.get("properties") or {}):
            found.append(schema["properties"][step])
        found += [
            each
            for pattern, each in (schema.get("patternProperties") or {}).items()
            if _found_in(pattern, str(step))
        ]
    more = schema.get("additionalProperties")
    # `true` and `{}` let fields in; only a schema says what they are.
    if isinstance(more, dict) and more:
        found.append(more)
    for each in found:
        if each is not False:
            yield each, resolver


def _found_in(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True
