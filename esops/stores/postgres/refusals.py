"""Why a database does not let go of a stream, in words: what refers to it, or stands in its way.

It would say the same of the next attempt, as long as nobody changes these rows or functions.
"""

from __future__ import annotations

import psycopg
from psycopg import errors

USED_AGAIN = (
    "the name was used again: an archived stream of that name exists already, and the tables have "
    "room for one of each name"
)


def in_words(error: psycopg.Error) -> str:
    """What refused a removal, by the server's own report of it."""
    said = error.diag
    if isinstance(error, errors.ForeignKeyViolation):
        key = (said.message_detail or "").partition(" is still referenced")[0]
        detail = f", {key}" if key else ""
        by = f"foreign key {said.constraint_name or '?'}{detail}"
        return f"rows of {_table(said)} refer to it ({by})"
    if isinstance(error, errors.UniqueViolation):
        return f"{USED_AGAIN} ({said.constraint_name or 'a unique key'})"
    if isinstance(error, errors.QueryCanceled):
        return "its removal takes longer than the policy's statement_timeout"
    first = str(error).splitlines()[0]
    if isinstance(error, errors.RaiseException):
        where = (said.context or "").splitlines()
        return f"the database refuses it: {first}" + (f" ({where[0]})" if where else "")
    if isinstance(error, errors.IntegrityError) and said.constraint_name:
        return f"constraint {said.constraint_name} of {_table(said)} refuses it: {first}"
    return first


def _table(said: psycopg.errors.Diagnostic) -> str:
    return ".".join(each for each in (said.schema_name, said.table_name) if each) or "another table"
