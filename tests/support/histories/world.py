"""A store with its operators: what they do to its sequence and its table, and what goes wrong.

A step that cannot be done now (nothing to commit, a lock that somebody holds, a number that is
taken) is left out: so any part of a history is a history, and one that fails can be made smaller.
"""

from __future__ import annotations

import time

from tests.support.histories.books import Books, Drawn
from tests.support.histories.writers import LOCK_TIMEOUT, NOTHING, THRESHOLD, Writers


class World(Writers):
    """A store of one layout with its writers and its oracle."""

    def reset(self) -> None:
        """An empty store, whose sequence was never called."""
        self.close_sessions()
        t = self.tables
        for (gid,) in self.admin.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ).fetchall():
            self.admin.execute(f"ROLLBACK PREPARED '{gid}'")
        self._prepared.clear()
        self.admin.execute("SET lock_timeout = '20s'")
        self.admin.execute(
            f"TRUNCATE {', '.join((t.events, *t.also))};"
            f"CREATE SEQUENCE IF NOT EXISTS {t.sequence};"
            f"ALTER SEQUENCE {t.sequence} START 1 INCREMENT 1 CACHE 1 RESTART"
        )
        self.admin.execute(LOCK_TIMEOUT)
        self.books, self.snapshot = Books(), None
        self.cache, self.increment = 1, 1

    @property
    def contradicted(self) -> bool:
        """Whether the table is ahead of its sequence."""
        return self._highest() > self._last_value()

    def check_books(self) -> None:
        """That the oracle is right."""
        t = self.tables
        rows = self.admin.execute(f"SELECT {t.token}, {t.position} FROM {t.events}").fetchall()
        assert {row[0]: row[1:] for row in rows} == {
            each.token: each.position for each in self.books.committed.values()
        }, "the books are wrong"
        assert len(rows) == len(self.books.committed)

    # -- operators

    def do_leap(self, by: int) -> None:
        self._set_value(self._last_value() + by)

    def do_set_back(self, by: int) -> None:
        self._set_value(max(1, self._last_value() - by))

    def do_set_uncalled(self, by: int) -> None:
        """The idiom after an import, from far below the newest event to far above it."""
        self._set_value(max(1, self._highest() + by), called=False)

    def do_repair(self) -> None:
        """What the hint says where the table is ahead of its sequence."""
        if self.contradicted:
            self._set_value(self._highest())

    def do_restart(self) -> None:
        self._alter("RESTART")

    def do_set_cache(self, size: int) -> None:
        self._alter(f"CACHE {size}")
        self.cache = size

    def do_set_increment(self, by: int) -> None:
        self._alter(f"INCREMENT BY {by}")
        self.increment = by

    def do_recreate(self, right: int) -> None:
        """Drop the sequence and make it again: behind the newest event, or from the beginning."""
        t = self.tables
        with self.admin.transaction():
            start = self._highest() + 1 if right else 1
            self.admin.execute(f"DROP SEQUENCE {t.sequence} CASCADE")
            self.admin.execute(f"CREATE SEQUENCE {t.sequence} START {start}")
            if t.fills:
                self.admin.execute(
                    f"ALTER TABLE {t.events} ALTER {t.number} SET DEFAULT nextval('{t.sequence}')"
                )
        self.cache, self.increment = 1, 1
        for session in self._sessions.values():
            session.cached = NOTHING

    def do_import(self, number: int, above: int, count: int) -> None:
        """Rows with numbers of their own, above all others; the sequence is not told."""
        session = self.session(number)
        start = max(self.books.peak_drawn, self._highest()) + above
        with self._writing(session):
            for each in range(start, start + count):
                self._insert(
                    session, Drawn(each, self.books.explicit(each), time.monotonic(), False)
                )

    def do_squeeze(self, number: int, below: int) -> None:
        """A row with a number of its own where one is missing."""
        session = self.session(number)
        missing = max(1, self._last_value() - below)
        with self._writing(session):
            self._insert(
                session, Drawn(missing, self.books.explicit(missing), time.monotonic(), False)
            )

    def do_archive(self, newest: int, count: int) -> None:
        """Delete events, from one end of the log or the other."""
        t, order = self.tables, "DESC" if newest else "ASC"
        rows = self.admin.execute(
            f"DELETE FROM {t.events} WHERE {t.token} IN (SELECT {t.token} FROM {t.events} ORDER BY "
            f"{t.number} {order} LIMIT {count}) RETURNING {t.token}"
        ).fetchall()
        self.books.remove([row[0] for row in rows])
        self.lost |= {row[0] for row in rows}

    def do_take_backup(self) -> None:
        t = self.tables
        self.admin.execute("DROP SCHEMA IF EXISTS backup CASCADE; CREATE SCHEMA backup")
        self.admin.execute(f"CREATE TABLE backup.events AS SELECT * FROM {t.events}")
        self.admin.execute(
            f"CREATE TABLE backup.sequence AS SELECT last_value, is_called FROM {t.sequence}"
        )
        self.snapshot = self.books.copy()

    def do_restore(self, restarted: int) -> None:
        """The store as it was when the backup was taken; what esops keeps stays as it is.

        Within a server that goes on running (TRUNCATE and INSERT) it looks as if the newer events
        had been deleted, so nobody can know; a server that has started again says so.
        """
        if self.snapshot is None:
            return
        t = self.tables
        self.close_sessions()
        while self._prepared:
            self.do_finish_prepared(0)
        self.admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = "
            "current_database() AND application_name LIKE 'esops %'"
        )
        with self.admin.transaction():
            self.admin.execute(f"TRUNCATE {t.events}")
            self.admin.execute(f"INSERT INTO {t.events} SELECT * FROM backup.events")
            self.admin.execute(
                f"SELECT setval('{t.sequence}', last_value, is_called) FROM backup.sequence"
            )
        self.lost |= set(self.books.committed)
        if restarted:  # it counts from then on
            self.admin.execute("SELECT pg_stat_reset_shared('bgwriter')")
            self.books = self.snapshot.copy()
        else:
            gone = {*self.books.committed, *self.books.removed}
            self.books = self.snapshot.copy()
            self.books.removed |= gone - set(self.books.committed)

    def do_daemon(self) -> None:
        """Marten's own daemon moves its mark up to what it may pass: before the first number that
        somebody holds.
        """
        if not self.tables.name.startswith("marten"):
            return
        held = [
            each.number
            for session in self._sessions.values()
            for each in session.drawn
            if each.outside
        ]
        mark = min([self._highest(), *(number - 1 for number in held)])
        self.admin.execute(
            "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('HighWaterMark', %s) ON "
            "CONFLICT (name) DO UPDATE SET last_seq_id = greatest(mt_event_progression.last_seq_id, "
            "EXCLUDED.last_seq_id)",
            (mark,),
        )

    def do_pause(self) -> None:
        """Until holes that a reader has seen are old."""
        time.sleep(THRESHOLD * 1.3)
