"""The key of a fold's rows, which the columns of the table's key have to be able to be."""

from __future__ import annotations

from collections.abc import Sequence

from esops.errors import Refused, UsageError
from esops.postgres.catalog import Column, Table
from esops.projections.definition import FoldDefinition

_LOOSE = frozenset({"citext", "jsonb", "timetz"})


def check_key(
    definition: FoldDefinition, table: Table, key: tuple[str, ...], *, conjoined: bool
) -> tuple[str, ...]:
    """The columns of a table's key, which have to be of the form of the fold's key.

    Raises UsageError or Refused that says why they are not.
    """
    if not key:
        raise UsageError(
            f"{table.schema}.{table.name} has no primary key; a fold needs one, because its rows "
            "are found by it",
            hint="Add PRIMARY KEY (…) to the table's DDL.",
        )
    for name in key:
        _check_type(table, table.column(name))
    if definition.key is None and conjoined and len(key) == 1:
        raise Refused(
            "tenants share the store, and two of them may use the same stream id: the stream alone "
            "is no key",
            hint="Give the table a key of tenant and stream, or set `tenant` for the store.",
        )
    if definition.key is None and len(key) > (2 if conjoined else 1):
        raise UsageError(
            f"the primary key of {table.schema}.{table.name} has {len(key)} columns, but the "
            "key of the fold is the stream alone",
            hint="Give fold() a key function that returns a tuple of as many values.",
        )
    return key


def _check_type(table: Table, column: Column) -> None:
    """Raises Refused where a key of this column may look different and be the same row."""
    name, inside = column.name, column.loose_part
    if column.loose or column.kind in _LOOSE or column.type == "bpchar" or inside is not None:
        made_of = f", which has {inside} in it" if inside is not None else ""
        blind = " with a nondeterministic collation" if column.loose else ""
        raise Refused(
            f"the column {name} of the key of {table.schema}.{table.name} takes keys that "
            f"differ for equal ({column.type}{blind}{made_of}), so two keys of the fold would be "
            "one row",
            hint=f"Make {name} text with a deterministic collation, and let the key function "
            "return one form of each key, for example key.lower(). numeric, real and double "
            "precision are possible too, without a domain.",
        )
    if column.kind.startswith("_"):
        raise Refused(
            f"the column {name} of the key of {table.schema}.{table.name} is an array "
            f"({column.type}), and a fold's rows are not found by arrays",
            hint=f"Make {name} text, or give the table a key of several columns.",
        )


def of_stream(key: Sequence[str]) -> tuple[str, ...]:
    """What of an event the columns of a key have, where the key is the stream: "tenant" and
    "stream", in the order of the columns. Marten can have the id first, and the tenant after it.
    """
    if len(key) == 1:
        return ("stream",)
    last = "tenant" in key[1].lower() and "tenant" not in key[0].lower()
    return ("stream", "tenant") if last else ("tenant", "stream")
