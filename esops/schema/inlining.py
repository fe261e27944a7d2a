"""One document without references, but for those that lead in a circle.

Normal forms merge what stands side by side, but not what a reference leads to; and what leads in a
circle grows without end where it is put in place of each reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from esops.schema.references import DATA, NAMES, references

_NO_RULES = frozenset({"$schema", "$id", "$anchor", "$defs", "definitions"})
_MOST = 3_000
"""References that are replaced in one document; one with more keeps all."""


def inlined(document: dict[str, Any]) -> dict[str, Any]:
    """A document of 2020-12 whose references are absolute and lead to its `$defs`."""
    plain: dict[str, Any] = apart(document)
    try:
        found: dict[str, Any] = _Inlining(plain.get("$defs", {})).of(plain)
    except _TooManyError:
        return plain
    return found


def apart(schema: Any) -> Any:
    """A schema whose references have no rules beside them, since one could hide another."""
    made = _mapped(schema, apart)
    if (
        isinstance(made, dict)
        and isinstance(made.get("$ref"), str)
        and {*made} - {"$ref", *_NO_RULES}
    ):
        made["allOf"] = [*made.get("allOf", []), {"$ref": made.pop("$ref")}]
    return made


def _mapped(schema: Any, change: Any) -> Any:
    """A copy of a schema with the schemas below it changed."""
    if isinstance(schema, list):
        return [change(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in NAMES and isinstance(value, dict):
            made[keyword] = {name: change(each) for name, each in value.items()}
        else:
            made[keyword] = value if keyword in DATA else change(value)
    return made


class _TooManyError(Exception):
    """There are more references than are replaced."""


class _Inlining:
    """Replaces references by what they lead to."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._left: dict[str, bool] = {}
        """Whether a reference is left, by its URI."""
        self._count = 0
        self._inside: set[str] = set()
        """References in a circle that are being replaced."""

    def of(self, schema: Any) -> Any:
        """A copy with what its references lead to in their places."""
        made = _mapped(schema, self.of)
        if not isinstance(made, dict):
            return made
        if isinstance(made.get("allOf"), list):
            made["allOf"] = [self._once(each) for each in made["allOf"]]
        if not isinstance(made.get("$ref"), str):
            return made
        uri = made["$ref"]
        if uri not in self._left:
            self._left[uri] = self._target(uri) is None or uri in self._reached(uri)
        if self._left[uri]:
            return made
        beside = {key: value for key, value in made.items() if key != "$ref"}
        inner = self._replaced(uri)
        return {**inner, **beside} if isinstance(inner, dict) else {"allOf": [inner], **beside}

    def _once(self, schema: Any) -> Any:
        """A part of a schema. What it refers to is merged with the other parts, even if it leads in
        a circle.
        """
        if not isinstance(schema, dict) or {*schema} != {"$ref"}:
            return schema
        uri = schema["$ref"]
        if not isinstance(uri, str) or uri in self._inside or self._target(uri) is None:
            return schema
        self._inside.add(uri)
        try:
            return self._replaced(uri)
        finally:
            self._inside.discard(uri)

    def _replaced(self, uri: str) -> Any:
        self._count += 1
        if self._count > _MOST:
            raise _TooManyError
        return self.of(self._rules(uri))

    def _rules(self, uri: str) -> Any:
        target = self._target(uri)
        if not isinstance(target, dict):
            return target
        return {key: value for key, value in target.items() if key not in _NO_RULES}

    def _target(self, uri: str) -> Any:
        """What a URI leads to; None where it has an anchor, or leads to none of the definitions."""
        document, fragment = urldefrag(uri)
        found = self._definitions.get(document)
        if fragment and not fragment.startswith("/"):
            return None
        for part in fragment.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(name)
            elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found if isinstance(found, dict | bool) else None

    def _reached(self, uri: str) -> set[str]:
        """The URIs of all that a target refers to, directly or not."""
        found: set[str] = set()
        waiting = [uri]
        while waiting:
            for each in self._direct(waiting.pop()):
                if each not in found:
                    found.add(each)
                    waiting.append(each)
        return found

    def _direct(self, uri: str) -> Iterator[str]:
        for each in references(self._target(uri), urldefrag(uri).url):
            yield urljoin(each.base, each.text)
