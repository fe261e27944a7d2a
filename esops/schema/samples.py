"""Values that a schema takes, chosen at its limits, to find one that another schema refuses.

They are candidates: a validator says whether they are valid.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from jsonschema_rs import CanonicalSchema
from jsonschema_rs import canonical as kinds

from esops.schema.pattern_samples import examples

_MOST = 12
"""Values for one place."""
_MOST_IN_ALL = 3_000
_DEEPEST = 8
_OF_FORMAT = {
    "uuid": "6f3b1f58-1c84-4d6c-9f3c-0d2d2f0f9a11",
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "a@example.com",
    "idn-email": "a@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/a",
    "iri": "https://example.com/a",
    "uri-reference": "/a",
    "iri-reference": "/a",
    "json-pointer": "/a",
    "relative-json-pointer": "0",
    "regex": "a+",
}
"""An example of each format; each is also tried wherever a text may stand."""
_OF_TYPE: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True, False],
    "integer": [0, 1, -1, 7, 10**9],
    "number": [0, 1, -1, 0.5, -1.5, 10**9],
    "string": ["", "a", "x y", "7"],
    "array": [[], [0], ["a", None]],
    "object": [{}, {"esops": 0}],
}


def samples(schema: CanonicalSchema, other: CanonicalSchema | None = None) -> Iterator[Any]:
    """Values for a schema, the plainest first. Where `other` is given, its constants, limits and
    formats are tried too.
    """
    hints = _Hints()
    hints.learn(schema, schema, 0)
    if other is not None:
        hints.learn(other, other, 0)
    maker = _Samples(schema, hints)
    yield from itertools.islice(maker.of(schema, 0), _MOST_IN_ALL)


def distinct(values: Iterable[Any]) -> Iterator[Any]:
    """Each value once: 1 and true are two, and so are 1 and 1.0."""
    seen: set[str] = set()
    for each in values:
        key = json.dumps(each, default=str, sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield each


class _Hints:
    """What is worth a try, from all of two schemas."""

    def __init__(self) -> None:
        self.constants: list[Any] = []
        self.numbers: list[Any] = []
        self.lengths: list[int] = []
        self.patterns: list[str] = []
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.seen: set[str] = set()

    def learn(self, root: CanonicalSchema, schema: CanonicalSchema, depth: int) -> None:
        """Go through a schema and all in it."""
        view = schema.view()
        if depth > 2 * _DEEPEST:
            return
        match view:
            case kinds.ReferenceView(uri):
                target = root.definition(uri)
                if target is None or uri in self.seen:
                    return
                self.seen.add(uri)
                self.learn(root, target, depth + 1)
            case kinds.ConstView(value):
                self.constants.append(value)
            case kinds.EnumView(values):
                self.constants.extend(values)
            case kinds.StringView():
                self.lengths.extend(
                    each for each in (view.min_length, view.max_length) if each is not None
                )
                self.constants.extend(view.excluded)
                self.patterns.extend([*view.patterns, *view.excluded_patterns])
            case kinds.NumberView() | kinds.IntegerView():
                self.numbers.extend(
                    each for each in (view.minimum, view.maximum) if each is not None
                )
                self.numbers.extend([*view.multiple_of, *view.not_multiple_of])
            case kinds.ArrayView():
                self.sizes.extend(
                    each for each in (view.min_items, view.max_items) if each is not None
                )
            case kinds.ObjectView():
                self.names.extend([*view.properties, *view.required])
        for each in parts(schema):
            self.learn(root, each, depth + 1)


def parts(schema: CanonicalSchema) -> Iterator[CanonicalSchema]:
    """The schemas in a schema, one level below, references left aside."""
    match view := schema.view():
        case kinds.TypedGroupView():
            yield view.body
        case kinds.NotView():
            yield view.schema
        case kinds.AllOfView() | kinds.AnyOfView() | kinds.OneOfView():
            yield from view.branches
        case kinds.ArrayView():
            yield from view.prefix_items
            yield from (each.schema for each in view.contains)
            if view.items is not None:
                yield view.items
        case kinds.ObjectView():
            yield from view.properties.values()
            yield from view.pattern_properties.values()
            if view.additional_properties is not None:
                yield view.additional_properties
            if view.property_names is not None:
                yield view.property_names
            for each in view.violations:
                named = getattr(each, "schema", None) or getattr(each, "additional", None)
                if named is not None:
                    yield named


class _Samples:
    """Makes values for the parts of one schema."""

    def __init__(self, root: CanonicalSchema, hints: _Hints) -> None:
        self.root, self.hints = root, hints

    def of(self, schema: CanonicalSchema, depth: int) -> Iterator[Any]:
        """Values for a schema, the plainest first."""
        return distinct(self._of(schema, depth))

    def _of(self, schema: CanonicalSchema, depth: int) -> Iterator[Any]:
        match view := schema.view():
            case kinds.ReferenceView(uri):
                target = self.root.definition(uri)
                if target is not None and depth < 2 * _DEEPEST:
                    yield from self.of(target, depth + 1)
            case kinds.ConstView(value):
                yield value
            case kinds.EnumView(values):
                yield from values
            case kinds.MultiTypeView(types):
                yield from self._of_types(types)
            case kinds.TypedGroupView():
                yield from self._of_types([view.type_name])
                yield from self.of(view.body, depth + 1)
            case kinds.AnyOfView() | kinds.OneOfView() | kinds.AllOfView():
                yield from _by_turns([self.of(each, depth + 1) for each in view.branches])
            case _:
                yield from self._of_one_type(view, depth)

    def _of_one_type(self, view: kinds.CanonicalViewType, depth: int) -> Iterator[Any]:
        match view:
            case kinds.StringView():
                yield from self._strings(view)
            case kinds.NumberView() | kinds.IntegerView():
                yield from self._numbers(view)
            case kinds.ArrayView():
                yield from self._arrays(view, depth)
            case kinds.ObjectView():
                yield from self._objects(view, depth)
            case _:
                yield from self._of_types(_OF_TYPE)

    def _of_types(self, types: Iterable[str]) -> Iterator[Any]:
        wanted = list(types)
        yield from (_OF_TYPE[each][0] for each in wanted)
        if "string" in wanted:
            yield from self._texts()
        if "number" in wanted or "integer" in wanted:
            yield from self._near()
        yield from self.hints.constants
        yield from (value for each in wanted for value in _OF_TYPE[each])

    def _texts(self) -> Iterator[str]:
        for pattern in self.hints.patterns:
            for each in examples(pattern):
                yield from (each, f"a{each}", f"{each}a")
        yield from (each for each in self.hints.constants if isinstance(each, str))
        yield from ("a" * (each + more) for each in self.hints.lengths for more in (0, 1))
        yield from ("a" * (each - 1) for each in self.hints.lengths if each > 0)
        yield from _OF_TYPE["string"]
        yield from _OF_FORMAT.values()

    def _strings(self, view: kinds.StringView) -> Iterator[str]:
        for pattern in view.patterns:
            yield from examples(pattern)
        yield from (_OF_FORMAT[each] for each in view.formats if each in _OF_FORMAT)
        if view.min_length:
            yield "a" * view.min_length
        yield from self._texts()

    def _near(self) -> Iterator[Any]:
        for each in self.hints.numbers:
            if isinstance(each, Decimal):
                continue
            yield from (each, each + 1, each - 1, each + 0.5, each - 0.5)

    def _numbers(self, view: kinds.NumberView | kinds.IntegerView) -> Iterator[Any]:
        for each in view.multiple_of:
            if not isinstance(each, Decimal):
                yield from (0, each, each * 2, each * 3)
        yield from self._near()
        yield from _OF_TYPE["number"]
        yield from (each for each in self.hints.constants if isinstance(each, int | float))

    def _arrays(self, view: kinds.ArrayView, depth: int) -> Iterator[Any]:
        if depth > _DEEPEST:
            yield []
            return
        first = [self._some(each, depth) for each in view.prefix_items]
        contained = [value for each in view.contains for value in self._some(each.schema, depth)]
        rest = self._some(view.items, depth) if view.items is not None else list(_every())
        rest = [*contained[:3], *rest]
        plain = [each[0] if each else None for each in first]
        sizes = {0, 1, 2, len(first)}
        sizes |= {each + more for each in self.hints.sizes for more in (-1, 0, 1)}
        for size in sorted(each for each in sizes if 0 <= each <= 50):
            more = max(0, size - len(plain))
            yield plain[:size] + list(itertools.islice(itertools.cycle(rest), more if rest else 0))
            yield plain[:size] + rest[:1] * more
        for number, values in enumerate(first):
            yield from ([*plain[:number], each, *plain[number + 1 :]] for each in values)
        least = max(1, view.min_items or 0) - len(plain) - 1
        yield from (plain + [each] + rest[:1] * least for each in rest)

    def _objects(self, view: kinds.ObjectView, depth: int) -> Iterator[Any]:
        if depth > _DEEPEST:
            yield {}
            return
        names = list(dict.fromkeys([*view.required, *view.properties]))
        may = {each: self._member(view, each, depth) for each in names}
        full = {name: values[0] for name, values in may.items() if values}
        least = {name: full[name] for name in view.required if name in full}
        yield least
        yield full
        for name, values in may.items():
            yield from ({**least, name: each} for each in values)
            yield {key: value for key, value in full.items() if key != name}
        for name, values in may.items():
            yield from ({**full, name: each} for each in values[1:])
        others = [each for each in dict.fromkeys(self.hints.names) if each not in may]
        additional = view.additional_properties
        rest = self._some(additional, depth) if additional is not None else list(_every())
        if view.property_names is not None:
            named = self.of(view.property_names, depth + 1)
            others += [each for each in named if isinstance(each, str) and each not in may]
        matching = [(each, self._some(s, depth)) for each, s in view.pattern_properties.items()]
        for pattern, values in matching:
            name = pattern.strip("^$")
            yield from ({**least, name: each} for each in values)
        for name in [*others[:_MOST], "esops"]:
            yield from ({**least, str(name): each} for each in rest)
            yield from ({**full, str(name): each} for each in rest)

    def _member(self, view: kinds.ObjectView, name: str, depth: int) -> list[Any]:
        schema = view.properties.get(name, view.additional_properties)
        return self._some(schema, depth) if schema is not None else list(_every())

    def _some(self, schema: CanonicalSchema, depth: int) -> list[Any]:
        return list(itertools.islice(self.of(schema, depth + 1), 4 * _MOST))


def _every() -> Iterator[Any]:
    return (values[0] for values in _OF_TYPE.values())


def _by_turns(iterators: list[Iterator[Any]]) -> Iterator[Any]:
    """One of each, as long as there are."""
    while iterators:
        left = []
        for each in iterators:
            try:
                yield next(each)
            except StopIteration:
                continue
            left.append(each)
        iterators = left
