"""The runs in a repository: their files, their states, and how their events are read back.

    catalog/<run>.json                     says that a run was sealed, so that its loss is noticed
    runs/<run>/plan.json                   what was asked for
    runs/<run>/<attempt>-events-NNNNN.parquet
    runs/<run>/<attempt>-streams-NNNNN.parquet
    runs/<run>/manifest.json               the seal: the files that count and their hashes; written
                                           after them, and never twice
    runs/<run>/verified.json               the last verification
    runs/<run>/removal.json                events of the run have begun to leave the store
    runs/<run>/done.json or failed.json    the end: what was removed, or what the verification found
    runs/<run>/renumbered.json             that its streams were restored at new positions
    summary.json                           the runs in short; see summaries.py
    locks/<archive>/<policy>/NNNNNN.json   who works on a policy

Encrypted files end with `.age`. Parquet files that no manifest names do not count.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import starmap
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import FORMAT, VERSION, FileEntry, Manifest, sealed, unsealed
from esops.archive_format.repository import Missing, Repository
from esops.archive_format.schema import STREAMS, Damaged, StreamRow
from esops.errors import EmptyArchive, UsageError, nearest

RUNS, CATALOG, LOCKS = "runs", "catalog", "locks"
RUN_TIME = "%Y%m%dT%H%M%SZ"
"""What the name of a run begins with: when it began, in UTC."""
RENUMBERED = "renumbered.json"
"""Says that streams of the run may be in the store at other positions than the run has."""
NOTES = ("plan.json", "verified.json", "removal.json", "done.json", "failed.json", RENUMBERED)
"""The documents of a run beside its manifest."""
_OF_DIGEST = STREAMS.names[: len(Digest._fields)]
_EVENTS_IN_BATCH = 32_768
_STREAMS_IN_BATCH = 2_048

State = Literal["planned", "sealed", "verified", "done", "failed"]


class Run:
    """One run in a repository."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository, self.name = repository, name
        self.renumbered = False
        """Whether its streams may be in the store at new positions; set by `Catalog.sealed`."""

    def path(self, file: str) -> str:
        """The name in the repository of one of the run's files."""
        return f"{RUNS}/{self.name}/{file}"

    def note(self, file: str, content: dict[str, Any], *, if_absent: bool = False) -> None:
        """Write one of the run's documents, such as plan.json.

        Raises Taken if `if_absent` is set and it exists with other content.
        """
        document = {"format": FORMAT, "version": VERSION, "run": self.name, **content}
        self.repository.put(self.path(file), sealed(document), if_absent=if_absent)

    def read(self, file: str) -> dict[str, Any] | None:
        """One of the run's documents, or None if it does not exist. Raises Damaged."""
        try:
            return unsealed(f"{self.name}/{file}", self.repository.get(self.path(file)))
        except Missing:
            return None

    @property
    def state(self) -> State:
        """How far the run has come, as its files tell."""
        names = {
            entry.name.rpartition("/")[2]
            for entry in self.repository.entries(f"{RUNS}/{self.name}")
        }
        return state_of(names)

    def manifest(self) -> Manifest:
        """The run's manifest. Raises UsageError if it was never sealed, Damaged."""
        found = self.seal()
        if found is None:
            raise UsageError(
                f"run {self.name} was not sealed, so nothing in it counts as archived",
                hint="Run its policy again: esops archive run POLICY.",
            )
        return found

    def seal(self) -> Manifest | None:
        """The run's manifest, or None if it was never sealed. Raises Damaged."""
        found = self.read("manifest.json")
        if found is None:
            return None
        try:
            return Manifest.model_validate(found)
        except ValidationError as error:
            raise Damaged(
                f"{self.name}/manifest.json is not a manifest: {error.errors()[0]['msg']}"
            ) from None

    def content(self, entry: FileEntry) -> pa.Buffer:
        """A file's content: read from the repository, its hash checked, decrypted.

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
                f"{self.name}/{entry.name} was changed after it was written: its SHA-256 does not "
                f"match{size}"
            )
        return pa.py_buffer(self.repository.open(entry.name, stored))

    def batches(self, entry: FileEntry, rows: int = _EVENTS_IN_BATCH) -> Iterator[pa.RecordBatch]:
        """A file's rows, in batches of at most `rows`.

        Raises Damaged, also if the hash is right and the file cannot be decoded, and Missing.
        """
        content = self.content(entry)
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            # Group by group: a batch across several row groups would hold `rows` events however
            # large they are, while a group was closed at a size in bytes.
            for group in range(file.num_row_groups):
                yield from file.iter_batches(rows, row_groups=[group], use_threads=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise Damaged(f"{self.name}/{entry.name} cannot be decoded: {error}") from None

    def streams(self, manifest: Manifest) -> Iterator[tuple[Digest, StreamRow]]:
        """Each stream's digest and what else is kept of it, in the order of the events."""
        for entry in manifest.stream_files:
            for batch in self.batches(entry, _STREAMS_IN_BATCH):
                # Times stay microseconds: making a datetime of each is slow.
                digests = map(Digest._make, _plain(batch, _OF_DIGEST))
                # Archives of an earlier esops have no categories.
                given = [name for name in StreamRow._fields if name in batch.schema.names]
                yield from zip(digests, starmap(StreamRow, _plain(batch, given)), strict=True)


def _plain(batch: pa.RecordBatch, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    columns = (batch.column(name) for name in names)
    return zip(
        *(
            (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
            for column in columns
        ),
        strict=True,
    )


def state_of(names: Collection[str]) -> State:
    """How far a run has come, as the names of its files tell."""
    if "manifest.json" not in names:
        return "failed" if "failed.json" in names else "planned"
    for file, state in (
        ("failed.json", "failed"),
        ("done.json", "done"),
        ("verified.json", "verified"),
    ):
        if file in names:
            return state  # type: ignore[return-value] # one of the literals above
    return "sealed"


class Catalog:
    """All runs of a repository."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def names(self) -> list[str]:
        """The names of all runs, sealed or not, the oldest first."""
        return sorted({*self.catalogued(), *self.repository.folders(RUNS)})

    def catalogued(self) -> list[str]:
        """The names of the runs that were sealed, as the catalog says."""
        return [
            entry.name.rpartition("/")[2].removesuffix(".json")
            for entry in self.repository.entries(CATALOG)
        ]

    def check_entry(self, name: str) -> None:
        """Raises Damaged if a run's entry in the catalog was changed."""
        path = f"{CATALOG}/{name}.json"
        unsealed(path, self.repository.get(path))

    def run(self, name: str) -> Run:
        """The run of that name. Raises UsageError if there is none."""
        names = self.names()
        if name not in names:
            raise UsageError(
                f"there is no run {name!r} in {self.repository.address}", hint=nearest(name, names)
            )
        return Run(self.repository, name)

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        return [Run(self.repository, name) for name in self.names()]

    def of_policy(self, short_name: str) -> list[str]:
        """The names of the runs of all policies with this name, the oldest first."""
        return [name for name in self.names() if policy_of(name) == short_name]

    def new_run(self, short_name: str) -> Run:
        """A policy's next run. Its name sorts behind those of all its earlier runs, also where one
        of them began within the same second, or by a clock that was ahead of this one.
        """
        at = f"{datetime.now(UTC):{RUN_TIME}}"
        for name in reversed(self.of_policy(short_name)):
            # A folder that somebody made himself has no time.
            with suppress(ValueError):
                newest = datetime.strptime(f"{name.partition('-')[0]}+0000", f"{RUN_TIME}%z")
                at = max(at, f"{newest + timedelta(seconds=1):{RUN_TIME}}")
                break
        return Run(self.repository, f"{at}-{short_name}-{secrets.token_hex(3)}")

    def check_there(self) -> None:
        """Raises EmptyArchive where nothing says that the place holds an archive: it may be a mount
        point without its disk, or another prefix. The first thing in an archive is a lease.
        """
        if not any(next(self.repository.entries(each), None) for each in (LOCKS, RUNS, CATALOG)):
            raise EmptyArchive(
                f"there is no archive in {self.repository.address}: no run has ever begun in it",
                hint="Is the disk mounted, and the prefix right? If nothing was archived yet: the "
                "first `esops archive run` makes the archive, also where it selects nothing.",
            )

    def lost(self) -> list[Run]:
        """The runs that were sealed, as the catalog says, and have no manifest any more."""
        there = {
            entry.name.rsplit("/", 2)[1]
            for entry in self.repository.entries(RUNS)
            if entry.name.endswith("/manifest.json")
        }
        return [Run(self.repository, name) for name in self.catalogued() if name not in there]

    def sealed(
        self, stores: Collection[str] = (), since: datetime | None = None
    ) -> list[tuple[Run, Manifest]]:
        """The runs that count, the oldest first; with `stores`, only those that are sealed under
        one of these names; with `since`, only those that began later.

        A run that failed its verification does not count, unless events of it have left the store.
        Raises Damaged.
        """
        # One listing for all runs: a question per run would be slow in an object store.
        files: dict[str, set[str]] = {}
        for entry in self.repository.entries(RUNS):
            _, name, file = entry.name.rsplit("/", 2)
            files.setdefault(name, set()).add(file)
        found = []
        # A run's name begins with its time.
        first = "" if since is None else f"{since.astimezone(UTC):{RUN_TIME}}"
        for name, names in sorted(files.items()):
            if name < first:
                continue
            failed = "failed.json" in names and "removal.json" not in names
            if "manifest.json" in names and not failed:
                run = Run(self.repository, name)
                run.renumbered = RENUMBERED in names
                manifest = run.manifest()
                if not stores or manifest.store in stores:
                    found.append((run, manifest))
        return sorted(found, key=age)

    def enter(self, run: Run, manifest: Manifest) -> None:
        """Record in the catalog that this sealed run exists."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "run": run.name,
            "sealed_at": manifest.sealed_at,
            "events": manifest.events,
        }
        self.repository.put(f"{CATALOG}/{run.name}.json", sealed(document))


def policy_of(name: str) -> str:
    """The name of the policy, without its archive's, in the name of a run."""
    return name.rpartition("-")[0].partition("-")[2]


def age(sealed: tuple[Run, Manifest]) -> tuple[str, datetime]:
    """What sorts sealed runs by their age, the oldest first. Names of one second end at random."""
    run, manifest = sealed
    return run.name.split("-")[0], manifest.selected_at
