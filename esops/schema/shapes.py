"""The shapes of payloads: which paths a payload has, and the JSON type at each.

Most payloads of a type look alike. So a payload is not walked path by path: the names of its
members and the Python types of their values are looked up as they are, and only what was never
looked up before is walked. Recursion happens only into objects and arrays.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal

import orjson

from esops.events import is_uuid
from esops.json_paths import Step, Steps, Wild, written

JsonType = Literal[
    "object", "array", "string", "number", "integer", "boolean", "null", "binary", "empty"
]
"""Those of JSON, and two for payloads that are no JSON: bytes of another form, and none at all.
Only variants have `integer` beside `number`.
"""

Fields = frozenset[tuple[Steps, JsonType]]

MOST_MEMBERS = 1_000
"""An object with more members than this is a map: its names are data."""
DEEPEST = 60
"""What lies deeper is not looked at."""
MOST_NAMES = 200_000
"""Names of members that are held in memory. A number of payloads would be no bound."""
_DATA = re.compile(
    r"-?[0-9]+(\.[0-9]+)?|[0-9]{4}-[0-9]{2}(-[0-9]{2}([T ].*)?)?|[0-9a-fA-F]{16,}|.*@.*\..*"
)
"""Names of members that are data: numbers, dates, long hexadecimal ids, email addresses."""
_SCALARS: Mapping[type, JsonType] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def is_data(name: str) -> bool:
    """Whether a member's name is data, such as an id, so that its object is a map."""
    return _DATA.fullmatch(name) is not None or is_uuid(name)


NO_VALUE: Any = object()
"""Stands for what is in a payload that is no JSON."""


def value_of(data: bytes) -> Any:
    """What is in a payload: NO_VALUE where it is no JSON. Takes what few decoders do: NaN, numbers
    that no double holds, half of a surrogate pair.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if not data:
            return NO_VALUE
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return NO_VALUE


class PayloadShape:
    """One shape: the paths of a payload, each with its JSON type.

    Two payloads have the same shape where they have the same paths with the same types; a null is a
    type of its own, and all numbers are one type. Elements of an array are one path, `items[*]`,
    and so are members whose names are data.
    """

    __slots__ = ("fields", "hash")

    def __init__(self, fields: Iterable[tuple[Steps, JsonType]]) -> None:
        """`fields`: each path with one type that is found there."""
        self.fields: Fields = frozenset(fields)
        self.hash = hashlib.sha256(json.dumps(self.listed).encode()).hexdigest()[:12]
        """Names the shape: 12 hex digits of a hash of its paths and types, the same everywhere."""

    @property
    def listed(self) -> list[tuple[str, JsonType]]:
        """The paths as text with their types, sorted: `("$.items[*].price", "number")`."""
        return sorted((written(steps), type_) for steps, type_ in self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PayloadShape) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"PayloadShape({self.hash})"


@dataclass(frozen=True, slots=True, eq=False)
class ShapeVariant:
    """A shape as some payloads have it. Integers are a type of their own, and it says which paths
    only some of the objects at one place have, such as the elements of an array. The same instance
    for all payloads alike, until `Shapes` forgets it, as it does where there are very many.
    """

    shape: PayloadShape
    fields: Fields
    partial: frozenset[Steps] = field(default=frozenset())
    """Paths that are missing in some of the objects which could have them."""

    @property
    def types(self) -> Mapping[Steps, frozenset[JsonType]]:
        """The types at each path."""
        found: dict[Steps, set[JsonType]] = {}
        for steps, type_ in self.fields:
            found.setdefault(steps, set()).add(type_)
        return {steps: _one(frozenset(types)) for steps, types in found.items()}


_SETS: dict[frozenset[JsonType], frozenset[JsonType]] = {}
"""One instance of each set of types; there are few."""


def _one(types: frozenset[JsonType]) -> frozenset[JsonType]:
    return _SETS.setdefault(types, types)


_Relative = tuple[Steps, JsonType]


class _ShapeNode:
    """What a value looks like from itself on."""

    __slots__ = ("fields", "partial")

    def __init__(self, fields: frozenset[_Relative], partial: frozenset[Steps]) -> None:
        self.fields = fields
        self.partial = partial


def _alone(kind: JsonType) -> _ShapeNode:
    return _ShapeNode(frozenset({((), kind)}), frozenset())


_LEAVES: Mapping[Any, _ShapeNode] = {type_: _alone(name) for type_, name in _SCALARS.items()}
_OTHER_NUMBER = _LEAVES[float]
"""Of a number that its decoder gave a type of its own, since no double is equal to it."""
SHUT: Mapping[Any, _ShapeNode] = {dict: _alone("object"), list: _alone("array")}
"""Objects and arrays that are not looked into."""
_NESTED = frozenset(SHUT)


class _Plan:
    """An object with certain members of certain types, as the whole of a payload."""

    __slots__ = ("known", "nested", "variant")

    def __init__(self, names: tuple[str, ...], kinds: tuple[Any, ...]) -> None:
        self.nested = tuple(
            name for name, kind in zip(names, kinds, strict=True) if kind in _NESTED
        )
        """The members that are objects or arrays."""
        self.variant: ShapeVariant | None = None
        """Where there are none."""
        self.known: dict[tuple[Any, ...], ShapeVariant | None] = {}
        """By what those members look like; None where there are objects or arrays in them, too."""


_END = 0
"""Stands behind the elements of an array."""


def _leaf(kind: type) -> _ShapeNode:
    return _LEAVES.get(kind, _OTHER_NUMBER)


class Shapes:
    """Finds the shapes of payloads, and gives out one instance of each."""

    def __init__(self) -> None:
        """None is known yet."""
        self._held = 0
        """How many names are held, each as often as it is."""
        self._plans: dict[Any, _Plan] = {}
        self._nodes: dict[Any, _ShapeNode] = {}
        self._interned: dict[tuple[Any, Any], _ShapeNode] = {}
        self._variants: dict[_ShapeNode, ShapeVariant] = {}
        self._by_content: dict[tuple[Fields, frozenset[Steps]], ShapeVariant] = {}
        self._shapes: dict[Fields, PayloadShape] = {}
        self.binary = self._whole("binary")
        """The variant of payloads that are no JSON."""
        self.empty = self._whole("empty")
        """The variant of payloads without a byte."""

    def of(self, data: bytes) -> ShapeVariant:
        """The variant of a payload as stored; `binary` or `empty` where it is no JSON."""
        value = value_of(data)
        if value is NO_VALUE:
            return self.binary if data else self.empty
        return self.of_value(value)

    def of_value(self, value: Any) -> ShapeVariant:
        """The variant of a decoded payload."""
        if type(value) is not dict or len(value) > MOST_MEMBERS:
            return self._walked(value)
        kinds = tuple(map(type, value.values()))
        key = (tuple(value), kinds)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(key)
        if plan.variant is not None:
            return plan.variant
        nested = plan.nested
        if not nested:
            plan.variant = self._walked(value)
            return plan.variant
        # One look-up for the payload and all that is directly in it: most have nothing deeper.
        looks = tuple(_looks([value[name] for name in nested]))
        found = plan.known.get(looks)
        if found is None:
            found = self._walked(value)
            if looks not in plan.known:
                size = sum(len(each) for each in looks if isinstance(each, tuple))
                if size <= MOST_MEMBERS:
                    self._hold(size)
                    plan.known[looks] = None if _has_deeper(looks) else found
        return found

    def _plan(self, key: Any) -> _Plan:
        self._hold(len(key[0]))
        made = self._plans[key] = _Plan(*key)
        return made

    def _hold(self, names: int) -> None:
        """Make room for some more names."""
        self._held += names + 1
        if self._held <= MOST_NAMES:
            return
        self._held = names + 1
        for each in (self._plans, self._nodes, self._interned, self._variants):
            each.clear()
        self._by_content.clear()
        self._shapes.clear()

    def _walked(self, value: Any) -> ShapeVariant:
        return self._of_node(self._node(value, 0))

    def _of_node(self, node: _ShapeNode) -> ShapeVariant:
        found = self._variants.get(node)
        if found is None:
            found = self._variants[node] = self._variant(node.fields, node.partial)
        return found

    def _node(self, value: Any, depth: int) -> _ShapeNode:
        kind = type(value)
        signature: Any
        if kind is dict:
            kinds: tuple[Any, ...] = tuple(map(type, value.values()))
            # Two look-ups where all members are scalars, whatever their number.
            if dict in kinds or list in kinds:
                kinds = tuple(self._kinds(value.values(), depth))
            signature = (tuple(value), kinds) if len(kinds) <= MOST_MEMBERS else _map(kinds)
        elif kind is list:
            members: frozenset[Any] = frozenset(map(type, value))
            if dict in members or list in members:
                members = frozenset(self._kinds(value, depth))
            signature = members
        else:
            return _leaf(kind)
        found = self._nodes.get(signature)
        return self._new(signature) if found is None else found

    def _kinds(self, values: Iterable[Any], depth: int) -> list[Any]:
        if depth >= DEEPEST:
            return [SHUT.get(type(each), type(each)) for each in values]
        deeper = depth + 1
        return [
            self._node(each, deeper) if type(each) in _NESTED else type(each) for each in values
        ]

    def _new(self, signature: Any) -> _ShapeNode:
        """Walk what was never looked up before."""
        made = _object(*signature) if isinstance(signature, tuple) else _array(signature)
        self._hold(2 * len(made.fields))
        # Members in another order make the same node.
        made = self._interned.setdefault((made.fields, made.partial), made)
        self._nodes[signature] = made
        return made

    def _whole(self, kind: JsonType) -> ShapeVariant:
        return self._variant(frozenset({((), kind)}), frozenset())

    def _variant(self, fields: Fields, partial: frozenset[Steps]) -> ShapeVariant:
        known = self._by_content.get((fields, partial))
        if known is None:
            self._hold(2 * len(fields))
            merged: Fields = frozenset(
                (each[0], "number") if each[1] == "integer" else each for each in fields
            )
            shape = self._shapes.get(merged)
            if shape is None:
                shape = self._shapes[merged] = PayloadShape(merged)
            known = self._by_content[fields, partial] = ShapeVariant(shape, fields, partial)
        return known


def _looks(values: Iterable[Any]) -> list[Any]:
    """What some objects and arrays look like from outside: the members' names and types of each
    object, and of each object in an array.
    """
    found: list[Any] = []
    add = found.append
    for value in values:
        if type(value) is dict:
            add(tuple(value))
            add(tuple(map(type, value.values())))
        elif value and type(value[0]) is dict:
            before: Any = None
            for each in value:
                kind: Any = type(each)
                if kind is dict:
                    kind = (tuple(each), tuple(map(type, each.values())))
                if kind != before:
                    add(kind)
                    before = kind
            add(_END)
        else:
            add(frozenset(map(type, value)))
    return found


def _has_deeper(looks: Iterable[Any]) -> bool:
    """Whether an object or array that is looked at so has others in it."""
    return any(
        each in _NESTED if isinstance(each, type) else _has_deeper(each)
        for each in looks
        if isinstance(each, type | tuple | frozenset)
    )


def _map(kinds: Iterable[Any]) -> tuple[None, frozenset[Any]]:
    """What an object whose names are data looks like: what is in it, without any name."""
    return None, frozenset(kinds)


def _object(names: tuple[str, ...] | None, kinds: Collection[Any]) -> _ShapeNode:
    fields: set[_Relative] = {((), "object")}
    partial: set[Steps] = set()
    places: dict[Step, list[_ShapeNode]] = {}
    named: Iterable[Any] = repeat(Wild.EVERY, len(kinds)) if names is None else names
    for name, kind in zip(named, kinds, strict=True):
        step: Step = Wild.EVERY if names is None or is_data(name) else name
        places.setdefault(step, []).append(kind if isinstance(kind, _ShapeNode) else _leaf(kind))
    for step, nodes in places.items():
        inner, missing = _merged(nodes)
        fields.update(((step, *steps), type_) for steps, type_ in inner)
        partial.update((step, *steps) for steps in missing)
    return _ShapeNode(frozenset(fields), frozenset(partial))


def _array(members: frozenset[Any]) -> _ShapeNode:
    nodes = [each if isinstance(each, _ShapeNode) else _leaf(each) for each in members]
    fields, partial = _merged(nodes)
    return _ShapeNode(
        frozenset({((), "array"), *(((Wild.EVERY, *steps), type_) for steps, type_ in fields)}),
        frozenset((Wild.EVERY, *steps) for steps in partial),
    )


def _merged(nodes: list[_ShapeNode]) -> tuple[frozenset[_Relative], frozenset[Steps]]:
    """Several values at one place as one: all fields, and those that are missing in some."""
    nodes = list(dict.fromkeys(nodes))
    if len(nodes) == 1:
        return nodes[0].fields, nodes[0].partial
    fields = frozenset().union(*(node.fields for node in nodes))
    partial = set().union(*(node.partial for node in nodes))
    # A member is missing only where the object that could have it is there; it may be many.
    objects, has = Counter[Steps](), Counter[Steps]()
    for node in nodes:
        objects.update({steps for steps, type_ in node.fields if type_ == "object"})
        has.update({steps for steps, _ in node.fields})
    partial.update(
        steps
        for steps, values in has.items()
        if steps and steps[-1] is not Wild.EVERY and values < objects[steps[:-1]]
    )
    return fields, frozenset(partial)
