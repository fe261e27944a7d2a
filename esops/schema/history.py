"""The history of one type of event: its shapes over time, and the changes of its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esops.errors import NothingFound, nearest
from esops.events import RecordedEvent
from esops.json_paths import Steps
from esops.schema.changes import FieldChange, FieldChanges
from esops.schema.closing import ClosingRule
from esops.schema.documents import show_document
from esops.schema.enum_values import EnumValues
from esops.schema.inventory import Inventory, InventoryReader, KnownMaps
from esops.schema.reading import EventSelection, Progress
from esops.schema.shapes import ShapeVariant
from esops.schema.type_inventory import TypeInventory
from esops.schema.versions import versioned
from esops.stores.base import EventStore


@dataclass
class TypeHistory:
    """What a read of the events found of one type."""

    base: str
    inventory: Inventory
    changes: list[tuple[TypeInventory, list[FieldChange]]]
    """By category."""

    def as_dict(self) -> dict[str, Any]:
        """Everything under the documented field names."""
        return show_document(self.inventory, self.base, self.changes)


class WantedTypes:
    """The stored types that some names stand for: a name may be a stored one, or the one without a
    version.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names`: none means all types."""
        self._names = names
        self._bases = {*names, *(versioned(name).base for name in names)}
        self._others: set[str] = set()

    def __call__(self, stored: str) -> bool:
        """Whether a stored type is one of them."""
        if not self._names or versioned(stored).base in self._bases:
            return True
        self._others.add(versioned(stored).base)
        return False

    def none_found(self, store: str) -> NothingFound:
        """The error where the store has none of them."""
        names = " or ".join(map(repr, self._names))
        return NothingFound(
            f"store {store} has no event of type {names}",
            hint=nearest(self._names[0], sorted(self._others)) if self._others else None,
        )


def inventory_of(
    store: EventStore,
    rule: ClosingRule,
    *,
    category: str | None = None,
    types: tuple[str, ...] = (),
    by_day: bool = False,
    progress: Progress = lambda *_: None,
) -> Inventory:
    """Read all events of a store or category, and count those of some types, or of all.

    Raises UsageError or NothingFound where there is none that was asked for.
    """
    wanted = WantedTypes(types)
    reader = InventoryReader(store, rule, wanted=wanted, by_day=by_day)
    found = reader.read(EventSelection(category=category), progress)
    if types and not found.events and found.short is None:
        raise wanted.none_found(store.name)
    return found


def history_of(
    store: EventStore,
    name: str,
    rule: ClosingRule,
    *,
    category: str | None = None,
    show_values: bool = False,
    progress: Progress = lambda *_: None,
) -> TypeHistory:
    """Read all events of a store or category, and find what changed in those of one type.

    `show_values`: whether changes tell new values of fields. Raises as `inventory_of`.
    """
    found, changes = histories_of(
        store, rule, (name,), category=category, show_values=show_values, progress=progress
    )
    base = changes[0][0].base if changes else versioned(name).base
    return TypeHistory(base, found, changes)


def histories_of(
    store: EventStore,
    rule: ClosingRule,
    types: tuple[str, ...] = (),
    *,
    category: str | None = None,
    show_values: bool = False,
    progress: Progress = lambda *_: None,
) -> tuple[Inventory, list[tuple[TypeInventory, list[FieldChange]]]]:
    """As `history_of`, for some types or all of them.

    What changed below a name that is data is no change of a field. Which names are is known only
    after a number of events; so the read begins again then, with what is known.
    """
    maps: dict[tuple[str, str | None], set[Steps]] = {}
    while True:
        try:
            return _read(store, rule, types, maps, category, show_values, progress)
        except _MoreMaps as found:
            maps |= found.maps


class _MoreMaps(Exception):
    """More objects are maps by names which are data than was known."""

    def __init__(self, maps: dict[tuple[str, str | None], set[Steps]]) -> None:
        super().__init__()
        self.maps = maps


def _read(
    store: EventStore,
    rule: ClosingRule,
    types: tuple[str, ...],
    maps: KnownMaps,
    category: str | None,
    show_values: bool,
    progress: Progress,
) -> tuple[Inventory, list[tuple[TypeInventory, list[FieldChange]]]]:
    finders: dict[TypeInventory, tuple[FieldChanges, EnumValues]] = {}

    def watch(type_: TypeInventory, variant: ShapeVariant, event: RecordedEvent) -> None:
        both = finders.get(type_)
        if both is None:
            values = EnumValues(shown=show_values, maps=type_.names.maps)
            both = finders[type_] = FieldChanges(), values
        both[0].see(variant, event)
        both[1].see(variant, event)

    def after_batch() -> None:
        more = {}
        for type_, (fields, _) in finders.items():
            fields.end_batch()
            key = (type_.base, type_.category)
            if type_.names.maps != set(maps.get(key, ())):
                more[key] = type_.names.maps
        if more:
            raise _MoreMaps(more)

    wanted = WantedTypes(types)
    reader = InventoryReader(store, rule, by_day=True, watch=watch, wanted=wanted, maps=maps)
    found = reader.read(EventSelection(category=category), progress, after_batch)
    if types and not found.events and found.short is None:
        raise wanted.none_found(store.name)
    for type_, (fields, _) in finders.items():
        type_.fields_left_out = fields.left_out
    return found, [
        (type_, sorted([*fields.changes(), *values.changes()], key=_place))
        for type_ in found.ordered()
        for fields, values in [finders[type_]]
    ]


def _place(change: FieldChange) -> tuple[Any, ...]:
    return change.at.position, change.path, change.kind
