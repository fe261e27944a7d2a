"""Several versions, driven in turn by one thread in one session of their read model.

Each turn is short: what a version has applied by then is committed, and the next one has its turn.
Whatever stops one version (a poison event, a lost store, a pause) does not stop the others.
"""

from __future__ import annotations

import decimal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import replace
from datetime import timedelta

import psycopg
import structlog

from esops import stores
from esops.errors import Busy, ConnectionLost, EsopsError, Stopped, Unavailable
from esops.events import EventFilter, Position
from esops.postgres.connection import translated
from esops.projections.arithmetic import settings_of, usual_arithmetic
from esops.readmodel import conduct
from esops.readmodel.registry import LIVE_STATES, Version
from esops.running.code import code_of, note_anew
from esops.running.compactions import Compactions
from esops.running.far_reading import FarReading
from esops.running.followed_version import (
    Away,
    BuiltByOtherCode,
    FollowedVersion,
    Key,
    SharedRunner,
    VersionRetired,
)
from esops.running.follower import (
    check_newer,
    check_opened,
    free_version,
    left_alone,
    log_following,
)
from esops.running.gone import check_tables
from esops.running.orders import IDLE_EVERY, Orders, Resting, SharedThrottle
from esops.running.sessions import SharedSession
from esops.running.shared import Shared
from esops.running.throttle import LOOK_EVERY
from esops.running.work import RunControl, Work
from esops.stores.base import EventStore
from esops.stores.outage import PATIENCE

log = structlog.get_logger("esops.run")
TURN = 0.25
"""Seconds after which a version lets the next one have its turn."""
_CACHE = 64 << 20
"""The most that `cache` counts here, in bytes, for many versions share the memory: 4 MB of it are
for the rows of one that follows.
"""
_IDLE, _SOON = 1.0, 0.02
"""The longest and the shortest wait for something new, in seconds."""
_LONGEST = 1.0
"""How much longer a turn may last where nobody waits."""
_TO_OPEN, _TO_APPLY = 600.0, 30.0
"""Seconds for which code may hold up the others: while a version is opened, and in one turn."""
_MOST_PAUSE = 5.0


class Turns(threading.Thread):
    """The thread. What it is given to follow, it opens itself."""

    def __init__(self, shared: Shared, mark: Callable[[Key | None, float], None]) -> None:
        """`mark` gets whose turn it is, and for how many seconds that may last."""
        super().__init__(name="esops-turns", daemon=True)
        self._shared, self._mark = shared, mark
        self._given: list[tuple[Key, bool, bool]] = []
        self._followed: list[FollowedVersion] = []
        self._sessions: dict[str, SharedSession] = {}
        self._stores: dict[str, EventStore] = {}
        self._ends = 0.0
        self._far = FarReading(shared.far, shared.stop)
        self.wake = threading.Event()
        self.load = 0
        """How many versions it has, or was given."""

    def give(self, key: Key, *, late: bool, newer: bool) -> None:
        """Follow another version; `late` and `newer`: only with the code that built it. One that is
        late is declined, and one that is newer than `esops run` is refused.
        """
        self.load += 1
        self._given.append((key, late, newer))
        self.wake.set()

    def run(self) -> None:
        """Give each version its turn, until asked to stop."""
        stop = self._shared.stop
        try:
            while not stop.is_set():
                self.wake.clear()
                worked = self._round()
                if not worked and not stop.is_set():
                    self.wake.wait(self._pause())
        finally:
            self._far.end(self._stores.values(), now=True)
            for each in self._followed:
                if each.runner is not None:
                    each.runner.close()
            for session in self._sessions.values():
                session.close()
            for store in self._stores.values():
                store.close()

    def _round(self) -> bool:
        while self._given and not self._shared.stop.is_set():
            self._open(*self._given.pop(0))
        worked = self._far.needed = False
        for each in list(self._followed):
            if self._shared.stop.is_set():
                break
            worked |= self._guarded(each)
        for dsn in {each.dsn for each in self._followed}:
            self._look(dsn, busy=worked)
        self._far.end(self._stores.values())
        return worked

    def _pause(self) -> float:
        now = time.monotonic()
        soon = min((each.due for each in self._followed if each.due > now), default=now + _IDLE)
        return min(_IDLE, max(0.02, soon - now))

    # -- one version

    def _open(self, key: Key, late: bool, newer: bool) -> None:
        with self._shared.opening:
            self._mark(key, _TO_OPEN)
            try:
                context = Context()
                each = context.run(self._opened, key, late, newer)
                if settings_of(context.run(decimal.getcontext)) != settings_of(usual_arithmetic()):
                    self._set_apart(key)
                    return
                each.context = context
                self._followed.append(each)
                if each.runner is not None:
                    log_following(each.version)
                    self._shared.says.began(key)
            except VersionRetired:
                self._forget(key, None)
            except BuiltByOtherCode:
                self.load -= 1
                self._shared.says.declined(key)
            except EsopsError as error:
                # What does not settle in time is Stopped as well.
                if not (isinstance(error, Stopped) and self._shared.stop.is_set()):
                    self._forget(key, error)
            except psycopg.errors.LockNotAvailable as error:
                self._forget(key, Busy(f"another session holds a lock that it needs: {error}"))
            except BaseException as error:  # noqa: BLE001 - it is this version's error
                self._forget(key, _defect(error))
            finally:
                self._shared.says.loaded()
                self._mark(None, 0.0)

    def _set_apart(self, key: Key) -> None:
        """Let the parent end this process and give the version one of its own.

        A module is imported once. What it set when it was imported is in force for the version that
        imported it, and would not be for another one that uses it, too.
        """
        self._mark(key, -1.0)
        self._shared.stop.wait(_TO_OPEN)

    def _opened(self, key: Key, late: bool, newer: bool) -> FollowedVersion:
        dsn = self._shared.config.readmodel_of(key[0]).dsn
        with translated():
            version = free_version(self._shared.config, self._session(dsn).open(), *key)
        with self._naming(version, dsn):
            return self._take(version, dsn, late, newer)

    def _take(self, version: Version, dsn: str, late: bool, newer: bool) -> FollowedVersion:
        config, session = self._shared.config, self._session(dsn)
        definition, same = code_of(config, version)
        if late and not same:
            raise BuiltByOtherCode
        orders = self._shared.orders.setdefault(dsn, Orders())
        name, _ = config.store(self._shared.store or version.store)
        head = self._shared.heads(name)
        throttle = SharedThrottle(version.projection, orders, session.open)
        if left_alone(version, same=same):
            with translated():
                conduct.note_left_alone(session.open(), version)
            return FollowedVersion(version, dsn, head, None, throttle)
        if newer:
            check_newer(config, version, same=same)
        note_anew(config, version)
        settings, store = config.projection(version.projection), self._store(name)
        work = Work.on(version.projection, version.version, definition, settings)
        work = replace(work, cache=min(work.cache, _CACHE))
        opening = head.opening
        control = RunControl(
            stop=self._turn_is_over,
            look=Compactions(store, version, settings).check,
            throttle=throttle,
            read=head.newest.between,
        )
        patience = timedelta(seconds=2)
        runner = SharedRunner(store, dsn, work, control, lock_patience=patience, session=session)
        try:
            check_opened(config, version, runner, same=same)
        except BaseException:
            runner.close()
            raise
        head.know(runner.position, opening)
        return FollowedVersion(version, dsn, head, runner, throttle, opening=opening)

    def _turn_is_over(self) -> bool:
        if self._shared.stop.is_set():
            return True
        now = time.monotonic()
        return now > self._ends and (now > self._ends + _LONGEST or self._others_wait())

    def _others_wait(self) -> bool:
        return bool(self._given) or sum(each.waits for each in self._followed) > 1

    def _turn(self, each: FollowedVersion) -> bool:
        """Let a version apply what is there; returns whether it did anything."""
        now = time.monotonic()
        state = self._shared.orders.setdefault(each.dsn, Orders()).state(*each.key)
        # A version that nobody writes to would never notice otherwise that it was retired.
        if state is not None and state not in (*LIVE_STATES, "building"):
            self._forget(each.key, None)
            return False
        if each.runner is None:
            if state is not None and state != "standby":
                self._forget(each.key, None)
            return False
        if now < each.due:
            return False
        if each.lost_since is not None:
            self._come_back(each, each.runner)
        # The version's lock went with the session; an idle store would not bring that to light.
        if each.runner.connection.closed:
            raise ConnectionLost("the connection to the read model was lost")
        if each.opening != each.head.opening:
            self._recognise(each, each.runner)
        known, head = each.head.head()
        if not known:
            return False
        position = each.runner.position
        if head is not None and (position is None or head > position):
            each.throttle.wait()
        return self._advance(each, each.runner, head)

    def _advance(self, each: FollowedVersion, runner: SharedRunner, head: Position | None) -> bool:
        if head is not None and each.waits and not self._may_read(each, runner.position, head):
            each.due = time.monotonic() + _SOON
            return False
        self._ends = time.monotonic() + TURN
        self._mark(each.key, _TO_APPLY)
        try:
            worked = runner.advance(head)
        except Stopped:
            worked = True
        finally:
            self._mark(None, 0.0)
        # One that has caught up with what was known before its turn leaves the reading to others.
        self._far.note(needed=runner.position != head)
        if not each.fixed:
            each.fixed = True
            with translated():
                conduct.note_fixed(runner.connection, each.version)
        return worked

    def _may_read(self, each: FollowedVersion, position: Position | None, head: Position) -> bool:
        """Whether a version may take its turn: one that is far behind reads for itself, and only
        one thread at a time does that, over a connection that the others do without.
        """
        if each.head.newest.between(position, head, self._wanted(each)) is not None:
            return True
        return self._far.begin()

    def _wanted(self, each: FollowedVersion) -> EventFilter:
        return self._shared.config.projection(each.version.projection).filter

    def _recognise(self, each: FollowedVersion, runner: SharedRunner) -> None:
        """Say from where the head is to be looked for, in a log that may be another one since it
        was lost. Raises AnotherLog.
        """
        opening = each.head.opening
        runner.recognise()
        each.head.know(runner.position, opening)
        each.opening = opening

    def _come_back(self, each: FollowedVersion, runner: SharedRunner) -> None:
        runner.reopen()
        each.lost_since, each.pause = None, 0.2

    def _guarded(self, each: FollowedVersion) -> bool:
        """A turn, with whatever it raises made this version's own trouble."""
        try:
            with self._naming(each.version, each.dsn):
                return each.context.run(self._turn, each)
        except Resting as resting:
            each.due = resting.until
        except Away as away:
            self._lose(each, away.lost)
        except ConnectionLost as lost:
            self._lose(each, lost)
        except psycopg.errors.LockNotAvailable:
            self._wait_for_lock(each)
        except Stopped:
            pass
        except VersionRetired:
            self._forget(each.key, None)
        except EsopsError as error:
            self._forget(each.key, error)
        except BaseException as error:  # noqa: BLE001 - it is this version's error
            self._forget(each.key, _defect(error))
        return False

    def _wait_for_lock(self, each: FollowedVersion) -> None:
        """Try again later, for as long as somebody holds a lock on a table of the version: a build
        of an index, a migration. What was applied is rolled back.
        """
        if each.lost_since is None:
            each.lost_since = time.monotonic()
            log.warning(
                "a version waits for a lock that another session holds on its tables",
                projection=each.version.projection,
                version=each.version.version,
            )
        if each.runner is not None:
            each.runner.drop()
        each.due = time.monotonic() + each.pause
        each.pause = min(each.pause * 1.5, _MOST_PAUSE)

    def _lose(self, each: FollowedVersion, lost: ConnectionLost) -> None:
        """Try again later; after ten minutes it is an error."""
        each.head.newest.drop()
        now = time.monotonic()
        if each.lost_since is None:
            each.lost_since = now
            if each.runner is not None:
                each.runner.drop()
        elif now - each.lost_since > PATIENCE.total_seconds():
            gone = Unavailable(f"the database was unreachable for ten minutes: {lost.message}")
            self._forget(each.key, gone)
            return
        each.due, each.pause = now + each.pause, min(each.pause * 1.5, _MOST_PAUSE)

    def _forget(self, key: Key, error: EsopsError | None) -> None:
        self.load -= 1
        for each in [each for each in self._followed if each.key == key]:
            self._followed.remove(each)
            if each.runner is not None:
                each.runner.close()
        self._shared.says.ended(key, error)

    @contextmanager
    def _naming(self, version: Version, dsn: str) -> Iterator[None]:
        """Say which table of a version is gone, where one is."""
        try:
            yield
        except psycopg.errors.UndefinedTable:
            with translated():
                live = check_tables(self._shared.config, self._session(dsn).open(), version)
            if not live:
                raise VersionRetired from None
            raise

    # -- what they share

    def _session(self, dsn: str) -> SharedSession:
        return self._sessions.setdefault(dsn, SharedSession(dsn))

    def _store(self, name: str) -> EventStore:
        if name not in self._stores:
            _, settings = self._shared.config.store(name)
            self._stores[name] = stores.open_store(name, settings)
        return self._stores[name]

    def _look(self, dsn: str, *, busy: bool) -> None:
        orders = self._shared.orders.setdefault(dsn, Orders())
        waits = any(each.due > time.monotonic() for each in self._followed)
        every = LOOK_EVERY.total_seconds() if busy or waits else IDLE_EVERY
        try:
            orders.refresh(self._session(dsn).open(), every)
        except ConnectionLost:
            pass  # each version notices in its turn
        except (EsopsError, psycopg.Error):
            pass


def _defect(error: BaseException) -> EsopsError:
    return EsopsError(f"a defect in esops: {type(error).__name__}: {error}")
