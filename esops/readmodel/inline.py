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
from esops.stores.parts import InlineTable, KeptTable

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
        return Refused(
            f"the application writes {table.schema}.{table.name} itself, in the transaction of "
            f"each append, so esops must not write to it: {table.evidence}",
            hint=FIX,
        )
    for each in kept(connection, store, names, versions):
        name = f'"{each.processors[0]}"' if each.processors else "its name"
        return Refused(
            f"a processor of the application's writes {each.schema}.{each.name}, so esops must "
            f"not write to it: {each.evidence}",
            hint=f'Set live = "app", checkpoint = {name} and switch = "rename": the checkpoint '
            "then moves with the switch. If the application does not run that processor any "
            f"more, {each.given_up}.",
        )
    return None
