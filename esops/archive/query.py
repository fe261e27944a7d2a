"""SQL over an archive, in DuckDB: the views `events` and `streams` over the files of its runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from esops.archive_format.runs import Catalog
from esops.archive_format.schema import Damaged
from esops.errors import EsopsError, UsageError
from esops.moments import Moment, from_driver, microseconds_of, moment, parse_postgres
from esops.stores.archive.reading import Database
from esops.stores.archive.views import MARK, Unreadable, UnreadableEvents, make_views
from esops.wording import count

_ROWS_AT_ONCE = 10_000
_TIMES = frozenset({"TIMESTAMP", "TIMESTAMP WITH TIME ZONE"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gives."""

    columns: list[str]
    rows: Iterator[tuple[Any, ...]]
    """Read as they are asked for."""
    left_out: UnreadableEvents


@contextmanager
def answered(
    catalog: Catalog,
    statement: str,
    runs: Sequence[str] = (),
    *,
    as_json: bool = False,
    skip_unreadable: bool = False,
) -> Iterator[Answer]:
    """Run a statement.

    `runs`: only these runs; left out, all sealed ones. `as_json`: JSON columns stay JSON instead of
    becoming text. `skip_unreadable`: events that DuckDB cannot read as JSON are left out.
    Raises UsageError if DuckDB refuses the statement, or if no run is sealed, and Damaged for an
    event that it cannot read.
    """
    with _opened(catalog, runs, skip_unreadable) as (connection, left_out):
        result = connection.execute(statement)
        columns = [(name, str(kind)) for name, kind, *_ in result.description or ()]
        kinds = [kind for _, kind in columns]
        times = [at for at, kind in enumerate(kinds) if kind in _TIMES]
        if times:
            # DuckDB gives the last datetime for infinity, which is another time: as text it is not.
            result = connection.execute(_times_as_text(statement, len(columns), times))
        yield Answer([name for name, _ in columns], _rows(result, kinds, as_json), left_out)


def _times_as_text(statement: str, columns: int, times: Sequence[int]) -> str:
    """A statement of which some columns come as text."""
    names = ", ".join(f"c{at}" for at in range(columns))
    shown = ", ".join(f"c{at}::VARCHAR" if at in times else f"c{at}" for at in range(columns))
    return f"SELECT {shown} FROM (\n{statement.rstrip().rstrip(';')}\n) AS answer({names})"


def write_parquet(
    catalog: Catalog,
    statement: str,
    path: Path,
    runs: Sequence[str] = (),
    *,
    skip_unreadable: bool = False,
) -> tuple[int, UnreadableEvents]:
    """Write a statement's rows to a Parquet file, whole or not at all; returns how many, and what
    was left out. Raises as `answered` does.
    """
    with _opened(catalog, runs, skip_unreadable) as (connection, left_out):
        relation = connection.sql(statement)
        if relation is None:
            raise UsageError(
                "the statement returns no rows",
                hint="SELECT from the views `events` and `streams`.",
            )
        reader = relation.to_arrow_reader(_ROWS_AT_ONCE)
        target = path.resolve()
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            rows = _write(reader, part)
            part.replace(target)
        except OSError as error:
            raise UsageError(f"--output-file: cannot write {path}: {error.strerror}") from None
        finally:
            part.unlink(missing_ok=True)
    return rows, left_out


def _write(reader: pa.RecordBatchReader, part: Path) -> int:
    rows = 0
    with pq.ParquetWriter(part, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


@contextmanager
def _opened(
    catalog: Catalog, runs: Sequence[str], skip_unreadable: bool
) -> Iterator[tuple[Any, UnreadableEvents]]:
    selected = [
        (run, manifest) for run, manifest in catalog.sealed() if not runs or run.name in runs
    ]
    if missing := set(runs) - {run.name for run, _ in selected}:
        raise UsageError(
            f"{catalog.repository.address} has no sealed run {min(missing)!r}",
            hint="List the runs with: esops archive list",
        )
    if not selected:
        raise UsageError(
            f"{catalog.repository.address} has no sealed run yet",
            hint="Make one with: esops archive run POLICY",
        )
    with Database(selected) as database:
        left_out = make_views(database, skip_unreadable=skip_unreadable)
        # From here on the statement can read these files and nothing else of the machine.
        database.lock()
        try:
            yield database.connection, left_out
        except duckdb.Error as error:
            raise _error_of(str(error)) from None


def _error_of(text: str) -> EsopsError:
    _, mark, row = text.partition(MARK)
    if not mark:
        return UsageError(
            f"DuckDB refused the statement: {text.splitlines()[0]}",
            hint="The views are `events` and `streams`.",
        )
    unreadable = Unreadable(**json.JSONDecoder().raw_decode(row)[0])
    return Damaged(
        f"the {unreadable.column} of {unreadable.named} cannot be read as JSON: DuckDB does not "
        f"take its {count(unreadable.bytes, 'byte')}",
        hint="Leave such events out with --skip-unreadable, or ask for other columns. The event "
        "is whole in the archive: esops events and esops archive restore give it as it was.",
    )


def _rows(result: Any, kinds: Sequence[str], as_json: bool) -> Iterator[tuple[Any, ...]]:
    while rows := result.fetchmany(1_000):
        for row in rows:
            yield tuple(
                _value(value, kind, as_json) for value, kind in zip(row, kinds, strict=True)
            )


def _value(value: Any, kind: str, as_json: bool) -> Any:
    if kind in _TIMES and value is not None:
        return _time(value)
    # DuckDB returns a JSON column as text. A fragment is written out as it is, without a parse.
    return orjson.Fragment(value) if as_json and kind == "JSON" and value is not None else value


def _time(text: str) -> Moment:
    """A time from DuckDB's text; the views' times are UTC without saying so."""
    digits = text.replace(" (BC)", "")
    at = parse_postgres(f"{digits} BC" if digits != text else digits)
    # What an archive has for the last years of Postgres, DuckDB takes for some before its first.
    return moment(from_driver(microseconds_of(at)))
