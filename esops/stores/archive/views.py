"""The views `events` and `streams` of `esops archive query`, in DuckDB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esops.archive_format.schema import EXTRA_PREFIX
from esops.postgres.statements import statements
from esops.stores.archive.reading import MEMORY, Database, quoted

MARK = "esops: unreadable "
"""What begins an error that a view raises. An object in JSON with the fields of Unreadable follows.
"""
_PER_BYTE = 16
"""The memory in bytes that DuckDB needs for a byte of JSON, with its copies: measured."""
_NAMED = 5
"""How many rows are named."""

_KEY = ("run", "stream", "tenant", "version", "position_1", "position_2")
"""What an event is known by in the files."""

_SQL = statements(__package__, "views")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An event of which DuckDB cannot read the data, or the metadata, as JSON."""

    run: str
    stream: str
    version: int
    column: str
    """`data` or `metadata`."""
    bytes: int

    @property
    def named(self) -> str:
        """The row: "version 3 of stream 'cart-1' (run 20260101T000000Z-old)"."""
        return f"version {self.version} of stream {self.stream!r} (run {self.run})"


@dataclass(frozen=True, slots=True)
class UnreadableEvents:
    """The events that are not in the views."""

    number: int = 0
    first: tuple[Unreadable, ...] = ()
    """Some of them, in the order of streams and versions."""


def make_views(database: Database, *, skip_unreadable: bool = False) -> UnreadableEvents:
    """Make the views over all runs of a database, with times in UTC.

    An event that cannot be read as JSON ends a statement that asks for its data with an error that
    begins with MARK. With `skip_unreadable` the view lacks such events; returns these.
    Raises Damaged, Missing, Unavailable.
    """
    connection = database.connection
    connection.execute(f"CREATE VIEW stored AS {database.stored()}")
    connection.execute(f"CREATE VIEW listed AS {database.listed(database.runs)}")
    ends = {name: _in_utc(name) for name in ("first_at", "last_at")}
    connection.execute(_SQL["streams"].format(**ends))
    most = _give_memory(database)
    left_out, readable = UnreadableEvents(), ""
    if skip_unreadable:
        left_out = _find_unreadable(database, most)
    if left_out.number:
        same = " AND ".join(f"u.{each} IS NOT DISTINCT FROM stored.{each}" for each in _KEY)
        readable = f" AND NOT EXISTS (SELECT 1 FROM unreadable u WHERE {same})"
    names = sorted({name for _, manifest in database.runs for name in manifest.columns})
    category, joined = database.categories.of_events()
    connection.execute(
        _SQL["events"].format(
            recorded_at=_in_utc("recorded_at"),
            data=_json("data", most),
            metadata=_json("metadata", most),
            extra="".join(f", {quoted(EXTRA_PREFIX + name)}" for name in names),
            once=database.once,
            category=category,
            joined=joined,
            readable=readable,
        )
    )
    return left_out


def _find_unreadable(database: Database, most: int) -> UnreadableEvents:
    unread = {name: _unreadable(name, most) for name in ("data", "metadata")}
    connection = database.connection
    connection.execute(_SQL["unreadable"].format(key=", ".join(_KEY), **unread))
    found = f"SELECT * FROM unreadable WHERE TRUE{database.once}"
    number = connection.execute(f"SELECT count(*) FROM ({found})").fetchone()
    first = connection.execute(
        f'SELECT run, stream, version, "column", bytes FROM ({found}) '
        f"ORDER BY stream, version, run LIMIT {_NAMED}"
    )
    return UnreadableEvents(
        number[0] if number else 0, tuple(Unreadable(*row) for row in first.fetchall())
    )


def _give_memory(database: Database) -> int:
    """Give DuckDB what the largest payload needs; returns the bytes that a payload may have."""
    connection = database.connection
    files = ", ".join(f"'{path}'" for path in database.files())
    largest = 0
    if files:
        # The footers of the files tell how much a column of a group of rows has in all.
        row = connection.execute(
            f"SELECT max(total_uncompressed_size) FROM parquet_metadata([{files}]) "
            "WHERE path_in_schema IN ('data', 'metadata')"
        ).fetchone()
        largest = row[0] if row and row[0] else 0
    memory = MEMORY
    if largest * _PER_BYTE > MEMORY:
        connection.execute("SET memory_limit = '80%'")
        memory = max(MEMORY, min(largest * _PER_BYTE, _memory_of(connection)))
        connection.execute(f"SET memory_limit = '{memory}B'")
    return memory // _PER_BYTE


def _memory_of(connection: Any) -> int:
    number, unit = (
        connection.execute("SELECT current_setting('memory_limit')").fetchone()[0].split()
    )
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    return int(float(number) * 1024 ** units.index(unit))


def _parts(column: str) -> tuple[str, str]:
    """A column as JSON, null where it is none; and whether its text is meant to be JSON."""
    text = f"try(decode({column}))"
    return f"try({text}::JSON)", rf"""regexp_matches({text}, '^[\s\x{{FEFF}}]*[\[{{"]')"""


def _json(column: str, most: int) -> str:
    """A column as JSON: null where it is none, an error where it is some that cannot be read."""
    parsed, meant = _parts(column)
    error = _SQL["error"].format(mark=MARK, column=column)
    return _SQL["json"].format(column=column, most=most, parsed=parsed, meant=meant, error=error)


def _unreadable(column: str, most: int) -> str:
    parsed, meant = _parts(column)
    return (
        f"CASE WHEN {column} IS NULL THEN FALSE WHEN octet_length({column}) > {most} THEN TRUE "
        f"WHEN {parsed} IS NULL THEN coalesce({meant}, FALSE) ELSE FALSE END"
    )


def _in_utc(column: str) -> str:
    """A time without a zone, in UTC. epoch_us gives nothing for an unbounded one."""
    return (
        f"CASE WHEN isfinite({column}) THEN make_timestamp(epoch_us({column})) WHEN {column} > "
        f"TIMESTAMPTZ 'epoch' THEN TIMESTAMP 'infinity' WHEN {column} IS NOT NULL THEN TIMESTAMP "
        "'-infinity' END"
    )
