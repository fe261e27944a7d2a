"""Personal data in the archives: the files of a run that hold some are rewritten, under a new
seal.

The new files are written and read back first; then the manifest is replaced in one step, and the
files that it named before are deleted. Killed at any point, the run is as it was or as it will be,
and the next erasure deletes what no manifest names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice

import pyarrow as pa

from esops import __version__
from esops.actions import current
from esops.archive.verify import verify
from esops.archive.writer import OrderedWorker, ParquetFiles, stream_batch
from esops.archive_format.hashes import digests
from esops.archive_format.lease import Lease
from esops.archive_format.manifest import FileEntry, Reseal
from esops.archive_format.repository import ENCRYPTED, Repository
from esops.archive_format.runs import RUNS, Catalog, Run
from esops.archive_format.schema import EXTRA_PREFIX, STREAMS, Damaged, schema_with
from esops.config import Config
from esops.erasing.masker import Masker
from esops.erasing.rules import Person
from esops.erasing.sweep import Findings, Sweep
from esops.erasing.traces import Place, Values
from esops.errors import Refused
from esops.events import Position, StreamKey
from esops.json_paths import JsonPath
from esops.settings import ArchiveSettings, StoreSettings
from esops.stores.archive.own_runs import own_runs
from esops.stores.archive.tenants import refuse_other_tenants
from esops.stores.base import EventStore
from esops.stores.masking import Document, Masking, StoredRow, Value

_ROWS = 1_024
_STREAMS_AT_ONCE = 1_000
_WHOLE = 1 << 62
"""A file size that no file reaches: each file becomes one."""
_DATA, _METADATA = "data", "metadata"


class ArchivedRun:
    """A sealed run that may hold some of the person's events."""

    def __init__(
        self, archive: str, settings: ArchiveSettings, run: Run, person: Person, of: Masking
    ) -> None:
        """`of` says where the store keeps what is in the archive's columns. Raises Damaged."""
        self.archive, self._settings, self.run = archive, settings, run
        self.manifest = run.manifest()
        documents = _documents(of.documents, self.manifest.columns)
        self._person, self._masker = person, Masker(person, documents, wrapped=of.wrapped)
        self._in_file: set[str] = set()
        """The files with something to be masked, as the last look has found."""

    @property
    def where(self) -> str:
        """Names it in messages."""
        return f"archive {self.archive}, run {self.run.name}"

    @property
    def met(self) -> set[JsonPath]:
        """The masks' paths that led to something in its events."""
        return self._masker.met

    def note_streams(self, values: Values, stop: Callable[[], None]) -> None:
        """Find the streams of which one event fulfils a condition."""
        sweep = Sweep(self.where, self._masker, values)
        for entry in self.manifest.event_files:
            sweep.note_streams(self._rows(entry, stop))

    def look(self, values: Values, stop: Callable[[], None], *, search: bool = True) -> Findings:
        """A pass over all its files. Raises Damaged, Missing."""
        findings = Findings()
        self._in_file = set()
        sweep = Sweep(self.where, self._masker, values)
        for entry in self.manifest.event_files:
            found = sweep.run(self._rows(entry, stop), search=search)
            if found.events:
                self._in_file.add(entry.name)
            findings.add(found)
        if search and values:
            for digest, (row, _) in self.run.streams(self.manifest):
                own = row is not None and self._person.may_have(StreamKey(*digest.key))
                for path, of in values.in_document(row or "", own=False) if own else ():
                    place = Place(
                        self.where, f"the row of a stream ({digest.events} events)", path, of
                    )
                    findings.leave_value(place)
        return findings

    def _rows(self, entry: FileEntry, stop: Callable[[], None]) -> Iterator[list[StoredRow]]:
        for batch in self.run.batches(entry, _ROWS):
            stop()
            rows = _rows_of(batch, self.manifest.position_parts)
            yield [row for row in rows if self._person.may_have(row.key)]

    # -- rewriting

    @contextmanager
    def leased(self) -> Iterator[Lease]:
        """The right to change the run. Raises Busy while a process works on its policy."""
        with Lease(self.run.repository, self.manifest.policy) as lease:
            current.in_archive(self.run.repository)
            # As it is now, under the lease.
            self.manifest = self.run.manifest()
            yield lease

    def rewrite(self, lease: Lease, reason: str, events: int, stop: Callable[[], None]) -> None:
        """Rewrite the files with something to be masked, and seal the run again.

        Raises Refused where that would decrypt it, Stopped where the lease was lost, Damaged.
        """
        run, before = self.run, self.manifest
        if any(each.name.endswith(ENCRYPTED) for each in before.files) and (
            not run.repository.encrypts
        ):
            raise Refused(
                f"{self.where} is encrypted, and the archive has no key to encrypt it again",
                hint="Set `encrypt_to` in the archive's section of esops.toml.",
            )
        sealed = run.repository.get(run.path("manifest.json"))
        with OrderedWorker("read-back", 1) as reader:
            events_written: list[FileEntry] = []
            batches = self._masked_batches(lease, reader, events_written, stop)
            schema_of_streams = ParquetFiles(
                run,
                f"{lease.number:06d}-erased-streams",
                STREAMS,
                self._settings.file_size,
                reader,
            )
            size = 0
            found, listed = digests(batches), run.streams(before)
            while group := list(islice(found, _STREAMS_AT_ONCE)):
                rows = {}
                for digest in group:
                    was, row = next(listed)
                    if (was.key, was.events) != (digest.key, digest.events):
                        raise Damaged(f"{run.name}: its list of streams is not that of its events")
                    rows[digest.stream, digest.tenant] = row
                    size += digest.size
                schema_of_streams.add(stream_batch(group, rows))
            streams_written = schema_of_streams.finish()
            reader.wait()
        kept = {each.name for each in events_written}
        replaced = [each.name for each in before.files if each.name not in kept]
        seal = Reseal(
            at=datetime.now(UTC),
            reason=reason,
            esops=__version__,
            replaced=hashlib.sha256(sealed).hexdigest(),
            events=events,
            files=tuple(replaced),
        )
        after = before.model_copy(
            update={
                "event_files": tuple(events_written),
                "stream_files": streams_written,
                "bytes": size,
                "reseals": (*before.reseals, seal),
            }
        )
        lease.check()
        run.note("manifest.json", after.model_dump(mode="json"))
        self.manifest = run.manifest()
        self.delete_unnamed()

    def _masked_batches(
        self,
        lease: Lease,
        reader: OrderedWorker,
        written: list[FileEntry],
        stop: Callable[[], None],
    ) -> Iterator[pa.RecordBatch]:
        """All rows of the run, masked; the files that change are written as they pass."""
        schema = schema_with(self.manifest.columns)
        for number, entry in enumerate(self.manifest.event_files, 1):
            if entry.name not in self._in_file:
                written.append(entry)
                yield from self.run.batches(entry)
                continue
            prefix = f"{lease.number:06d}-erased-events-{number:05d}"
            files = ParquetFiles(self.run, prefix, schema, _WHOLE, reader)
            for batch in self.run.batches(entry, _ROWS):
                stop()
                masked = self._masked(batch)
                files.add(masked)
                yield masked
            written += files.finish()

    def _masked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        changed: dict[str, dict[int, Value]] = {}
        for at, row in enumerate(_rows_of(batch, self.manifest.position_parts)):
            if not self._person.may_have(row.key):
                continue
            for name, value in self._masker.masked(row).columns.items():
                changed.setdefault(name, {})[at] = value
        for name, values in changed.items():
            plain = batch.column(name).to_pylist()
            for at, value in values.items():
                plain[at] = value
            number = batch.schema.get_field_index(name)
            field = batch.schema.field(number)
            batch = batch.set_column(number, field, pa.array(plain, field.type))
        return batch

    def unnamed(self) -> list[str]:
        """Files in its folder that its manifest does not name: replaced ones, and those of killed
        runs.
        """
        names = {each.name for each in self.manifest.files}
        folder = f"{RUNS}/{self.run.name}"
        return [
            entry.name
            for entry in self.run.repository.entries(folder)
            if ".parquet" in entry.name and entry.name.rpartition("/")[2] not in names
        ]

    def delete_unnamed(self) -> int:
        """Delete these; only with the lease."""
        names = self.unnamed()
        for name in names:
            self.run.repository.delete(name)
        return len(names)

    def verify(self) -> list[str]:
        """Read it back, compare it with its seal, and note that; its problems."""
        result = verify(self.run, self.manifest)
        self.run.note(
            "verified.json",
            {
                "at": datetime.now(UTC).isoformat(),
                "ok": result.ok,
                "streams": result.streams,
                "events": result.events,
                "problems": result.problems,
            },
        )
        return result.problems


def archives_of(config: Config) -> Mapping[str, ArchiveSettings]:
    """All archives of a configuration, also those that only a store names."""
    found = dict(config.archives)
    known = {each.repository for each in found.values()}
    for name, settings in config.stores.items():
        if settings.cold is not None and settings.cold.repository not in known:
            found[name] = settings.cold
    return found


def runs_of(
    archives: Mapping[str, ArchiveSettings],
    store: EventStore,
    settings: StoreSettings,
    person: Person,
    of: Masking,
) -> tuple[list[ArchivedRun], list[Place]]:
    """The sealed runs of a store in all archives, under whatever name, and the places of runs that
    are not sealed. `settings` are the store's.

    Raises Refused where nothing tells whose events a run has, Unavailable where an archive is not
    there: nobody knows what is in it.
    """
    found, unsealed = [], []
    for name, archive in archives.items():
        repository = Repository(archive)
        sealed, not_sealed = [], []
        for run in Catalog(repository).runs():
            manifest = run.seal()
            if manifest is None:
                not_sealed.append(run)
            else:
                sealed.append((run, manifest))
        if not sealed and not not_sealed:
            Catalog(repository).check_there()
        runs = own_runs(repository, sealed, store, settings)
        runs.refuse_doubtful()
        # Rows that are found in a store limited to one tenant, and of other tenants, differ.
        refuse_other_tenants(store, runs.all, one_of_all=True)
        found += [ArchivedRun(name, archive, run, person, of) for run, _ in runs.all]
        for run in not_sealed:
            entries = run.repository.entries(f"{RUNS}/{run.name}")
            planned = run.read("plan.json") or {}
            if not runs.may_be(planned.get("store", store.name), sealed, settings):
                continue
            policy = str(planned.get("policy", "POLICY"))
            # A run that is at work may have read events before they were masked.
            if (
                any(".parquet" in each.name for each in entries)
                or Lease(run.repository, policy).holder() is not None
            ):
                unsealed.append(
                    Place(
                        f"archive {name}",
                        f"run {run.name}",
                        "its files",
                        f"it is not sealed. Finish it: esops archive run {policy}. Or delete them: "
                        "esops archive gc",
                    )
                )
    return found, unsealed


def _documents(documents: Sequence[Document], columns: Sequence[str]) -> list[Document]:
    """Where an archive has what a store's documents hold."""
    metadata = [each for each in documents if each.root == _METADATA]
    drops = bool(metadata) and all(each.drops_nulls for each in metadata)
    return [
        Document(_DATA, "data"),
        Document(_METADATA, "metadata", drops_nulls=drops),
        *(
            Document(EXTRA_PREFIX + each.column, each.root, each.at, plain=each.plain)
            for each in documents
            if each.column in columns
        ),
    ]


def _rows_of(batch: pa.RecordBatch, parts: int) -> list[StoredRow]:
    names = [
        name
        for name in batch.schema.names
        if name in ("stream", "type", "id_text", _DATA, _METADATA) or name.startswith(EXTRA_PREFIX)
    ]
    columns = [batch.column(name).to_pylist() for name in names]
    about = [
        batch.column(name).to_pylist()
        for name in ("stream", "tenant", "version", "position_1", "position_2", "type", "hidden")
    ]
    return [
        StoredRow(
            StreamKey(stream, tenant),
            version,
            Position((first, second)[:parts]),
            kind,
            hidden,
            dict(zip(names, values, strict=True)),
        )
        for (stream, tenant, version, first, second, kind, hidden), values in zip(
            zip(*about, strict=True), zip(*columns, strict=True), strict=True
        )
    ]
