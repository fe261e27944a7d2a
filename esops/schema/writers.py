"""What a schema says to who reads by it, and what to expect of who writes by it.

A reader takes what is valid. A writer writes less: only the members that the schema names. So a
schema that leaves an object open (no `additionalProperties`) lets a reader meet members that it
does not know, and still says what its own writers write. That is why an optional field may be
added: no old event has something else under its name. Where `additionalProperties` or
`unevaluatedProperties` is written, it says what writers write too.

Formally, what is written is valid by the schema with `unevaluatedProperties: false` at each object
that names members and says nothing of others; each alternative of a union is an object of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urldefrag, urljoin

from esops.schema.dialects import modern
from esops.schema.files import DIALECT, SchemaSet

_WRITTEN = "?written"
"""Behind the URI of a document: its copy that says what is written."""
_NAMED = ("properties", "patternProperties")
_DEFINITIONS = ("$defs", "definitions")
_BELOW = ("additionalProperties", "unevaluatedProperties", "items", "unevaluatedItems")
_UNIONS = ("anyOf", "oneOf")
_AT_ONCE = ("allOf", "anyOf")
_CONDITIONS = ("then", "else")
_CLOSING = ("additionalProperties", "unevaluatedProperties")
_BACKWARDS = ("not", "if", "contains", "propertyNames")
"""Less in there is more outside, so that what is written is said as what is read."""
_NOTES = frozenset(
    {
        "$schema",
        "$comment",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
    }
)
"""Keywords that say nothing of what is valid."""
_MOST_LINKS = 20


def read_by(schemas: SchemaSet, type_: str) -> dict[str, Any]:
    """What readers of a type take, as one document of 2020-12."""
    return _Document(schemas).whole(type_, written=False)


def written_by(schemas: SchemaSet, type_: str) -> dict[str, Any]:
    """What writers of a type write, as one document of 2020-12."""
    return _Document(schemas).whole(type_, written=True)


class _Document:
    """One document in the making, with the documents that it refers to."""

    def __init__(self, schemas: SchemaSet) -> None:
        self.schemas = schemas
        self.documents: Mapping[str, dict[str, Any]] = schemas.links.documents
        self.inside: Mapping[str, str] = schemas.links.inside
        self.wanted: list[tuple[str, bool]] = []
        self.places: dict[str, Any] = {}
        """What is written at places, by the URI of the schema that they all refer to."""

    def whole(self, type_: str, *, written: bool) -> dict[str, Any]:
        schema = self.schemas.types[type_].schema
        if written:
            made = self._place(schema, "", "", at_top=True)
        else:
            made = self._said(schema, "", "", written=False)
        definitions = {}
        for uri, each in self.wanted:  # it grows while it is read
            contents, dialect = self._contents(uri)
            copy = self._said(contents, uri, dialect, written=each)
            name = uri + (_WRITTEN if each else "")
            definitions[name] = {**_as_object(copy), "$id": name}
        for uri, each in self.places.items():
            name = _place_name(uri)
            definitions[name] = {**_as_object(each), "$id": name}
        found = {"$schema": DIALECT, **_as_object(made)}
        return {**found, "$defs": definitions} if definitions else found

    def _place(self, schema: Any, base: str, dialect: str, *, at_top: bool = False) -> Any:
        """What is written at one place, which no other schema says anything of. `at_top`: the
        payload itself, whose alternatives are compared one by one.
        """
        if not isinstance(schema, dict):
            return schema
        base = _base(schema, base, dialect)
        plain = modern(schema, dialect)
        if any(each in plain for each in _CLOSING):
            return self._said(schema, base, dialect, written=True)
        union = next((each for each in _UNIONS if each in plain), None)
        alone = not any(each in plain for each in (*_NAMED, "allOf", "$ref", *_CONDITIONS))
        if union and alone and not all(each in plain for each in _UNIONS):
            made = self._said(schema, base, dialect, written=False)
            places = [self._place(each, base, dialect, at_top=at_top) for each in plain[union]]
            if union == "anyOf":
                return {**made, "anyOf": places}
            return {**made, "allOf": [{"anyOf": places}]}
        others = {*plain} - {"$ref", *_DEFINITIONS, *_NOTES}
        if "$ref" in plain and not others & {*_NAMED, *_UNIONS, "allOf"}:
            inner = self._referred_place(plain["$ref"], base, dialect, at_top=at_top)
            beside = {each: schema[each] for each in schema if each in others}
            rest = self._said(beside, base, dialect, written=True)
            return {**rest, "allOf": [inner]} if rest else inner
        made = self._said(schema, base, dialect, written=True)
        if self._names(plain, base, dialect, 0):
            made["unevaluatedProperties"] = False
        return made

    def _referred_place(self, text: str, base: str, dialect: str, *, at_top: bool) -> Any:
        """What is written at a place of which a reference says all."""
        uri = urljoin(base, text)
        first = uri not in self.places
        if first:
            target, at, its_dialect = self._target(text, base, dialect)
            self.places[uri] = True  # it may refer to itself
            self.places[uri] = self._place(target, at, its_dialect, at_top=at_top)
        made = self.places[uri]
        if not (at_top and first):
            return {"$ref": _place_name(uri)}
        return made

    def _said(self, schema: Any, base: str, dialect: str, *, written: bool) -> Any:
        """A schema as it is written, with places below it as they are written or read."""
        if not isinstance(schema, dict):
            return schema
        base = _base(schema, base, dialect)
        plain = modern(schema, dialect)
        made = {
            keyword: self._keyword(keyword, value, base, dialect, written=written)
            for keyword, value in plain.items()
            # All references are absolute, and lead to definitions that have ids.
            if keyword not in _NOTES and keyword != "$id" and not keyword.startswith("x-")
        }
        if written and not any(each in plain for each in _CLOSING):
            # A member that has to be there is one that writers write.
            bare = {each: True for each in plain.get("required", []) if isinstance(each, str)}
            if bare:
                made["properties"] = bare | made.get("properties", {})
        if written and "oneOf" in plain:
            also = [self._said(each, base, dialect, written=True) for each in plain["oneOf"]]
            made["allOf"] = [*made.get("allOf", []), {"anyOf": also}]
        return made

    def _keyword(self, keyword: str, value: Any, base: str, dialect: str, *, written: bool) -> Any:
        def same(each: Any) -> Any:
            return self._said(each, base, dialect, written=written)

        def read(each: Any) -> Any:
            return self._said(each, base, dialect, written=False)

        def below(each: Any) -> Any:
            return self._place(each, base, dialect) if written else same(each)

        if keyword == "$ref":
            return self._reference(value, base, written=written)
        if keyword in (*_NAMED, *_BELOW, "prefixItems"):
            return below(value) if keyword in _BELOW else _each(below, value)
        if keyword in (*_DEFINITIONS, "dependentSchemas", *_AT_ONCE, *_CONDITIONS):
            return same(value) if keyword in _CONDITIONS else _each(same, value)
        if keyword == "oneOf":
            return _each(read, value)
        return read(value) if keyword in _BACKWARDS else value

    def _reference(self, text: str, base: str, *, written: bool) -> str:
        whole = urljoin(base, text)
        document, fragment = urldefrag(whole)
        if document in self.documents or document in self.inside:
            if (document, written) not in self.wanted:
                self.wanted.append((document, written))
        elif not document or document.startswith(("http://json-schema.org", "https://json-schema")):
            return whole
        return document + (_WRITTEN if written else "") + (f"#{fragment}" if fragment else "")

    def _target(self, text: str, base: str, dialect: str) -> tuple[Any, str, str]:
        found = self.schemas.registry.resolver(base).lookup(text)
        at = found.resolver.base_uri
        known = at in self.documents or at in self.inside
        return found.contents, at, self._contents(at)[1] if known else dialect

    def _contents(self, uri: str) -> tuple[Any, str]:
        """A document, or a part of one that has a URI of its own; and the dialect of it."""
        whole = self.documents[self.inside.get(uri, uri)]
        if uri in self.documents:
            return whole, _dialect(whole)
        return self.schemas.registry.resolver(self.inside[uri]).lookup(uri).contents, _dialect(
            whole
        )

    def _names(self, schema: Any, base: str, dialect: str, links: int) -> bool:
        """Whether a schema names members of the object that it is for."""
        if not isinstance(schema, dict) or links > _MOST_LINKS:
            return False
        plain = modern(schema, dialect)
        if any(plain.get(each) for each in (*_NAMED, "required")):
            return True
        inner = [each for key in ("allOf", *_UNIONS) for each in plain.get(key, [])]
        inner += [plain[key] for key in _CONDITIONS if key in plain]
        inner += list(plain.get("dependentSchemas", {}).values())
        if any(self._names(each, _base(each, base, dialect), dialect, links + 1) for each in inner):
            return True
        if "$ref" not in plain:
            return False
        target, at, its_dialect = self._target(plain["$ref"], base, dialect)
        return self._names(target, at, its_dialect, links + 1)


def _as_object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {"allOf": [schema]}


def _place_name(uri: str) -> str:
    document, fragment = urldefrag(uri)
    return f"{document}{_WRITTEN}-place{quote(fragment)}"


def _base(schema: Any, base: str, dialect: str) -> str:
    own = schema.get("id" if "draft-04" in dialect else "$id") if isinstance(schema, dict) else None
    return urldefrag(urljoin(base, own)).url if isinstance(own, str) else base


def _dialect(document: dict[str, Any]) -> str:
    found = document.get("$schema")
    return found if isinstance(found, str) else DIALECT


def _each(change: Callable[[Any], Any], schemas: Any) -> Any:
    if isinstance(schemas, dict):
        return {name: change(each) for name, each in schemas.items()}
    return [change(each) for each in schemas]
