"""Read models that the application writes itself: in the transaction of each append, or by a
processor of its own.

Nobody else may write to such a table: rows that two write are applied twice. A table is taken for
one where the library's own list names it; and where it has the form of the library's tables, unless
esops has made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import psycopg

from esops.errors import Refused
from esops.postgres.connection import database_of
from esops.readmodel.names import ReadModelName
from esops.readmodel.registry import Version
from esops.stores.base import EventStore
from esops.stores.inline_tables import InlineTable, KeptTable

_Table = TypeVar("_Table", InlineTable, KeptTable)
FIX = (
    'Set live = "inline" and switch = "rename": then a fold is rebuilt beside it, and exchanged '
    "with it under a short lock. Anything else is the application's to rebuild."
)
"""What to do about it."""


def written(
    connection: psycopg.Connection,
    store: EventStore,
    names: Sequence[ReadModelName],
    versions: Sequence[Version],
) -> InlineTable | None:
    """The first of a projection's tables that the application writes inline; None where there is
    none, as far as can be known.

    `versions` are all that the registry has of the projection.
    """
    # Only what is in one database with the events can be written in one transaction with them.
    if store.inline is None or store.inline.database() != database_of(connection):
        return None
    return next(_of(names, versions, store.inline.tables()), None)


def kept(
    connection: psycopg.Connection,
    store: EventStore,
    names: Sequence[ReadModelName],
    versions: Sequence[Version],
) -> Iterator[KeptTable]:
    """Those of a projection's tables that processors of the application's make, as far as can be
    known; `versions` as for `written`.
    """
    # Libraries keep both in one database, so that both move in one transaction.
    if store.inline is None or store.inline.database() != database_of(connection):
        return iter(())
    return _of(names, versions, store.inline.kept())


def _of(
    names: Sequence[ReadModelName], versions: Sequence[Version], tables: Iterable[_Table]
) -> Iterator[_Table]:
    found = {(each.schema, each.name): each for each in tables}
    for name in names:
        table = found.get((name.schema, name.name))
        if table is not None and (table.registered or not _made_by_esops(versions)):
            yield table


def _made_by_esops(versions: Sequence[Version]) -> bool:
    """Whether there was no table before the first version: one that was there had neither a
    checkpoint nor code that esops knows.
    """
    if not versions:
        return False
    first = min(versions, key=lambda each: each.version)
    return bool(first.events or first.position or first.fingerprint)


def check(
    connection: psycopg.Connection,
    store: EventStore,
    names: Sequence[ReadModelName],
    versions: Sequence[Version],
) -> None:
    """Raises Refused where the application writes a projection's table itself."""
    found = others(connection, store, names, versions)
    if found is not None:
        raise found


def others(
    connection: psycopg.Connection,
    store: EventStore,
    names: Sequence[ReadModelName],
    versions: Sequence[Version],
) -> Refused | None:
    """Why esops must not write to a projection's tables, and what to do; None where it may."""
    table = written(connection, store, names, versions)
    if table is not None:
        return _of_appends(table)
    for each in kept(connection, store, names, versions):
        if written_with_events(store, each):
            return _of_appends(each)
        name = f'"{each.processors[0]}"' if each.processors else "its name"
        return Refused(
            f"a processor of the application's writes {each.schema}.{each.name}, so esops must "
            f"not write to it: {each.evidence}",
            hint=f'Set live = "app", checkpoint = {name} and switch = "rename": the checkpoint '
            "then moves with the switch. If the application does not write it any more, "
            f"{each.taken_over}.",
        )
    return None


def of_processor(
    connection: psycopg.Connection, store: EventStore, names: Sequence[ReadModelName]
) -> Refused | None:
    """Why `live = "inline"` is not true of a projection's tables; None where it may be."""
    for each in kept(connection, store, names, ()):
        # A projection may have been async once: its row of progress stays.
        if written_with_events(store, each):
            continue
        processor = f'"{each.processors[0]}"' if each.processors else "its name"
        return Refused(
            f'live = "inline" says that the application writes {each.schema}.{each.name} with '
            f"each append, and a processor of its own makes it: {each.evidence}",
            hint=f'Set live = "app" and checkpoint = {processor}. If the application does not run '
            f"that processor any more, {each.given_up}.",
        )
    return None


def written_with_events(store: EventStore, table: InlineTable | KeptTable) -> bool:
    """Whether rows show that each append writes a table, whatever the library's own tables say."""
    return store.inline is not None and store.inline.written_with_events(table)


def evidence(table: InlineTable | KeptTable) -> str:
    """What says that each append writes a table."""
    if isinstance(table, InlineTable):
        return table.evidence
    return (
        "rows are of the same transactions as the events of their streams. What is left of a "
        f"processor says nothing ({table.evidence})"
    )


def _of_appends(table: InlineTable | KeptTable) -> Refused:
    return Refused(
        f"the application writes {table.schema}.{table.name} itself, in the transaction of each "
        f"append, so esops must not write to it: {evidence(table)}",
        hint=f"{FIX} If the application does not write it any more, {table.taken_over}.",
    )
