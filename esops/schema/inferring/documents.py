"""What was seen of one type and shape, as JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esops.json_paths import Step, Wild, written
from esops.schema.files import DIALECT, EVENT_TYPE, PAYLOAD, SHAPE
from esops.schema.inferring.nodes import ValueNode
from esops.schema.inferring.personal import (
    PERSONAL,
    PersonalSuspicion,
    names_one_of_many,
    suspected_by_name,
)
from esops.schema.payloads import NoJson

OBSERVED = "x-observed"
DATA_NAMES = (
    r"^(-?[0-9]+(\.[0-9]+)?|[0-9]{4}-[0-9]{2}(-[0-9]{2}([T ][^\n]*)?)?|[0-9a-fA-F]{16,}"
    r"|[^\n]*@[^\n]*\.[^\n]*|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
)
"""Names of members that are data, as `esops.schema.shapes.is_data` tells them."""
_SAYS_SOMETHING = frozenset({"string", "integer", "number"})
"""Types whose values may be somebody's; an object is marked at its members."""
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


@dataclass
class SchemaWriter:
    """Makes the schema of one type and shape, and collects what it suspects."""

    strict: bool = False
    """Ranges and lengths are rules, not remarks."""
    values: bool = True
    """Whether values of payloads may stand in the schema: enums and ranges."""
    suspects: dict[str, PersonalSuspicion] = field(default_factory=dict)
    """By path."""

    def document(self, type_: str, shape: str, root: ValueNode | NoJson) -> dict[str, Any]:
        """The whole file, but for the mark that it was generated."""
        head = {"$schema": DIALECT, EVENT_TYPE: type_, SHAPE: shape}
        if isinstance(root, NoJson):
            return {**head, PAYLOAD: root.value, "not": {}}
        return {**head, **self._schema(root, (), None)}

    def _schema(
        self, node: ValueNode, path: tuple[Step, ...], suspicion: PersonalSuspicion | None
    ) -> dict[str, Any]:
        """`suspicion` is what the name of the member says."""
        if node.deeper:
            return {}
        types = [each for each in _TYPES if each in node.types]
        if "number" in types and "integer" in types:
            types.remove("integer")
        if suspicion is None and node.texts.personal is not None:
            suspicion = PersonalSuspicion("values", node.texts.personal)
        made: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
        if suspicion is not None and _SAYS_SOMETHING & node.types:
            made[PERSONAL] = suspicion.as_dict()
            self.suspects[written(path)] = suspicion
        observed: dict[str, Any] = {}
        if node.texts.count:
            self._texts(node, path, made, observed, personal=suspicion is not None)
        if node.numbers.lowest is not None and suspicion is None:
            self._numbers(node, observed)
        if node.arrays:
            self._arrays(node, path, made, observed, suspicion)
        if observed and self.values:
            made |= observed if self.strict else {OBSERVED: observed}
        if node.objects:
            self._objects(node, path, made, suspicion)
        return made

    def _texts(
        self,
        node: ValueNode,
        path: tuple[Step, ...],
        made: dict[str, Any],
        observed: dict[str, Any],
        *,
        personal: bool,
    ) -> None:
        name = next((each for each in reversed(path) if isinstance(each, str)), "")
        texts = node.texts
        if texts.format is not None:
            made["format"] = texts.format
        # Other types at the same place: an enum would have to name their values, too.
        elif (
            texts.enum
            and self.values
            and not personal
            and node.types <= {"string", "null"}
            and not names_one_of_many(name)
        ):
            made["enum"] = [*texts.enum, *([None] if "null" in node.types else [])]
        elif not personal:
            observed |= {"minLength": texts.shortest, "maxLength": texts.longest}

    def _numbers(self, node: ValueNode, observed: dict[str, Any]) -> None:
        numbers = node.numbers
        if not numbers.unbounded:
            low, high = _plain(numbers.lowest), _plain(numbers.highest)
            observed |= {"minimum": low, "maximum": high}

    def _arrays(
        self,
        node: ValueNode,
        path: tuple[Step, ...],
        made: dict[str, Any],
        observed: dict[str, Any],
        suspicion: PersonalSuspicion | None,
    ) -> None:
        if node.items is None:
            # What would be in it was never seen: an array with something in it has another shape.
            made["maxItems"] = 0
            return
        made["items"] = self._schema(node.items, (*path, Wild.EVERY), suspicion)
        observed |= {"minItems": node.least, "maxItems": node.most}

    def _objects(
        self,
        node: ValueNode,
        path: tuple[Step, ...],
        made: dict[str, Any],
        suspicion: PersonalSuspicion | None,
    ) -> None:
        above = next((each for each in reversed(path) if isinstance(each, str)), "")
        if node.members:
            made["properties"] = {
                name: self._schema(
                    node.members[name], (*path, name), suspected_by_name(name, above) or suspicion
                )
                for name in sorted(node.members)
            }
            required = sorted(name for name, count in node.present.items() if count == node.objects)
            if required:
                made["required"] = required
        if node.data is not None:
            made["patternProperties"] = {
                DATA_NAMES: self._schema(node.data, (*path, Wild.EVERY), suspicion)
            }
        made["additionalProperties"] = (
            False if node.rest is None else self._schema(node.rest, (*path, Wild.EVERY), suspicion)
        )


def _plain(number: float | None) -> float | None:
    """1 for 1.0 too: which of both came first must not show."""
    return int(number) if isinstance(number, float) and number.is_integer() else number
