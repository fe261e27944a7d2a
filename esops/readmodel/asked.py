"""What the server makes of a value: the forms of types that Python has no conversion for."""

from __future__ import annotations

from copy import deepcopy
from hashlib import sha256
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from esops.postgres.catalog import Column
from esops.readmodel.form import Unfit
from esops.readmodel.json_forms import dumps

_MEMORY = 10_000
"""Answers that are kept for each type of column, all of short texts."""
_SHORT = 1_000
_REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    psycopg.errors.SyntaxError,  # what tsvector, for one, says of a text that it cannot read
)


def text_of(value: Any, connection: psycopg.Connection) -> str:
    """A value as COPY writes it. Raises psycopg.Error, ValueError or TypeError where there is no
    text for it.
    """
    if type(value) is str:
        return value
    dumper = Transformer(connection).get_dumper(value, PyFormat.TEXT)
    return bytes(dumper.dump(value) or b"").decode()


class Asked:
    """Asks the server for the form of a value, and remembers the answers."""

    def __init__(self) -> None:
        """`connection` has to be set before the first question."""
        self.connection: psycopg.Connection | None = None
        self._types: dict[str, sql.Identifier] = {}
        self._answers: dict[str, dict[tuple[type, str], Any]] = {}

    def __call__(self, column: Column, value: Any) -> Any:
        """The value as the column gives it back.

        Raises Unfit where the column does not accept the value, or gives back another one.
        """
        assert self.connection is not None
        try:
            text = text_of(value, self.connection)
        except (psycopg.Error, ValueError, TypeError) as error:
            raise Unfit(f"there is no conversion: {error}") from None
        answers = self._answers.setdefault(column.type, {})
        asked = (type(value), text)
        if asked in answers:
            # What can be changed, at any depth, is of one row only.
            made = deepcopy(answers[asked])
        else:
            if len(answers) >= _MEMORY:
                answers.clear()
            made = self._answer(column, text)
            if len(text) <= _SHORT:
                answers[asked] = deepcopy(made)
        # Lists of other values may have the same text: this is asked of each.
        if not isinstance(value, str) and made != value:
            raise Unfit(f"it would come back as {made!r}")
        return made

    def _answer(self, column: Column, text: str) -> Any:
        assert self.connection is not None
        kind = self._type(column)
        # The field of a row takes a text as COPY does: with the length and the scale of the column.
        try:
            row = self.connection.execute(
                sql.SQL("SELECT (%s::{0}).v, (%s::{0}).v::text").format(kind),
                (_quoted(text), _quoted(text)),
            ).fetchone()
            assert row is not None
            made, shown = row
            json = column.kind in {"json", "jsonb"}
            back = dumps(made).decode() if json else text_of(made, self.connection)
            again = self.connection.execute(
                sql.SQL("SELECT (%s::{}).v::text").format(kind),
                (_quoted(back),),
            ).fetchone()
        except _REFUSALS as error:
            raise Unfit(error.diag.message_primary or str(error)) from None
        if again != (shown,):
            raise Unfit(f"the driver reads it as {made!r}, which is another value")
        return made

    def _type(self, column: Column) -> sql.Identifier:
        """A row type with one field of the column's type; it stays as long as the session."""
        found = self._types.get(column.type)
        if found is None:
            assert self.connection is not None
            name = f"esops_form_{sha256(column.type.encode()).hexdigest()[:16]}"
            kind: Any = column.type  # from the catalogue
            self.connection.execute(
                sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (v {})").format(
                    sql.Identifier(name), sql.SQL(kind)
                )
            )
            found = self._types[column.type] = sql.Identifier("pg_temp", name)
        return found


def _quoted(text: str) -> str:
    """A row of one field, as text."""
    escaped = text.replace("\\", "\\\\").replace('"', '""')
    return f'("{escaped}")'
