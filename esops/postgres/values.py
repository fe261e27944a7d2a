"""How esops' connections treat values and names that psycopg alone would fail at: times that no
datetime can hold, and names with a percent sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, time, timedelta
from typing import Any, Self

import psycopg
from psycopg import abc, adapt, pq, sql
from psycopg.adapt import AdaptersMap
from psycopg.types.array import ListDumper

from esops.moments import FarTime, parse_postgres

_TIMES = (date, time, timedelta, FarTime, str)
"""What columns for times give back; a datetime is a date."""


def adapters() -> AdaptersMap:
    """Psycopg's conversions, but that nothing which Postgres can hold is an error.

    A time or date that Python cannot hold becomes a FarTime; a time of day or interval, such as
    24:00, its text.
    """
    made = AdaptersMap(psycopg.adapters)
    for name in ("timestamptz", "timestamp", "date"):
        made.register_loader(name, _forgiving(name, parse_postgres))
    for name in ("time", "timetz", "interval"):
        made.register_loader(name, _forgiving(name, str))
    made.register_dumper(FarTime, _FarTimeDumper)
    made.register_dumper(list, _TimesDumper)
    return made


def _forgiving(name: str, otherwise: Callable[[str], Any]) -> type[adapt.Loader]:
    """Psycopg's loader of a type, and what is made of a text that it cannot load."""
    oid = psycopg.adapters.types[name].oid
    usual: Any = psycopg.adapters.get_loader(oid, pq.Format.TEXT)

    class Forgiving(adapt.Loader):
        def __init__(self, oid: int, context: abc.AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._usual = usual(oid, context).load

        def load(self, data: abc.Buffer) -> Any:
            try:
                # psycopg takes an unbounded interval for one of no time.
                return self._usual(data) if b"inf" not in bytes(data) else self._other(data)
            except (psycopg.DataError, psycopg.NotSupportedError, ValueError, OverflowError):
                return self._other(data)

        def _other(self, data: abc.Buffer) -> Any:
            return otherwise(bytes(data).decode())

    return Forgiving


class _FarTimeDumper(adapt.Dumper):
    """As text of no stated type, so that it fits every column for times."""

    def dump(self, obj: FarTime) -> bytes:
        return str(obj).encode()


class _TimesDumper(ListDumper):
    """Psycopg's dumper of lists, but that times of several Python types are one array: as they come
    back from a column for times, where only some of them are a datetime.
    """

    def _find_list_element(self, L: list[Any], format: adapt.PyFormat) -> Any:  # noqa: N803
        try:
            return super()._find_list_element(L, format)
        except psycopg.DataError:
            if not all(isinstance(each, _TIMES) for each in self._flatiter(L, set())):
                raise
            return None  # each is written as what it is, in an array of no stated type


class Cursor(psycopg.Cursor[Any]):
    """A cursor for which a percent sign in an identifier or a literal is no placeholder."""

    def execute(self, query: Any, params: abc.Params | None = None, **more: Any) -> Self:
        """Execute a statement; placeholders are looked for in its SQL only."""
        if params is not None and isinstance(query, sql.Composed):
            query = with_placeholders(query, self)
        return super().execute(query, params, **more)

    def executemany(
        self, query: abc.Query, params_seq: Iterable[abc.Params], *, returning: bool = False
    ) -> None:
        """As `execute`, for each of the parameters."""
        if isinstance(query, sql.Composed):
            query = with_placeholders(query, self)
        super().executemany(query, params_seq, returning=returning)


def with_placeholders(
    statement: sql.Composed, context: abc.AdaptContext | None = None
) -> sql.Composed:
    """A statement that is executed with parameters: percent signs are doubled in all that is a name
    or a literal.
    """
    return sql.Composed([_escaped(part, context) for part in statement])


def _escaped(part: sql.Composable, context: abc.AdaptContext | None) -> sql.Composable:
    if isinstance(part, sql.Composed):
        return with_placeholders(part, context)
    if isinstance(part, sql.Identifier | sql.Literal):
        text: Any = part.as_string(context).replace("%", "%%")
        return sql.SQL(text)
    return part


def type_name(text: str) -> sql.SQL:
    """A type as the catalogue writes it, for a statement that is executed with parameters."""
    doubled: Any = text.replace("%", "%%")
    return sql.SQL(doubled)
