"""What looks like a rule in schema files, and is none: a validator skips it in silence."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from esops.schema import formats
from esops.schema.json_lines import Path
from esops.schema.references import keywords

if TYPE_CHECKING:
    from esops.schema.files import SchemaFile

_DRAFTS = ("draft-04", "draft-06", "draft-07", "2019-09", "2020-12")
_SINCE = {
    **dict.fromkeys(("const", "contains", "propertyNames"), "draft-06"),
    **dict.fromkeys(("if", "then", "else"), "draft-07"),
    **dict.fromkeys(
        (
            "dependentRequired", "dependentSchemas", "minContains", "maxContains",
            "unevaluatedItems", "unevaluatedProperties",
        ),
        "2019-09",
    ),
    "prefixItems": "2020-12",
}  # fmt: skip
"""Rules that came with a later draft."""
_RULES = (
    *_SINCE, "type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minLength", "maxLength", "pattern", "format", "items", "additionalItems",
    "minItems", "maxItems", "uniqueItems", "properties", "patternProperties",
    "additionalProperties", "required", "minProperties", "maxProperties", "dependencies", "allOf",
    "anyOf", "oneOf", "not",
)  # fmt: skip
_REMARKS = frozenset(
    {"contentEncoding", "contentMediaType", "contentSchema", "title", "description", "default",
     "examples", "deprecated", "readOnly", "writeOnly", "definitions", "id"}
)  # fmt: skip


class _Said(NamedTuple):
    """A sentence, by what it is about; it is said once."""

    about: str
    where: str
    text: str


def remarks(files: Sequence[SchemaFile]) -> list[str]:
    """A sentence for each keyword and format that nothing is held against, with file and line."""
    found: dict[tuple[str, str], _Said] = {}
    for file in files:
        for each in (*_keywords(file), *_formats(file)):
            found.setdefault((each.about, each.text), each)
    return [f"{each.about} ({each.where}) {each.text}" for _, each in sorted(found.items())]


def _formats(file: SchemaFile) -> Iterator[_Said]:
    for name, at in formats.named(file).items():
        if name not in formats.FORMATS:
            close = difflib.get_close_matches(
                name.lower(), sorted(formats.FORMATS), n=1, cutoff=0.75
            )
            text = "is no rule: JSON Schema does not know it" + _meant(close)
            yield _Said(f"format {name!r}", file.line(at), text)


def _keywords(file: SchemaFile) -> Iterator[_Said]:
    draft = next((e for e in _DRAFTS if e in str(file.schema.get("$schema"))), _DRAFTS[-1])
    number = _DRAFTS.index(draft)
    beside: dict[Path, list[str]] = {}
    for path, _, keyword, _ in keywords(file.schema, file.uri):
        beside.setdefault(path, []).append(keyword)
        at, about = (*path, keyword), f"{keyword!r}"
        if keyword in _SINCE and _DRAFTS.index(_SINCE[keyword]) > number:
            yield _Said(about, file.line(at), f"is no rule: {draft} does not know it")
        elif keyword not in _RULES and keyword not in _REMARKS and not keyword.startswith("x-"):
            close = difflib.get_close_matches(keyword, _RULES, n=1, cutoff=0.85)
            if close:
                text = "is no rule: JSON Schema does not know it" + _meant(close)
                yield _Said(about, file.line(at), text)
    if number < _DRAFTS.index("2019-09"):
        for path, names in beside.items():
            ignored = next((each for each in names if each in _RULES), None)
            if "$ref" in names and ignored is not None:
                where = file.line((*path, ignored))
                text = f"is no rule: in {draft}, nothing beside $ref counts"
                yield _Said(f"{ignored!r}", where, text)


def _meant(close: Sequence[str]) -> str:
    return f". Did you mean {close[0]!r}?" if close else ""
