"""What the server makes of a value: the forms of types that Python has no conversion for."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from esops.postgres.catalog import Column
from esops.postgres.types import types_of
from esops.readmodel.form import Unfit
from esops.readmodel.json_forms import dumps
from esops.readmodel.wide import rounds, row_type, wide_type

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

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        """`connection` has to be set before the first question; `settle` is called before each."""
        self._settle = settle
        self.connection: psycopg.Connection | None = None
        self._types: dict[str, sql.Identifier] = {}
        self._wide: dict[str, sql.Identifier | None] = {}
        self._kept: dict[str, set[str]] = {}
        self._answers: dict[str, dict[tuple[type, str], Any]] = {}

    def __call__(self, column: Column, value: Any) -> Any:
        """The value as the column gives it back.

        Raises Unfit where the column does not accept the value, or gives back another one.
        """
        text = self._text(value)
        answers = self._answers.setdefault(column.type, {})
        asked = (type(value), text)
        if asked in answers:
            # What can be changed, at any depth, is of one row only.
            made = deepcopy(answers[asked])
        else:
            if len(answers) >= _MEMORY:
                answers.clear()
            self._settle()
            made = self._answer(column, text)
            if len(text) <= _SHORT:
                answers[asked] = deepcopy(made)
        # Lists of other values may have the same text: this is asked of each.
        meant = Decimal(repr(value)) if type(value) is float and type(made) is Decimal else value
        if not isinstance(value, str) and made != meant:
            raise Unfit(f"it would come back as {made!r}")
        return made

    def check(self, column: Column, value: Any) -> None:
        """Raises Unfit where the column would round or cut a value; nothing else is checked."""
        text = self._text(value)
        kept = self._kept.setdefault(column.type, set())
        if text in kept:
            return
        self._settle()
        try:
            shown = self._one("SELECT (%s::{0}).v::text", self._type(column), text)
            self._check(column, text, shown)
        except _REFUSALS as error:
            raise Unfit(error.diag.message_primary or str(error)) from None
        if len(kept) >= _MEMORY:
            kept.clear()
        if len(text) <= _SHORT:
            kept.add(text)

    def _text(self, value: Any) -> str:
        assert self.connection is not None
        try:
            return text_of(value, self.connection)
        except (psycopg.Error, ValueError, TypeError) as error:
            raise Unfit(f"there is no conversion: {error}") from None

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
            self._check(column, text, shown)
            json = column.kind in {"json", "jsonb"}
            back = dumps(made).decode() if json else text_of(made, self.connection)
            again = self._one("SELECT (%s::{0}).v::text", kind, back)
        except _REFUSALS as error:
            raise Unfit(error.diag.message_primary or str(error)) from None
        if again != shown:
            raise Unfit(f"the driver reads it as {made!r}, which is another value")
        return made

    def _check(self, column: Column, text: str, shown: str) -> None:
        """Raises Unfit where what the column shows of a text is another value."""
        if column.kind == "money":
            changed = _more_digits(text, shown)
        else:
            wide = self._wide[column.type]
            changed = wide is not None and not self._one(
                "SELECT (%s::{0}).v IS NOT DISTINCT FROM (%s::{0}).v", wide, text, shown
            )
        if changed:
            raise Unfit(f"it would become {shown}")

    def _one(self, statement: LiteralString, kind: sql.Identifier, *texts: str) -> Any:
        assert self.connection is not None
        row = self.connection.execute(
            sql.SQL(statement).format(kind), [_quoted(text) for text in texts]
        ).fetchone()
        assert row is not None
        return row[0]

    def _type(self, column: Column) -> sql.Identifier:
        """A row type with one field of the column's type, and in `_wide` one to compare in, where
        the type may round or cut.
        """
        found = self._types.get(column.type)
        if found is None:
            connection = self.connection
            assert connection is not None
            kind: Any = column.type  # from the catalogue
            found = self._types[column.type] = row_type(connection, [("v", sql.SQL(kind))])
            row = connection.execute(
                "SELECT %s::regclass::oid::bigint", (found.as_string(connection),)
            ).fetchone()
            assert row is not None
            tree = types_of(connection, row[0])["v"].tree
            self._wide[column.type] = (
                row_type(connection, [("v", wide_type(connection, tree))]) if rounds(tree) else None
            )
        return found


_LAST_DIGITS = re.compile(r"([.,])(\d+)\D*$")


def _more_digits(text: str, shown: str) -> bool:
    """Whether an amount has more digits after the point than the server shows of it, in its
    language.
    """
    given, kept = _LAST_DIGITS.search(text), _LAST_DIGITS.search(shown)
    if given is None or kept is None or given[1] != kept[1]:
        return False
    return len(given[2].rstrip("0")) > len(kept[2])


def _quoted(text: str) -> str:
    """A row of one field, as text."""
    escaped = text.replace("\\", "\\\\").replace('"', '""')
    return f'("{escaped}")'
