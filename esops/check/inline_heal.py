"""Chosen rows of a table that the application writes in the transaction of each append: they are
made right row by row among its writers (rebuild/row_repair.py), whatever the checkpoint of anybody.

An instance that has loaded a wrong row may write it back after it was made right. So rows that were
written are compared again, until none was wrong for longer than that can take and every transaction
has ended that held the table by then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta

import psycopg

from esops.check.heal import Healed
from esops.check.served_rows import RowKey
from esops.errors import Refused, Stopped
from esops.events import Position, StreamKey
from esops.postgres.catalog import Table
from esops.postgres.statements import statements
from esops.projections.definition import Definition, FoldDefinition
from esops.readmodel.registry import Version
from esops.rebuild.refolded import RefoldedRows
from esops.rebuild.row_repair import Found, RowRepair
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.wording import count

_SQL = statements(__package__, "inline_heal")
_PATIENCE = timedelta(seconds=30)
"""For rows that somebody else has locked, or writes over again and again; and three times as long
as an instance may hold a row, at least.
"""
_PAUSE_SECONDS = 0.2
_SETTLES = timedelta(milliseconds=200)
_UNKNOWN = "events of it are gone or archived, or no event tells of it"
_BUSY = "others have locked or written it whenever esops looked"
_WRITTEN_OVER = "written over by the application after it was made right"


def check_kind(definition: Definition, version: Version) -> FoldDefinition:
    """Raises Refused where rows are not of one stream each."""
    if not isinstance(definition, FoldDefinition) or definition.key is not None:
        raise Refused(
            f"the rows of {version.projection} are of the events of several streams, so that no "
            "single one can be made again under a lock",
            hint=f"Rebuild: esops rebuild {version.projection} --blue-green",
        )
    return definition


class InlineHeal:
    """Compares rows of some streams, and makes those right that differ."""

    def __init__(
        self,
        connection: psycopg.Connection,
        store: EventStore,
        version: Version,
        rows: RefoldedRows,
        settings: ProjectionSettings,
        away: str | None,
        stop: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        """`away`: why a stream without an event may have had some."""
        self._connection, self._store, self._rows = connection, store, rows
        self._stop, self._say, self._away = stop, say, away
        self._repair = RowRepair(connection, rows, settings, deletes=away is None)
        self._result = Healed(version.projection, version.version)
        self._done: dict[StreamKey, str] = {}
        """What was done to rows that are right since, as far as is known."""
        self._at: dict[StreamKey, float] = {}
        """When that was."""
        self._over = Counter[StreamKey]()
        """How often a row was wrong again."""
        self._ran: set[str] = set()
        """Transactions that may have loaded a wrong row."""

    def run(
        self,
        keys: Sequence[RowKey],
        streams: Sequence[str],
        *,
        longest: timedelta | None,
    ) -> Healed:
        """Compare the rows of some keys and streams. `longest`: how long an instance may take from
        loading a row to writing it; None: nothing is written.

        Raises Refused where the code fails; Stopped.
        """
        rows, result = self._rows, self._result
        wanted = sorted({*map(rows.stream, keys), *map(StreamKey, streams)})
        named = [rows.key(each) for each in wanted]
        result.keys = len(named)
        there = rows.there(named)
        if longest is None:
            self._plan(wanted)
        else:
            self._write(wanted, longest)
            there |= rows.there(named)
        result.note_absent(named, there)
        return result

    def _plan(self, streams: Sequence[StreamKey]) -> None:
        for found in self._repair.differing(streams):
            self._differ("update", found.wrong)
            self._differ("insert", found.missing)
            self._differ("delete", found.surplus)
            self._unknown(found.unchecked)

    def _write(self, streams: Sequence[StreamKey], longest: timedelta) -> None:
        """Pass after pass, until what was written stays right."""
        left: Collection[StreamKey] = streams
        deadline = clean_since = time.monotonic()
        first, last = True, False
        while True:
            head = self._store.head(_SETTLES).position if self._done else None
            found = self._pass(left)
            now = time.monotonic()
            if first:
                # How long the first one takes says nothing of who writes.
                deadline = now + max(_PATIENCE, 3 * longest).total_seconds()
            if not self._done and not found.busy:
                break
            if found.written or found.busy:
                clean_since = now
            elif last:
                break
            if now > deadline:
                self._end_unsettled(found.busy, now - longest.total_seconds())
                break
            if first and self._done:
                self._say(
                    f"{count(len(self._done), 'row')} written; an instance may have loaded a wrong "
                    f"one before and write it back, so they are looked at for "
                    f"{longest.total_seconds():g} s more (--longest-session)"
                )
            first = False
            last = now - clean_since >= longest.total_seconds() and not self._still()
            if not last:
                time.sleep(min(_PAUSE_SECONDS, longest.total_seconds()))
            # Each append comes with an event; the last look is at all of them.
            left = {*self._done, *found.busy} if last else self._changed(head) | found.busy
        for name in ("updated", "inserted", "deleted"):
            setattr(self._result, name, sum(each == name for each in self._done.values()))

    def _pass(self, streams: Collection[StreamKey]) -> Found:
        every, result, rows = Found(), self._result, self._rows
        for found in self._repair.repair(sorted(streams)):
            every.add(found)
            for name in ("updated", "inserted", "deleted"):
                for each in getattr(found, name):
                    self._over[each] += each in self._at
                    self._done[each], self._at[each] = name, time.monotonic()
                    result.unfit.pop(rows.key(each), None)
            if found.written:
                self._ran |= self._transactions()
            self._unfit(found.unfit)
            self._unknown(found.unchecked)
            if self._stop():
                raise Stopped("stopped; the rows that were made right stay so")
        first = every.written - {each for each in self._over if self._over[each]}
        for name, verb in (("updated", "update"), ("inserted", "insert"), ("deleted", "delete")):
            self._differ(verb, getattr(every, name) & first)
        if self._stop():
            raise Stopped("stopped; the rows that were made right stay so")
        return every

    def _changed(self, after: Position | None) -> set[StreamKey]:
        """Those of the rows that were written whose streams have events since."""
        changed = self._rows.inline.changed(self._connection, after, self._repair.all_of)
        return self._done.keys() & set(changed)

    def _end_unsettled(self, busy: Iterable[StreamKey], since: float) -> None:
        """Name what is not right, or has not been for long enough."""
        self._unfit(dict.fromkeys(busy, _BUSY))
        wrong = {each for each, times in self._over.items() if times and self._at[each] > since}
        for found in self._repair.differing(sorted(self._done)):
            wrong |= found.wrong | found.missing | found.surplus
        self._unfit(dict.fromkeys(wrong, _WRITTEN_OVER))
        if still := self._still():
            why = (
                "it is right now, and a transaction that began before it was written may write "
                f"over it ({still}): look again when it has ended"
            )
            self._unfit(dict.fromkeys(self._done, why))

    # -- transactions that hold the table

    def _transactions(self) -> set[str]:
        return {name for name, _ in self._holders(self._rows.live)}

    def _still(self) -> str:
        """Who of those is still there."""
        if not self._ran:
            return ""
        held = [pid for name, pid in self._holders(self._rows.live) if name in self._ran]
        return ", ".join(f"pid {pid}" for pid in sorted(held))

    def _holders(self, table: Table) -> list[tuple[str, int]]:
        return self._connection.execute(_SQL["holders"], {"table": table.oid}).fetchall()

    # -- what is said

    def _differ(self, verb: str, streams: Iterable[StreamKey]) -> None:
        found = self._result.differing.setdefault(verb, [])
        found += [self._rows.key(each) for each in sorted(streams)]

    def _unknown(self, streams: Iterable[StreamKey]) -> None:
        for each in streams:
            self._done.pop(each, None)
            self._result.unknown[self._rows.key(each)] = self._away or _UNKNOWN

    def _unfit(self, reasons: Mapping[StreamKey, str]) -> None:
        for each, why in reasons.items():
            self._done.pop(each, None)
            self._result.unfit[self._rows.key(each)] = why
