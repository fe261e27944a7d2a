"""Schemas as AsyncAPI has them: draft 07 of JSON Schema, in one document.

What draft 07 says in other words is translated; what it cannot say stays as it is, and its
validators skip it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from esops.errors import UsageError
from esops.schema.contracts.documents.public_types import DocumentKeys
from esops.schema.files import SchemaFile, SchemaSet

_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_ONE = {
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
}
_LEFT_OUT = {"$schema", "$id", "$anchor", "$dynamicAnchor", "x-event-type"}
_MOVED = {"$defs": "definitions", "prefixItems": "items", "dependentSchemas": "dependencies"}
_PLACE = "#/components/schemas/"


class ComponentSchemas:
    """The schemas of some types, and all that they refer to, as components of a document."""

    def __init__(self, schemas: SchemaSet, types: list[str]) -> None:
        """`types` get the keys that are most like their names."""
        self._schemas = schemas
        self._keys = DocumentKeys(types)
        self._type_of = {
            file.path: type_
            for type_ in types
            if type_ in schemas.types and len(schemas.types[type_].files) == 1
            for file in schemas.types[type_].files
        }
        files = [*schemas.parts, *(file for each in schemas.types.values() for file in each.files)]
        self._by_schema = {id(each.schema): each for each in files}
        self._made: dict[str, Any] = {}

    def reference(self, type_: str) -> dict[str, str]:
        """What stands for the schema of a type."""
        files = self._schemas.types[type_].files
        if len(files) == 1:
            return {"$ref": _PLACE + self._add(files[0])}
        key = self._keys.of(type_)
        self._made[key] = {"anyOf": [{"$ref": _PLACE + self._add(each)} for each in files]}
        return {"$ref": _PLACE + key}

    def made(self) -> dict[str, Any]:
        """All that was asked for, and what that refers to, by keys."""
        return {key: self._made[key] for key in sorted(self._made)}

    def _add(self, file: SchemaFile) -> str:
        key = self._keys.of(self._type_of.get(file.path, str(file.path).removesuffix(".json")))
        if key not in self._made:
            self._made[key] = {}  # a schema may refer to itself
            self._made[key] = _translated(
                file.schema, lambda text, base: self._lead(file, text, base), file.uri
            )
        return key

    def _lead(self, file: SchemaFile, text: str, base: str) -> str:
        document, fragment = urldefrag(urljoin(base, text))
        target = self._by_schema.get(id(self._schemas.links.documents.get(document)))
        if target is None or (fragment and not fragment.startswith("/")):
            raise UsageError(
                f"{file.where}: $ref {text!r} cannot be written into one document",
                hint="Let it lead to a file, or to a place in one, such as `#/$defs/name`.",
            )
        return f"{_PLACE}{self._add(target)}{_moved(target.schema, fragment)}"


def _moved(schema: Any, pointer: str) -> str:
    """Where a place of a schema is once that is said in older words."""
    made: list[str] = []
    parts = pointer.split("/")[1:]
    while parts:
        key = parts.pop(0)
        name = unquote(key)
        if not isinstance(schema, dict) or name not in schema:
            return "".join(f"/{each}" for each in (*made, key, *parts))
        if isinstance(schema.get("$ref"), str) and name not in ("$defs", "definitions"):
            made += ["allOf", "1"]
        moved = "additionalItems" if name == "items" and "prefixItems" in schema else None
        made.append(moved or _MOVED.get(name, key))
        schema = schema[name]
        if parts and name in _MAPS | _LISTS:
            member = parts.pop(0)
            made.append(member)
            plain = unquote(member).replace("~1", "/").replace("~0", "~")
            if isinstance(schema, list):
                schema = schema[int(plain)] if plain.isdigit() else None
            else:
                schema = schema.get(plain)
    return "".join(f"/{each}" for each in made)


def _translated(schema: Any, refer: Callable[[str, str], str], base: str) -> Any:
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$id"), str):
        base = urljoin(base, schema["$id"])
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _LEFT_OUT:
            continue
        if key == "$ref" and isinstance(value, str):
            made[key] = refer(value, base)
        elif key in _MAPS and isinstance(value, dict):
            made[key] = {name: _translated(each, refer, base) for name, each in value.items()}
        elif key in _LISTS and isinstance(value, list):
            made[key] = [_translated(each, refer, base) for each in value]
        elif key in _ONE:
            made[key] = _translated(value, refer, base)
        else:
            made[key] = value
    return _in_older_words(made)


def _in_older_words(schema: dict[str, Any]) -> dict[str, Any]:
    if "$defs" in schema:
        schema["definitions"] = {**schema.pop("$defs"), **schema.get("definitions", {})}
    if "prefixItems" in schema:
        more = schema.pop("items", None)
        schema["items"] = schema.pop("prefixItems")
        if more is not None:
            schema["additionalItems"] = more
    dependencies = {**schema.pop("dependentSchemas", {}), **schema.pop("dependentRequired", {})}
    if dependencies:
        schema["dependencies"] = dependencies
    if "$ref" in schema and len(schema) > 1:
        # Draft 07 skips what stands beside a reference.
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        kept = {key: rest.pop(key) for key in ("definitions",) if key in rest}
        schema = {**kept, "allOf": [{"$ref": schema["$ref"]}, *([rest] if rest else [])]}
    return schema
