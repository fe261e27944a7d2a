"""The progress of one job with one selection of a store's events, bound to the store's log."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from esops.errors import AnotherLog, Busy, Denied, EsopsError, Unavailable, UsageError
from esops.events import Position
from esops.schema.progress.places import (
    Described,
    Entry,
    ProgressPlace,
    ProgressRow,
    ProgressStream,
)
from esops.settings import ArchiveStoreSettings, StoreSettings
from esops.stores.base import EventStore

if TYPE_CHECKING:
    from esops.archive_format.manifest import Manifest


class SchemaJob(NamedTuple):
    """What keeps its progress, in words that go into messages."""

    name: str
    """Such as `check`."""
    from_start: str
    """The option by which a run forgets what was kept and begins again."""
    without: str
    """What to leave out so that nothing is kept, such as `--since-last`."""


class Kept(NamedTuple):
    """What the last run left."""

    document: dict[str, Any]
    position: Position | None
    """Up to there the events were read; None where there was none yet."""


class KeptProgress:
    """Reads and writes the document; see the package for how a job uses it."""

    def __init__(
        self, store: EventStore, place: ProgressPlace, job: SchemaJob, runs: tuple[str, ...] | None
    ) -> None:
        """`runs` names what an archive holds; None for a store whose log only grows at its end."""
        self._store, self._place, self._job, self._runs = store, place, job, runs
        self._revision = 0
        self.note = ""
        """Why `read` found nothing though something was kept, in a sentence."""

    def prepare(self) -> None:
        """Make sure, before anything is read, that progress can be written at the end.

        Raises Unavailable or Refused, with what to do instead.
        """
        try:
            self._place.prepare()
        except EsopsError as error:
            raise self._cannot(error) from error

    def read(self) -> Kept | None:
        """What was kept; None where nothing was, or where it tells nothing any more (`note`).

        Raises AnotherLog where the store is not the one that it was made from, and Unavailable.
        """
        self.note = ""
        try:
            entry = self._place.read()
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(
                f"what esops kept of the last schema {self._job.name} of store {self._store.name} "
                f"cannot be read ({self._place.name})",
                hint=f"Begin again with {self._job.from_start}.",
            ) from error
        if entry is None:
            return None
        self._revision = entry.revision
        if self._runs is not None:
            # A run that was sealed since may hold events of any position.
            if (entry.mark or {}).get("runs") != list(self._runs):
                self.note = (
                    f"the archive of store {self._store.name} has other runs, or other events in "
                    f"them, than at the last schema {self._job.name}, so all of it is read again"
                )
                return None
        else:
            self._recognise(entry)
        position = None if entry.position is None else Position.parse(entry.position)
        return Kept(entry.document, position)

    def write(self, document: Mapping[str, Any], position: Position | None) -> None:
        """Keep a document, and that all events up to a settled position are in it.

        Raises Busy where another process has written since `read`, Unavailable and Refused.
        """
        entry = Entry(
            self._revision + 1,
            dict(document),
            None if position is None else str(position),
            self._mark(position),
        )
        try:
            written = self._place.replace(entry)
        except (Denied, UsageError) as error:
            raise self._cannot(error) from error
        if not written:
            raise Busy(
                f"another schema {self._job.name} of store {self._store.name} has kept its "
                "progress since this one began",
                hint="Run one at a time. Nothing of this run was kept; run it again.",
            )
        self._revision = entry.revision

    def forget(self) -> None:
        """Remove what was kept."""
        self._place.forget()
        self._revision = 0

    def erasures(self) -> list[str]:
        """Names the erasures that have changed payloads so far; see ProgressPlace."""
        try:
            return self._place.erasures()
        except EsopsError as error:
            raise self._cannot(error) from error

    def _mark(self, position: Position | None) -> dict[str, Any] | None:
        if self._runs is not None:
            return {"runs": list(self._runs)}
        identity = self._store.identity
        if position is None or identity is None:
            return None
        mark = identity.mark(position)
        return None if mark is None else dict(mark)

    def _recognise(self, entry: Entry) -> None:
        identity = self._store.identity
        if identity is None or entry.position is None:
            return
        position = Position.parse(entry.position)
        try:
            identity.check_reach(position)
            if entry.mark is not None:
                identity.recognise(position, entry.mark)
        except AnotherLog as error:
            raise type(error)(
                f"the last schema {self._job.name} was of another log, at {position}: "
                f"{error.message}",
                hint="The store was restored to an earlier time or replaced, or the configuration "
                "names another one. If it is the right store, begin again with "
                f"{self._job.from_start}.",
            ) from None

    def _cannot(self, error: EsopsError) -> EsopsError:
        """The error where esops cannot keep anything for this store."""
        kind: type[EsopsError] = type(error) if isinstance(error, Busy) else Unavailable
        return kind(
            f"esops cannot keep the progress of schema {self._job.name} for store "
            f"{self._store.name} ({self._place.name}): {error.message}",
            hint=f"Without {self._job.without}, nothing is kept and all events are read. "
            + (error.hint or "Otherwise let this user write there: `esops docs least-privilege`."),
        )


def progress_of(
    store: EventStore, settings: StoreSettings, job: SchemaJob, selection: Mapping[str, object]
) -> KeptProgress:
    """The progress of a job with a selection of a store's events. Nothing is reached yet.

    The selection is JSON: event types, categories, a tenant. Raises UsageError where esops keeps
    nothing for stores of this kind.
    """
    runs = None
    described = _described(store.name, settings, job, selection)
    place: ProgressPlace
    if isinstance(settings, ArchiveStoreSettings):
        from esops.schema.progress.in_archives import ProgressDocuments
        from esops.stores.archive.store import ArchiveStore

        archive = ArchiveStore(store.name, settings)
        runs = tuple(f"{run.name} {_seal(manifest)}" for run, manifest in archive.runs)
        place = ProgressDocuments(archive.repository, described)
    elif settings.postgres is not None:
        place = ProgressRow(settings.postgres, described)
    elif settings.backend == "eventstoredb":
        place = ProgressStream(settings, described)
    else:
        raise UsageError(
            f"esops keeps nothing for stores of backend {settings.backend!r}, such as {store.name}",
            hint=f"Leave out {job.without}: all events are read.",
        )
    return KeptProgress(store, place, job, runs)


def _seal(manifest: Manifest) -> str:
    """Another one where the files of a run were rewritten."""
    files = [each.sha256 for each in manifest.event_files]
    return hashlib.sha256(orjson.dumps(files)).hexdigest()[:16]


def _described(
    store: str, settings: StoreSettings, job: SchemaJob, selection: Mapping[str, object]
) -> Described:
    """The key, by all that tells one progress from another, but no address."""
    place = [] if settings.place is None else [repr(each) for each in settings.place[2:]]
    archive = None if settings.cold is None else settings.cold.repository
    text = orjson.dumps(selection, option=orjson.OPT_SORT_KEYS).decode()
    distinct = orjson.dumps([store, place, archive, job.name, text])
    return Described(hashlib.sha256(distinct).hexdigest()[:32], store, job.name, text)
