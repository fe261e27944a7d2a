"""Where a row that serves left the course that the events give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esops.check.context import CheckContext
from esops.check.tables import CheckedTable, KeyText
from esops.errors import EsopsError
from esops.readmodel.rows import BadEvent, Rows
from esops.readmodel.types import Key, Row
from esops.rebuild.verification.bookkeeping import bookkeeping_of
from esops.rebuild.verification.sides import paths_by_column

_MOST = 10_000
"""Events of a stream that is folded step by step."""


def first_apart(context: CheckContext, table: CheckedTable, key: KeyText) -> int | None:
    """The version of the first event that a row which serves has missed: the row is as the events
    before that one make it, and no longer as any later state.

    None where the row is as no state was, and so was changed by something else than missed events;
    or where that cannot be found out. The row is the one that was copied last.
    """
    try:
        return _first_apart(context, table, key)
    except (BadEvent, EsopsError):
        return None


def _first_apart(context: CheckContext, table: CheckedTable, key: KeyText) -> int | None:
    scratch, store, settings = context.scratch, context.store, context.settings
    compared = _compared(table)
    until = context.position or store.head().position
    if until is None or compared is None:
        return None
    stream = scratch.stream(key)
    whole = store.many_streams.whole([stream], until, scratch.filter, settings.begins_with)
    events = [each for each in whole.events if each.position not in scratch.skipped]
    if whole.lacking or not events or len(events) > _MOST:
        return None
    fold = scratch.new_fold()
    try:
        [[own, *_], _] = fold.keys(events[:1], context.connection)
        served = _served(context, table, own, fold.value_types)
        # A state may come again: the last one that the row is like counts.
        like = 0 if served is None else None
        for number, event in enumerate(events, 1):
            fold.apply([event], context.connection)
            if _same(fold.kept.get(own), served, compared):
                like = number
    finally:
        fold.close()
    return None if like is None or like == len(events) else events[like].version


def _served(
    context: CheckContext, table: CheckedTable, key: Key, value_types: Mapping[str, str]
) -> Row | None:
    rows = Rows(table.served, table.key, value_types, lambda: None)
    rows.shape.open(context.connection)
    return next((row for _, row in rows.read(context.connection, [key])), None)


def _compared(table: CheckedTable) -> set[str] | None:
    """The columns that are compared whole; None where a part of one is not compared."""
    ignored = (*table.verify.ignore, *bookkeeping_of(table.served, table.made))
    by_column = paths_by_column(ignored, table.served)
    if any(steps for paths in by_column.values() for steps in paths):
        return None
    return {each.name for each in table.served.columns} - by_column.keys()


def _same(state: Any, served: Row | None, compared: set[str]) -> bool:
    if state is None or served is None:
        return state is None and served is None
    names = compared & state.keys()
    return all(name in served and state[name] == served[name] for name in names)
