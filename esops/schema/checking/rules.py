"""The rules of one event type, compiled; and which of them an event breaks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

import jsonschema_rs

from esops.json_paths import Step, Wild, written
from esops.schema.files import PAYLOAD, SchemaFile, SchemaSet
from esops.schema.payloads import NoJson, decoded
from esops.schema.shapes import is_data

NO_JSON, TOO_DEEP, IS_JSON = "json", "depth", PAYLOAD
"""Rules that no schema states: that a payload is JSON, that it can be looked through, and that it
is no JSON where all files of the type are for others.
"""
_INTO_MEMBERS = frozenset(
    {"properties", "patternProperties", "additionalProperties", "unevaluatedProperties"}
)
_INTO_ELEMENTS = frozenset(
    {"items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"}
)
_OVER_A_NAME = frozenset({"dependentSchemas", "dependencies", "allOf", "anyOf", "oneOf"})
"""Keywords with a name or number behind them that is none of the event."""
_MOST_ERRORS = 1_000
"""Of one event, no more are looked at."""


class BrokenRule(NamedTuple):
    """What an event breaks: where in it, which keyword, and where that is written."""

    path: str
    rule: str
    file: str
    line: int


class TypeRules:
    """The schemas of one event type. An event has to fit one of them."""

    def __init__(self, schemas: SchemaSet, type_: str) -> None:
        """Compiles what all events are held against; the rest when an event does not fit."""
        self.type = type_
        self._schemas = schemas
        self._files = schemas.types[type_].files
        self.fits: Callable[[Any], bool] = schemas.validator(type_).is_valid
        """Whether a decoded payload fits. Raises ValueError for what cannot be looked through."""
        self._without_json = {each.schema.get(PAYLOAD) for each in self._files}

    @property
    def fingerprint(self) -> str:
        """Another one for each text of the schemas, and of all that they refer to, and for each
        place of these: findings name the line of a file.
        """
        texts = json.dumps(self._schemas.texts(self.type))
        return hashlib.sha256(texts.encode()).hexdigest()[:16]

    def broken(self, data: bytes) -> set[BrokenRule]:
        """The rules that a payload breaks: none if it fits. Where several schemas are alternatives,
        those of the one that it breaks the fewest rules of.
        """
        value = decoded(data)
        if isinstance(value, NoJson):
            fits = value.value in self._without_json
            return set() if fits else {self._unstated(NO_JSON)}
        try:
            if self.fits(value):
                return set()
            if not self._alternatives:
                return {self._unstated(IS_JSON)}
            errors = min((self._errors(each, value) for each in self._alternatives), key=len)
        except ValueError:  # deeper than the validator looks
            return {self._unstated(TOO_DEEP)}
        return {rule for error in errors for rule in self._named(error)}

    @cached_property
    def _alternatives(self) -> list[jsonschema_rs.Validator]:
        files = self._schemas.types[self.type].for_json
        return [self._schemas.validator(self.type, each) for each in files]

    @cached_property
    def _places(self) -> dict[str, SchemaFile]:
        every = self._schemas.every
        return {uri: each for each in every for uri in (each.file_uri, each.uri)}

    @cached_property
    def _lines(self) -> dict[str, tuple[str, int]]:
        return {}

    def _errors(
        self, validator: jsonschema_rs.Validator, value: Any
    ) -> list[jsonschema_rs.ValidationError]:
        return list(islice(validator.iter_errors(value), _MOST_ERRORS))

    def _unstated(self, rule: str) -> BrokenRule:
        file = self._files[0]
        line = int(file.line((rule,)).rpartition(":")[2]) if rule in file.schema else 1
        return BrokenRule("$", rule, file.where, line)

    def _named(self, error: jsonschema_rs.ValidationError) -> Iterator[BrokenRule]:
        """An error without what it says of values. A member that is missing, or should not be
        there, is named by its own path.
        """
        file, line = self._stated(error.absolute_keyword_location)
        kind: Any = error.kind
        above = list(_named_steps(error.instance_path, error.evaluation_path))
        members: Iterable[str | None] = [None]
        if kind.name == "required":
            members = [kind.property]
        elif kind.name in ("additionalProperties", "unevaluatedProperties"):
            members = kind.unexpected
        for member in members:
            path = [*above, *([] if member is None else [_step(member)])]
            if kind.name == "unevaluatedProperties" and not self._forbids(error):
                path[-1] = Wild.EVERY
            yield BrokenRule(written(tuple(path)), kind.name, file, line)

    def _forbids(self, error: jsonschema_rs.ValidationError) -> bool:
        """Whether a keyword is `false`: it has no schema for the members that it is about."""
        uri, _, pointer = (error.absolute_keyword_location or "").partition("#")
        value: Any = self._places[uri].schema if uri in self._places else None
        for part in map(_of_pointer, pointer.split("/")[1:]):
            if isinstance(value, list) and isinstance(part, int):
                value = value[part]
            else:
                value = value.get(str(part)) if isinstance(value, dict) else None
        return value is False

    def _stated(self, location: str | None) -> tuple[str, int]:
        """The file and the line of a keyword."""
        known = self._lines.get(location or "")
        if known is not None:
            return known
        uri, _, pointer = (location or "").partition("#")
        file = self._places.get(uri, self._files[0])
        at = tuple(map(_of_pointer, pointer.split("/")[1:])) if uri in self._places else ()
        found = file.where, int(file.line(at).rpartition(":")[2])
        self._lines[location or ""] = found
        return found


def _named_steps(path: Sequence[str | int], keywords: Sequence[str | int]) -> Iterator[Step]:
    """A path in an event, by the keywords that lead to it. A member that the schema does not name
    is one of a map, and its name is data: a person's, say.
    """
    rest = list(reversed(keywords))
    for part in path:
        keyword = None
        while rest and keyword not in _INTO_MEMBERS and keyword not in _INTO_ELEMENTS:
            keyword = rest.pop()
            if keyword in _OVER_A_NAME and rest:
                rest.pop()
        named = keyword == "properties" or keyword not in _INTO_MEMBERS
        if keyword in ("properties", "patternProperties") and rest:
            rest.pop()
        yield _step(part) if named else Wild.EVERY


def _step(part: str | int) -> Step:
    return Wild.EVERY if isinstance(part, int) or is_data(part) else part


def _of_pointer(part: str) -> str | int:
    name = unquote(part).replace("~1", "/").replace("~0", "~")
    return int(name) if name.isdigit() else name
