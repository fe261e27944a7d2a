"""One statement over a range of positions, where events and read model are in one Postgres
database.

The statement and the checkpoint commit together. What the range is stands in it as `:after` and
`:until`: of a store that orders by one
column a number each, of Emmett two values, to be compared as `(transaction_id, global_position) >
(:after)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg

from esops.errors import UsageError
from esops.projections.definition import SqlDefinition
from esops.readmodel.names import with_names
from esops.readmodel.rows import one_line
from esops.stores.base import SqlRange

RANGE = 1_000_000
"""Events that one statement is over, unless `--batch-size` says otherwise."""
_MARK = re.compile(r"(?<![:\w]):(after|until)\b")


def statement(
    definition: SqlDefinition, tables: Mapping[str, tuple[str, str]], part: SqlRange
) -> str:
    """The statement for a range, with the tables' names."""
    values = {"after": part.after, "until": part.until}
    return _MARK.sub(lambda mark: values[mark[1]], with_names(definition.text, tables))


def check(definition: SqlDefinition) -> None:
    """Raises UsageError where the statement does not say which events it is over."""
    found = {mark[1] for mark in _MARK.finditer(definition.text)}
    for name in ("after", "until"):
        if name not in found:
            raise UsageError(
                f"{definition.path} does not name :{name}",
                hint="It is over the events after :after up to :until.",
            )


def explained(connection: psycopg.Connection, text: str) -> list[str]:
    """How the server would do it. Raises UsageError for a statement that fails."""
    try:
        with connection.transaction():
            return [row[0] for row in connection.execute(f"EXPLAIN {text}".encode()).fetchall()]
    except psycopg.Error as error:
        raise UsageError(f"the statement fails: {one_line(error)}") from error
