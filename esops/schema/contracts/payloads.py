"""Whether payloads of one public type keep their contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import orjson

from esops.json_paths import Steps, Wild, written
from esops.schema.contracts.findings import ContractFinding, ContractFindings, FindingKey
from esops.schema.contracts.named_fields import NamedFields
from esops.schema.files import FILES, SchemaSet
from esops.schema.shapes import Shapes

_KNOWN = 10_000
"""Shapes of one type whose unnamed fields are held in memory; they are found again otherwise."""
_PATHS = 500
"""Unnamed fields of one type, from which on those of one object are one: names that are data."""
Count = Callable[[ContractFinding], None]
"""Counts an occurrence of a finding, with its coordinates."""


class PayloadCheck:
    """Checks payloads of one type against the schema of a contract."""

    def __init__(
        self,
        findings: ContractFindings,
        type_: str,
        schemas: SchemaSet,
        shapes: Shapes,
        where: str | None = None,
    ) -> None:
        """`where`: the outbox that the payloads are from; None: the log."""
        self._findings, self._type, self._where = findings, type_, where
        self._shapes = shapes
        self._validator = schemas.validator(type_)
        schema = schemas.types[type_].schema
        self._fields = NamedFields(schema, schemas.registry.resolver(FILES))
        self._paths: set[Steps] = set()
        self._unnamed: dict[str, list[ContractFinding]] = {}

    def check(self, data: bytes, count: Count) -> None:
        """Look at one payload; `count` is called for each finding in it."""
        try:
            value = _decoded(data)
        except (ValueError, RecursionError):
            count(self._finding("not-json"))
            return
        if not self._validator.is_valid(value):
            # One payload counts once for a path and a rule, however many elements break it.
            for path, rule in {self._place(each) for each in self._validator.iter_errors(value)}:
                count(self._finding("breaks-schema", path, rule))
        for each in self._unnamed_in(value):
            count(each)

    def _unnamed_in(self, value: Any) -> list[ContractFinding]:
        shape = self._shapes.of_value(value).shape
        found = self._unnamed.get(shape.hash)
        if found is None:
            if len(self._unnamed) >= _KNOWN:
                self._unnamed.clear()
            unnamed = self._fields.unnamed(frozenset(steps for steps, _ in shape.fields))
            if len(self._paths) >= _PATHS:
                unnamed = [(*each[:-1], Wild.EVERY) for each in unnamed]
            self._paths.update(unnamed)
            found = [self._finding("unnamed-field", written(each)) for each in unnamed]
            self._unnamed[shape.hash] = found
        return found

    def _place(self, error: jsonschema_rs.ValidationError) -> tuple[str, str]:
        """The path and the rule of a violation. No value of the payload is in it."""
        steps = self._fields.place(error.instance_path)
        rule = next((each for each in reversed(error.schema_path) if isinstance(each, str)), "")
        missing = getattr(error.kind, "property", None)
        if rule == "required" and isinstance(missing, str):
            steps = (*steps, missing)
        return written(steps), rule

    def _finding(
        self, kind: Any, path: str | None = None, rule: str | None = None
    ) -> ContractFinding:
        return self._findings.of(FindingKey(kind, self._type, path, rule, self._where))


def _decoded(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # what orjson refuses, such as very large numbers
