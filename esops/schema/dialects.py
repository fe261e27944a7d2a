"""JSON Schema of older drafts, said in that of 2020-12, so that schemas of any draft compare."""

from __future__ import annotations

from typing import Any

_BEFORE_2019 = ("draft-04", "draft-06", "draft-07")


def modern(schema: dict[str, Any], dialect: str) -> dict[str, Any]:
    """One schema of a dialect, without what is below it, as 2020-12 says it."""
    if "2020-12" in dialect or not dialect:
        return schema
    if "$ref" in schema and any(each in dialect for each in _BEFORE_2019):
        # What stands beside a reference did not count.
        return {key: schema[key] for key in ("$ref", "definitions", "$defs") if key in schema}
    made = dict(schema)
    if isinstance(made.get("items"), list):
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in made:
            made["items"] = made.pop("additionalItems")
    made.pop("additionalItems", None)
    if "draft-04" in dialect:
        if isinstance(made.get("id"), str):
            made["$id"] = made.pop("id")
        _bound(made, "minimum", "exclusiveMinimum")
        _bound(made, "maximum", "exclusiveMaximum")
    dependencies = made.pop("dependencies", None)
    if isinstance(dependencies, dict):
        names = {k: v for k, v in dependencies.items() if isinstance(v, list)}
        schemas = {k: v for k, v in dependencies.items() if not isinstance(v, list)}
        made.update({"dependentRequired": names} if names else {})
        made.update({"dependentSchemas": schemas} if schemas else {})
    return made


def _bound(schema: dict[str, Any], limit: str, exclusive: str) -> None:
    if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and limit in schema:
        schema[exclusive] = schema.pop(limit)
