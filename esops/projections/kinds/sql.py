"""One statement over a range of positions, where events and read model are in one Postgres
database.

The statement and the checkpoint commit together. The statement names the range as `:after` and
`:until`. For a store that orders by one column each is a number; for Emmett it is two values, to be
compared as `(transaction_id, global_position) > (:after)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg

from esops.errors import UsageError
from esops.projections.definition import SqlDefinition
from esops.readmodel.names import with_names
from esops.readmodel.rows import one_line
from esops.stores.parts import SqlRange

EVENTS_A_STATEMENT = 1_000_000
"""How many events one statement covers, unless `--batch-size` says otherwise."""
FIRST_STATEMENT = 10_000
"""How many the first one covers; the next ones cover ever more."""
_CONDITION = re.compile(r"\b(is_archived|message_kind)\b|'(tombstone)'")
"""What the layouts' conditions name: columns, and the type of what fills Marten's gaps."""
_BOUND = re.compile(r"(?<![:\w]):(after|until)\b")
"""Not `::after`, which is a cast."""


def range_statement(
    definition: SqlDefinition, tables: Mapping[str, tuple[str, str]], part: SqlRange
) -> str:
    """The statement for one range, with its bounds and the names of the version's tables."""
    values = {"after": part.after, "until": part.until}
    bounded = _BOUND.sub(lambda bound: values[bound[1]], definition.text)
    return with_names(bounded, tables)


def check_range(definition: SqlDefinition) -> None:
    """Raises UsageError where the statement lacks a bound: it would apply events twice."""
    found = {bound[1] for bound in _BOUND.finditer(definition.text)}
    for name in ("after", "until"):
        if name not in found:
            raise UsageError(
                f"{definition.path} does not name :{name}",
                hint="The statement covers the events after :after up to :until.",
            )


def not_left_out(definition: SqlDefinition, part: SqlRange) -> list[str]:
    """What the statement takes though all other kinds leave it out, in words: it names nothing of a
    condition by which the store's own events are read.
    """
    names = {each for pair in _CONDITION.findall(part.where) for each in pair if each}
    lacking = sorted(each for each in names if each not in definition.text)
    if not lacking:
        return []
    return [
        (
            f"{definition.path.name} does not name {' and '.join(lacking)}, so it also takes "
            "events that all other kinds leave out (archived ones, or those that the library "
            f"writes for itself). Their condition: {part.where.replace(' AND TRUE', '')}"
        )
    ]


def explain(connection: psycopg.Connection, text: str, part: SqlRange) -> list[str]:
    """The plan of a statement, as EXPLAIN prints it.

    Raises UsageError for a statement that the server does not accept.
    """
    try:
        with connection.transaction():
            return [row[0] for row in connection.execute(f"EXPLAIN {text}".encode()).fetchall()]
    except psycopg.Error as error:
        raise UsageError(f"the statement fails: {one_line(error)}", hint=_hint(part)) from error


def _hint(part: SqlRange) -> str | None:
    """How the bounds are compared where events are ordered by several columns, so that each bound
    is as many values.
    """
    if len(part.order) < 2:
        return None
    columns = ", ".join(part.order)
    return (
        f"This store orders its events by {len(part.order)} columns, so that each bound is as many "
        f"values. Write: WHERE ({columns}) > (:after) AND ({columns}) <= (:until)"
    )
