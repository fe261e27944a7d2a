"""Streams that are named by the columns of a table of somebody's own: one, or several together.

Several columns make one name: their texts with `-` between them. So that no two streams have one
name, a `-` in a column before the last one is written `~1` there, and a `~` is `~0`; the last
column stands as it is. The way back gives each column a value of its own type, so that the table's
index on the columns finds the stream.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from esops.postgres.catalog import Column
from esops.stores.postgres.layouts.expressions import storable

_WHOLE = {"int2", "int4", "int8"}
_TEXTS = {"text", "varchar"}
_UUID = "CASE WHEN {0} ~ '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$' THEN {0}::uuid END"
_NUMBER = (
    "CASE WHEN {0} ~ '^(0|-?[1-9][0-9]{{0,18}})$' THEN CASE WHEN {0}::numeric BETWEEN "
    "-9223372036854775808 AND 9223372036854775807 THEN {0}::bigint END END"
)
"""One inside the other: the server need not look at two conditions in their order."""
_LABEL = "(SELECT label FROM unnest(enum_range(NULL::{1})) AS label WHERE label::text = {0})"
_ESCAPED = "replace(replace({0}, '~', '~0'), '-', '~1')"
_PLAIN = "replace(replace({0}, '~1', '-'), '~0', '~')"


class StreamColumns:
    """The columns that name a stream, as SQL."""

    def __init__(self, columns: Sequence[Column], enums: Sequence[str | None] = ()) -> None:
        """`enums`: for each column the quoted name of its type, where that is an enum."""
        self._columns = tuple(columns)
        self._enums = tuple(enums) or (None,) * len(self._columns)
        texts = [_text(column) for column in columns]
        self.first: sql.Composable = texts[0]
        """The first column as text."""
        self.name: sql.Composable = self._joined(texts)
        """The stream's name."""

    def _joined(self, texts: Sequence[sql.Composable]) -> sql.Composable:
        if len(texts) == 1:
            return texts[0]
        parts = [*(sql.SQL(_ESCAPED).format(text) for text in texts[:-1]), texts[-1]]
        # A collation of its own: the columns may have different ones.
        return sql.SQL('(({}) COLLATE "C")').format(sql.SQL(" || '-' || ").join(parts))

    def _parts(self, name: sql.Composable) -> list[sql.Composable]:
        """The text of each column in the name that an expression gives."""
        if len(self._columns) == 1:
            return [name]
        whole = sql.SQL('(({})::text COLLATE "C")').format(name)
        before = [
            sql.SQL("split_part({}, '-', {})").format(whole, sql.Literal(at))
            for at in range(1, len(self._columns))
        ]
        used = sql.SQL(" + ").join(sql.SQL("length({}) + 1").format(part) for part in before)
        last = sql.SQL("substr({}, {} + 1)").format(whole, used)
        return [*(sql.SQL(_PLAIN).format(part) for part in before), last]

    def same(self, name: sql.Composable) -> sql.Composable:
        """The condition for events of the stream whose name an expression gives as text."""
        parts = self._parts(name)
        conditions = [
            sql.SQL("{} = {}").format(_compared(column, enum), _typed(column, enum, part))
            for column, enum, part in zip(self._columns, self._enums, parts, strict=True)
        ]
        conditions += [
            sql.SQL('{} = ({} COLLATE "C")').format(_text(column), part)
            for column, part in zip(self._columns, parts, strict=True)
            if column.loose
        ]
        if len(parts) > 1:
            # What is written in another way than esops does names nothing.
            conditions.append(sql.SQL("{} = ({})::text").format(self._joined(parts), name))
        return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions))

    def any_of(self, names: Sequence[str]) -> sql.Composable:
        """The condition for events of any of some streams."""
        found = sql.Literal(storable(names))
        if len(self._columns) == 1 and self._columns[0].kind in _TEXTS:
            return sql.SQL("{} = ANY({}::text[])").format(self.name, found)
        asked = sql.Identifier("esops:name")
        parts = self._parts(asked)
        whole: sql.Composable = sql.SQL("TRUE")
        if len(parts) > 1:
            whole = sql.SQL("{} = {}").format(self._joined(parts), asked)
        pairs = list(zip(self._columns, self._enums, parts, strict=True))
        wanted = sql.SQL("({}) IN (SELECT {} FROM unnest({}::text[]) AS {} WHERE {})").format(
            sql.SQL(", ").join(_compared(column, enum) for column, enum, _ in pairs),
            sql.SQL(", ").join(_typed(*each) for each in pairs),
            found,
            asked,
            whole,
        )
        if not any(column.loose for column in self._columns):
            return wanted
        return sql.SQL("({} AND {} = ANY({}::text[]))").format(wanted, self.name, found)


def _text(column: Column) -> sql.Composable:
    form = '({}::text COLLATE "C")' if column.loose else "{}::text"
    return sql.SQL(form).format(sql.Identifier(column.name))


def _compared(column: Column, enum: str | None) -> sql.Composable:
    """A column as an index has it, where a value of its type can be made of any text."""
    name = sql.Identifier(column.name)
    as_it_is = enum is not None or column.kind in {"uuid", "bpchar", *_WHOLE, *_TEXTS}
    return name if as_it_is else sql.SQL("{}::text").format(name)


def _typed(column: Column, enum: str | None, text: sql.Composable) -> sql.Composable:
    """The value for a column, to be compared with what `_compared` gives; NULL where the text is
    none of its type, as esops writes it.
    """
    if enum is not None:
        return sql.SQL(_LABEL).format(text, sql.SQL(enum))
    if column.kind == "uuid":
        return sql.SQL(_UUID).format(text)
    if column.kind in _WHOLE:
        return sql.SQL(_NUMBER).format(text)
    value = sql.SQL("{}::bpchar" if column.kind == "bpchar" else "{}::text").format(text)
    if column.kind not in {"bpchar", *_TEXTS} or not column.collation:
        return value
    # The name has a collation of its own, by which no index of the column is sorted.
    return sql.SQL("({} COLLATE {})").format(value, sql.SQL(column.collation))
