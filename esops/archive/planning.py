"""What a run of a policy would do: found by the same selection, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from esops.archive import checkpoint_guard, policy, right_archive
from esops.archive.application import own_projections
from esops.archive.heads import LeftOut, Part
from esops.archive.newest_streams import NewestStreams
from esops.archive.stuck import Attempt, StuckStream, StuckStreams
from esops.archive.unfinished import UnfinishedPlan, UnfinishedRun, unfinished_run
from esops.archive.unread import RunEvents
from esops.archive_format.hashes import digests
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.archive_format.schema import time_of
from esops.config import Config
from esops.errors import AbsentArchive, EsopsError, Refused
from esops.moments import Moment
from esops.settings import ArchiveSettings, Removal, StoreSettings, StreamPortion
from esops.stores import open_store
from esops.stores.archive.own_runs import own_runs
from esops.stores.archiving import StreamPart
from esops.stores.base import EventStore, require
from esops.stores.parts import Scavengeable

if TYPE_CHECKING:
    from esops.stores.archive.own_runs import SealedRun

_COUNTED_FOR = timedelta(seconds=20)
"""How long a plan counts what a scavenge would remove."""
_LONGEST_SHOWN = 5
_STREAMS_AT_ONCE = 500
_HIGHEST = (1 << 31) - 1
"""Of all versions."""


@dataclass(frozen=True, slots=True)
class PlannedStream:
    """What a run would take of one stream."""

    name: str
    tenant: str
    length: int
    """How many events would be archived."""
    first_version: int
    last_version: int
    first_at: Moment | None
    last_at: Moment | None
    bytes: int | None
    """What these take in the store, or their payloads where a stream is shortened; None if the
    store does not tell.
    """
    stays: int
    """How many of the stream's events would stay in the store."""

    def as_row(self) -> dict[str, Any]:
        """The stream under the documented field names."""
        fields = asdict(self)
        return {"stream": fields.pop("name"), **fields}


@dataclass
class ArchivePlan:
    """What a run would do."""

    policy: str
    archive: str
    store: str
    remove: Removal
    part: StreamPortion = "whole"
    """What a run takes of each stream."""
    streams: int = 0
    events: int = 0
    bytes: int | None = None
    """What the events take in the store; None if the store does not tell."""
    oldest: Moment | None = None
    newest: Moment | None = None
    age_unknown: int = 0
    """Streams that are left out since nobody knows how old their events are."""
    unloadable: int = 0
    """Streams that are left out since the library could not load them without their heads."""
    stuck: list[dict[str, str]] = field(default_factory=list)
    """Streams that are left out since an earlier run has archived them as they are and could not
    remove them, or since this user may not read them, each with the reason: a run exits with 1.
    """
    waiting: list[dict[str, str]] = field(default_factory=list)
    """Those of such streams that can leave as soon as a processor has moved on."""
    appended_later: int = 0
    """Streams that are left out although their events are old enough: the store's list of streams
    says that they were appended to later.
    """
    too_young: int = 0
    """Streams that are left out since they are younger than the policy's `never_younger_than`."""
    longest: list[PlannedStream] = field(default_factory=list)
    statements: Sequence[str] = ()
    """Each statement that would remove events, word for word."""
    what: str = ""
    """The removal as a phrase: "deletes events; ..."."""
    again: str = ""
    """What becomes of an append to the name of a removed stream, where an operator should know."""
    stays: int = 0
    """How many of each stream's last events stay in the store."""
    late: list[dict[str, str]] = field(default_factory=list)
    """The readers that have not read all of the events: a run would be refused now."""
    application: list[str] = field(default_factory=list)
    """The application's own projections: what they made of these events is lost where the
    application rebuilds them.
    """
    readers_unknown: str | None = None
    """Why it is not known whether there are such."""
    unfinished: UnfinishedPlan | None = None
    """The run that is finished first, before the policy selects again."""
    no_archive: str | None = None
    """Why a run would be refused without `new_archive`: its archive may be somewhere else."""
    scavenge: Scavengeable | None = None
    """What a scavenge would remove beside the policy's streams; None where the run makes none."""

    def add(self, stream: PlannedStream) -> None:
        """Count a stream."""
        self.streams += 1
        self.events += stream.length
        if stream.bytes is not None:
            self.bytes = (self.bytes or 0) + stream.bytes
        if stream.first_at is not None:
            self.oldest = min(self.oldest or stream.first_at, stream.first_at)
        if stream.last_at is not None:
            self.newest = max(self.newest or stream.last_at, stream.last_at)
        by_length = sorted([*self.longest, stream], key=lambda each: -each.length)
        self.longest = by_length[:_LONGEST_SHOWN]

    def leave(self, stream: StuckStream) -> None:
        """Note a stream that would stay."""
        left = self.stuck if stream.lasting else self.waiting
        left.append({"stream": stream.key.stream, "reason": stream.reason})

    def deny(self, stream: str) -> None:
        """Note a stream that this user may not read."""
        self.stuck.append({"stream": stream, "reason": policy.DENIED})

    def left_out(self, why: LeftOut) -> None:
        """Count a stream that is left out."""
        if why == "ageless":
            self.age_unknown += 1
        elif why == "young":
            self.too_young += 1
        elif why == "appended":
            self.appended_later += 1
        else:
            self.unloadable += 1

    def as_dict(self) -> dict[str, Any]:
        """The plan under the documented field names."""
        fields = {key: value for key, value in vars(self).items() if key != "what"}
        longest = [each.as_row() for each in self.longest]
        return {
            **fields,
            "longest": longest,
            "statements": list(self.statements),
            "scavenge": None if self.scavenge is None else self.scavenge._asdict(),
            "unfinished": None if self.unfinished is None else self.unfinished.as_dict(),
        }


STREAM_COLUMNS = (
    "stream",
    "tenant",
    "length",
    "first_version",
    "last_version",
    "first_at",
    "last_at",
    "bytes",
    "stays",
)


def plan(
    config: Config, name: str, removal: Removal | None = None, despite: Sequence[str] = ()
) -> ArchivePlan:
    """What a run would do now. Changes nothing. `despite` names readers that need not have read the
    events. Raises UsageError, Unavailable.
    """
    with _planned(config, name, removal, despite) as (found, streams, store):
        if despite:
            checkpoint_guard.check_despite(config, store, found.store, despite)
        newest = NewestStreams()
        for stream in streams:
            found.add(stream)
            newest.add(stream)
        if found.streams and found.remove != "keep":
            found.late, found.readers_unknown = _late(
                config, store, found.store, newest.unread_of(store), despite
            )
            found.application = own_projections(store)
        settings = config.policy(name)[2]
        if found.streams and policy.scavenges(store, settings, found.remove):
            admin = require(store, store.admin, "admin")
            found.scavenge = admin.scavengeable(_COUNTED_FOR)
    return found


def _late(
    config: Config,
    store: EventStore,
    store_name: str,
    unread: checkpoint_guard.Unread,
    despite: Sequence[str] = (),
) -> tuple[list[dict[str, str]], str | None]:
    """The readers that have not read all, or why it is not known which these are."""
    try:
        late = [
            each
            for each in checkpoint_guard.behind(config, store, store_name, unread)
            if each.names.isdisjoint(despite)
        ]
    except EsopsError as error:
        return [], error.message
    return [{"reader": each.who, "where": each.where, "despite": each.name} for each in late], None


def planned_streams(
    config: Config,
    name: str,
    removal: Removal | None = None,
    unfinished: Callable[[UnfinishedPlan], None] = lambda _: None,
) -> Iterator[PlannedStream]:
    """Each stream of which a run would take something now, one after the other. `unfinished` is
    called with the run that has to be finished first.
    """
    with _planned(config, name, removal) as (found, streams, _):
        if found.unfinished is not None:
            unfinished(found.unfinished)
        for stream in streams:
            found.add(stream)
            yield stream


@contextmanager
def _planned(
    config: Config, name: str, removal: Removal | None, despite: Sequence[str] = ()
) -> Iterator[tuple[ArchivePlan, Iterator[PlannedStream], EventStore]]:
    archive, archive_settings, settings = config.policy(name)
    store_name, store_settings = config.store(settings.store)
    catalog = _catalog(archive_settings)
    full_name = f"{archive}/{name.rpartition('/')[2]}"
    begun = None if catalog is None else unfinished_run(catalog, full_name)
    if begun is not None:
        begun.check_store(store_name, store_settings, name)
    asked, removal = removal, removal or settings.remove
    if begun is not None and begun.manifest is None:
        # It selects again, and ends as it was begun otherwise.
        removal = asked or begun.removal or removal
    # Without its archive: a joined store would give streams that have left already.
    with open_store(store_name, store_settings.without_archive) as store:
        strategy = policy.removal_strategy(store, settings, removal)
        no_archive = _refused_place(config, archive_settings, store_name)
        found = ArchivePlan(name, archive, store_name, removal, settings.part)
        found.no_archive = no_archive
        found.statements, found.what = strategy.statements, strategy.what
        found.again = strategy.again if found.part == "whole" else ""
        found.stays = 0 if found.part == "head" else strategy.keeps
        if begun is not None:
            found.unfinished = _unfinished(config, name, store, begun, asked, despite)
        earlier = _own_runs(catalog, store, store_settings)
        archived = policy.ArchivedVersions(earlier) if removal == "keep" and earlier else None
        if catalog is not None:
            right_archive.check_tenants(catalog, store, store_settings.sources(store_name))
        parts = policy.selected(
            store,
            settings,
            strategy,
            policy.now(store, settings, removal),
            archived,
            measured=found.part == "whole",
            left_out=found.left_out,
            denied=found.deny,
        )
        attempt = Attempt(store, settings, strategy, tries=False)
        with StuckStreams(attempt, () if removal == "keep" else earlier, found.leave) as stuck:
            parts, heads = stuck.without(parts), found.part == "head"
            yield (
                found,
                _heads(store, parts, found) if heads else _whole(store, parts, found),
                store,
            )
        if not found.streams and begun is None:
            policy.check_names(store, settings, full_name, earlier)


def _unfinished(
    config: Config,
    name: str,
    store: EventStore,
    begun: UnfinishedRun,
    asked: Removal | None,
    despite: Sequence[str],
) -> UnfinishedPlan:
    settings, manifest = config.policy(name)[2], begun.manifest
    removal = asked or begun.removal or settings.remove
    what, refused, hint, late = "", None, None, list[dict[str, str]]()
    try:
        begun.check_policy(config.path, name, settings, asked)
    except Refused as error:
        refused, hint = error.message, error.hint
    else:
        part = None if manifest is None else manifest.part
        what = policy.removal_strategy(store, settings, removal, part).what
        if manifest is not None and removal != "keep":
            store_name = config.store(settings.store)[0]
            unread = RunEvents(begun.run, manifest).unread
            late, _ = _late(config, store, store_name, unread, despite)
    return UnfinishedPlan(
        begun.run.name,
        manifest is not None,
        removal,
        what,
        begun.removes_already,
        0 if manifest is None else manifest.streams,
        0 if manifest is None else manifest.events,
        refused,
        hint,
        late,
    )


def _refused_place(config: Config, settings: ArchiveSettings, store_name: str) -> str | None:
    archives = config.archives.values()
    try:
        right_archive.check_place(settings, store_name, config.stores[store_name], archives)
    except Refused as error:
        return error.message
    return None


def _catalog(settings: ArchiveSettings) -> Catalog | None:
    """The runs of an archive; None before its first run has made the folder."""
    try:
        return Catalog(Repository(settings))
    except AbsentArchive:
        return None


def _own_runs(
    catalog: Catalog | None, store: EventStore, settings: StoreSettings
) -> list[SealedRun]:
    """The sealed runs of a store, under whatever name."""
    if catalog is None:
        return []
    return own_runs(catalog.repository, catalog.sealed(), store, settings).all


def _whole(store: EventStore, parts: Iterator[Part], found: ArchivePlan) -> Iterator[PlannedStream]:
    """What an export would write of each: all of its rows."""
    while group := [part.info for part in islice(parts, _STREAMS_AT_ONCE)]:
        lengths = [info.length for info in group]
        if store.capabilities.hidden_rows:
            lengths = store.many_streams.count_parts(
                [StreamPart(info.key, 0, _HIGHEST) for info in group]
            )
        for info, length in zip(group, lengths, strict=True):
            yield PlannedStream(
                info.name,
                info.tenant,
                length,
                info.first_version,
                info.last_version,
                info.first_at,
                info.last_at,
                info.bytes,
                length if found.remove == "keep" else found.stays,
            )


def _heads(store: EventStore, parts: Iterator[Part], found: ArchivePlan) -> Iterator[PlannedStream]:
    """What an export would write of each: the store's own list knows whole streams only."""
    archiving = require(store, store.archiving, "archiving")
    while group := list(islice(parts, _STREAMS_AT_ONCE)):
        heads = {head.key: head for head in digests(archiving.export(part.ref for part in group))}
        for part in group:
            head = heads.get(part.info.key)
            if head is not None:
                yield PlannedStream(
                    head.stream,
                    head.tenant,
                    head.events,
                    head.first_version,
                    head.last_version,
                    time_of(head.first_at),
                    time_of(head.last_at),
                    head.size,
                    part.info.length - (0 if found.remove == "keep" else head.events),
                )
