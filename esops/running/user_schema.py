"""Errors of the user's own tables, functions and triggers, with the table that is written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from esops.errors import Unavailable
from esops.projections.projector import VersionTables
from esops.readmodel.rows import one_line

_CLASSES = frozenset({"09", "0A", "27", "2F", "38", "39", "42", "55", "P0"})
"""Triggers, functions and what a table does not have or allow (PostgreSQL, appendix A)."""
_OTHERS = frozenset({"42501", "55006", "55P03"})
"""Rights and locks, which have errors of their own."""


@contextmanager
def naming(tables: VersionTables) -> Iterator[None]:
    """Raises Unavailable, with the table and what to do, for an error that lies in the tables of a
    version or in what they call; lets all others through.
    """
    try:
        yield
    except psycopg.Error as error:
        if not _is_of_tables(error):
            raise
        diagnosis = error.diag
        named = [table for table in tables.by_name.values() if table.name == diagnosis.table_name]
        where = " or ".join(
            f"{table.schema}.{table.name}" for table in named or tables.by_name.values()
        )
        column = f" (column {diagnosis.column_name})" if diagnosis.column_name else ""
        context = (diagnosis.context or "").strip().splitlines()
        inside = f", in {context[0]}" if context else ""
        text = diagnosis.message_primary or one_line(error)
        raise Unavailable(
            f"the database does not accept what {tables.projection} v{tables.version} writes to "
            f"{where}{column}: {text}{inside}",
            hint="Look at the key, the constraints, the defaults and the triggers of that table, "
            "and at the functions that they call. What came before is committed: change them, and "
            "continue (a rebuild with --resume).",
        ) from error


def _is_of_tables(error: psycopg.Error) -> bool:
    state = error.sqlstate or ""
    if state == "42P01":  # esops' own statements fail so where a version was retired
        return bool(error.diag.context)
    return state[:2] in _CLASSES and state not in _OTHERS
