"""Whether payloads of one public type keep their contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from esops.json_paths import Steps, Wild, parse_path, written
from esops.schema.checking.rules import NO_JSON, TypeRules
from esops.schema.contracts.findings import (
    ContractFinding,
    ContractFindings,
    FindingKey,
    FindingKind,
)
from esops.schema.contracts.named_fields import NamedFields
from esops.schema.files import FILES, SchemaSet
from esops.schema.payloads import NoJson, decoded
from esops.schema.shapes import Shapes

_KNOWN = 10_000
"""Shapes of one type whose unnamed fields are held in memory; they are found again otherwise."""
_PATHS = 500
"""Unnamed fields of one type, from which on those of one object are one: names that are data."""
Count = Callable[[ContractFinding], None]
"""Counts an occurrence of a finding, with its coordinates."""


def written_steps(path: str) -> Steps:
    """A path that was written; the payload itself where a name in it has quotes."""
    try:
        return () if path == "$" else parse_path(path).steps
    except ValueError:
        return ()


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
        self._rules = TypeRules(schemas, type_)
        self.fields = NamedFields(schemas.types[type_].schema, schemas.registry.resolver(FILES))
        """Those that the schema names."""
        self._paths: set[Steps] = set()
        self._unnamed: dict[str, list[ContractFinding]] = {}

    def check(self, data: bytes, count: Count) -> None:
        """Look at one payload; `count` is called once for each finding in it."""
        value = decoded(data)
        if isinstance(value, NoJson) or not self._fits(value):
            for each in self._broken(data):
                count(each)
        if not isinstance(value, NoJson):
            for each in self._unnamed_in(value):
                count(each)

    def _fits(self, value: Any) -> bool:
        try:
            return self._rules.fits(value)
        except ValueError:  # deeper than the validator looks
            return False

    def _broken(self, data: bytes) -> list[ContractFinding]:
        found = {}
        for each in sorted(self._rules.broken(data)):
            path, rule = written(self.fields.without_data(written_steps(each.path))), each.rule
            place = f"{each.file}:{each.line}"
            if rule == NO_JSON:
                finding = self._finding("not-json", None, None, place)
            else:
                finding = self._finding("breaks-schema", path, rule, place)
            found[id(finding)] = finding
        return list(found.values())

    def _unnamed_in(self, value: Any) -> list[ContractFinding]:
        shape = self._shapes.of_value(value).shape
        found = self._unnamed.get(shape.hash)
        if found is None:
            if len(self._unnamed) >= _KNOWN:
                self._unnamed.clear()
            unnamed = self.fields.unnamed(frozenset(steps for steps, _ in shape.fields))
            if len(self._paths) >= _PATHS:
                unnamed = [(*each[:-1], Wild.EVERY) for each in unnamed]
            self._paths.update(unnamed)
            paths = dict.fromkeys(written(each) for each in unnamed)
            found = [self._finding("unnamed-field", each) for each in paths]
            self._unnamed[shape.hash] = found
        return found

    def _finding(
        self, kind: FindingKind, path: str | None = None, rule: str | None = None, detail: str = ""
    ) -> ContractFinding:
        return self._findings.of(FindingKey(kind, self._type, path, rule, self._where), detail)
