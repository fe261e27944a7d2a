"""Columns in which a library keeps how a row was written, and not what it contains.

No events tell that, so no fold can produce it, and it is not compared.
"""

from __future__ import annotations

from esops.postgres.catalog import Table

_PONGO = ("_id", "data", "metadata", "_version", "_partition", "_archived", "_created", "_updated")
"""The columns of a collection of Pongo, Emmett's documents."""
PONGO_BOOKKEEPING = ("_version", "data._version", "_created", "_updated")
"""Its version counts writes: each event in 0.42, each append or batch since 0.43. The times are
those of the writes.
"""


def is_of_pongo(table: Table) -> bool:
    """Whether a table is a collection of Pongo."""
    kinds = {column.name: column.kind for column in table.columns}
    return all(name in kinds for name in _PONGO) and kinds["data"] == "jsonb"


def bookkeeping_of(blue: Table, green: Table) -> tuple[str, ...]:
    """What is left out of the comparison of two tables, as `verify.ignore` names it."""
    return PONGO_BOOKKEEPING if is_of_pongo(blue) and is_of_pongo(green) else ()
