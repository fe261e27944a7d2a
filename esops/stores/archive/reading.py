"""Archived events as events again, in any order that is asked for: through DuckDB, which sorts on
disk what memory does not hold.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from esops.archive_format.manifest import FileEntry, Manifest
from esops.archive_format.runs import Run, age
from esops.archive_format.schema import EVENTS, STREAMS, join_ids, schema_with
from esops.archive_format.snapshots import SNAPSHOT
from esops.events import Position, RecordedEvent
from esops.moments import INFINITY, from_archive
from esops.stores.archive.categories import Categories
from esops.stores.archiving import TenantScope
from esops.stores.payloads import DECODERS, Decode

MEMORY = 512 << 20
"""Bytes that DuckDB has, where nothing needs more."""
_ROWS, _BYTES = 8_192, 8 << 20
"""What a batch has at most, and about."""

_ONCE = (
    " QUALIFY row_number() OVER (PARTITION BY store, position_1, position_2, stream, version "
    f"ORDER BY regexp_matches(type, '{SNAPSHOT}', 'i'), {{newest_first}}) = 1"
)
"""An event that was archived twice (kept at first, then removed) is in two runs: the newest is
taken. Where a later run has the snapshot that replaced it, it is the original event.
"""
_ONCE_AT_ANY_POSITION = (
    " QUALIFY row_number() OVER (PARTITION BY store, stream, tenant, version, "
    "coalesce(id_text, hex(id)) ORDER BY {newest_first}) = 1"
)
"""The same where one of the runs was restored at new positions, and may have been archived again
from there.
"""


def microseconds(column: str) -> str:
    """What `esops.moments.from_archive` makes of a time, as a number that can be compared."""
    return (
        f"CASE WHEN isfinite({column}) THEN epoch_us({column})::HUGEINT + CASE WHEN {column} < "
        f"TIMESTAMPTZ '4714-11-24 (BC) 00:00:00+00' THEN {1 << 64} ELSE 0 END "
        f"WHEN {column} > TIMESTAMPTZ 'epoch' THEN {INFINITY} WHEN {column} IS NOT NULL THEN "
        f"-{INFINITY} END"
    )


def beyond(position: Position) -> tuple[str, list[Any]]:
    """The condition for what lies after a position, and its values."""
    return _compared(position, ">")


def up_to(position: Position) -> tuple[str, list[Any]]:
    """The condition for what lies at or before a position, and its values."""
    return _compared(position, "<=")


def _compared(position: Position, sign: str) -> tuple[str, list[Any]]:
    if len(position) == 1:
        return f"position_1 {sign} ?", list(position)
    return (
        f"(position_1 {sign[0]} ? OR (position_1 = ? AND position_2 {sign} ?))",
        [position[0], *position],
    )


class Database:
    """DuckDB over the files of some runs. A context manager.

    Plain files of a local repository are read where they are; others are fetched,
    decrypted, into a temporary folder.
    Each file's hash is checked once, before it is read; a file that nothing is asked of is not.
    """

    def __init__(
        self, runs: Sequence[tuple[Run, Manifest]], scope: TenantScope | None = None
    ) -> None:
        """Nothing is fetched before it is asked for; with a `scope`, nothing but that tenant's rows
        are given.
        """
        self.runs, self._scope = runs, scope
        self.categories = Categories(runs, self.listed)
        folder = tempfile.mkdtemp(prefix="esops-archive-")
        # Whoever reads may be the last one to hold it.
        self._delete = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{MEMORY}B",
                "temp_directory": folder,
                "threads": 2,
            },
        )
        # Two threads: reading an archive must not take the machine from whatever else runs on it.
        self._folder, self._folders = folder, {folder}
        self._there: dict[tuple[str, str], str] = {}

    def listed(self, runs: Sequence[tuple[Run, Manifest]]) -> str:
        """A statement for the lists of streams of some runs, in the columns of today."""
        relations = [self._relation(run, manifest, manifest.stream_files) for run, manifest in runs]
        return _united([*relations, _united([], STREAMS)], STREAMS)

    def in_category(self, category: str) -> tuple[str, list[Any]]:
        """The condition for events of a category, and its values. Raises Refused."""
        return self.categories.condition(category, self._ask)

    def _ask(self, statement: str, values: list[Any]) -> list[tuple[Any, ...]]:
        cursor = self.connection.cursor()
        try:
            return cursor.execute(statement, values).fetchall()
        finally:
            cursor.close()

    @property
    def once(self) -> str:
        """Ends a statement over rows that several runs may hold."""
        if len(self.runs) < 2 or self.renumbered:
            return ""
        return _ONCE.format(newest_first=self._newest_first())

    def _newest_first(self) -> str:
        """What sorts the rows of several runs."""
        seconds = Counter(_second(run) for run, _ in self.runs)
        # By their names, but for those of one second: these end at random.
        tied = [each for each in self.runs if seconds[_second(each[0])] > 1]
        cases = " ".join(
            f"WHEN {_literal(run.name)} THEN {_literal(f'{_second(run)}-{number:09d}')}"
            for number, (run, _) in enumerate(sorted(tied, key=age))
        )
        return f"CASE run {cases} ELSE run END DESC" if cases else "run DESC"

    @property
    def renumbered(self) -> bool:
        """Whether a run's events may be in the store, or in another run, at new positions."""
        return any(run.renumbered for run, _ in self.runs)

    @property
    def at_once(self) -> int:
        """Rows of a batch: fewer where events are large on average."""
        events = sum(manifest.events for _, manifest in self.runs)
        size = sum(manifest.bytes for _, manifest in self.runs)
        return max(1, min(_ROWS, _BYTES * events // max(size, 1)))

    def stored(
        self,
        stream: str | None = None,
        after: Position | None = None,
        until: Position | None = None,
    ) -> str:
        """A statement for all rows of the files that may hold what is asked for.

        Raises Damaged, Missing, Unavailable.
        """
        relations = []
        for run, manifest in self.runs:
            first, last = (
                Position.parse(manifest.first_position),
                Position.parse(manifest.last_position),
            )
            # The manifest tells which positions a run has: others need not be fetched.
            beside = (after is not None and last <= after) or (until is not None and first > until)
            if beside and not self.renumbered:
                continue
            entries = (
                manifest.event_files if stream is None else self.files_of(run, manifest, [stream])
            )
            if entries:
                relations.append(self._relation(run, manifest, entries))
        # With all columns, also where no file may hold what is asked for.
        columns = sorted({name for _, manifest in self.runs for name in manifest.columns})
        united = _united(relations, schema_with(columns))
        if self.renumbered and len(relations) > 1:
            # Before anything is said of positions: only the newest counts.
            once = _ONCE_AT_ANY_POSITION.format(newest_first=self._newest_first())
            return f"SELECT * FROM ({united}){once}"
        return united

    def files_of(self, run: Run, manifest: Manifest, streams: Collection[str]) -> list[FileEntry]:
        """The files with events of some streams: these lie one after the other as the lists of
        streams say.
        """
        # The events lie in the files in the order of the lists of streams. So a stream's first row
        # is the sum of the lengths before it, and no file of events has to be opened to find it.
        numbered = " UNION ALL ".join(
            f"SELECT {number} AS file, file_row_number AS row, stream, events "
            f"FROM read_parquet('{self._local(run, entry)}', file_row_number = true)"
            for number, entry in enumerate(manifest.stream_files)
        )
        placed = (
            "SELECT stream, events, sum(events) OVER (ORDER BY file, row) - events AS low "
            f"FROM ({numbered})"
        )
        statement = f"SELECT low, events FROM ({placed}) WHERE stream IN (SELECT unnest(?))"
        rows = [
            range(int(low), int(low) + count)
            for low, count in self.connection.execute(statement, [[*streams]]).fetchall()
        ]
        found, low = [], 0
        for entry in manifest.event_files:
            if any(each.start < low + entry.rows and each.stop > low for each in rows):
                found.append(entry)
            low += entry.rows
        return found

    def _relation(self, run: Run, manifest: Manifest, entries: Sequence[FileEntry]) -> str:
        paths = ", ".join(f"'{self._local(run, entry)}'" for entry in entries)
        files, what, where = f"read_parquet([{paths}])", "*", ""
        if self._scope is not None:
            tenant = _tenant(self._scope, manifest, listed=entries[0] in manifest.stream_files)
            where = f" WHERE {self._scope.condition(tenant)}"
            # As the store gives them, whatever it gave when they were archived.
            name = self._scope.tenant if self._scope.named else ""
            what = f"* REPLACE ({_literal(name)} AS tenant)"
        return (
            f"SELECT {what}, {_literal(run.name)} AS run, {_literal(manifest.store)} AS store FROM "
            f"{files}{where}"
        )

    def files(self) -> list[str]:
        """Where all files of events are, as the texts of literals."""
        return [
            self._local(run, entry) for run, manifest in self.runs for entry in manifest.event_files
        ]

    def _local(self, run: Run, entry: FileEntry) -> str:
        """Where a file is, as a literal's text."""
        if (run.name, entry.name) not in self._there:
            self._there[run.name, entry.name] = self._fetched(run, entry)
        return self._there[run.name, entry.name]

    def _fetched(self, run: Run, entry: FileEntry) -> str:
        # `content` checks the hash, also of a file that DuckDB then reads in its place.
        folder = run.repository.folder
        content = run.content(entry)
        if folder is not None and not entry.name.endswith(".age"):
            path = folder / run.path(entry.name)
        else:
            path = Path(self._folder) / f"{run.name}-{entry.name.removesuffix('.age')}"
            path.write_bytes(memoryview(content))
        self._folders.add(str(path.parent))
        return str(path).replace("'", "''").replace("\\", "\\\\")

    def lock(self) -> None:
        """Let statements read these files and nothing else: they may come from a user."""
        folders = ", ".join(map(_literal, sorted(self._folders)))
        self.connection.execute(f"SET allowed_directories = [{folders}]")
        self.connection.execute("SET enable_external_access = false")
        self.connection.execute("SET lock_configuration = true")

    def close(self) -> None:
        """Close it and delete what was fetched."""
        self.connection.close()
        self._delete()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _second(run: Run) -> str:
    return run.name.split("-")[0]


def _tenant(scope: TenantScope, manifest: Manifest, *, listed: bool) -> str:
    """What gives the tenant of a row of events, or of the lists of streams; null where nothing
    tells it.
    """
    own = "nullif(tenant, '')"
    if manifest.layout != scope.layout:
        return own
    if listed:
        return f"coalesce({own}, json_extract_string(\"row\", '$.{scope.column}'))"
    return f"coalesce({own}, x_{scope.column})" if scope.column in manifest.columns else own


def _united(relations: Sequence[str], schema: pa.Schema) -> str:
    """One relation of all runs, which may have different extra columns."""
    if relations:
        return " UNION ALL BY NAME ".join(f"({each})" for each in relations)
    nothing = duckdb.from_arrow(schema.empty_table())
    columns = ", ".join(
        f"NULL::{kind} AS {name}" for name, kind in zip(nothing.columns, nothing.types, strict=True)
    )
    return f"SELECT {columns}, NULL::VARCHAR AS run, NULL::VARCHAR AS store WHERE FALSE"


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


def quoted(name: str) -> str:
    """A name of a column, in quotes."""
    return '"{}"'.format(name.replace('"', '""'))


def events_from(batch: pa.RecordBatch, manifest: Manifest) -> list[RecordedEvent]:
    """The events of a batch, as the store that they came from would give them; hidden rows are left
    out.
    """
    return _events(batch, manifest.position_parts, DECODERS.get(manifest.layout))


def _events(batch: pa.RecordBatch, parts: int, decode: Decode | None) -> list[RecordedEvent]:
    columns: dict[str, list[Any]] = {
        name: batch.column(name).to_pylist()
        for name in (
            "stream",
            "tenant",
            "version",
            "type",
            "data",
            "metadata",
            "hidden",
            "position_1",
            "position_2",
        )
    }
    times = batch.column("recorded_at").cast(pa.int64()).to_pylist()
    ids = join_ids(batch)
    made = []
    for row in range(batch.num_rows):
        if columns["hidden"][row]:
            continue
        data, time = columns["data"][row] or b"", times[row]
        time = None if time is None else from_archive(time)
        if decode is not None:
            data, time = decode(data)
        position = Position((columns["position_1"][row], columns["position_2"][row])[:parts])
        made.append(
            RecordedEvent._make(
                (
                    ids[row],
                    columns["stream"][row],
                    columns["version"][row],
                    position,
                    columns["type"][row],
                    data,
                    columns["metadata"][row] or b"",
                    time,
                    columns["tenant"][row],
                )
            )
        )
    return made


def read(
    database: Database,
    source: str,
    parts: int,
    layout: str,
    where: str = "TRUE",
    values: Sequence[Any] = (),
    order: str = "position_1, position_2",
    limit: int | None = None,
) -> Iterator[list[RecordedEvent]]:
    """Events of a source (`Database.stored`) that a condition holds for, each once though several
    runs hold it, in batches.
    """
    names = ", ".join(EVENTS.names)
    bound = f" LIMIT {limit}" if limit is not None else ""
    statement = (
        f"SELECT {names} FROM ({source}) WHERE NOT hidden AND "
        f"{where}{database.once} ORDER "
        f"BY {order}{bound}"
    )
    cursor = database.connection.cursor()
    decode = DECODERS.get(layout)
    try:
        for batch in cursor.sql(statement, params=list(values)).to_arrow_reader(database.at_once):
            if batch.num_rows:
                yield _events(batch, parts, decode)
    finally:
        cursor.close()
