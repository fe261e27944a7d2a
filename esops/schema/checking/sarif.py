"""What a check found as SARIF 2.1.0, which code hosts show beside the lines of the schema files.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from esops import __version__
from esops.schema.checking.history import SchemaCheckResult
from esops.schema.checking.rules import IS_JSON, NO_JSON, TOO_DEEP
from esops.schema.checking.violations import ViolationGroup
from esops.wording import count

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
NO_SCHEMA = "no-schema"
_OWN = {
    NO_JSON: "The payload is not JSON.",
    IS_JSON: "The payload is JSON, and the type's schema says that it is not.",
    TOO_DEEP: "The payload is nested too deep to be validated.",
    NO_SCHEMA: "The event type has no schema.",
}


def sarif(found: SchemaCheckResult, *, schemaless: bool) -> dict[str, Any]:
    """The log: one result for each group; with `schemaless`, also for types without a schema."""
    results = [_of_group(found.store, each) for each in found.violations]
    if schemaless:
        results += [
            _result(
                NO_SCHEMA,
                f"{count(each.events, 'event')} of type {each.type} in store {found.store} have "
                "no schema",
                (found.store, each.type),
                found.against,
                1,
                {"events": each.events, "samples": [each.first.as_dict()]},
            )
            for each in found.schemaless
        ]
    rules = sorted({each["ruleId"] for each in results})
    for each in results:
        each["ruleIndex"] = rules.index(each["ruleId"])
    driver = {
        "name": "esops schema check",
        "version": __version__,
        "informationUri": "https://json-schema.org/draft/2020-12",
        "rules": [{"id": each, "shortDescription": {"text": _described(each)}} for each in rules],
    }
    complete = found.short is None and not found.stopped
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": complete}],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _of_group(store: str, group: ViolationGroup) -> dict[str, Any]:
    events = count(group.events, "event")
    breaks = "breaks" if group.events == 1 else "break"
    return _result(
        group.rule,
        f"{events} of type {group.type} in store {store} {breaks} the rule {group.rule} at "
        f"{group.path}",
        (store, group.type, group.path, group.rule),
        group.file,
        group.line,
        {"events": group.events, "samples": [each.as_dict() for each in group.samples]},
    )


def _result(
    rule: str,
    text: str,
    names: tuple[str, ...],
    file: str,
    line: int,
    properties: dict[str, Any],
) -> dict[str, Any]:
    same = hashlib.sha256("\x00".join(names).encode()).hexdigest()
    place = {"artifactLocation": {"uri": _uri(file)}, "region": {"startLine": line}}
    logical = [{"fullyQualifiedName": " ".join(names[1:3]), "kind": "member"}]
    return {
        "ruleId": rule,
        "level": "error",
        "message": {"text": text},
        "locations": [{"physicalLocation": place, "logicalLocations": logical}],
        "partialFingerprints": {"esopsViolation/v1": same},
        "properties": properties,
    }


def _uri(file: str) -> str:
    """Relative to the working directory, which is that of the repository in CI, where it lies below
    it: code hosts show nothing for an absolute path.
    """
    path = Path(os.path.normpath(Path(file).absolute()))
    here = Path.cwd()
    return quote(path.relative_to(here).as_posix()) if path.is_relative_to(here) else path.as_uri()


def _described(rule: str) -> str:
    return _OWN.get(rule, f"An event breaks the JSON Schema keyword {rule}.")
