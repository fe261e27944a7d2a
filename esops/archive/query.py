"""SQL over archives, by DuckDB: a view `events` and a view `streams` over the files of all runs, or
of some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq

from esops.archive_format.runs import Catalog
from esops.errors import UsageError
from esops.stores.archive.reading import Database


@contextmanager
def answered(
    catalog: Catalog, statement: str, runs: Sequence[str] = (), *, as_json: bool = False
) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Run a statement; gives the names of its columns and its rows.

    `as_json`: JSON stays JSON instead of becoming text.
    Raises UsageError for a statement that DuckDB refuses, or where there is no sealed run.
    """
    with _opened(catalog, runs) as connection:
        result = connection.execute(statement)
        columns = [(name, str(kind)) for name, kind, *_ in result.description or ()]
        yield [name for name, _ in columns], _rows(result, [kind for _, kind in columns], as_json)


def write_parquet(catalog: Catalog, statement: str, path: Path, runs: Sequence[str] = ()) -> int:
    """Write a statement's rows to a Parquet file; returns how many. Raises as `answered` does."""
    rows = 0
    with _opened(catalog, runs) as connection:
        relation = connection.sql(statement)
        if relation is None:
            raise UsageError(
                "this statement gives no rows", hint="SELECT from the views `events` and `streams`."
            )
        reader = relation.to_arrow_reader(10_000)
        with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
    return rows


@contextmanager
def _opened(catalog: Catalog, runs: Sequence[str]) -> Iterator[Any]:
    chosen = [(run, manifest) for run, manifest in catalog.sealed() if not runs or run.name in runs]
    if missing := set(runs) - {run.name for run, _ in chosen}:
        raise UsageError(f"there is no sealed run {min(missing)!r} in {catalog.repository.address}")
    if not chosen:
        raise UsageError(
            f"there is no sealed run in {catalog.repository.address}",
            hint="esops archive run POLICY makes one.",
        )
    with Database(chosen) as database:
        database.make_views()
        database.lock()
        try:
            yield database.connection
        except duckdb.Error as error:
            raise UsageError(
                f"DuckDB: {str(error).splitlines()[0]}",
                hint="The views are `events` and `streams`.",
            ) from None


def _rows(result: Any, kinds: Sequence[str], as_json: bool) -> Iterator[tuple[Any, ...]]:
    while rows := result.fetchmany(1_000):
        for row in rows:
            yield tuple(
                _value(value, kind, as_json) for value, kind in zip(row, kinds, strict=True)
            )


def _value(value: Any, kind: str, as_json: bool) -> Any:
    """Times are UTC; JSON stays JSON where the output is."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return orjson.Fragment(value) if as_json and kind == "JSON" and value is not None else value
