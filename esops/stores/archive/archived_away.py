"""What a store lacks because it was archived and removed, so that a read of the store misses it.

The archive says what was archived, and the store what it still has, or has again: neither counts
alone. A stream that two runs archived is one stream, and one that was restored is not away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

import orjson

from esops.config import Config
from esops.events import EventFilter, Position, StreamKey
from esops.settings import ArchiveSettings, StoreSettings
from esops.stores.archiving import StreamPart, TenantScope
from esops.stores.base import EventStore
from esops.wording import count

if TYPE_CHECKING:
    from esops.archive_format.disk_map import DiskMap
    from esops.archive_format.manifest import Manifest
    from esops.archive_format.runs import Run

_EVERYTHING = EventFilter()
_STREAMS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class ArchivedAway:
    """Streams that one archive holds and that the store lacks, in part or wholly."""

    archive: str
    runs: int
    streams: int
    events: int
    unfinished: bool = False
    """Whether a run of these is not finished, so that it may yet remove more."""
    last_position: Position | None = None
    """The highest position of an event in those runs."""
    shortened: int = 0
    """Streams of which the head alone is away."""

    def __str__(self) -> str:
        runs = count(self.runs, "run") + (", not all finished" if self.unfinished else "")
        heads = f", {self.shortened:,} of them were shortened" if self.shortened else ""
        return (
            f"{count(self.events, 'event')} of {count(self.streams, 'stream')} were archived "
            f"and removed{heads} ({runs} in archive {self.archive})"
        )

    @property
    def loss(self) -> str:
        """What that does to rows, before the name of their read model."""
        if not self.shortened:
            return "would be missing from"
        wrong = "would be made without the first events in"
        return wrong if self.shortened == self.streams else f"would be missing from, or {wrong},"


def join_with(config: Config, store: str, away: ArchivedAway) -> str:
    """How a read of the store finds what is away, for a person."""
    joined = config.stores[store].archive
    if joined is None:
        return f'Set archive = "{away.archive}" in [stores.{store}] to read both.'
    return (
        f"[stores.{store}] is joined with archive {joined} alone. Copy the folders `runs` and "
        f"`catalog` of archive {away.archive} into that one, where both have the same keys, or "
        "restore its runs: esops archive restore."
    )


def removed_from(
    config: Config,
    store: EventStore,
    filter: EventFilter = _EVERYTHING,
    since: datetime | None = None,
    beyond: Position | None = None,
) -> list[ArchivedAway]:
    """What was removed from a store and is not there, for each archive of the configuration; with
    `since`, by runs that began later; with `beyond`, by those with an event after that position.

    Of a store that is joined with its archive, what that archive has is not away. What the filter
    cannot want is left out: streams of other categories, and runs of streams that the store itself
    still gives, as archived ones. Runs that are sealed under another name and have events of the
    store count, too.

    Raises Refused where nothing tells whose events a run has; Unavailable, Damaged or UsageError
    where an archive cannot be read, of whatever stores it may be.
    """
    if not config.archives:
        return []
    found = []
    own = config.stores.get(store.name)
    halves = store.halves
    hot, cold = (store, None) if halves is None else (halves.hot, halves.cold)
    for name, settings in config.archives.items():
        if cold is not None and settings.repository == cold.repository.address:
            continue
        # Also where its policies name other stores only: they may have named this one before, or
        # name it by another section. Only the archive itself tells whose events it has.
        runs = _removing_runs(settings, hot, own, filter, since)
        if beyond is not None:
            runs = [each for each in runs if Position.parse(each[1].last_position) > beyond]
        read = cold.runs if cold is not None else ()
        away = _away(name, runs, hot, filter, read) if runs else None
        found += [away] if away is not None else []
    return found


def _removing_runs(
    settings: ArchiveSettings,
    store: EventStore,
    own: StoreSettings | None,
    filter: EventFilter,
    since: datetime | None,
) -> list[tuple[Run, Manifest]]:
    """The sealed runs that may have removed events which the filter wants."""
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog
    from esops.stores.archive.complete import check_complete
    from esops.stores.archive.own_runs import own_runs

    found = []
    repository, own = Repository(settings), own or StoreSettings(backend="")
    catalog = Catalog(repository)
    sealed = catalog.sealed(since=since)
    runs = own_runs(repository, sealed, store, own)
    runs.refuse_doubtful()
    check_complete(catalog, sealed, lambda name: runs.may_be(name, sealed, own))
    for run, manifest in runs.all:
        # A run that was stopped while it removed has removed some.
        how = run.read("done.json") or run.read("plan.json") or {}
        if (how.get("remove") == "keep" and run.read("removal.json") is None) or (
            filter.archived and how.get("remove") == "archive"
        ):
            continue
        found.append((run, manifest))
    return found


def _away(
    archive: str,
    runs: Sequence[tuple[Run, Manifest]],
    store: EventStore,
    filter: EventFilter,
    read: Sequence[tuple[Run, Manifest]],
) -> ArchivedAway | None:
    """What the store lacks of what some runs have, and those do not that are read with it; None
    where that is nothing.
    """
    found = lacking(runs, store, filter, read=read)
    if not found.streams:
        return None
    away = [runs[number] for number in sorted(found.runs)]
    return ArchivedAway(
        archive,
        len(away),
        found.streams,
        found.events,
        unfinished=any(run.read("done.json") is None for run, _ in away),
        last_position=max(Position.parse(manifest.last_position) for _, manifest in away),
        shortened=found.shortened,
    )


@dataclass
class Lacking:
    """What a store lacks of archived streams."""

    looked_at: int = 0
    """Archived events that were looked for, each once."""
    events: int = 0
    streams: int = 0
    runs: set[int] = field(default_factory=set)
    """The numbers of the runs that have them."""
    shortened: int = 0
    """How many of the streams lack events that only runs of heads have."""


def lacking(
    runs: Sequence[tuple[Run, Manifest]],
    store: EventStore,
    filter: EventFilter = _EVERYTHING,
    at_most: int | None = None,
    read: Sequence[tuple[Run, Manifest]] = (),
) -> Lacking:
    """What a store lacks of what some runs have; with `at_most`, of about this many streams; with
    `read`, what these other runs have is not lacking.
    """
    from esops.archive_format.disk_map import DiskMap

    found, scope = Lacking(), store.tenant_scope
    heads = {number for number, (_, manifest) in enumerate(runs) if manifest.part == "head"}
    with DiskMap() as archived, DiskMap() as there:
        for number, (run, manifest) in enumerate(runs):
            collect(archived, number, run, manifest, filter, scope)
        for number, (run, manifest) in enumerate(read):
            collect(there, number, run, manifest, filter, scope)
        streams = sum(manifest.streams for _, manifest in runs)
        step = 1 if at_most is None else max(1, streams // at_most)
        entries = islice(_entries(archived, there), 0, None, step)
        while group := list(islice(entries, _STREAMS_AT_ONCE)):
            _look_for(group, store, filter, heads, found)
    return found


def _look_for(
    group: Sequence[_Entry],
    store: EventStore,
    filter: EventFilter,
    heads: set[int],
    found: Lacking,
) -> None:
    parts = [StreamPart(key, low, high) for key, _, ranges in group for low, high, _ in ranges]
    there = iter(store.many_streams.count_parts(parts, archived=filter.archived))
    for _, numbers, ranges in group:
        found.looked_at += sum(number for _, _, number in ranges)
        events = sum(max(0, number - next(there)) for _, _, number in ranges)
        if events:
            found.streams += 1
            found.events += events
            found.shortened += heads.issuperset(numbers)
            found.runs.update(numbers)


_Range = tuple[int, int, int]
"""From which version of a stream to which, and how many events."""
_Entry = tuple[StreamKey, list[int], list[_Range]]
"""A stream, the numbers of the runs that have it, and what they have."""


def collect(
    archived: DiskMap,
    number: int,
    run: Run,
    manifest: Manifest,
    filter: EventFilter,
    scope: TenantScope | None,
) -> None:
    """Add the streams of a run to those of others: what is in several runs is there once."""
    from esops.stores.archive.categories import may_be_in

    for digest, row in run.streams(manifest):
        if filter.stream is not None and digest.stream != filter.stream:
            continue
        key = digest.key if scope is None else scope.own(digest.key, row.row)
        if key is None:
            continue
        # By what the run holds: what its policy says today is not what it archived.
        if filter.category is not None and not may_be_in(filter.category, manifest, digest, row):
            continue
        part = (digest.first_version, digest.last_version, digest.events)
        before = archived.get(*key)
        numbers, ranges = [number], [part]
        if before is not None:
            _, _, known, others = orjson.loads(before)
            numbers, ranges = [*known, number], _united([*map(tuple, others), part])
        archived.put(*key, orjson.dumps([*key, numbers, ranges]))


def _united(ranges: list[_Range]) -> list[_Range]:
    """Ranges of which none overlaps another."""
    united: list[_Range] = []
    for low, high, events in sorted(ranges):
        if not united or low > united[-1][1]:
            united.append((low, high, events))
        elif high > united[-1][1]:
            first, end, before = united[-1]
            united[-1] = (first, high, before + min(events, high - end))
    return united


def without(ranges: list[_Range], others: list[_Range]) -> list[_Range]:
    """What is in ranges and not in others; of a part of a range, its versions are counted."""
    left = []
    for low, high, events in ranges:
        begin = low
        for first, last, _ in others:
            if last < begin or first > high:
                continue
            if first > begin:
                left.append((begin, first - 1, min(events, first - begin)))
            begin = last + 1
        if begin <= high:
            left.append((begin, high, min(events, high - begin + 1)))
    return left


def _entries(archived: DiskMap, there: DiskMap) -> Iterator[_Entry]:
    for value in archived:
        stream, tenant, numbers, ranges = orjson.loads(value)
        others = there.get(stream, tenant)
        if others is not None:
            ranges = without(ranges, orjson.loads(others)[3])
        yield StreamKey(stream, tenant), numbers, ranges
