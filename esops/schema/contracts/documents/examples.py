"""An example of what a schema describes, made from the schema alone and never from an event."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import jsonschema_rs

from esops.errors import UsageError
from esops.schema.files import FILES, SchemaSet

_DEEPEST = 12
"""Optional members below this depth are left out, and so is what a schema has of its own kind."""
_FORMATS: Mapping[str, str] = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "idn-email": "someone@example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "json-pointer": "/a",
    "regex": "a",
    "time": "12:00:00Z",
    "uri": "https://example.com/",
    "uri-reference": "/a",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_TEXTS = ("text", "TEXT", "a", "A", "1", "12345", "ABC-123", "EUR", "a-1", "0.00", "+4912345")
"""What a pattern may accept."""


def example_of(schemas: SchemaSet, type_: str) -> Any:
    """A payload of a type that its schema accepts.

    Raises UsageError where none could be made, which `examples` in the schema would help.
    """
    validator = schemas.validator(type_)
    made = _Maker(schemas.registry.resolver(FILES))
    for file in schemas.types[type_].files:
        value = made.value({"$ref": file.uri})
        if validator.is_valid(value):
            return value
    raise UsageError(
        f"no example of {type_} can be made from its schema",
        hint=f"Add one as `examples` to {schemas.types[type_].files[0].where}.",
    )


class _Maker:
    def __init__(self, resolver: jsonschema_rs.Resolver) -> None:
        self._resolver = resolver
        self._inside: list[str] = []
        """The references that lead to the value that is being made."""

    def value(self, schema: Any) -> Any:
        return self._of(schema, self._resolver, 0)

    def _of(self, schema: Any, resolver: jsonschema_rs.Resolver, depth: int) -> Any:
        self._inside.append(_target(schema, resolver))
        try:
            return self._made(*_whole(schema, resolver), depth)
        finally:
            self._inside.pop()

    def _again(self, schema: Any, resolver: jsonschema_rs.Resolver) -> bool:
        """Whether a value of this schema is being made, so that it would have one of its own."""
        target = _target(schema, resolver)
        return bool(target) and target in self._inside

    def _made(self, schema: Mapping[str, Any], resolver: jsonschema_rs.Resolver, depth: int) -> Any:
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if schema.get(key):
                return schema[key][0]
        match _type(schema):
            case "object":
                return self._object(schema, resolver, depth)
            case "array":
                return self._array(schema, resolver, depth)
            case "string":
                return _text(schema)
            case "integer" | "number" as kind:
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return True
        return None

    def _object(
        self, schema: Mapping[str, Any], resolver: jsonschema_rs.Resolver, depth: int
    ) -> Any:
        required = schema.get("required") or ()
        properties = schema.get("properties") or {}
        optional = [] if depth >= _DEEPEST else properties
        wanted = [each for each in optional if not self._again(properties[each], resolver)]
        wanted += required
        if depth > 2 * _DEEPEST:
            return {}
        return {
            name: self._of(properties.get(name, True), resolver, depth + 1)
            for name in dict.fromkeys(wanted)
            if properties.get(name) is not False
        }

    def _array(
        self, schema: Mapping[str, Any], resolver: jsonschema_rs.Resolver, depth: int
    ) -> Any:
        first = list(schema.get("prefixItems") or ())
        least = int(schema.get("minItems") or 0)
        most = int(schema.get("maxItems", max(least, len(first), 1)))
        rest = schema.get("items", True)
        more = [rest] * (max(least, 1) - len(first))
        if most == 0 or depth > _DEEPEST or (least == 0 and self._again(rest, resolver)):
            return []
        members = [each for each in (*first, *more)[: max(most, least)] if each is not False]
        return [self._of(each, resolver, depth + 1) for each in members]


def _target(schema: Any, resolver: jsonschema_rs.Resolver) -> str:
    """Where a reference leads; empty where a schema is none."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    return urljoin(resolver.base_uri, reference) if isinstance(reference, str) else ""


def _whole(
    schema: Any, resolver: jsonschema_rs.Resolver, depth: int = 0
) -> tuple[dict[str, Any], jsonschema_rs.Resolver]:
    """A schema with what it refers to and combines, as far as that can be written as one."""
    if not isinstance(schema, dict) or depth > 2 * _DEEPEST:
        return {}, resolver
    if isinstance(schema.get("$id"), str):
        resolver = resolver.lookup(schema["$id"]).resolver
    parts: list[Any] = []
    if isinstance(schema.get("$ref"), str):
        target = resolver.lookup(schema["$ref"])
        found, resolver = _whole(target.contents, target.resolver, depth + 1)
        parts.append(found)
    choices = [each for key in ("anyOf", "oneOf") for each in (schema.get(key) or ())[:1]]
    for each in (*(schema.get("allOf") or ()), *choices):
        found, resolver = _whole(each, resolver, depth + 1)
        parts.append(found)
    whole: dict[str, Any] = {}
    for part in (*parts, schema):
        for key, value in part.items():
            if key == "properties":
                whole[key] = {**whole.get(key, {}), **value}
            elif key == "required":
                whole[key] = [*whole.get(key, ()), *value]
            else:
                whole[key] = value
    return whole, resolver


def _type(schema: Mapping[str, Any]) -> str:
    said = schema.get("type")
    if isinstance(said, list):
        return next((str(each) for each in said if each != "null"), "null")
    if said is not None:
        return str(said)
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if "minimum" in schema or "maximum" in schema:
        return "number"
    return "string"


def _text(schema: Mapping[str, Any]) -> str:
    least, most = int(schema.get("minLength") or 0), schema.get("maxLength")
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    if "pattern" in schema:
        return next((each for each in _TEXTS if _accepts(schema["pattern"], each)), "text")
    text = "text".ljust(least, "x")
    return text if most is None else text[:most]


def _accepts(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    value: int | float = 1
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    step = 1 if whole else 0.5
    if low is not None and value < low:
        value = low
    if above is not None and value <= above:
        value = above + step
    if high is not None and value > high:
        value = high
    if below is not None and value >= below:
        value = below - step
    of = schema.get("multipleOf")
    if of:
        value = of * max(1, -(-value // of))
    return int(value) if whole or float(value).is_integer() else value
