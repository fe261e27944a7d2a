"""Columns in which a library keeps how a row was written, and not what it contains.

No events tell that, so no fold can produce it, and it is not compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from esops.postgres.catalog import Table


@dataclass(frozen=True)
class LibraryTable:
    """What a library makes for its documents, and which columns tell only how one was written."""

    what: str
    """In words, such as "a collection of Pongo"."""
    columns: tuple[str, ...]
    """By which such a table is known; `data` is of type jsonb."""
    left_out: tuple[str, ...]
    """What is not compared, as `verify.ignore` names it, where both tables have it."""

    def has_form(self, table: Table) -> bool:
        """Whether a table is of this kind."""
        kinds = {column.name: column.kind for column in table.columns}
        return all(name in kinds for name in self.columns) and kinds["data"] == "jsonb"


PONGO = LibraryTable(
    "a collection of Pongo",
    ("_id", "data", "metadata", "_version", "_partition", "_archived", "_created", "_updated"),
    # Its version counts writes: each event in 0.42, each append or batch since 0.43.
    ("_version", "data._version", "_created", "_updated"),
)
"""Of Emmett's documents."""
MARTEN = LibraryTable(
    "a document table of Marten",
    ("id", "data", "mt_last_modified"),
    # The version is a random id, or a number of the stream's or of the log's.
    ("mt_version", "mt_last_modified", "mt_created_at", "mt_dotnet_type"),
)


def library_of(blue: Table, green: Table) -> LibraryTable | None:
    """The library that two tables are of; None where they are not of one."""
    both = (each for each in (PONGO, MARTEN) if each.has_form(blue) and each.has_form(green))
    return next(both, None)


def bookkeeping_of(blue: Table, green: Table) -> tuple[str, ...]:
    """What is left out of the comparison of two tables, as `verify.ignore` names it."""
    library = library_of(blue, green)
    names = () if library is None else library.left_out
    return tuple(
        name for name in names if all(table.has(name.partition(".")[0]) for table in (blue, green))
    )
