"""A table of somebody's own, described in esops.toml under `[stores.NAME.table]`.

It is read, and never written to.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from esops.errors import Refused, UsageError, nearest
from esops.postgres import catalog
from esops.settings import PostgresSettings, TableSettings
from esops.stores.masking import Document
from esops.stores.parts import Concern
from esops.stores.postgres.layouts import custom_checks, unique
from esops.stores.postgres.layouts.base import NOTHING, Mapped
from esops.stores.postgres.layouts.numbered import (
    Dying,
    NumberedLayout,
    SequenceName,
    sequence_behind,
)
from esops.stores.postgres.layouts.stream_names import StreamColumns

_C = sql.Identifier
_TABLES = {"r", "p"}
_OTHERS = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}
_NUMBERS = {"int2", "int4", "int8"}
_TIMES = {"timestamptz", "timestamp"}
_ARRAYS = {"_json", "_jsonb"}
_DOCUMENTS = {"json", "jsonb", "text", "varchar", "bytea"}


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[CustomTable]:
    """The described table; none where nothing is described.

    Raises UsageError where the catalogue says otherwise.
    """
    asked = settings.table
    if asked is None:
        return []
    schema, name = _named("table.name", asked.name)
    schemas = [schema] if schema else catalog.schemas_with(connection, name)
    table = catalog.find_table(connection, schemas[0], name) if schemas else None
    if table is None:
        raise UsageError(
            f"table.name: there is no table {asked.name} in the database",
            hint="Write it as schema.table.",
        )
    _check(table, asked)
    sequence = _sequence(connection, table, asked)
    columns = [table.column(name) for name in asked.streams]
    names = StreamColumns(columns, custom_checks.enums(connection, table, asked.streams))
    return [CustomTable(table, asked, names, sequence, Dying.by(settings, watched=True))]


def _sequence(
    connection: psycopg.Connection, table: catalog.Table, asked: TableSettings
) -> SequenceName | None:
    """What fills the position's column; None where the writer takes the highest number and one.

    Raises UsageError or Unavailable where nothing that is known keeps the numbers in order.
    """
    if asked.position_by == "max_plus_one":
        _check_max_plus_one(connection, table, asked.position)
        return None
    if asked.sequence is None:
        return sequence_behind(connection, table, asked.position)
    within, short = _named("table.sequence", asked.sequence)
    if catalog.sequence_of(connection, within or table.schema, short) is None:
        raise UsageError(f"table.sequence: there is no sequence {asked.sequence} in the database")
    return SequenceName(within or table.schema, short)


def _check_max_plus_one(connection: psycopg.Connection, table: catalog.Table, number: str) -> None:
    """Raises UsageError where a sequence fills the column, and Refused where no unique index keeps
    two writers from taking one number.
    """
    found = catalog.sequence_behind(connection, table, number)
    if found is not None:
        raise UsageError(
            f"table.position_by: the sequence {'.'.join(found)} fills {number!r}, so it is not "
            "taken from the highest number",
            hint="Leave position_by out.",
        )
    indexes = unique.unique_indexes(connection, table)
    if any(unique.proves(each, (number,)) for each in indexes):
        return
    weak = next((each for each in indexes if each.columns == (number,)), None)
    why = f": {weak.name} {weak.weakness}" if weak is not None else ""
    remedy = unique.remedy(connection, table, (number,))
    if remedy.impossible is not None:
        hint = (
            f"None can: {remedy.impossible}. Partition it by {number!r}, or let a sequence give "
            "the numbers."
        )
    elif remedy.statements is not None:
        hint = f"Run this in the database: {remedy.statements}"
    else:
        hint = remedy.words
    raise Refused(
        f"no unique index keeps two writers from taking one number of {table.schema}."
        f"{table.name}.{number}{why}",
        hint=hint,
    )


def _named(key: str, text: str) -> tuple[str | None, str]:
    try:
        return catalog.parse_name(text)
    except UsageError as error:
        raise UsageError(f"{key}: {error.message}", hint=error.hint) from None


def _check(table: catalog.Table, asked: TableSettings) -> None:
    """Raises UsageError that names the key, and the nearest column, or says what is no table."""
    if table.kind not in _TABLES:
        what = _OTHERS.get(table.kind, "no table")
        raise UsageError(
            f"table.name: {table.schema}.{table.name} is {what}",
            hint="Name the table that the application writes to: esops waits for those who lock "
            "it.",
        )
    known = [column.name for column in table.columns]
    wanted = {
        "position": _NUMBERS,
        "version": _NUMBERS,
        "time": _TIMES,
        "data": _DOCUMENTS | _ARRAYS,
        "metadata": _DOCUMENTS,
        **dict.fromkeys(("stream", "type", "id", "category", "correlation", "causation"), None),
    }
    described = [
        (key, column)
        for key in wanted
        for column in (asked.streams if key == "stream" else (getattr(asked, key),))
        if column is not None  # optional, and not described
    ]
    for key, column in described:
        kinds = wanted[key]
        if column not in known:
            raise UsageError(
                f"table.{key}: {table.schema}.{table.name} has no column {column!r}",
                hint=nearest(column, known),
            )
        kind = table.column(column).kind
        if kinds is not None and kind not in kinds:
            raise UsageError(
                f"table.{key}: column {column!r} is of type {kind}",
                hint=f"Use a column of type {', '.join(sorted(kinds))}.",
            )


class CustomTable(NumberedLayout):
    """The described table."""

    name = "custom"
    version = "described in esops.toml"
    appends = False
    shares_numbers = True
    # Nobody knows who writes it, and how.
    in_order_of_versions = False

    def __init__(
        self,
        table: catalog.Table,
        asked: TableSettings,
        names: StreamColumns,
        sequence: SequenceName | None,
        dying: Dying,
    ) -> None:
        """`asked` names the columns of `table`, and `names` those of its streams; see
        NumberedLayout for the rest.
        """
        super().__init__(table, asked.position, sequence, dying)
        self._names = names
        self.mapped, self.made_up_ids = _mapped(table, asked, names), not asked.id
        self.dated = asked.time is not None
        if asked.time is not None and table.column(asked.time).kind != "timestamptz":
            self.naive_time = _C(asked.time)
        self._checks = custom_checks.Checks(table, asked, names.name)
        if asked.category is not None:
            self.category = _text(asked.category)
        elif len(asked.streams) > 1:
            self.category = names.first
        self.fields = {key: _text(column) for key, column in _own_columns(asked)}
        if self.fields and asked.metadata is not None:
            self.loose = _C(asked.metadata)
        if asked.id is not None and table.column(asked.id).kind == "uuid":
            self.id_column = _C(asked.id)
        self.documents = _documents(table, asked)
        self.detail = {"table": f"{table.schema}.{table.name}"}

    @property
    def ascending(self) -> sql.Composable:
        """By the number; the events of a stream that share one, by version, wherever their rows
        lie.
        """
        return sql.SQL("{}, {}").format(super().ascending, self.mapped.version)

    @property
    def descending(self) -> sql.Composable:
        """The other way round."""
        return sql.SQL("{}, {} DESC").format(super().descending, self.mapped.version)

    def stream_equals(self, name: str) -> sql.Composable:
        """By the columns that name it."""
        return self.any_stream([name]) if "\0" in name else self._names.same(sql.Literal(name))

    def same_stream(self, name: sql.Composable) -> sql.Composable:
        """By the columns that name it."""
        return self._names.same(name)

    def same_as(self, stream: sql.Composable) -> sql.Composable:
        """By its name."""
        return self._names.same(stream)

    def any_stream(self, names: Sequence[str]) -> sql.Composable:
        """By the columns that name them."""
        return self._names.any_of(names)

    def warnings(self, connection: psycopg.Connection) -> list[str]:
        """Events that lack a part, and made-up ids that two events share."""
        return self._checks.warnings(connection)

    def concerns(self, connection: psycopg.Connection) -> list[Concern]:
        """What the rows contradict of the description, and what nothing proves."""
        return self._checks.concerns(connection)

    def check_versions(self, connection: psycopg.Connection, streams: Sequence[str]) -> None:
        """By a unique index, or by a look at these streams."""
        self._checks.refuse_doubled(connection, self.any_stream(streams))


def _text(column: str) -> sql.Composed:
    return sql.SQL("{}::text").format(_C(column))


def _own_columns(asked: TableSettings) -> list[tuple[str, str]]:
    """The columns for keys of the metadata."""
    columns = (("correlationId", asked.correlation), ("causationId", asked.causation))
    return [(key, column) for key, column in columns if column is not None]


def _documents(table: catalog.Table, asked: TableSettings) -> list[Document]:
    def checked(column: str) -> bool:
        return table.column(column).kind in ("json", "jsonb")

    found = [Document(asked.data, "data", checked=checked(asked.data))]
    if asked.metadata is not None:
        found.append(Document(asked.metadata, "metadata", checked=checked(asked.metadata)))
    for key, column in _own_columns(asked):
        found.append(Document(column, "metadata", (key,), plain=True, drops_nulls=True))
    return found


def _mapped(table: catalog.Table, asked: TableSettings, names: StreamColumns) -> Mapped:
    stream = names.name
    made_up = sql.SQL("md5({} || ':' || {})::uuid::text").format(stream, _C(asked.version))
    time: sql.Composable = sql.SQL("NULL::timestamptz")
    if asked.time is not None:
        form = "{}" if table.column(asked.time).kind == "timestamptz" else "({} AT TIME ZONE 'utc')"
        time = sql.SQL(form).format(_C(asked.time))
    return Mapped(
        id=_text(asked.id) if asked.id else made_up,
        stream=stream,
        version=_C(asked.version),
        type=_text(asked.type),
        data=_document(table, asked.data),
        metadata=_metadata(table, asked),
        recorded_at=time,
    )


def _document(table: catalog.Table, column: str) -> sql.Composable:
    """A payload; several of them in an array are one."""
    return sql.SQL("to_jsonb({})" if table.column(column).kind in _ARRAYS else "{}").format(
        _C(column)
    )


def _metadata(table: catalog.Table, asked: TableSettings) -> sql.Composable:
    """The metadata, with correlation and causation of columns of their own put in under the
    conventional keys.
    """
    own = _C(asked.metadata) if asked.metadata else None
    pairs = [
        sql.SQL("{}, {}::text").format(sql.Literal(key), _C(column))
        for key, column in _own_columns(asked)
    ]
    if not pairs:
        return own if own is not None else NOTHING
    made = sql.SQL("jsonb_strip_nulls(jsonb_build_object({}))").format(sql.SQL(", ").join(pairs))
    if own is None:
        return made
    if table.column(str(asked.metadata)).kind == "bytea":
        raise UsageError("table.correlation: metadata of type bytea cannot be joined with columns")
    return sql.SQL("coalesce({}::jsonb, '{{}}') || {}").format(own, made)
