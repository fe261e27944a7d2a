"""Which projections can be split into shards by the stream's name, so that several processes, or
several ranges, share the work.

Events are split by the name of their stream, and rows by the column of the key that has that name.
So the column must tell all streams apart, and show each name as the store does.
"""

from __future__ import annotations

from collections.abc import Sequence

from esops.errors import Refused
from esops.postgres.catalog import Column, Table
from esops.projections.definition import Definition, FoldDefinition
from esops.projections.kinds.fold_key import of_stream
from esops.readmodel.forms import is_plain_text
from esops.stores.base import EventStore


def check_shardable(definition: Definition, store: EventStore, option: str) -> None:
    """Raises Refused where the server cannot split a projection's keys, as `option` demands."""
    if not isinstance(definition, FoldDefinition):
        raise Refused(
            f"{option}: only for folds. In other kinds of projection, the rows of one event "
            "may depend on any other event",
            hint=f"Leave out {option}.",
        )
    if definition.key is not None:
        raise Refused(
            f"{option}: only for a fold that is keyed by the stream. The server cannot split "
            "events by a Python function",
            hint=f"Leave out {option}.",
        )
    if not store.capabilities.shards:
        raise Refused(
            f"store {store.name} cannot split its streams among several readers",
            hint=f"Leave out {option}.",
        )


def check_keys(store: EventStore, table: Table, key: Sequence[str], option: str) -> None:
    """Raises Refused where the key of a fold's table does not tell all streams apart."""
    why = blurred(store, table, key)
    if why is not None:
        raise Refused(f"{option}: {why}", hint=f"Leave out {option}, or make that column text.")


def blurred(store: EventStore, table: Table, key: Sequence[str]) -> str | None:
    """Why two streams whose names differ may have one key in a fold's table, or a key that is
    written in another way than the name; None where neither can be.
    """
    column = table.column(stream_column(key))
    if _as_it_is(column) or (column.type == "uuid" and store.capabilities.uuid_streams):
        return None
    return (
        f"the column {column.name} of the key of {table.schema}.{table.name} is {column.type}, "
        "which may write a stream's name in another way, so that two streams have one key"
    )


def stream_column(key: Sequence[str]) -> str:
    """The column that has the stream's name, where the key is the stream."""
    return key[of_stream(key).index("stream")]


def _as_it_is(column: Column) -> bool:
    """Whether the column holds each text as it is, or refuses it for its length."""
    limited = column.kind == "varchar" and column.type.startswith("character varying(")
    return not column.loose and (is_plain_text(column) or limited)
