"""JSON Schema of older drafts, said in that of 2020-12, so that schemas of any draft compare.

What a draft does not know is no rule in its schemas, as in `esops schema check`.
"""

from __future__ import annotations

from typing import Any

from esops.schema.formats import FORMATS

_DRAFTS = ("draft-04", "draft-06", "draft-07", "2019-09", "2020-12")
_SINCE = {
    "const": 1,
    "contains": 1,
    "propertyNames": 1,
    "if": 2,
    "then": 2,
    "else": 2,
    "dependentRequired": 3,
    "dependentSchemas": 3,
    "maxContains": 3,
    "minContains": 3,
    "unevaluatedItems": 3,
    "unevaluatedProperties": 3,
    "$recursiveRef": 3,
    "$dynamicRef": 4,
    "prefixItems": 4,
}
"""Keywords, with the number of the first draft that has each; all others are in every draft."""
CONTENT = frozenset({"contentEncoding", "contentMediaType"})
"""Keywords about what is in a text."""
OPAQUE = CONTENT | {"$dynamicAnchor", "$recursiveAnchor"}
"""Keywords whose rules cannot be compared where they are left."""
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary", "quoted-printable"})
"""Those of `contentEncoding` that the validator lets pass."""
_SAY_CONTENT = (1, 2)
"""The drafts in which these are rules; they are remarks in later ones."""
UNLIKE_FLOAT = "integerIsNotFloat"
"""Beside a `type` of draft 04, where 1.0 is no integer."""
_BASE64 = "^(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)*$"
"""What the validator decodes: padding may stand within a text, too."""


def modern(schema: dict[str, Any], dialect: str) -> dict[str, Any]:
    """One schema of a dialect, without what is below it, as 2020-12 says it.

    Keywords of `CONTENT` are left in it only where they are rules, which 2020-12 cannot say.
    """
    draft = next((n for n, name in enumerate(_DRAFTS) if name in dialect), len(_DRAFTS) - 1)
    if draft <= 2 and "$ref" in schema:
        # What stands beside a reference did not count.
        return {key: schema[key] for key in ("$ref", "definitions", "$defs") if key in schema}
    made = {key: value for key, value in schema.items() if _SINCE.get(key, 0) <= draft}
    if made.get("format") not in FORMATS:
        made.pop("format", None)
    _say_content(made, draft)
    _refer(made)
    if draft == len(_DRAFTS) - 1:
        return made
    if isinstance(made.get("items"), list):
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in made:
            made["items"] = made.pop("additionalItems")
    made.pop("additionalItems", None)
    if draft == 0:
        if isinstance(made.get("id"), str):
            made["$id"] = made.pop("id")
        _bound(made, "minimum", "exclusiveMinimum")
        _bound(made, "maximum", "exclusiveMaximum")
        if "integer" in made.get("type", ()):
            made[UNLIKE_FLOAT] = True
    _depend(made)
    return made


def _refer(schema: dict[str, Any]) -> None:
    """Say references that depend on who refers as plain ones. Where there is an anchor for them,
    nothing is proven (`OPAQUE`).
    """
    for keyword in ("$dynamicRef", "$recursiveRef"):
        if keyword in schema:
            reference = schema.pop(keyword)
            if "$ref" in schema:
                schema["allOf"] = [*schema.get("allOf", []), {"$ref": reference}]
            else:
                schema["$ref"] = reference


def _say_content(schema: dict[str, Any], draft: int) -> None:
    said = {key: schema.pop(key) for key in CONTENT if key in schema}
    if draft not in _SAY_CONTENT:
        return
    encoding = said.get("contentEncoding")
    if said.get("contentMediaType") == "application/json":
        schema.update(said)
    elif encoding == "base64":
        schema["allOf"] = [*schema.get("allOf", []), {"pattern": _BASE64}]
    elif encoding is not None and encoding not in _PLAIN_ENCODINGS:
        schema["contentEncoding"] = encoding


def _depend(schema: dict[str, Any]) -> None:
    dependencies = schema.pop("dependencies", None)
    if isinstance(dependencies, dict):
        for keyword, whole in (("dependentRequired", True), ("dependentSchemas", False)):
            found = {k: v for k, v in dependencies.items() if isinstance(v, list) is whole}
            if found:
                schema[keyword] = {**found, **schema.get(keyword, {})}


def _bound(schema: dict[str, Any], limit: str, exclusive: str) -> None:
    if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and limit in schema:
        schema[exclusive] = schema.pop(limit)
