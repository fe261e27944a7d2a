"""The rows and keys of a fold, in the form in which the table gives them back.

A row has all columns that the fold has ever written, in the table's order. What a row leaves out
gets the column's default. Which columns and types those are is noted with the version, so it is the
same after a restart. Columns that the fold never writes are not its concern: it neither sees nor
changes them.
"""

from __future__ import annotations

import re
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from datetime import date, datetime
from decimal import Decimal
from itertools import chain
from sys import getsizeof
from typing import Any
from uuid import UUID

import orjson
import psycopg

from esops.errors import nearest
from esops.postgres.catalog import Table, defaults
from esops.readmodel.asked import Asked
from esops.readmodel.fold_loop import FoldPairs, LoopColumn, fold_loop
from esops.readmodel.form import Unfit, cannot_hold
from esops.readmodel.forms import (
    form_of,
    is_plain_text,
    keeps_type,
    key_form,
    written_type,
)
from esops.readmodel.types import Key, Row
from esops.wording import count

_CONSTANT = re.compile(
    r"\(?(?:'(?:[^']|'')*'|[+-]?[0-9.]+(?:e[+-]?[0-9]+)?|true|false|NULL|ARRAY\[\])\)?"
    r"(?:::[a-zA-Z_][a-zA-Z_0-9 .\"]*(?:\([0-9, ]+\))?[a-z ]*(?:\[\])?)*",
    re.IGNORECASE,
)
_MEMORY = 50_000
_NONE: Mapping[Key, object] = {}
_ALIKE = frozenset({str, int, bool, bytes, UUID, date})
"""The types of whose values two are equal only where nothing tells them apart: the texts of
Decimal("1.0") and Decimal("1.00"), and of 0.0 and -0.0, are two keys.
"""
_PYTHON: dict[str, type] = {"int": int, "float": float, "Decimal": Decimal, "str": str}


def changing_defaults(connection: psycopg.Connection, table: Table) -> dict[str, str]:
    """The columns whose defaults are not the same for all rows, each with its default."""
    return {
        name: default or "an identity"
        for name, (default, own) in defaults(connection, table.oid).items()
        if own or default is None or _CONSTANT.fullmatch(default) is None
    }


class Shape:
    """What the rows of one table look like to a fold, and the one way to make them so.

    `fold` takes pairs of a key in its form and an event, the rows by key, and a function that makes
    of a row (or None) and an event another one. A key without a row has none. It keeps of each row
    that the function returns a copy in the form of the table. It raises Unfit, and what the
    function raises. It returns True, to be called again with the pairs that are left, after a row
    has shown a column or a type for the first time: `fold` is another function then.
    """

    fold: FoldPairs

    def __init__(
        self, table: Table, key_columns: tuple[str, ...], written: Mapping[str, str]
    ) -> None:
        """`written` has the columns that were written so far, each with the noted type."""
        self.written = dict(written)
        has_rows = bool(written)
        self.has_rows: Callable[[], bool] = lambda: has_rows
        """Whether there are rows already, though they may have no column but the key's."""
        self.late = False
        """Whether a row has shown a column, or another type, that earlier rows had not."""
        self.changed: Callable[[Callable[[Row], Row]], None] = lambda _: None
        """Is given a function for all rows that are kept, when the form of rows has changed."""
        self._table, self._key_columns = table, key_columns
        self._asked = Asked()
        self._columns = {column.name: column for column in table.columns}
        self._key_forms = [key_form(self._columns[name], self._asked) for name in key_columns]
        self._plain_keys = all(is_plain_text(self._columns[name]) for name in key_columns)
        self._known_keys: dict[Any, Key] = {}
        self._defaults: dict[str, Any] | None = None
        self._changing: dict[str, str] = {}
        self._make()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of a row, in the table's order."""
        return self._names

    def open(self, connection: psycopg.Connection) -> None:
        """Ask on this connection from now on; read the defaults of the columns once."""
        self._asked.connection = connection
        if self._defaults is not None:
            return
        self._defaults = {}
        self._changing = changing_defaults(connection, self._table)
        for name, (default, _) in defaults(connection, self._table.oid).items():
            if name in self._changing or name not in self._columns:  # the latter just came
                continue
            text = f"SELECT ({default})::{self._columns[name].type}"  # both from the catalogue
            row = connection.execute(text.encode()).fetchone()
            self._defaults[name] = None if row is None else row[0]

    def keys(
        self, values: list[Key], known: Mapping[Key, object] = _NONE
    ) -> tuple[list[Key], set[Key]]:
        """Keys as the table has them, one by one and each once; `known` are some that it has.

        Raises Unfit for one that is none of the table's, and TypeError for one that no dict takes.
        """
        # By their types first: objects of other classes may be equal to a text that is known.
        if self.are_plain(values):
            distinct = set(values)
            if self.can_be_stored(distinct.difference(known)):
                return values, distinct
        made = self._made(values)
        return made, set(made)

    def _made(self, values: Sequence[Key]) -> list[Key]:
        known, made = self._known_keys, []
        if len(known) > _MEMORY:
            known.clear()
        for value in values:
            # 1 and True are equal, and are no one key of a text.
            kinds = tuple(map(type, value)) if type(value) is tuple else (type(value),)
            if not _ALIKE.issuperset(kinds):
                made.append(self.key(value))
                continue
            found = known.get((kinds, value))
            if found is None:
                found = known[kinds, value] = self.key(value)
            made.append(found)
        return made

    def are_plain(self, values: Iterable[Any]) -> bool:
        """Whether all keys are texts, or tuples of as many as there are columns, and the columns
        take every text as it is.
        """
        if not self._plain_keys:
            return False
        if len(self._key_columns) > 1:
            if set(map(type, values)) != {tuple} or set(map(len, values)) != {
                len(self._key_columns)
            }:
                return False
            values = chain.from_iterable(values)
        return set(map(type, values)) == {str}

    def can_be_stored(self, texts: Collection[Any]) -> bool:
        """Whether Postgres takes keys that are texts."""
        parts = texts if len(self._key_columns) == 1 else chain.from_iterable(texts)
        text = "".join(parts)
        return "\0" not in text and (text.isascii() or _encodes(text))

    def key(self, value: Key) -> Key:
        """A key as the table has it. Raises Unfit, also where it has too few or too many parts."""
        parts = self.parts(value)
        made = []
        for name, form, part in zip(self._key_columns, self._key_forms, parts, strict=True):
            if part is None:
                raise Unfit(f"the key has no {name}: it is None")
            try:
                made.append(form.convert(part))
            except Unfit as error:
                raise self._unfit(f"the key {value!r} has", name, part, error) from None
        return tuple(made) if len(made) > 1 else made[0]

    def parts(self, key: Key) -> tuple[Any, ...]:
        """The values of the key's columns. Raises Unfit where there are too few or too many."""
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(self._key_columns):
            raise Unfit(
                f"the key {key!r} has {count(len(parts), 'part')}, but the table's key has "
                f"{count(len(self._key_columns), 'column')}"
            )
        return parts

    def loaded(self) -> list[tuple[int, Callable[[Any], Any]]]:
        """The places in a row that was read whose values have to be put into their form, and
        how.
        """
        forms = [self._forms[name].loaded for name in self._names]
        return [(place, each) for place, each in enumerate(forms) if each is not None]

    def assume(self, types: Mapping[str, str]) -> None:
        """Take it for known, from now on, that rows have these columns and types: others, which are
        not folded here, have shown them. `types` has all that was written so far.
        """
        self.late = False
        if self.written != types:
            self.written.update(types)
            self._make()
            self.changed(self._again)

    def size(self, row: Row) -> int:
        """About how many bytes of memory a row takes."""
        made = getsizeof(row)
        for value in row.values():
            kind = type(value)
            if kind is dict or kind is list:
                # The objects of a document take several times its text.
                made += 5 * _length(value)
            else:
                made += getsizeof(value)
        return made

    def rekeyed(self, key: Key, row: Row) -> Row:
        """The row with its key's columns as a row of this key has them."""
        for name, part in zip(self._key_columns, self.parts(key), strict=True):
            if self._differs(name):
                row[name] = self._forms[name].convert(part)
        return row

    def _differs(self, name: str) -> bool:
        """Whether a column of the key may look different in the row."""
        column = self._columns[name]
        return keeps_type(column) and (column.kind != "uuid" or self.written[name] != "str")

    def _make(self) -> None:
        """Make what depends on the columns and types that are known."""
        for name in self._key_columns:
            self.written.setdefault(name, "None")
        self._names = tuple(name for name in self._columns if name in self.written)
        self._forms = {
            name: form_of(self._columns[name], self.written[name], self._asked)
            for name in self._names
        }
        self.fold = self._loop()

    def _slow(self, key: Key, row: Row) -> Row:
        """A row that is not in its form yet, in the form of the table."""
        if type(row) is not dict:
            name = type(row).__name__
            a = "an" if name[0] in "aeiou" else "a"
            raise Unfit(f"the function returned {a} {name}, not a row (a dict) or None")
        self._learn(row)
        parts = dict(zip(self._key_columns, self.parts(key), strict=True))
        self._check_key(row, parts)
        made: Row = {}
        for name in self._names:
            if name in parts:
                value = parts[name]
            elif name in row:
                value = row[name]
            else:
                value = self._default(name)
            try:
                made[name] = None if value is None else self._forms[name].convert(value)
            except Unfit as error:
                raise self._unfit("its row has", name, value, error) from None
        return made

    def _check_key(self, row: Row, parts: Mapping[str, Any]) -> None:
        """Raises Unfit where the row has another key than its event."""
        for name, form in zip(self._key_columns, self._key_forms, strict=True):
            if name not in row:
                continue
            try:
                same = form.convert(row[name]) == parts[name]
            except Unfit:
                same = False
            if not same:
                raise Unfit(
                    f"its row has {name} = {row[name]!r}, but its key is {parts[name]!r}; fold() "
                    "needs a key function that returns the value of that column"
                )

    def _default(self, name: str) -> Any:
        if name in self._changing:
            raise Unfit(
                f"its row lacks column {name!r}, which other rows have, and its default "
                f"({self._changing[name]}) is not the same for all rows; write it in each row"
            )
        return (self._defaults or {}).get(name)

    def _learn(self, row: Row) -> None:
        """Note the columns and types that no row has shown before."""
        new: dict[str, str] = {}
        for name, value in row.items():
            column = self._columns.get(name)
            if column is None:
                raise Unfit(
                    f"its row has column {name!r}, but {self._table.name} has no such column. "
                    f"{nearest(name, self._columns)}"
                )
            known = self.written.get(name)
            found = "None" if value is None else written_type(column, known, value)
            if known is None or (value is not None and found != known and keeps_type(column)):
                new[name] = found
        if not new:
            return
        added = [name for name in new if name not in self.written]
        earlier = self.written.keys() - set(self._key_columns)
        for name in added:
            if earlier and name in self._changing:
                raise Unfit(
                    f"its row has column {name!r}, which earlier rows lack, and its default "
                    f"({self._changing[name]}) is not the same for all rows; write it in each row"
                )
        # Of rows that were made before, a function sees something else from now on.
        self.late |= bool(added and (earlier or self.has_rows())) or any(
            self.written.get(name, "None") != "None" for name in new
        )
        self.written.update(new)
        self._make()
        self.changed(self._again)

    def _again(self, row: Row) -> Row:
        """A row that was in its form, in the form of now."""
        made: Row = {}
        for name in self._names:
            value, form = row[name] if name in row else self._default(name), self._forms[name]
            made[name] = None if value is None else form.convert(value)
        return made

    def _unfit(self, what: str, name: str, value: Any, error: Unfit) -> Unfit:
        return Unfit(cannot_hold(what, self._columns[name], value, error))

    def _loop(self) -> FoldPairs:
        return fold_loop(
            [
                LoopColumn(
                    name,
                    self._forms[name],
                    self._python(name) if keeps_type(self._columns[name]) else None,
                    name in self._key_columns,
                    keeps_type(self._columns[name]) and self._differs(name),
                    is_plain_text(self._columns[name]),
                )
                for name in self._names
            ],
            self._key_columns,
            self._slow,
            lambda: self.fold,
        )

    def _python(self, name: str) -> type:
        """The Python type that a column's values have now, where that is noted."""
        kind, written = self._columns[name].kind, self.written[name]
        if written == "value":
            return UUID if kind == "uuid" else date if kind == "date" else datetime
        return _PYTHON.get(written, type(None))


def _length(value: Any) -> int:
    """About how long a document or an array is as text."""
    try:
        return len(orjson.dumps(value, default=str))
    except TypeError:  # an integer of more than 64 bits
        return len(repr(value))


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
