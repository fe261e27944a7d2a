"""The schemas of a store's events, from one read of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from esops.events import RecordedEvent
from esops.schema.inferring.documents import SchemaWriter
from esops.schema.inferring.nodes import ValueNode
from esops.schema.inferring.personal import PersonalSuspicion
from esops.schema.payloads import NoJson, decoded
from esops.schema.shapes import Shapes

MOST_SHAPES = 100
"""Of one type; events of more shapes are described together, as the shape `more`."""
MORE = "more"


@dataclass(slots=True)
class SeenShape:
    """One type and shape: what its events have, and how many there are."""

    type: str
    shape: str
    root: ValueNode | NoJson
    events: int = 0


@dataclass(frozen=True)
class InferredSchema:
    """The schema of one type and shape."""

    type: str
    shape: str
    events: int
    document: dict[str, Any] = field(repr=False)
    suspects: dict[str, PersonalSuspicion]
    """What may be personal data, by path."""


class SchemaInference:
    """Takes events in batches, and says in the end what they have in common."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._shapes = Shapes()
        self._seen: dict[tuple[str, str], SeenShape] = {}
        self._of_type: dict[str, int] = {}

    def take(self, events: Sequence[RecordedEvent]) -> None:
        """Some more events."""
        columns: dict[tuple[str, Any], list[Any]] = {}
        for event in events:
            value = decoded(event.data)
            shape = value if isinstance(value, NoJson) else self._shapes.of_value(value).shape
            column = columns.get((event.type, shape))
            if column is None:
                column = columns[event.type, shape] = []
            column.append(value)
        for (type_, shape), values in columns.items():
            seen = self._seen_shape(type_, shape)
            seen.events += len(values)
            if isinstance(seen.root, ValueNode):
                seen.root.take(values)

    def schemas(self, *, strict: bool = False, values: bool = True) -> Iterator[InferredSchema]:
        """The schema of each type and shape, by their names; see SchemaWriter."""
        for _, seen in sorted(self._seen.items()):
            writer = SchemaWriter(strict=strict, values=values)
            document = writer.document(seen.type, seen.shape, seen.root)
            yield InferredSchema(
                seen.type, seen.shape, seen.events, document, dict(sorted(writer.suspects.items()))
            )

    def _seen_shape(self, type_: str, shape: Any) -> SeenShape:
        if isinstance(shape, NoJson):
            return self._known(type_, shape.value, shape)
        name = shape.hash
        known = self._seen.get((type_, name))
        if known is not None:
            return known
        shapes = self._of_type.get(type_, 0)
        if shapes >= MOST_SHAPES:
            return self._known(type_, MORE, None)
        self._of_type[type_] = shapes + 1
        return self._known(type_, name, None)

    def _known(self, type_: str, name: str, root: NoJson | None) -> SeenShape:
        known = self._seen.get((type_, name))
        if known is None:
            made = ValueNode() if root is None else root
            known = self._seen[type_, name] = SeenShape(type_, name, made)
        return known
