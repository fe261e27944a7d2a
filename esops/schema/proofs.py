"""Proves that one schema takes all that another does, on their normal forms.

The algebra of jsonschema-rs comes first. It stops at schemas that refer to themselves and at some
objects and arrays; these are taken apart here, keyword by keyword. What cannot be proven so may
be true all the same.
"""

from __future__ import annotations

import json
from functools import cache

import jsonschema_rs
from jsonschema_rs import CanonicalSchema
from jsonschema_rs import canonical as kinds

_MOST_STEPS = 5_000
"""Pairs of places that are compared before it stops without a proof."""
_DEEPEST = 60
"""Levels of a value that are looked at."""


@cache
def anything() -> CanonicalSchema:
    """The schema that takes every value."""
    return jsonschema_rs.canonicalize({}, offline=True, validate_formats=True)


@cache
def any_text() -> CanonicalSchema:
    """The schema that takes every text, such as each member's name."""
    return jsonschema_rs.canonicalize({"type": "string"}, offline=True, validate_formats=True)


def covers(reader: CanonicalSchema, written: CanonicalSchema) -> kinds.Containment:
    """What the algebra says."""
    try:
        return reader.covers(written)
    except kinds.CanonicalizationError:
        return kinds.Containment.UNKNOWN


def proves(reader: CanonicalSchema, written: CanonicalSchema) -> bool:
    """Whether it is proven that a reader takes all that is written."""
    return _Proof().takes(reader, written)


def closed_names(view: kinds.ObjectView) -> list[str] | None:
    """The names that an object may have; None where it may have any."""
    names = view.property_names.view() if view.property_names is not None else None
    match names:
        case kinds.ConstView(value):
            return [str(value)]
        case kinds.EnumView(values):
            return [str(each) for each in values]
        case kinds.FalseView():
            return []
        case _:
            return None


class _Proof:
    """One proof. A pair that is met again below a member or an element may be assumed: a value that
    broke it would have a smaller one in it that does, and so on.
    """

    def __init__(self) -> None:
        self.assumed: dict[tuple[str, str], int] = {}
        """Pairs, and how deep in a value each was met first."""
        self.proven: dict[tuple[str, str], int] = {}
        """Pairs that are proven as deep as this and deeper, given what is assumed."""
        self.depth = 0
        self.steps = 0

    def takes(self, reader: CanonicalSchema, written: CanonicalSchema) -> bool:
        """Whether it is proven for one pair."""
        self.steps += 1
        if self.steps > _MOST_STEPS or self.depth > _DEEPEST:
            return False
        found = covers(reader, written)
        if found is not kinds.Containment.UNKNOWN:
            return found is kinds.Containment.YES
        new, old = reader.view(), written.view()
        if isinstance(new, kinds.ReferenceView) or isinstance(old, kinds.ReferenceView):
            return self._referred(reader, written)
        match old:
            case kinds.AnyOfView() | kinds.OneOfView():
                return all(self.takes(reader, each) for each in old.branches)
            case kinds.AllOfView():
                return any(self.takes(reader, each) for each in old.branches)
        match new:
            case kinds.AnyOfView():
                return any(self.takes(each, written) for each in new.branches)
            case kinds.AllOfView():
                return all(self.takes(each, written) for each in new.branches)
        self.depth += 1
        try:
            if isinstance(new, kinds.ObjectView) and isinstance(old, kinds.ObjectView):
                return self._objects(new, old)
            if isinstance(new, kinds.ArrayView) and isinstance(old, kinds.ArrayView):
                return self._arrays(new, old)
        finally:
            self.depth -= 1
        return False

    def _referred(self, reader: CanonicalSchema, written: CanonicalSchema) -> bool:
        key = (_name(reader), _name(written))
        if key in self.proven and self.depth >= self.proven[key]:
            return True
        if key in self.assumed:
            return self.depth > self.assumed[key]
        before = dict(self.proven)
        self.assumed[key] = self.depth
        new, old = _target(reader), _target(written)
        found = new is not None and old is not None and self.takes(new, old)
        del self.assumed[key]
        if found:
            self.proven[key] = self.depth
        else:
            self.proven = before  # what was proven by this pair is not
        return found

    def _objects(self, new: kinds.ObjectView, old: kinds.ObjectView) -> bool:
        if not {*new.required} <= {*old.required} or new.violations:
            return False
        if (new.min_properties or 0) > max(old.min_properties or 0, len(old.required)):
            return False
        if not _at_most(new.max_properties, old.max_properties):
            return False
        if new.property_names is not None and not self.takes(
            new.property_names, old.property_names or any_text()
        ):
            return False
        closed = closed_names(old)
        names = {*new.properties, *old.properties, *(closed or ())}
        for name in names if closed is None else names & {*closed}:
            if not all(self.takes(_member(new, name), each) for each in _may_be(old, name)):
                return False
        if closed is None and not self.takes(
            new.additional_properties or anything(), old.additional_properties or anything()
        ):
            return False
        return self._patterns(new, old, names if closed is None else names & {*closed})

    def _patterns(self, new: kinds.ObjectView, old: kinds.ObjectView, names: set[str]) -> bool:
        """Members whose names match a pattern: whatever the old object may have there is taken."""
        if not new.pattern_properties and not old.pattern_properties:
            return True
        rest = new.additional_properties or anything()
        if not all(
            self.takes(new.pattern_properties.get(pattern, rest), each)
            for pattern, each in old.pattern_properties.items()
        ):
            return False
        for pattern, each in new.pattern_properties.items():
            may_be = [each for name in names for each in _may_be(old, name)]
            may_be += [v for key, v in old.pattern_properties.items() if key != pattern]
            if pattern not in old.pattern_properties and closed_names(old) is None:
                may_be.append(old.additional_properties or anything())
            if not all(self.takes(each, other) for other in may_be):
                return False
        return True

    def _arrays(self, new: kinds.ArrayView, old: kinds.ArrayView) -> bool:
        if (new.min_items or 0) > (old.min_items or 0):
            return False
        if not _at_most(new.max_items, old.max_items) or new.contains:
            return False
        if new.distinctness not in (kinds.Distinctness.UNCONSTRAINED, old.distinctness):
            return False
        count = max(len(new.prefix_items), len(old.prefix_items))
        if old.max_items is not None:
            count = min(count, old.max_items)
        if not all(self.takes(_element(new, n), _element(old, n)) for n in range(count)):
            return False
        rest = old.max_items is None or old.max_items > count
        return not rest or self.takes(new.items or anything(), old.items or anything())


def _name(schema: CanonicalSchema) -> str:
    """Tells a schema from others of its document."""
    view = schema.view()
    if isinstance(view, kinds.ReferenceView):
        return view.uri
    return json.dumps(schema.to_json_schema(), sort_keys=True, default=str)


def _target(schema: CanonicalSchema) -> CanonicalSchema | None:
    view = schema.view()
    return schema.definition(view.uri) if isinstance(view, kinds.ReferenceView) else schema


def _member(view: kinds.ObjectView, name: str) -> CanonicalSchema:
    return view.properties.get(name) or view.additional_properties or anything()


def _may_be(view: kinds.ObjectView, name: str) -> list[CanonicalSchema]:
    """What the member of a name may be; each, where its name may match a pattern."""
    if name in view.properties:
        return [view.properties[name]]
    return [_member(view, name), *view.pattern_properties.values()]


def _element(view: kinds.ArrayView, number: int) -> CanonicalSchema:
    if number < len(view.prefix_items):
        return view.prefix_items[number]
    return view.items or anything()


def _at_most(new: int | None, old: int | None) -> bool:
    return new is None or (old is not None and old <= new)
