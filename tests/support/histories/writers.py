"""The application's sessions: they write, draw numbers, roll back and are killed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from tests.support.histories.books import Books, Drawn, Written
from tests.support.histories.tables import Tables

THRESHOLD = 0.1
"""Seconds after which esops takes a missing number for dead, in these histories."""
SESSIONS = 3
FAILED = psycopg.pq.TransactionStatus.INERROR
IDLE = psycopg.pq.TransactionStatus.IDLE
LOCK_TIMEOUT = "SET lock_timeout = '60ms'"
NOTHING = range(0)
HINDRANCES = (
    psycopg.OperationalError,
    psycopg.errors.UniqueViolation,
    psycopg.errors.InternalError_,
)
"""Locks, sessions that are gone, numbers that are taken, a sequence that has just been dropped."""


@dataclass
class Session:
    """A session of the application."""

    connection: psycopg.Connection
    number: int
    pending: list[Written] = field(default_factory=list)
    """Written in the transaction that is open."""
    drawn: list[Drawn] = field(default_factory=list)
    cached: range = NOTHING
    """What its CACHE took from the sequence in advance."""
    block: list[Drawn] = field(default_factory=list)
    """What the application hands out itself, of numbers that the sequence skips."""
    epoch: int = 0
    """Part of its stream's name."""

    @property
    def open(self) -> bool:
        return self.connection.info.transaction_status != IDLE


class Writers:
    """The sessions of one application, whose books are right."""

    def __init__(self, dsn: str, tables: Tables) -> None:
        self.dsn, self.tables = dsn, tables
        self.admin = psycopg.connect(dsn, autocommit=True)
        self.admin.execute(LOCK_TIMEOUT)
        self.books = Books()
        self.snapshot: Books | None = None
        self.lost: set[str] = set()
        """Events that went, by a restore or an archive run, in the step that is carried out: a job
        beside it may have read them before.
        """
        self.cache, self.increment = 1, 1
        self._sessions: dict[int, Session] = {}
        self._prepared: list[tuple[str, list[Written]]] = []
        self._written = 0
        self._steps: dict[str, Callable[..., None]] = {
            name.removeprefix("do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_")
        }

    def knows(self, step: str) -> bool:
        return step in self._steps

    def do(self, step: str, *values: int) -> None:
        """Carry out a step, or leave it out where it cannot be done."""
        with suppress(*HINDRANCES):
            self._steps[step](*values)
        for session in self._sessions.values():
            if session.connection.info.transaction_status == FAILED:
                session.connection.execute("ROLLBACK")
                self._ended(session)

    def close_sessions(self) -> None:
        """As when the application stops: what was not committed is rolled back."""
        for session in self._sessions.values():
            session.connection.close()
        self._sessions.clear()
        # A session's end is not waited for by its client, and its locks are held till then.
        while self.admin.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'writer' AND datname = "
            "current_database()"
        ).fetchone():
            time.sleep(0.002)

    def close(self) -> None:
        self.close_sessions()
        self.admin.close()

    def session(self, number: int) -> Session:
        found = self._sessions.get(number)
        if found is None or found.connection.closed:
            connection = psycopg.connect(self.dsn, autocommit=True, application_name="writer")
            connection.execute(LOCK_TIMEOUT)
            found = Session(connection, number, epoch=found.epoch if found else 0)
            self._sessions[number] = found
        return found

    # -- writers

    def do_begin(self, number: int) -> None:
        session = self.session(number)
        if not session.open:
            session.connection.execute("BEGIN")

    def do_append(self, number: int, count: int) -> None:
        """Events whose numbers are drawn where they are inserted."""
        session = self.session(number)
        with self._writing(session):
            for _ in range(count):
                self._insert(session, None)

    def do_draw(self, number: int, count: int) -> None:
        """Numbers drawn in a statement of its own: in the open transaction, or outside of any."""
        session = self.session(number)
        outside = not session.open
        if outside and not self.tables.outside:
            return
        for _ in range(count):
            row = session.connection.execute(f"SELECT nextval('{self.tables.sequence}')").fetchone()
            session.drawn.append(self._take(session, row[0], outside=outside))

    def do_write(self, number: int, count: int) -> None:
        """The events of numbers that the session drew before."""
        session = self.session(number)
        # What was drawn in a transaction is written in the same one.
        usable = [each for each in session.drawn if each.outside or session.open][:count]
        with self._writing(session):
            for each in usable:
                session.drawn.remove(each)
                self._insert(session, each)

    def do_pool(self, number: int, count: int) -> None:
        """Numbers of a block: the application draws one number for so many as the sequence steps,
        and hands them out itself (Hibernate's pooled optimiser).
        """
        session = self.session(number)
        if not self.tables.outside or self.increment == 1:
            return
        for _ in range(count):
            if not session.block:
                row = session.connection.execute(
                    f"SELECT nextval('{self.tables.sequence}')"
                ).fetchone()
                first = max(1, row[0] - self.increment + 1, self.books.peak_drawn + 1)
                taken = self._take(session, row[0], outside=False)
                session.block = [
                    Drawn(each, taken.late, taken.at, False) for each in range(first, row[0])
                ]
                session.block.append(taken)
            with self._writing(session):
                self._insert(session, session.block.pop(0))

    def do_commit(self, number: int) -> None:
        session = self.session(number)
        if not session.open:
            return
        try:
            session.connection.execute("COMMIT")
            self.books.commit(session.pending)
        finally:
            self._ended(session)

    def do_rollback(self, number: int) -> None:
        session = self.session(number)
        if session.open:
            session.connection.execute("ROLLBACK")
        self._ended(session)

    def do_undo(self, number: int, count: int) -> None:
        """Events in a savepoint that is rolled back: their numbers are drawn for nothing."""
        session = self.session(number)
        if not session.open:
            return
        kept = list(session.pending)
        session.connection.execute("SAVEPOINT s")
        try:
            for _ in range(count):
                self._insert(session, None)
        finally:
            session.connection.execute("ROLLBACK TO s")
            session.pending = kept

    def do_prepare(self, number: int) -> None:
        """The first phase of a commit in two."""
        session = self.session(number)
        if not session.open or not session.pending or len(self._prepared) >= 3:
            return
        gid, pending = f"p{uuid.uuid4().hex}", session.pending
        try:
            session.connection.execute(f"PREPARE TRANSACTION '{gid}'")
        except psycopg.Error:
            self._ended(session)
            raise
        self._ended(session)
        self._prepared.append((gid, pending))
        session.epoch += 1

    def do_finish_prepared(self, commit: int) -> None:
        if not self._prepared:
            return
        gid, pending = self._prepared.pop(0)
        self.admin.execute(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{gid}'")
        if commit:
            self.books.commit(pending)

    def do_kill(self, number: int) -> None:
        """The server ends a session in the middle."""
        session = self.session(number)
        self.admin.execute(
            "SELECT pg_terminate_backend(%s, 5000)", (session.connection.info.backend_pid,)
        )
        session.connection.close()

    def do_disconnect(self, number: int) -> None:
        self.session(number).connection.close()

    def do_quit(self) -> None:
        """The application stops."""
        self.close_sessions()

    # -- how it is done

    @contextmanager
    def _writing(self, session: Session) -> Iterator[None]:
        """One step of inserts: in the open transaction, or in one of its own."""
        own = not session.open
        if own:
            session.connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            session.connection.execute("ROLLBACK")
            self._ended(session)
            raise
        if own:
            self.do_commit(session.number)

    def _insert(self, session: Session, drawn: Drawn | None) -> None:
        t = self.tables
        stream = t.key(f"s-{session.number}-{session.epoch}")
        version = session.connection.execute(
            f"SELECT coalesce(max({t.version}), 0) + 1 FROM {t.events} WHERE {t.stream} = %s",
            (stream,),
        ).fetchone()[0]
        self._written += 1
        token = f"{self._written}-{uuid.uuid4().hex[:8]}"
        values = {"stream": stream, "version": version, "data": json.dumps({"token": token})}
        number = f"nextval('{t.sequence}')" if drawn is None else str(drawn.number)
        position = session.connection.execute(t.insert.format(number=number), values).fetchone()
        if drawn is None:
            drawn = self._take(session, position[-1], outside=False)
        late = drawn.late
        if drawn.outside and time.monotonic() - drawn.at > THRESHOLD:
            late = late or "written longer after it was drawn than the threshold"
        if t.by_transaction:
            late = ""  # whatever its number, it comes behind all that was committed before
        again = position[-1] in self.books.written
        session.pending.append(Written(token, tuple(position), late, again))

    def _take(self, session: Session, number: int, *, outside: bool) -> Drawn:
        drawn = self.books.drawn(number, session.cached, outside=outside)
        if number in session.cached:
            session.cached = range(number + 1, session.cached.stop)
        else:
            last = number + (self.cache - 1) * self.increment
            session.cached = range(number + 1, last + 1)
            self.books.peak_drawn = max(self.books.peak_drawn, last)
        return drawn

    def _ended(self, session: Session) -> None:
        session.pending = []
        session.drawn = [each for each in session.drawn if each.outside]

    def _last_value(self) -> int:
        value, called = self.admin.execute(
            f"SELECT last_value, is_called FROM {self.tables.sequence}"
        ).fetchone()
        return value if called else value - 1

    def _highest(self) -> int:
        return self.admin.execute(
            f"SELECT coalesce(max({self.tables.number}), 0) FROM {self.tables.events}"
        ).fetchone()[0]

    def _set_value(self, value: int, *, called: bool = True) -> None:
        self.admin.execute(f"SELECT setval('{self.tables.sequence}', %s, %s)", (value, called))
        self.books.peak_drawn = max(self.books.peak_drawn, value if called else value - 1)

    def _alter(self, what: str) -> None:
        self.admin.execute(f"ALTER SEQUENCE {self.tables.sequence} {what}")
