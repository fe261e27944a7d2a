"""How one of Emmett's processors is set to where a rebuild stands, so that it continues there.

Facts: the library's own functions and what its consumers do with a checkpoint; see
docs/reference/layouts.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.checkpoints import SET_BACK, moved
from esops.stores.postgres.drawn import highest_drawn
from esops.stores.postgres.layouts.emmett.inline import PROJECTOR
from esops.stores.postgres.layouts.emmett.named import ProcessorRows, called, the_one
from esops.stores.postgres.layouts.emmett.processors import PAIR, beyond_all, number_in
from esops.stores.postgres.settle import SequenceLockers
from esops.wording import count

_C = sql.Identifier
_SQL = statements(__package__, "handing_over")
_PATIENCE = timedelta(milliseconds=300)
"""How long it waits for transactions that write events: readers may be waiting for the switch."""
_STORES = "store_processor_checkpoint"
_AGAIN = "Run it again with --resume: green catches up first."


@dataclass(frozen=True)
class HandingOver:
    """What is needed to set a checkpoint in a schema of Emmett's."""

    schema: str
    processors: str
    """emt_processors, or emt_subscriptions up to 0.41."""
    only: str | None
    """The only partition that is read."""
    sequence: sql.Identifier
    numbers: SequenceLockers
    """Up to which number everything is settled. Kept between calls: what was settled stays so."""

    def check(self, connection: psycopg.Connection, name: str) -> None:
        """Raises Refused where the checkpoint of that name could not be set, whenever its processor
        stops.
        """
        self._check_function(connection)
        _reached(self._row(connection, name, lock=False))

    def set_checkpoint(
        self, connection: psycopg.Connection, name: str, position: Position, *, stopped: bool
    ) -> str:
        """Set a processor's checkpoint by Emmett's own function, in the caller's transaction.

        `name` is the processor's id, or `id/1`. `stopped`: the operator says that no process of it
        lives. Returns where it stands now, in words. Raises Refused while it may live, or where it
        is ahead.
        """
        self._check_function(connection)
        row = self._row(connection, name, lock=True)
        _refuse_unless_dead(row, stopped=stopped)
        reached = _reached(row)
        self._refuse_beyond(connection, row, reached)
        green = _Green(connection, self.schema, row.partition, position)
        if reached.pair or _keeps_pairs(connection, self.schema):
            found = _as_pair(green, reached)
        else:
            found = self._as_number(connection, green, reached)
        if found.ahead:
            raise Refused(f"{row.name} is at {row.checkpoint}, ahead of {position}", hint=_AGAIN)
        if found.text is not None:
            self._store(connection, row, found.text)
        if row.status != "stopped":
            self._release(connection, row)
        where = moved(name, row.checkpoint, found.text or row.checkpoint)
        if found.again:
            where += (
                f". It is given {count(found.again, 'event')} again that green has applied: Emmett "
                "up to 0.42 keeps a number alone, and not the order in which it reads"
            )
        return where

    def row_of(self, connection: psycopg.Connection, name: str) -> str | None:
        """The rows of a processor's versions as a text: one that works moves its own."""
        statement = sql.SQL(_SQL["row"]).format(processors=_C(self.schema, self.processors))
        names = [each.name for each in called(connection, self._rows(), name)]
        row = connection.execute(statement, {"names": names}).fetchone()
        return None if row is None else row[0]

    def _refuse_beyond(
        self, connection: psycopg.Connection, row: _ProcessorRow, reached: _Reached
    ) -> None:
        transaction = None if reached.transaction is None else str(reached.transaction)
        at = {"number": reached.number, "transaction": transaction}
        highest = highest_drawn(connection, (self.sequence,))
        if beyond := beyond_all(connection, self.schema, at, highest):
            raise Refused(
                f"the application cannot take over by {row.name}: {beyond}", hint=SET_BACK
            )

    def _as_number(
        self, connection: psycopg.Connection, green: _Green, reached: _Reached
    ) -> _Target:
        """Up to 0.42: the highest number below which nothing is unprocessed. The application may
        see some events again and misses none.
        """
        first = green.first_unread("{}.global_position")
        if first is not None and first[1] <= reached.number:
            return _Target(ahead=True)
        settled = green.number if green.by_position else self._settled(connection)
        # What the processor has passed itself is not asked for again.
        return green.last_number(first and first[1], max(settled, reached.number), reached.number)

    def _settled(self, connection: psycopg.Connection) -> int:
        bound = self.numbers.advance(connection, _PATIENCE)
        if bound is None and self.numbers.state is not None and self.numbers.state.drawn:
            holders = ", ".join(each.in_words() for each in self.numbers.held_back_by(connection))
            raise Refused(
                "events may still be written below the number at which the application would "
                f"continue: {holders}",
                hint="Emmett up to 0.42 would skip them. Wait until that has ended, and run it "
                "again with --resume.",
            )
        return bound or 0

    def _check_function(self, connection: psycopg.Connection) -> None:
        """Raises Refused where Emmett's own function that sets a checkpoint does not exist."""
        by_hand = "Build and verify with --no-switch, and switch by hand."
        if self.processors != "emt_processors":
            raise Refused("Emmett before 0.41 has no function that sets a checkpoint", hint=by_hand)
        if not _has_function(connection, self.schema, _STORES):
            raise Refused(
                f"the function {self.schema}.{_STORES} does not exist, by which Emmett sets a "
                "checkpoint",
                hint="Emmett creates it when it starts: start the application once on this "
                f"database. {by_hand}",
            )

    def _row(self, connection: psycopg.Connection, name: str, *, lock: bool) -> _ProcessorRow:
        """The one processor of that name, its row locked where that is wanted.

        Raises Refused where there is none, or where it cannot be handed over to.
        """
        table = _C(self.schema, self.processors)
        only = the_one(connection, self._rows(), name)
        identity, detail = only.name, only.detail
        rows = connection.execute(
            sql.SQL(_SQL["processors"]).format(
                processors=table, lock=sql.SQL("FOR UPDATE" if lock else "")
            ),
            {
                "name": identity,
                "version": int(detail["version"]),
                "partition": detail["partition"],
            },
        ).fetchall()
        if not rows:
            raise Refused(f"Emmett has no processor {name!r} any more", hint=_AGAIN)
        row = _ProcessorRow(identity, *rows[0])
        if row.version > 1:
            raise Refused(
                f"Emmett's processor {identity!r} of version {row.version} starts from the "
                "checkpoint of version 1 and never stores its own, so a checkpoint handed to it "
                "is not read",
                hint="Hand over to a processor of version 1. Emmett's own projections of a version "
                f"N are that: {PROJECTOR}NAME_vN.",
            )
        return row

    def _rows(self) -> ProcessorRows:
        return ProcessorRows(self.schema, self.processors, self.only)

    def _store(self, connection: psycopg.Connection, row: _ProcessorRow, text: str) -> None:
        statement = sql.SQL(_SQL["store"]).format(function=_C(self.schema, _STORES))
        values = {
            "name": row.name,
            "version": row.version,
            "to": text,
            "from": row.checkpoint,
            "partition": row.partition,
        }
        with _path(connection, self.schema):
            answer = connection.execute(statement, values).fetchone()
        # 0: it was set before; 1: moved. All else: somebody has moved the row since it was read.
        if answer is None or answer[0] not in (0, 1):
            raise Refused(
                f"Emmett did not accept the checkpoint of {row.name!r}: its function answered "
                f"{answer[0] if answer else None}"
            )

    def _release(self, connection: psycopg.Connection, row: _ProcessorRow) -> None:
        """Let it register again: Emmett refuses for 300 seconds to start one that was killed."""
        function = "emt_release_processor_lock"
        if not _has_function(connection, self.schema, function):
            return
        projection = row.name.removeprefix(PROJECTOR) if row.name.startswith(PROJECTOR) else None
        values = {
            "name": row.name,
            "partition": row.partition,
            "version": row.version,
            "instance": row.instance,
            "projection": projection,
        }
        with _path(connection, self.schema):
            connection.execute(
                sql.SQL(_SQL["release"]).format(function=_C(self.schema, function)), values
            )


def _has_function(connection: psycopg.Connection, schema: str, name: str) -> bool:
    found = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        "WHERE n.nspname = %s AND p.proname = %s)",
        (schema, name),
    ).fetchone()
    return found is not None and bool(found[0])


class _ProcessorRow(NamedTuple):
    name: str
    version: int
    partition: str
    checkpoint: str | None
    status: str
    instance: str
    updated: datetime


class _Reached(NamedTuple):
    """A checkpoint as it is kept."""

    number: int
    transaction: int | None
    pair: bool


def _reached(row: _ProcessorRow) -> _Reached:
    pair = PAIR.match(row.checkpoint or "")
    number = number_in(pair, row.checkpoint)
    if number is None:
        raise Refused(
            f"the checkpoint of Emmett's processor {row.name!r} is {row.checkpoint or 'NULL'!r}, "
            "which is no position",
            hint="Correct its row: '0000000000000000000' is the beginning.",
        )
    return _Reached(number, int(pair[1]) if pair else None, pair is not None)


@dataclass(frozen=True)
class _Target:
    """Where the application may continue."""

    text: str | None = None
    """The checkpoint to store; None where it stands there."""
    ahead: bool = False
    again: int = 0
    """How many events it is given again."""


class _Green:
    """What green has applied of the messages that a processor reads."""

    def __init__(
        self, connection: psycopg.Connection, schema: str, partition: str, position: Position
    ) -> None:
        self._connection, self._messages = connection, _C(schema, "emt_messages")
        self.by_position, self.number = len(position) == 1, position[-1]
        self._values = {
            "partition": partition,
            "at_number": position[-1],
            "at_transaction": str(position[0]),
        }

    def _ask(self, statement: str, order: str = "", **values: Any) -> Any:
        left, right = "m.global_position", "%(at_number)s"
        if not self.by_position:
            left = "(m.transaction_id, m.global_position)"
            right = "(%(at_transaction)s::text::xid8, %(at_number)s::bigint)"
        # Each by an operator of its own: an index leads to what follows, and not to what does not
        # precede.
        names = {
            "messages": self._messages,
            "applied": sql.SQL(f"{left} <= {right}"),
            "unread": sql.SQL(f"{left} > {right}"),
            "order_of_m": sql.SQL(order),
        }
        asked = sql.SQL(_SQL[statement]).format(**names)
        return self._connection.execute(asked, {**self._values, **values}).fetchone()

    def first_unread(self, order: str) -> tuple[int, int] | None:
        """The transaction and number of the first message, in an order, that was not applied."""
        row: tuple[int, int] | None = self._ask("first_unread", order.format("m"))
        return row

    def last_pair(self, first: tuple[int, int] | None) -> tuple[int, int] | None:
        """The last message before another one, in the order of pairs."""
        transaction, number = first or (None, None)
        row: tuple[int, int] | None = self._ask(
            "last_read",
            first=number,
            first_transaction=None if transaction is None else str(transaction),
        )
        return row

    def transaction_of(self, number: int) -> int | None:
        """The transaction of the message with a number."""
        row = self._ask("transaction_of", number=number)
        return None if row is None else int(row[0])

    def unread_up_to(self, number: int) -> bool:
        """Whether a message up to a number has not been applied."""
        return bool(self._ask("unread_up_to", number=number)[0])

    def last_number(self, first: int | None, settled: int, reached: int) -> _Target:
        """The last number before the first that is unread or may still turn up."""
        row = self._ask("numbers", first=first, settled=settled)
        target, again, all_above, own_above, applied_above = row
        missing = settled + 1
        for number in all_above:
            if number != missing:
                break
            missing += 1
        if all_above and all_above[-1] >= missing:
            first = missing if first is None else min(first, missing)
        before = [each for each in own_above if first is None or each < first]
        target = before[-1] if before else target
        if first == missing:
            again = sum(each > missing for each in applied_above)
        if target is None or target <= reached:
            return _Target(again=again)
        return _Target(f"{target:019d}", again=again)


def _as_pair(green: _Green, reached: _Reached) -> _Target:
    """From 0.43 on: the last message before the first that was not applied."""
    first = green.first_unread("{0}.transaction_id, {0}.global_position")
    at = (reached.transaction, reached.number) if reached.transaction is not None else None
    if at is not None and first is not None and first <= at:
        return _Target(ahead=True)
    if at is None and reached.number:
        if green.unread_up_to(reached.number):
            return _Target(ahead=True)
        transaction = green.transaction_of(reached.number)
        at = None if transaction is None else (transaction, reached.number)
    last = green.last_pair(first)
    if last is None or (at is not None and last <= at):
        return _Target()
    return _Target(f"{last[0]:020d}:{last[1]:019d}")


def _refuse_unless_dead(row: _ProcessorRow, *, stopped: bool) -> None:
    """Raises Refused while a processor may live: only `stopped` is a sign of its end.

    Emmett touches the row when it stores a checkpoint, and so an idle one looks as old as a dead
    one. The 300 seconds after which another instance may take over say nothing either.
    """
    if row.status == "stopped" or stopped:
        return
    updated = f"{row.updated.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    raise Refused(
        f"Emmett's processor {row.name!r} may be at work: the status of its row is "
        f"{row.status!r}, last updated {updated}. An idle processor does not update it",
        hint="Stop the application's projector first: its row then says 'stopped'. One that was "
        "killed leaves 'running' for good. Where you know that no process of it is left, continue "
        "with --resume --processor-stopped.",
    )


def _keeps_pairs(connection: psycopg.Connection, schema: str) -> bool:
    """Whether Emmett 0.43 or later has migrated the tables."""
    messages = sql.Literal(_C(schema, "emt_messages").as_string(None))
    row = connection.execute(sql.SQL(_SQL["indexed"]).format(messages=messages)).fetchone()
    if row is not None and row[0]:
        return True
    if not catalog.has_table(connection, schema, "dmb_migrations"):
        return False
    row = connection.execute(
        sql.SQL(_SQL["migrated"]).format(migrations=_C(schema, "dmb_migrations"))
    ).fetchone()
    return row is not None and bool(row[0])


@contextmanager
def _path(connection: psycopg.Connection, schema: str) -> Iterator[None]:
    """The library's functions name its tables without their schema."""
    before = connection.execute("SELECT current_setting('search_path')").fetchone()
    assert before is not None
    path = _C(schema).as_string(None)
    connection.execute("SELECT set_config('search_path', %s, true)", (path,))
    yield
    connection.execute("SELECT set_config('search_path', %s, true)", before)
