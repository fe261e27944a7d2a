"""Keeps one version of a read model fresh: catch up with what is settled, or follow until stopped.

How events become rows is the business of `apply.py` and `spill`; here is when.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import psycopg

from esops.errors import Busy, ConnectionLost, Stopped
from esops.events import Position
from esops.postgres.connection import translated
from esops.readmodel import registry
from esops.running.pace import LookPace
from esops.running.spill.applier import SpillingApplier
from esops.stores.base import settled


class Runner(SpillingApplier):
    """The one process that advances a version. Holds the version's lock as long as it is open."""

    def step(self, patience: timedelta = timedelta(milliseconds=20)) -> bool:
        """Apply what is settled now; returns whether there was anything.

        `patience` is how long events may take to settle. Waits for a database that is unreachable.
        """
        return self._step(lambda: self._store.head(patience, self.position).position)

    def _step(self, look: Callable[[], Position | None]) -> bool:
        # With the session the version's lock is gone: over an idle store nothing else says so.
        if self.connection.closed:
            self._reconnect(ConnectionLost("the connection to the read model was lost"))
            return True
        try:
            head = look()
        except ConnectionLost as lost:
            self._reconnect(lost)
            return True
        return self.advance(head)

    def advance(self, head: Position | None) -> bool:
        """Apply what is settled up to the store's head; returns whether there was anything."""
        if head is None or (self.position is not None and head <= self.position):
            self._check_end(head)
            return False
        self._look(self.position)
        self.run_until(head)
        return True

    def _check_end(self, head: Position | None) -> None:
        """Raises AnotherLog where the store's log ends before the checkpoint and is not the one
        that the checkpoint was taken in.
        """
        if self.position is not None and (head is None or head < self.position):
            self._checkpoint.recognise()

    def catch_up(self) -> None:
        """Apply all that was committed before the call.

        Raises Unsettled where not all of it settles in time; what did settle is applied.
        """
        while True:
            try:
                head, short = settled(self._store, self.position, self._stop)
                break
            except ConnectionLost as lost:
                self._reconnect(lost)
        if head is not None and (self.position is None or head > self.position):
            self._look(self.position)
            self.run_until(head)
        else:
            self._check_end(head)
        if short is not None:
            raise short

    def follow(self) -> None:
        """Keep applying new events until asked to stop, or until the version is retired."""
        checked, pace = time.monotonic(), LookPace()
        while not self._stop():
            try:
                worked = self._step(lambda: self._store.newest(self.position))
            except Stopped:
                return
            except (Busy, psycopg.errors.UndefinedTable):
                # If it was retired since the last look, its checkpoint does not move any more, or
                # its table is dropped.
                if self._retired():
                    return
                raise
            if not worked:
                self._rest(pace.pause(moved=False))
            else:
                pace.pause(moved=True)
            # A version that nobody writes to would never notice otherwise that it was retired.
            if time.monotonic() - checked > 1:
                checked = time.monotonic()
                if self._retired():
                    return

    def _rest(self, pause: timedelta) -> None:
        try:
            self._store.wait(pause)
        except ConnectionLost as lost:
            self._reconnect(lost)

    def _retired(self) -> bool:
        try:
            with translated():
                version = registry.version(
                    self.connection, self._work.projection, self._work.version
                )
        except ConnectionLost:
            return False
        return version.state not in registry.LIVE_STATES and version.state != "building"
