"""Read models that the application writes itself, in the transaction of each append.

Nobody else may write to such a table: rows that two write are applied twice. A table is taken for
one where the library's own list names it; and where it has the form of the library's tables, unless
esops has made it.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from esops.errors import Refused
from esops.postgres.connection import database_of
from esops.readmodel.names import ReadModelName
from esops.readmodel.registry import Version
from esops.stores.base import EventStore
from esops.stores.parts import InlineTable

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
    found = {(each.schema, each.name): each for each in store.inline.tables()}
    for name in names:
        table = found.get((name.schema, name.name))
        if table is not None and (table.registered or not _made_by_esops(versions)):
            return table
    return None


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
    """Raises Refused where the application writes a projection's table inline."""
    table = written(connection, store, names, versions)
    if table is not None:
        raise Refused(in_words(table), hint=FIX)


def in_words(table: InlineTable) -> str:
    """That the application writes a table, and what says so."""
    return (
        f"the application writes {table.schema}.{table.name} itself, in the transaction of each "
        f"append, so esops must not write to it: {table.evidence}"
    )
