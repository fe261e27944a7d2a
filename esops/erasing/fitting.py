"""Whether an erasure can be done: the rules that fit what was asked for, and a store whose events
can be changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from esops.config import Config
from esops.erasing.rules import ErasureRule, is_for
from esops.errors import Refused, UsageError
from esops.json_paths import JsonPath
from esops.stores.base import EventStore
from esops.stores.capabilities import missing
from esops.stores.masking import Masking


def masking_of(store: EventStore) -> Masking:
    """How a store's events are changed. Raises Refused where they cannot be."""
    masking = store.masking
    if masking is not None and not masking.documents:
        raise Refused(
            f"the layout of store {store.name} does not say which columns hold events' data",
            hint="A layout of your own names them in `documents`: esops docs add-a-store",
        )
    if masking is None:
        error = missing(store, "masking")
        raise Refused(error.message, hint=error.hint)
    return masking


def fitting(
    config: Config,
    store: str,
    streams: Sequence[str],
    conditions: Sequence[tuple[JsonPath, str]],
    names: Sequence[str],
) -> list[ErasureRule]:
    """The rules of a store that fit what was asked for. Raises UsageError where one is missing."""
    if not streams and not conditions:
        raise UsageError(
            "whose data is to be erased?",
            hint="Name streams with --stream, or a value in events with --where 'customerId=42'.",
        )
    if unknown := [name for name in names if name not in config.erase]:
        raise UsageError(f"{config.path}: there is no section [erase.{unknown[0]}]")
    rules = [
        ErasureRule(name, settings)
        for name, settings in config.erase.items()
        if (not names or name in names)
        and (settings.store is None or config.store(settings.store)[0] == store)
    ]
    found = [rule for rule in rules if streams or any(is_for(rule, path) for path, _ in conditions)]
    for path, _ in conditions:
        if not any(is_for(rule, path) for rule in found):
            raise UsageError(
                f"{config.path}: no rule for store {store} says what to mask where {path} has a "
                "value",
                hint=f'Add a section [erase.NAME] with store = "{store}", where = "{path}" and '
                'mask = { "$.name" = "null" }.',
            )
    if not found:
        raise UsageError(
            f"{config.path}: no rule says what to mask in store {store}",
            hint=f'Add a section [erase.NAME] with store = "{store}" and '
            'mask = { "$.name" = "null" }.',
        )
    return found
