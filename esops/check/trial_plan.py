"""How a projection is tried: which events it gets, in which batches, order and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Literal

from esops.check.trial_streams import StreamDraw
from esops.errors import Stopped, UsageError
from esops.events import EventFilter, Position, RecordedEvent, StreamKey
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore, settled
from esops.stores.filters import no_stream
from esops.wording import count

Trial = Literal["clock", "hash", "batches", "restart", "order", "twice"]
TRIALS: tuple[Trial, ...] = ("clock", "hash", "batches", "restart", "order", "twice")
_BATCH = 500
_SIZES = (1, 2, 3, 5, 8, 13, 34, 89, 233)
_PARTS = 6
_MOST_BYTES = 256 << 20
"""Bytes of payload and metadata that are read at most: the events are kept in memory."""
FIRST_SEED, OTHER_SEEDS = "1", ("2", "3")
"""By which the processes hash: a set of a few texts has another order under some of these."""


@dataclass(frozen=True)
class Feed:
    """The order in which one run gets the events, and how.

    `order` are places in the list of events; each part is worked on by a process of its own, and
    is a list of sizes of batches.
    """

    order: Sequence[int]
    parts: Sequence[Sequence[int]]
    seed: str = FIRST_SEED
    twice: bool = False

    def batches(self) -> Iterator[Iterator[Sequence[int]]]:
        """Of each part, its batches."""
        at = 0
        for sizes in self.parts:
            ends = []
            for size in sizes:
                ends.append((at, at + size))
                at += size
            yield (self.order[begin:end] for begin, end in ends)


def plain(events: int, size: int = _BATCH) -> Feed:
    """All events in the order of the log, in batches of one size, by one process."""
    return Feed(range(events), [_even(events, size)])


def feeds(trial: Trial, events: Sequence[RecordedEvent], chance: Random) -> list[Feed]:
    """The runs of a trial, each to be compared with the plain one."""
    usual = plain(len(events))
    match trial:
        case "clock":
            return [usual]
        case "hash":
            return [replace(usual, seed=seed) for seed in OTHER_SEEDS]
        case "batches":
            return [replace(usual, parts=[_random(len(events), chance)])]
        case "restart":
            sizes = _random(len(events), chance)
            return [replace(usual, parts=_cut(sizes, chance))]
        case "order":
            return [replace(usual, order=shuffled(events, chance))]
        case "twice":
            return [replace(usual, parts=[_random(len(events), chance)], twice=True)]


def with_beginning(feed: Feed, number: int) -> Feed:
    """A run that begins as another one, and goes through the rest in the order of the log and in
    batches of the usual size. `number` is of its events, or of its batches where it has the order
    of the log.
    """
    events = len(feed.order)
    if isinstance(feed.order, range):
        sizes = [size for part in feed.parts for size in part][:number]
        return replace(feed, parts=[[*sizes, *_even(events - sum(sizes), _BATCH)]])
    begun = feed.order[:number]
    known = set(begun)
    rest = [at for at in range(events) if at not in known]
    return replace(feed, order=[*begun, *rest])


def shuffled(events: Sequence[RecordedEvent], chance: Random) -> list[int]:
    """The places of events in another order, in which those of each stream keep theirs."""
    streams = [StreamKey(each.stream, each.tenant) for each in events]
    places: dict[StreamKey, list[int]] = {}
    for at, stream in enumerate(streams):
        places.setdefault(stream, []).append(at)
    drawn = chance.sample(streams, len(streams))
    following = {stream: iter(found) for stream, found in places.items()}
    return [next(following[stream]) for stream in drawn]


def _cut(sizes: Sequence[int], chance: Random) -> list[Sequence[int]]:
    """The batches in parts, over the whole length: what a process keeps may matter late only."""
    number = min(_PARTS, len(sizes))
    bounds = [len(sizes) * part // number for part in range(number + 1)]
    cuts = [chance.randrange(begin, end) for begin, end in pairwise(bounds[1:])]
    ends = [*cuts, len(sizes)]
    return [sizes[begin:end] for begin, end in zip([0, *cuts], ends, strict=True) if end > begin]


def _even(events: int, size: int) -> list[int]:
    return [min(size, events - at) for at in range(0, events, size)]


def _random(events: int, chance: Random) -> list[int]:
    # Few events in several batches, too.
    fitting = [each for each in _SIZES if each <= max(1, events // 8)]
    sizes = list[int]()
    while events:
        sizes.append(min(events, chance.choice(fitting)))
        events -= sizes[-1]
    return sizes


# -- which events


@dataclass(frozen=True)
class TrialEvents:
    """The events of a trial, in the order of the log."""

    events: Sequence[RecordedEvent]
    how: str
    """Which these are, in words."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for: about how many events, and of which streams."""

    events: int
    streams: Sequence[str] = ()
    first: bool = False
    """Whether they have to be the first ones of the log, as for a statement over a range."""


def choose(
    store: EventStore,
    settings: ProjectionSettings,
    wanted: Wanted,
    chance: Random,
    skipped: Callable[[Position], bool],
    stop: Callable[[], bool],
    say: Callable[[str], None] = lambda _: None,
) -> TrialEvents:
    """Whole streams, some named ones or a share of all, with about as many events as asked for.

    Where the store cannot split its streams, the first events of the log: the store as it was once.
    `say` gets what takes long. Raises UsageError where there are no events.
    """
    until, _ = settled(store, None, stop)
    if until is not None and _is_drawn(store, wanted, until):
        draw = StreamDraw(store, settings, until, chance, stop, say)
        events, streams = draw.draw(wanted.events, _MOST_BYTES, skipped)
        if events:
            how = f"{count(streams, 'whole stream')}, drawn at random"
            return TrialEvents(sorted(events, key=lambda event: event.position), how)
        say("few events of the log are the projection's: all of it is read for them")
    filters, how, limit = _filters(store, settings.filter, wanted, until, chance)
    found = list[RecordedEvent]()
    size, most = 0, 10 * wanted.events + 10_000
    batches = (
        batch
        for each in filters
        for batch in (store.read_all(None, until, each, limit) if until is not None else ())
    )
    for batch in batches:
        if stop():
            raise Stopped("stopped; nothing was changed")
        own = [event.detached() for event in batch.events if not skipped(event.position)]
        found += own
        size += sum(len(event.data) + len(event.metadata) for event in own)
        if size > _MOST_BYTES or len(found) > most:
            how += ", as far as memory is for"
            break
    if not found:
        raise UsageError(
            f"store {store.name} has no event that the projection reads",
            hint="Name streams that have some: --streams NAME,NAME",
        )
    return TrialEvents(sorted(found, key=lambda event: event.position), how)


def _is_drawn(store: EventStore, wanted: Wanted, until: Position) -> bool:
    """Whether streams are to be drawn, by the indexes of a store that has them."""
    if wanted.streams or wanted.first or not store.capabilities.shards:
        return False
    return store.counts.between(None, until) > wanted.events


def _filters(
    store: EventStore,
    whole: EventFilter,
    wanted: Wanted,
    until: Position | None,
    chance: Random,
) -> tuple[list[EventFilter], str, int | None]:
    """What is read, in words too, and how many events of it."""
    if wanted.first and wanted.streams:
        raise UsageError(
            "a statement reads a range of the log, and not some streams",
            hint="Leave out --streams.",
        )
    if wanted.streams:
        for each in wanted.streams:
            if store.stream_info(each) is None:
                raise no_stream(store, each)
        filters = [replace(whole, stream=each) for each in wanted.streams]
        return filters, f"of {count(len(filters), 'stream')}", None
    total = 0 if until is None else store.counts.between(None, until)
    if total <= wanted.events:
        return [whole], "all of the store", None
    if store.capabilities.shards and not wanted.first:
        share = -(-total // wanted.events)
        shard = (chance.randrange(share), share)
        return [replace(whole, shard=shard)], f"whole streams, about one of {share:,}", None
    return [whole], "the first ones of the store", wanted.events
