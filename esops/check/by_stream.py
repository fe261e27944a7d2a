"""Checks a fold that is keyed by the stream: a few streams at a time, each from its own events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from esops.check.context import CheckContext
from esops.check.course import first_apart
from esops.check.refold import refold, refold_whole
from esops.check.result import KeyFindings
from esops.check.standing import TooSlow
from esops.check.tables import EVERY_ROW, PIECE, KeyText, both
from esops.errors import Refused
from esops.events import Position, StreamKey
from esops.rebuild.refolded import pieces

_RANGE = 50_000
"""Rows among which the keys of a sample are looked for at once."""
_LOOKS, _PAUSE_SECONDS = 3, 0.3
"""Looks at rows of which nobody knows the moment, and the pause between them."""
_COURSES = 20
"""Rows of which it is found out where they left the course."""


class StreamCheck:
    """The check of one version whose rows are each of one stream."""

    def __init__(self, context: CheckContext) -> None:
        """Nothing is read yet."""
        self._context = context
        self._table = context.tables[0]
        self._size = PIECE
        self._courses = 0
        self._keys = 0
        """Keys whose rows were made again."""

    def named(self, keys: Sequence[KeyText]) -> None:
        """Check the rows of some keys, on both sides."""
        context = self._context
        for some in pieces(keys, PIECE):
            self._check(some)
            context.report("keys", context.found.keys, len(keys))

    def drawn(self, number: int | None) -> None:
        """Check a sample, or every key; `number`: at most this many of the sample."""
        if self._context.draw.whole:
            self._all()
            return
        draw = self._context.draw
        keys = {*self._served(), *self._of_store()}
        drawn = set(sorted(keys, key=draw.number)[:number])
        # What was found wrong before is not forgotten because it was not drawn again.
        before = {key for _, key in self._context.wrong_before}
        self._context.found.again += len(before - drawn)
        drawn |= before
        self.named(sorted(drawn))

    def _all(self) -> None:
        """First every row that serves, then the streams that have none."""
        context = self._context
        for some in pieces(self._served(), PIECE):
            self._check(some)
            context.report("keys", context.found.keys, context.about)
        for some in pieces(self._of_store(), PIECE):
            context.look()
            self._check_absent(some)

    def _served(self) -> Iterator[KeyText]:
        """The keys of the rows that serve, of the sample."""
        after: KeyText | None = None
        condition = self._context.draw.condition
        table = self._table
        columns = table.texts()
        while True:
            page = table.page(after, PIECE if self._context.draw.whole else _RANGE)
            yield from table.keys(both(table.within(page), condition(columns)))
            if page.until is None:
                return
            after = page.until

    def _of_store(self) -> Iterator[KeyText]:
        """The keys of the streams that the store knows, of the sample."""
        context = self._context
        keys: Iterable[StreamKey] = context.store.many_streams.keys(context.scratch.filter)
        return (key for each in keys if context.draw.has(key := context.scratch.key(each)))

    def _check_absent(self, keys: Sequence[KeyText]) -> None:
        """Check those of some keys of which no row serves."""
        there = set(self._table.keys(self._table.of_keys(keys)))
        absent = [key for key in keys if key not in there]
        if absent:
            self._check(absent)

    # -- some keys

    def _check(self, keys: Sequence[KeyText]) -> None:
        """Check the rows of some keys; a second look is taken at what may only have been late."""
        waiting = iter(keys)
        while some := list(islice(waiting, self._at_once())):
            self._context.look()
            try:
                found = self._look(some)
            except TooSlow:
                if self._size <= 1:
                    raise Refused(
                        "rows cannot be copied in a snapshot of two seconds, or the application "
                        "moves its checkpoint too often for that",
                        hint="Check again when the server has less to do.",
                    ) from None
                self._size = max(1, self._size // 4)
                waiting = iter([*some, *waiting])
                continue
            if not self._context.standing.exact:
                found = self._until_they_agree(found)
            self._find_courses(found)
            self._context.found.merge(found)

    def _at_once(self) -> int:
        """How many keys are checked at once: under a rate, those of a slice of events."""
        throttle = self._context.throttle
        if not throttle.rests:
            return self._size
        average = max(1.0, self._context.scratch.events / max(1, self._keys))
        return max(1, min(self._size, int(throttle.slice / average)))

    def _look(self, keys: Sequence[KeyText]) -> KeyFindings:
        context, table, scratch = self._context, self._table, self._context.scratch
        before = scratch.events
        position, unknown = self._make(keys)
        context.position = position
        found = KeyFindings()
        for stream, reason in unknown.items():
            found.skip(scratch.key(stream), reason)
        table.copy_made(EVERY_ROW)
        if context.away is not None:
            self._leave_out_archived(unknown, found)
        table.drop([scratch.key(each) for each in unknown])
        found.keys = table.compare(found, several=context.several)
        self._keys += len(keys)
        context.throttle.spend(scratch.events - before)
        return found

    def _make(self, keys: Sequence[KeyText]) -> tuple[Position | None, dict[StreamKey, str]]:
        """Copy the rows of some keys that serve, and make them again from the events."""
        context, table, scratch = self._context, self._table, self._context.scratch
        streams = [scratch.stream(key) for key in keys]

        def copy() -> None:
            scratch.look_at_skipped()
            table.copy_served(table.of_keys(keys))

        inline = context.inline
        if inline is not None:
            whole = inline.copy_with_events(copy, streams)
            return None, refold_whole(scratch, whole)
        position = context.standing.copy(copy)
        return position, refold(scratch, streams, position)

    def _leave_out_archived(self, unknown: dict[StreamKey, str], found: KeyFindings) -> None:
        """Rows without any event may be of streams that were archived, and are not read."""
        context, table = self._context, self._table
        assert context.away is not None
        made = set(table.keys(EVERY_ROW, of=table.made))
        for key in table.keys(EVERY_ROW, of=table.served):
            stream = context.scratch.stream(key)
            if key not in made and stream not in unknown:
                unknown[stream] = context.away
                found.skip(key, context.away)

    def _until_they_agree(self, found: KeyFindings) -> KeyFindings:
        """Rows that differ are checked again: they may only have been between two moments."""
        for _ in range(_LOOKS - 1):
            if not found.wrong:
                break
            time.sleep(_PAUSE_SECONDS)
            again = self._look([each.key for each in found.wrong])
            again.keys, again.unknown = found.keys, found.unknown
            again.unchecked, again.doubtful = found.unchecked, found.doubtful
            found = again
        return found

    def _find_courses(self, found: KeyFindings) -> None:
        """Of the first samples, the version at which the row that serves leaves the course."""
        for sample in found.samples:
            if self._courses >= _COURSES:
                return
            self._courses += 1
            key = sample["key"]
            texts = (str(key),) if not isinstance(key, dict) else tuple(map(str, key.values()))
            sample["from_version"] = first_apart(self._context, self._table, texts)
