"""Checks every other kind: the rows of all keys, or those of a sample, are made by one pass over
the log, and compared range by range of the keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from psycopg import sql

from esops.check.context import CheckContext
from esops.check.log_pass import LogPass
from esops.check.result import KeyFindings
from esops.check.scratch import texts_of
from esops.check.standing import TooSlow
from esops.check.tables import EVERY_ROW, PIECE, CheckedTable, KeyText, both
from esops.errors import Refused
from esops.events import Position
from esops.postgres.connection import translated
from esops.readmodel.rows import BadEvent
from esops.readmodel.types import Key
from esops.rebuild.refolded import pieces

_LOOKS, _PAUSE_SECONDS = 3, 0.3
_LARGEST = 200_000
"""Rows among which the keys of a sample are looked for at once."""


class LogCheck:
    """The check of one version by a pass over the log."""

    def __init__(self, context: CheckContext) -> None:
        """Nothing is read yet."""
        self._context = context
        self._pass = LogPass(context.scratch)
        self._wanted: Callable[[Key], bool] | None = None
        share = context.draw.share
        self._size = PIECE if share >= 1 else min(_LARGEST, int(PIECE / share))

    def named(self, keys: Sequence[KeyText]) -> None:
        """Check the rows of some keys of the only table."""
        context = self._context
        if context.scratch.plain_keys:
            wanted_keys = frozenset(keys)
            self._wanted = lambda key: texts_of(key) in wanted_keys
        self._advance()
        table = context.tables[0]
        for some in pieces(keys, PIECE):
            self._check(table, table.of_keys(some))

    def drawn(self) -> None:
        """Check a sample, or every row, of all tables."""
        context, draw = self._context, self._context.draw
        if not draw.whole and context.scratch.plain_keys:
            before = {key for _, key in context.wrong_before}
            self._wanted = lambda key: draw.has(texts_of(key)) or texts_of(key) in before
        self._advance()
        for table in context.tables:
            wanted_keys = draw.condition([sql.Identifier("t", each) for each in table.key])
            after: KeyText | None = None
            while True:
                page = table.page(after, self._size)
                try:
                    self._check(table, both(table.within(page), wanted_keys))
                except TooSlow:
                    if self._size == 1:
                        raise Refused(
                            "rows cannot be copied in a snapshot of two seconds",
                            hint="Check again when the server has less to do.",
                        ) from None
                    self._size = max(1, self._size // 4)
                    continue
                if page.until is None:
                    break
                after = page.until
            self._again(table)

    def _again(self, table: CheckedTable) -> None:
        """Check rows that were found wrong before, although they were not drawn."""
        draw = self._context.draw
        keys = [
            key
            for name, key in self._context.wrong_before
            if name == table.name and not draw.has(key)
        ]
        self._context.found.again += len(keys)
        for some in pieces(keys, PIECE):
            self._check(table, table.of_keys(some))

    def _advance(self) -> None:
        """Make the rows up to where the version stands now."""
        context = self._context
        position = context.standing.position()
        # Whoever follows the version may have made some up to there since the check began.
        with translated():
            context.scratch.look_at_skipped()
        total = context.store.counts.between(None, position)
        self._to(position, lambda events: context.report("events", events, total))

    def _to(self, position: Position, report: Callable[[int], None] = lambda _: None) -> None:
        context = self._context
        self._pass.advance(
            position, context.throttle, stop=context.stop, wanted=self._wanted, report=report
        )
        context.position = context.scratch.position

    def _check(self, table: CheckedTable, rows: sql.Composable) -> None:
        """Check the rows that a condition chooses."""
        context = self._context
        context.look()
        found, late = self._look(table, rows)
        for _ in range(_LOOKS - 1):
            doubtful = late | (
                set() if context.standing.exact else {each.key for each in found.wrong}
            )
            if not doubtful:
                break
            time.sleep(_PAUSE_SECONDS)
            again, late = self._look(table, table.of_keys(sorted(doubtful)))
            again.keys = found.keys + again.keys - len(found.wrong)
            found = again
        for key in late:
            found.skip(key, "it was being written at each look")
        context.found.merge(found)
        context.report("keys", context.found.keys, context.about)

    def _look(self, table: CheckedTable, rows: sql.Composable) -> tuple[KeyFindings, set[KeyText]]:
        """What rows come to, and the keys of those that later events have changed."""
        context, late = self._context, set[KeyText]()

        def copy() -> None:
            context.scratch.look_at_skipped()
            table.copy_served(rows)

        if context.inline is not None:
            self._to(context.inline.position())
            assert context.scratch.position is not None
            events = context.inline.copy_with_later(copy, context.scratch.position)
            try:
                late = context.scratch.keys_of(events) if events else late
            except BadEvent as bad:
                raise Refused(f"the code fails on an event: {bad.reason}") from bad.__cause__
        else:
            self._to(context.standing.copy(copy))
        table.copy_made(rows)
        there = {*table.keys(EVERY_ROW, of=table.served)} if late else set()
        late &= there | ({*table.keys(EVERY_ROW, of=table.made)} if late else set())
        table.drop(sorted(late))
        found = KeyFindings()
        found.keys = table.compare(found, several=context.several)
        return found, late
