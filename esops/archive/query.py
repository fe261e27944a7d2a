"""SQL over an archive, in DuckDB: the views `events` and `streams` over the files of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq

from esops.archive_format.runs import Catalog
from esops.errors import UsageError
from esops.moments import Moment, from_driver, microseconds_of, moment, parse_postgres
from esops.stores.archive.reading import Database

_ROWS_AT_ONCE = 10_000
_TIMES = frozenset({"TIMESTAMP", "TIMESTAMP WITH TIME ZONE"})


@contextmanager
def answered(
    catalog: Catalog, statement: str, runs: Sequence[str] = (), *, as_json: bool = False
) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Run a statement; gives the names of its columns and an iterator over its rows.

    `runs`: only these runs; left out, all sealed ones. `as_json`: JSON columns stay JSON instead of
    becoming text. Raises UsageError if DuckDB refuses the statement, or if no run is sealed.
    """
    with _opened(catalog, runs) as connection:
        result = connection.execute(statement)
        columns = [(name, str(kind)) for name, kind, *_ in result.description or ()]
        kinds = [kind for _, kind in columns]
        times = [at for at, kind in enumerate(kinds) if kind in _TIMES]
        if times:
            # DuckDB gives the last datetime for infinity, which is another time: as text it is not.
            result = connection.execute(_times_as_text(statement, len(columns), times))
        yield [name for name, _ in columns], _rows(result, kinds, as_json)


def _times_as_text(statement: str, columns: int, times: Sequence[int]) -> str:
    """A statement of which some columns come as text."""
    names = ", ".join(f"c{at}" for at in range(columns))
    shown = ", ".join(f"c{at}::VARCHAR" if at in times else f"c{at}" for at in range(columns))
    return f"SELECT {shown} FROM (\n{statement.rstrip().rstrip(';')}\n) AS answer({names})"


def write_parquet(catalog: Catalog, statement: str, path: Path, runs: Sequence[str] = ()) -> int:
    """Write a statement's rows to a Parquet file; returns how many. Raises as `answered` does."""
    rows = 0
    with _opened(catalog, runs) as connection:
        relation = connection.sql(statement)
        if relation is None:
            raise UsageError(
                "the statement returns no rows",
                hint="SELECT from the views `events` and `streams`.",
            )
        reader = relation.to_arrow_reader(_ROWS_AT_ONCE)
        try:
            with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
                for batch in reader:
                    writer.write_batch(batch)
                    rows += batch.num_rows
        except OSError as error:
            raise UsageError(f"--output-file: cannot write {path}: {error.strerror}") from None
    return rows


@contextmanager
def _opened(catalog: Catalog, runs: Sequence[str]) -> Iterator[Any]:
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
        database.make_views()
        # From here on the statement can read these files and nothing else of the machine.
        database.lock()
        try:
            yield database.connection
        except duckdb.Error as error:
            raise UsageError(
                f"DuckDB refused the statement: {str(error).splitlines()[0]}",
                hint="The views are `events` and `streams`.",
            ) from None


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
