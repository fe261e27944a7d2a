"""What schemas say of one place in a payload, put together so that two of them can be compared.

Alternatives (`anyOf`, several files of one type, a nullable field) are merged: a place has all of
their types, the members of all objects, and requires what all of them require. This is for naming
what changed; whether it breaks anything is judged by `containment`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from jsonschema_rs import CanonicalSchema
from jsonschema_rs import canonical as kinds

from esops.schema.proofs import anything, closed_names

_ALL_TYPES = ("null", "boolean", "number", "string", "array", "object")


class EmptyObject:
    """What an object without any members is, like a view."""

    properties: Mapping[str, CanonicalSchema] = {}
    required: Sequence[str] = ()
    additional_properties: CanonicalSchema | None = None


@dataclass(frozen=True)
class LimitSpan:
    """A range; None is without a limit. The flags say that a limit itself is outside."""

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False

    def within(self, other: LimitSpan) -> bool:
        """Whether all of it is in another."""
        low = other.least is None or (
            self.least is not None and (self.least, self.above) >= (other.least, other.above)
        )
        high = other.most is None or (
            self.most is not None and (self.most, not self.below) <= (other.most, not other.below)
        )
        return low and high

    def __or__(self, other: LimitSpan) -> LimitSpan:
        """The range that both are in."""
        low = high = None
        if self.least is not None and other.least is not None:
            low = min((self.least, self.above), (other.least, other.above))
        if self.most is not None and other.most is not None:
            high = max((self.most, not self.below), (other.most, not other.below))
        return LimitSpan(
            low[0] if low else None,
            high[0] if high else None,
            bool(low and low[1]),
            bool(high and not high[1]),
        )

    def __str__(self) -> str:
        if self.least is None and self.most is None:
            return "any"
        if self.least is not None and self.least == self.most:
            return f"{self.least:g}"
        if self.most is None:
            return f"{'more than' if self.above else 'at least'} {self.least:g}"
        if self.least is None:
            return f"{'less than' if self.below else 'at most'} {self.most:g}"
        return f"{self.least:g} to {self.most:g}"


@dataclass
class SchemaPlace:
    """One place, all alternatives merged."""

    types: set[str] = field(default_factory=set)
    constants: list[Any] = field(default_factory=list)
    free: set[str] = field(default_factory=set)
    """Types of which more than some constants is allowed."""
    strings: list[kinds.StringView | None] = field(default_factory=list)
    """None: any text."""
    numbers: list[kinds.NumberView | kinds.IntegerView | None] = field(default_factory=list)
    arrays: list[kinds.ArrayView | None] = field(default_factory=list)
    objects: list[kinds.ObjectView | EmptyObject | None] = field(default_factory=list)

    @classmethod
    def of(cls, schemas: Iterable[CanonicalSchema]) -> SchemaPlace:
        """The place that some alternatives speak of."""
        place = cls()
        seen: set[str] = set()
        for each in schemas:
            place._add(each, seen)
        return place

    def _add(self, schema: CanonicalSchema, seen: set[str]) -> None:
        match view := schema.view():
            case kinds.AnyOfView() | kinds.OneOfView() | kinds.AllOfView():
                for each in view.branches:
                    self._add(each, seen)
            case kinds.ReferenceView(uri):
                target = schema.definition(uri)
                if target is not None and uri not in seen:
                    seen.add(uri)
                    self._add(target, seen)
            case kinds.TypedGroupView():
                self._add(view.body, seen)
            case kinds.ConstView(value):
                self._add_constants([value])
            case kinds.EnumView(values):
                self._add_constants(values)
            case kinds.MultiTypeView(types):
                self._add_types(types)
            case kinds.TrueView():
                self._add_types(_ALL_TYPES)
            case _:
                self._add_one_type(view)

    def _add_one_type(self, view: kinds.CanonicalViewType) -> None:
        match view:
            case kinds.StringView():
                self._add_type("string")
                self.strings.append(view)
            case kinds.NumberView():
                self._add_type("number")
                self.numbers.append(view)
            case kinds.IntegerView():
                self._add_type("integer")
                self.numbers.append(view)
            case kinds.ArrayView():
                self._add_type("array")
                self.arrays.append(view)
            case kinds.ObjectView():
                self._add_type("object")
                self.objects.append(view)
            case _:
                pass

    def _add_type(self, type_: str) -> None:
        self.types.add(type_)
        self.free.add(type_)

    def _add_types(self, types: Iterable[str]) -> None:
        for each in types:
            self._add_type(each)
            if each == "string":
                self.strings.append(None)
            elif each in ("number", "integer"):
                self.numbers.append(None)
            elif each == "array":
                self.arrays.append(None)
            elif each == "object":
                self.objects.append(None)

    def _add_constants(self, values: Iterable[Any]) -> None:
        for each in values:
            self.types.add(type_of(each))
            if each == {}:
                self.objects.append(EmptyObject())
                self.free.add("object")
            elif each is not None and value_key(each) not in map(value_key, self.constants):
                self.constants.append(each)

    @property
    def limited(self) -> bool:
        """Whether only some constants are allowed, beside null."""
        return bool(self.constants) and not self.free - {"null"}

    @property
    def number_span(self) -> LimitSpan:
        """The range of its numbers."""
        return merged(
            LimitSpan()
            if each is None
            else LimitSpan(
                _limit(each.minimum),
                _limit(each.maximum),
                bool(getattr(each, "exclusive_minimum", False)),
                bool(getattr(each, "exclusive_maximum", False)),
            )
            for each in self.numbers
        )

    @property
    def length_span(self) -> LimitSpan:
        """The range of its texts' lengths."""
        return merged(
            LimitSpan(0) if each is None else LimitSpan(each.min_length or 0, each.max_length)
            for each in self.strings
        )

    @property
    def items_span(self) -> LimitSpan:
        """The range of its arrays' lengths."""
        return merged(
            LimitSpan(0) if each is None else LimitSpan(each.min_items or 0, each.max_items)
            for each in self.arrays
        )

    def texts(self, attribute: str) -> frozenset[str] | None:
        """The formats or patterns of its texts; None where a text may be any."""
        found: set[str] = set()
        for each in self.strings:
            values = getattr(each, attribute, None)
            if not values:
                return None
            found.update(values)
        return frozenset(found) or None

    def items(self) -> list[CanonicalSchema]:
        """What its arrays' elements are, without those that have a place of their own."""
        return [
            anything() if each is None or each.items is None else each.items for each in self.arrays
        ]

    def prefix(self, number: int) -> list[CanonicalSchema]:
        """What the element of a number is."""
        return [
            anything()
            if each is None
            else each.prefix_items[number]
            if number < len(each.prefix_items)
            else each.items or anything()
            for each in self.arrays
        ]

    @property
    def prefixes(self) -> int:
        """How many elements have a place of their own."""
        return max((len(each.prefix_items) for each in self.arrays if each), default=0)

    @property
    def required(self) -> frozenset[str]:
        """Members that all of its objects have."""
        if not self.objects or None in self.objects:
            return frozenset()
        return frozenset.intersection(*(frozenset(each.required) for each in self.objects if each))

    @property
    def names(self) -> list[str]:
        """Members that its objects name, in order."""
        found: dict[str, None] = {}
        for each in self.objects:
            if each is not None:
                closed = _closed_names(each)
                found.update(dict.fromkeys([*each.properties, *each.required, *(closed or ())]))
        return list(found)

    def member(self, name: str) -> list[CanonicalSchema]:
        """What a member may be, in each object that may have it."""
        found = []
        for each in self.objects:
            if each is None:
                found.append(anything())
            elif name in each.properties:
                found.append(each.properties[name])
            else:
                closed = _closed_names(each)
                if closed is None or name in closed:
                    found.append(each.additional_properties or anything())
        return found

    def named(self, name: str) -> list[CanonicalSchema]:
        """What a member may be, in those objects that name it; else as `member`."""
        found = [each.properties[name] for each in self.objects if each and name in each.properties]
        return found or self.member(name)

    @property
    def closed(self) -> bool:
        """Whether its objects may have no other members than those that they name."""
        return bool(self.objects) and all(
            each is not None and _closed_names(each) is not None for each in self.objects
        )

    def others(self) -> list[CanonicalSchema]:
        """What members without a name of their own may be; none where there are no such."""
        return [
            anything() if each is None else each.additional_properties or anything()
            for each in self.objects
            if each is None or _closed_names(each) is None
        ]


def _closed_names(view: kinds.ObjectView | EmptyObject) -> list[str] | None:
    return [] if isinstance(view, EmptyObject) else closed_names(view)


def merged(spans: Iterable[LimitSpan]) -> LimitSpan:
    """The range that all are in."""
    whole: LimitSpan | None = None
    for each in spans:
        whole = each if whole is None else whole | each
    return whole or LimitSpan()


def value_key(value: Any) -> str:
    """Tells a value from others: 1 from true, and not from 1.0."""
    match value:
        case dict():
            return json.dumps(
                {name: value_key(each) for name, each in value.items()}, sort_keys=True
            )
        case list():
            return json.dumps([value_key(each) for each in value])
        case int() | float() | Decimal() if not isinstance(value, bool):
            return str(Decimal(str(value)).normalize())
        case _:
            return json.dumps(value, default=str)


def type_of(value: Any) -> str:
    """The JSON type of a value; integers are a type of their own."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "integer" if float(value).is_integer() else "number"


def _limit(value: Any) -> float | None:
    return None if value is None else float(value)
