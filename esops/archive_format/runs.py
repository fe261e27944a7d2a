"""The runs in a repository: what each one's files say of it, and how its events are read back.

    catalog/<run>.json                     that there is a sealed run, so that its loss is noticed
    runs/<run>/plan.json                   what was asked for
    runs/<run>/<attempt>-events-NNNNN.parquet, <attempt>-streams-NNNNN.parquet
    runs/<run>/manifest.json               the seal: which files count, with their hashes; written
    last, and only if absent
    runs/<run>/verified.json               the last verification
    runs/<run>/done.json                   what was removed; or failed.json
    locks/<archive>/<policy>/NNNNNN.json   who works on a policy

Files end with `.age` where they are encrypted. What no manifest names is garbage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from esops.archive_format.repository import Missing, Repository
from esops.archive_format.schema import FORMAT, STREAMS, VERSION, Damaged, Digest, sealed, unsealed
from esops.errors import UsageError, nearest

RUNS, CATALOG = "runs", "catalog"
NOTES = ("plan.json", "verified.json", "done.json", "failed.json")
"""What a run notes beside its seal."""
_ROWS = 32_768
_STREAMS = 2_048

State = Literal["planned", "sealed", "verified", "done", "failed"]


class FileEntry(BaseModel):
    """A file of a run: its name below the run, the SHA-256 of what is stored, its bytes, and what
    is in it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    size: int
    rows: int
    first: str
    last: str
    """The first and last stream in it."""


class Manifest(BaseModel):
    """The seal of a run."""

    model_config = ConfigDict(frozen=True)

    format: str = FORMAT
    version: int = VERSION
    run: str
    policy: str
    store: str
    backend: str
    layout: str
    position_parts: int
    first_version: int
    """The version of a stream's first event in this store."""
    columns: tuple[str, ...]
    """The extra columns."""
    selected_at: datetime
    sealed_at: datetime
    esops: str
    streams: int
    events: int
    bytes: int
    """Bytes of data and metadata."""
    first_position: str
    last_position: str
    first_at: datetime | None
    last_at: datetime | None
    event_files: tuple[FileEntry, ...]
    stream_files: tuple[FileEntry, ...]

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files that count."""
        return (*self.event_files, *self.stream_files)


class Run:
    """One run in a repository."""

    def __init__(self, repository: Repository, name: str) -> None:
        """Take its name; nothing is read yet."""
        self.repository, self.name = repository, name

    def path(self, file: str) -> str:
        """A file's name in the repository."""
        return f"{RUNS}/{self.name}/{file}"

    def note(self, file: str, content: dict[str, Any], *, if_absent: bool = False) -> None:
        """Write one of the run's JSON files. Raises Taken."""
        document = {"format": FORMAT, "version": VERSION, "run": self.name, **content}
        self.repository.put(self.path(file), sealed(document), if_absent=if_absent)

    def read(self, file: str) -> dict[str, Any] | None:
        """One of the run's JSON files; None where it is not there. Raises Damaged."""
        try:
            return unsealed(f"{self.name}/{file}", self.repository.get(self.path(file)))
        except Missing:
            return None

    @property
    def state(self) -> State:
        """How far it is, by which files are there."""
        there = {
            entry.name.rpartition("/")[2]
            for entry in self.repository.entries(f"{RUNS}/{self.name}")
        }
        if "manifest.json" not in there:
            return "failed" if "failed.json" in there else "planned"
        for file, state in (
            ("failed.json", "failed"),
            ("done.json", "done"),
            ("verified.json", "verified"),
        ):
            if file in there:
                return state  # type: ignore[return-value] # of the literals above
        return "sealed"

    def manifest(self) -> Manifest:
        """The seal. Raises UsageError where there is none, Damaged."""
        found = self.seal()
        if found is None:
            raise UsageError(f"run {self.name} was not sealed: there is nothing in it that counts")
        return found

    def seal(self) -> Manifest | None:
        """The seal; None where there is none. Raises Damaged."""
        found = self.read("manifest.json")
        if found is None:
            return None
        try:
            return Manifest.model_validate(found)
        except ValidationError as error:
            raise Damaged(
                f"{self.name}/manifest.json is no manifest: {error.errors()[0]['msg']}"
            ) from None

    def content(self, entry: FileEntry) -> pa.Buffer:
        """A file's content, read from the repository, hashed and decrypted.

        Raises Damaged, Missing.
        """
        stored = self.repository.get(self.path(entry.name))
        if hashlib.sha256(stored).hexdigest() != entry.sha256:
            size = (
                f": {len(stored):,} bytes instead of {entry.size:,}"
                if len(stored) != entry.size
                else ""
            )
            raise Damaged(
                f"{self.name}/{entry.name} is not what was written: its SHA-256 is another{size}"
            )
        return pa.py_buffer(self.repository.open(entry.name, stored))

    def batches(self, entry: FileEntry, rows: int = _ROWS) -> Iterator[pa.RecordBatch]:
        """A file's rows.

        Raises Damaged, also where a file with the right hash cannot be decoded.
        """
        content = self.content(entry)
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            # A batch over several groups of rows would hold as many large events as there are rows
            # in a batch.
            for group in range(file.num_row_groups):
                yield from file.iter_batches(rows, row_groups=[group], use_threads=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise Damaged(f"{self.name}/{entry.name} cannot be decoded: {error}") from None

    def streams(self, manifest: Manifest) -> Iterator[tuple[Digest, str | None]]:
        """Each stream of the run, with the store's own row of it, in the order of the events."""
        for entry in manifest.stream_files:
            for batch in self.batches(entry, _STREAMS):
                # Times stay microseconds: a datetime for each would take as long as all the rest.
                columns = [batch.column(name) for name in STREAMS.names]
                plain = [
                    (
                        column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
                    ).to_pylist()
                    for column in columns
                ]
                yield from zip(
                    map(Digest._make, zip(*plain[:-1], strict=True)), plain[-1], strict=True
                )


class Catalog:
    """All runs of a repository."""

    def __init__(self, repository: Repository) -> None:
        """Take a repository."""
        self.repository = repository

    def names(self) -> list[str]:
        """All runs that left something, the oldest first: those in the catalog and those that are
        not sealed.
        """
        return sorted({*self.listed(), *self.repository.folders(RUNS)})

    def listed(self) -> list[str]:
        """The runs that were sealed, as the catalog knows them."""
        return [
            entry.name.rpartition("/")[2].removesuffix(".json")
            for entry in self.repository.entries(CATALOG)
        ]

    def check_entry(self, name: str) -> None:
        """Raises Damaged where a run's entry in the catalog is not what was written."""
        path = f"{CATALOG}/{name}.json"
        unsealed(path, self.repository.get(path))

    def run(self, name: str) -> Run:
        """The run of that name. Raises UsageError."""
        names = self.names()
        if name not in names:
            raise UsageError(
                f"there is no run {name!r} in {self.repository.address}", hint=nearest(name, names)
            )
        return Run(self.repository, name)

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        return [Run(self.repository, name) for name in self.names()]

    def sealed(self, store: str | None = None) -> list[tuple[Run, Manifest]]:
        """The runs that count, the oldest first; of one store, where it is named.

        One that failed its verification does not.
        """
        files: dict[str, set[str]] = {}
        for entry in self.repository.entries(RUNS):
            _, name, file = entry.name.rsplit("/", 2)
            files.setdefault(name, set()).add(file)
        found = []
        for name, there in sorted(files.items()):
            if "manifest.json" in there and "failed.json" not in there:
                run = Run(self.repository, name)
                manifest = run.manifest()
                if store is None or manifest.store == store:
                    found.append((run, manifest))
        return found

    def enter(self, run: Run, manifest: Manifest) -> None:
        """Note in the catalog that there is a sealed run."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "run": run.name,
            "sealed_at": manifest.sealed_at,
            "events": manifest.events,
        }
        self.repository.put(f"{CATALOG}/{run.name}.json", sealed(document))
