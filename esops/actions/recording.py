"""The record of one action, in each place where the action writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Protocol

import psycopg
import structlog

from esops.actions.action import Action
from esops.actions.database import DatabasePlace, key_of
from esops.errors import EsopsError

log = structlog.get_logger("esops.actions")
_LOOK_EVERY = 10.0
"""Seconds between two looks whether the sessions that hold the locks are still there."""
_END_WITHIN = 5.0
"""Seconds that the end of a command waits until all places know of it."""


class ActionPlace(Protocol):
    """Where an action is written down."""

    name: str

    def begin(self) -> None:
        """Write that it began."""

    def keep(self) -> None:
        """Show that its process is there."""

    def end(self, exit_code: int) -> None:
        """Write how it ended."""

    def close(self) -> None:
        """Let go of the place."""


class ActionRecord:
    """What a command does, written down where it writes. Nothing here ever fails the command or
    holds it up: a place that takes no row is named once, when the action begins there.
    """

    def __init__(self, action: Action) -> None:
        """Nothing is written before somebody is about to write."""
        self.action = action
        self.began = False
        """Whether the command has come so far that it writes."""
        self.exit_code = 0
        self._places: dict[Hashable, ActionPlace | None] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def is_written(self) -> bool:
        """Whether it is written down anywhere."""
        return any(each is not None for each in self._places.values())

    def in_database(self, connection: psycopg.Connection) -> None:
        """The command is about to write into esops' tables of this session's database."""
        self.begin_at(key_of(connection), lambda: DatabasePlace(self.action, connection))

    def begin_at(self, key: Hashable, make: Callable[[], ActionPlace]) -> None:
        """The command is about to write at a place, which `key` names; `make` opens it."""
        if self.action.pid != os.getpid():
            return  # a process that this one has forked
        self.began = True
        with self._lock:
            if key in self._places or self._ended.is_set():
                return
            self._places[key] = None
            place = None
            try:
                place = make()
                place.begin()
            except Exception as error:  # noqa: BLE001 - whatever it is, the command's work matters
                where = place.name if place is not None else "where it writes"
                if place is not None:
                    _close(place)
                log.warning(
                    "esops history will not show this action: this place takes no row",
                    place=where,
                    reason=_reason(error),
                )
                return
            self._places[key] = place
            if self._keeper is None:
                self._keeper = threading.Thread(
                    target=self._keep, name="esops-actions", daemon=True
                )
                self._keeper.start()

    def concern(self, projection: str) -> None:
        """The command works on this projection as well, which its arguments did not name."""
        if projection not in self.action.projections:
            self.action.projections += (projection,)
            self.action.subject = ", ".join(self.action.projections)

    def end(self, exit_code: int) -> None:
        """Complete what was written, within a few seconds: a server that hangs must not keep the
        process from its end.
        """
        self._ended.set()
        if self._keeper is None:
            return  # it is written down nowhere
        ending = threading.Thread(
            target=self._end, args=(exit_code,), name="esops-actions-end", daemon=True
        )
        ending.start()
        ending.join(_END_WITHIN)
        if ending.is_alive():
            log.warning(
                "esops history will not show how this action ended: a place does not answer",
                within=_END_WITHIN,
            )

    def _end(self, exit_code: int) -> None:
        with self._lock:
            for place in self._places.values():
                if place is None:
                    continue
                try:
                    place.end(exit_code)
                except Exception as error:  # noqa: BLE001 - as above
                    log.warning(
                        "esops history will not show how this action ended: the place does not "
                        "answer",
                        place=place.name,
                        reason=_reason(error),
                    )
                finally:
                    _close(place)

    def _keep(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            with self._lock:
                for place in self._places.values():
                    if place is None or self._ended.is_set():
                        continue
                    try:
                        place.keep()
                    except Exception:  # noqa: BLE001 - as above
                        _close(place)  # the next look tries again


def _close(place: ActionPlace) -> None:
    with suppress(Exception):
        place.close()


def _reason(error: BaseException) -> str:
    if isinstance(error, EsopsError):
        return error.message
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
