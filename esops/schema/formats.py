"""`format` in schema files: a rule in every draft, though older drafts know fewer of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema_rs

from esops.schema.references import keywords

if TYPE_CHECKING:
    from esops.schema.files import SchemaFile

_NEWEST = "https://json-schema.org/draft/2020-12/schema"
_BEFORE_2019 = ("draft-04", "draft-06", "draft-07")
_LATER = (
    "uuid", "duration", "idn-hostname", "iri", "iri-reference", "relative-json-pointer",
    "uri-reference", "uri-template", "json-pointer",
)  # fmt: skip
"""Formats that one of the older drafts does not know."""
_OTHERS = (
    "date-time", "date", "time", "email", "idn-email", "hostname", "ipv4", "ipv6", "uri", "regex",
)  # fmt: skip
FORMATS = frozenset({*_LATER, *_OTHERS})
"""Those that are rules, in files of every draft."""


@cache
def accepts(name: str) -> Callable[[Any], bool]:
    """Whether a value is of a format, as the newest draft has it."""
    schema = {"$schema": _NEWEST, "format": name}
    return jsonschema_rs.validator_for(schema, validate_formats=True).is_valid


def added(files: Sequence[SchemaFile]) -> Mapping[str, Callable[[Any], bool]]:
    """The formats that files of older drafts name, and that these drafts do not know."""
    return {
        name: accepts(name)
        for file in files
        if any(each in str(file.schema.get("$schema")) for each in _BEFORE_2019)
        for name in named(file)
        if name in _LATER
    }


def named(file: SchemaFile) -> dict[str, tuple[str | int, ...]]:
    """The formats that a file names, and where the first time."""
    found: dict[str, tuple[str | int, ...]] = {}
    for name, at in _formats(file):
        found.setdefault(name, at)
    return found


def _formats(file: SchemaFile) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    for path, _, keyword, value in keywords(file.schema, file.uri):
        if keyword == "format" and isinstance(value, str):
            yield value, (*path, keyword)
