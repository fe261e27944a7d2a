"""How the groups of a run's streams are written into a store, and what becomes of those that have
others in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pyarrow import RecordBatch

from esops.archive.append_archived import Appender, misnamed
from esops.archive.archived_groups import (
    Group,
    check_seal,
    events_of_streams,
    groups_of,
    scope_of,
)
from esops.archive.compare import compare, only
from esops.archive.log_runs import LogRuns
from esops.archive.other_runs import OtherRuns
from esops.archive.read_before import stop_readers
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import RENUMBERED, Run
from esops.errors import Refused
from esops.events import StreamKey
from esops.stores.archiving import ArchivedGroup
from esops.stores.base import EventStore, require

_NAMED_AT_MOST = 1_000


@dataclass
class RestoreResult:
    """What a restore did."""

    run: str
    store: str
    streams: int = 0
    """Streams that were written."""
    events: int = 0
    revived: int = 0
    """Events that the store had marked as archived, and has as active ones again."""
    there: int = 0
    """Streams of which nothing was missing."""
    of_other_tenants: int = 0
    """Streams that were left out, since the store reads one tenant alone and they are others'."""
    renumbered: bool = False
    """Whether the events got new positions."""
    left_out: int = 0
    """Streams that were left out whole, since the store has others in their place."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """The first thousand of these, each with the reason."""
    restore_next: list[str] = field(default_factory=list)
    """The runs that hold the rest of these streams, in the order in which to restore them."""
    to_rebuild: list[str] = field(default_factory=list)
    """The projections with versions that had read events which are at new positions now."""
    application: list[str] = field(default_factory=list)
    """The application's own projections, which do not read again what came back behind their
    positions.
    """

    def leave_out(self, stream: str, reason: str) -> None:
        """Count a stream that was left out."""
        self.left_out += 1
        if len(self.skipped) < _NAMED_AT_MOST:
            self.skipped.append({"stream": stream, "reason": reason})


@dataclass(frozen=True)
class RestoreOptions:
    """How a restore deals with other events that are in its way; without these it refuses."""

    renumber: bool = False
    """Give the events new positions, in the order of the old ones."""
    skip_conflicts: bool = False
    """Leave out streams in whose place the store has others."""


class Restoration:
    """Writes groups of streams of a run into a store, and counts them in `result`."""

    def __init__(
        self,
        run: Run,
        manifest: Manifest,
        store: EventStore,
        requested: frozenset[str],
        options: RestoreOptions,
        log: LogRuns,
        others: OtherRuns,
    ) -> None:
        """`requested`: the only streams, by their names. Nothing is written yet."""
        self._run, self._manifest, self._store = run, manifest, store
        self._log = log
        self._requested, self._options, self._others = requested, options, others
        self.result = RestoreResult(run.name, store.name, renumbered=options.renumber)
        self._scope = scope_of(store, manifest)
        self._missing: dict[StreamKey, int] = {}
        """How many events of streams that are to be written the store does not have as active."""

    def _groups(
        self, check_stop: Callable[[], None], progress: Callable[[int, int], None]
    ) -> Iterator[Group]:
        done = self.result.of_other_tenants = 0
        for group in groups_of(self._run, self._manifest, self._requested, self._scope):
            check_stop()
            self.result.of_other_tenants += group.others
            if group.digests:
                yield group
            done += len(group.digests)
            progress(done, len(self._requested) or self._manifest.streams)

    def as_they_were(
        self, check_stop: Callable[[], None], progress: Callable[[int, int], None]
    ) -> None:
        """Into a store of their own kind. Raises Refused."""
        archiving = require(self._store, self._store.archiving, "archiving")
        if not self._options.skip_conflicts:
            # All of it before anything is written: half a restore helps nobody.
            for group in self._groups(check_stop, lambda *_: None):
                for error in misnamed(group.digests, self._store).values():
                    raise error
                for error in self._others.conflicts(group.digests, self._store).values():
                    raise error
                if not self._options.renumber:
                    archiving.check_room(group.batches)
        if self._options.renumber:
            self._renumber(check_stop, progress)
            return
        for group in self._groups(check_stop, progress):
            self._restore_group(group)

    def _incomplete(self, digests: Sequence[Digest]) -> list[int]:
        """Which streams the store lacks events of. Raises Refused, or leaves out, where it has
        others.
        """
        incomplete = []
        conflicts: dict[StreamKey, Refused] = {}
        if self._options.skip_conflicts:  # else checked before anything was written
            conflicts = self._others.conflicts(digests, self._store)
        # Compared before anything is written: a restore that is run again writes only what is
        # missing.
        compared = compare(self._run, self._manifest, digests, self._store)
        for number, (digest, comparison) in enumerate(compared):
            if comparison.status == "differs":
                self._conflict(
                    digest.key,
                    Refused(
                        f"stream {digest.stream} cannot be restored: {comparison.detail}",
                        hint="esops overwrites no event. Leave such streams out with "
                        "--skip-conflicts, or restore into another store with --into.",
                    ),
                    comparison.detail,
                )
            elif not comparison.lacks:
                self.result.there += 1
            elif comparison.status == "moved" and not self._options.renumber:
                # The others at their old positions would come before or between them.
                self._conflict(
                    digest.key,
                    Refused(
                        f"stream {digest.stream} cannot be restored: {comparison.detail}",
                        hint="They were restored with --renumber: restore the others so, too.",
                    ),
                    comparison.detail,
                )
            elif digest.key in conflicts:
                self._conflict(digest.key, conflicts[digest.key], conflicts[digest.key].message)
            else:
                self._missing[digest.key] = comparison.missing
                incomplete.append(number)
        return incomplete

    def _conflict(self, key: StreamKey, error: Refused, reason: str) -> None:
        if not self._options.skip_conflicts:
            raise error
        self.result.leave_out(key.stream, reason)

    def _restore_group(self, group: Group) -> None:
        incomplete = self._incomplete(group.digests)
        if incomplete:
            digests = [group.digests[number] for number in incomplete]
            keys = [digest.key for digest in digests]
            # In front of a stream that continues, nothing but events comes back.
            head = self._manifest.part == "head"
            self._write(
                digests,
                None if head else [group.rows[number] for number in incomplete],
                self._still_sealed_so(only(batch, keys) for batch in group.batches),
            )

    def _write(
        self,
        digests: Sequence[Digest],
        rows: Sequence[str | None] | None,
        batches: Iterator[RecordBatch],
    ) -> None:
        """Restore some streams; where they are refused together, those that are not to blame."""
        keys = [digest.key for digest in digests]
        archiving = require(self._store, self._store.archiving, "archiving")
        try:
            events = archiving.restore_streams(keys, rows, batches)
        except Refused as error:
            if len(digests) == 1 or not self._options.skip_conflicts:
                self._conflict(keys[0], error, error.message)
                return
            half = len(digests) // 2
            for part in (slice(half), slice(half, None)):
                names = frozenset(key.stream for key in keys[part])
                again = events_of_streams(self._run, self._manifest, names)
                theirs = keys[part]
                self._write(
                    digests[part],
                    None if rows is None else rows[part],
                    self._still_sealed_so(only(batch, theirs) for batch in again),
                )
            return
        self._check_restored(digests, moved=False)
        self.result.events += events
        missing = sum(self._missing.pop(key) for key in keys)
        self.result.revived += max(0, missing - events)
        self.result.streams += len(digests)

    def _check_restored(self, digests: Sequence[Digest], *, moved: bool) -> None:
        """Raises EsopsError where the store does not have what was just written to it."""
        for digest, comparison in compare(self._run, self._manifest, digests, self._store):
            # The application may have appended to the stream in between.
            if not comparison.there(moved=moved):
                raise Refused(
                    f"stream {digest.stream} was restored, and differs from the archive: "
                    f"{comparison.in_words()}",
                    hint="Somebody changed it in the meantime, or a trigger did. The archive has "
                    "it as it was.",
                )

    def _still_sealed_so(self, batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        """The batches; after the last one, in the transaction that writes them, a look at the seal.

        An erasure seals the run again before it masks the store, and then waits for whoever writes
        there: so either it sees these events, or they are not written.
        """
        yield from batches
        self._check_seal()

    def _check_seal(self) -> None:
        check_seal(self._run, self._manifest)

    def _renumber(
        self, check_stop: Callable[[], None], progress: Callable[[int, int], None]
    ) -> None:
        archiving = require(self._store, self._store.archiving, "archiving")
        if self._log.may_be_home:
            # Before it is true: whoever joins the store with an archive has to look from now on.
            for run in [self._run, *self._others.in_other_archives]:
                run.note(RENUMBERED, {"store": self._store.name})

        def groups() -> Iterator[ArchivedGroup]:
            for group in self._groups(check_stop, progress):
                numbers = self._incomplete(group.digests)
                keys = [group.digests[number].key for number in numbers]
                theirs = (only(batch, keys) for batch in group.batches)
                if keys:
                    yield ArchivedGroup(keys, [group.rows[number] for number in numbers], theirs)

        def confirm() -> None:
            self._check_seal()
            if self._missing and self._log.may_be_home:
                self.result.to_rebuild = stop_readers(
                    self._log.config, self._store, self._run, self._manifest, self._requested
                )

        done = archiving.restore_renumbered(
            groups(), skip_conflicts=self._options.skip_conflicts, confirm=confirm
        )
        for key, reason in done.conflicts.items():
            self.result.leave_out(key.stream, reason)
        self.result.streams, self.result.events = done.streams, done.events
        left_out = {each["stream"] for each in self.result.skipped}
        if self.result.left_out == len(self.result.skipped):
            for group in groups_of(self._run, self._manifest, self._requested, self._scope):
                there = [each for each in group.digests if each.stream not in left_out]
                self._check_restored(there, moved=True)

    def append(self, check_stop: Callable[[], None], progress: Callable[[int, int], None]) -> None:
        """Into a store of another kind. Raises Refused."""
        appender = Appender(self._run, self._manifest, self._store, self._log.home)
        unfit: dict[StreamKey, Refused] = {}
        # All of it before anything is written: half a restore helps nobody.
        for group in self._groups(check_stop, lambda *_: None):
            found = {**self._others.unfit(group.digests, self._store), **appender.unfit(group)}
            if found and not self._options.skip_conflicts:
                raise next(iter(found.values()))
            unfit |= found
        for group in self._groups(check_stop, progress):
            for digest, batches in appender.streams(group):
                if digest.key in unfit:
                    self.result.leave_out(digest.stream, unfit[digest.key].message)
                    continue
                try:
                    appended = appender.append(digest, self._still_sealed_so(batches))
                except Refused as error:
                    self._conflict(digest.key, error, error.message)
                    continue
                self.result.events += appended
                if appended:
                    self.result.streams += 1
                else:
                    self.result.there += 1
