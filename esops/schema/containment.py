"""Whether everything that one schema takes is taken by another: proven, disproven, or unknown.

"Yes" is proven by the algebra of jsonschema-rs on the schemas' normal forms. "No" is proven by a
value that the one takes and the other refuses, by its validators. Where neither is found, nobody
knows, and it does not count as compatible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import jsonschema_rs
from jsonschema_rs import CanonicalSchema
from jsonschema_rs.canonical import (
    CanonicalizationError,
    CanonicalKind,
    Satisfiability,
)

from esops.schema.dialects import OPAQUE, UNLIKE_FLOAT
from esops.schema.inlining import inlined
from esops.schema.proofs import proves
from esops.schema.references import keywords
from esops.schema.samples import samples


class Verdict(Enum):
    """Whether one schema takes all that another does."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Refusal:
    """A value that is valid by one schema and not by another."""

    value: Any
    path: tuple[str | int, ...]
    """Where in the value it is refused."""
    rule: str
    """The keyword that refuses it."""


@dataclass(frozen=True)
class ContainmentAnswer:
    """A verdict, and the proof of a no."""

    verdict: Verdict
    refusal: Refusal | None = None


class ComparedSchema:
    """A document of 2020-12 whose parts can be compared."""

    def __init__(self, document: dict[str, Any]) -> None:
        """`document`: as `read_by` and `written_by` make it."""
        self.document = document

    @cached_property
    def text(self) -> str:
        """The same for the same schema: `1` and `true` differ."""
        return json.dumps(self.document, sort_keys=True)

    @cached_property
    def opaque(self) -> bool:
        """Whether there are rules in it that neither its normal form nor its validator knows."""
        return not OPAQUE.isdisjoint(self.keywords)

    @cached_property
    def keywords(self) -> frozenset[str]:
        """All keywords in it."""
        return frozenset(each for _, _, each, _ in keywords(self.document, ""))

    @cached_property
    def normal(self) -> CanonicalSchema | None:
        """Its normal form; None where there is none."""
        if self.opaque:
            return None
        try:
            found = jsonschema_rs.canonicalize(
                inlined(self.document), offline=True, validate_formats=True
            )
        except (CanonicalizationError, jsonschema_rs.ReferencingError, ValueError):
            return None
        return None if found.kind is CanonicalKind.RAW else found

    @property
    def normals(self) -> list[CanonicalSchema] | None:
        """The normal forms of its alternatives; None where one has none."""
        found = [each.normal for each in self.alternatives]
        normals = [each for each in found if each is not None]
        return normals if len(normals) == len(found) else None

    @property
    def impossible(self) -> bool:
        """Whether it is known that no value is valid by it."""
        normal = self.normal
        return normal is not None and normal.satisfiability() is Satisfiability.NO

    @cached_property
    def validator(self) -> jsonschema_rs.Validator:
        """Its validator, formats included."""
        return jsonschema_rs.validator_for(self.document, offline=True, validate_formats=True)

    @cached_property
    def alternatives(self) -> list[ComparedSchema]:
        """Itself, or the alternatives of the union that it is: each is judged alone, since a union
        of many may have no normal form.
        """
        rest = {key: value for key, value in self.document.items() if key != "anyOf"}
        if {*rest} - {"$schema", "$defs"} or "anyOf" not in self.document:
            return [self]
        return [
            alternative
            for each in self.document["anyOf"]
            for alternative in ComparedSchema(_alone(each, rest)).alternatives
        ]


def _alone(schema: Any, rest: dict[str, Any]) -> dict[str, Any]:
    # References begin at the documents of the whole, not at definitions beside them.
    return {**(schema if isinstance(schema, dict) else {"allOf": [schema]}), **rest}


def takes_all(reader: ComparedSchema, written: ComparedSchema) -> ContainmentAnswer:
    """Whether a reader takes all that is written."""
    if reader.opaque or written.opaque:
        return ContainmentAnswer(Verdict.UNKNOWN)
    possible = [each for each in written.alternatives if not each.impossible]
    if not possible:
        # Nobody writes nothing: the schema does not say what its writers write.
        return ContainmentAnswer(Verdict.UNKNOWN)
    # The one takes 1.0 as an integer, and the other does not.
    unknown = UNLIKE_FLOAT in reader.keywords - written.keywords
    for each in possible:
        found = _takes_all(reader, each)
        if found.verdict is Verdict.NO:
            return found
        unknown = unknown or found.verdict is Verdict.UNKNOWN
    return ContainmentAnswer(Verdict.UNKNOWN if unknown else Verdict.YES)


def _takes_all(reader: ComparedSchema, written: ComparedSchema) -> ContainmentAnswer:
    """The same for one alternative."""
    old, new = written.normal, reader.normal
    if old is not None and new is not None and proves(new, old):
        return ContainmentAnswer(Verdict.YES)
    for value in _candidates(reader, written):
        refusal = refused(reader, written, value)
        if refusal is not None:
            return ContainmentAnswer(Verdict.NO, refusal)
    return ContainmentAnswer(Verdict.UNKNOWN)


def refused(reader: ComparedSchema, written: ComparedSchema, value: Any) -> Refusal | None:
    """The refusal of a value that is valid by what is written."""
    if not written.validator.is_valid(value) or reader.validator.is_valid(value):
        return None
    error = min(
        reader.validator.iter_errors(value),
        key=lambda each: (-len(each.instance_path), each.message),
    )
    return Refusal(value, tuple(error.instance_path), error.kind.name)


def _candidates(reader: ComparedSchema, written: ComparedSchema) -> Iterator[Any]:
    """Values that may be refused: first from what the algebra leaves over, then from both."""
    old, new = written.normal, reader.normal
    if old is None:
        return
    if new is not None:
        try:
            left = old.subtract(new)
        except (CanonicalizationError, ValueError):
            pass
        else:
            yield from samples(left)
    yield from samples(old, new)
