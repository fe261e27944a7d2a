"""Brings a version of a fold to all events that are visible at a moment, settled or not, in the
transaction of whoever asks.

That is right only where the transaction keeps everybody from seeing the rows, or is rolled back:
events that are not settled may turn out not to be the next ones. Nothing below the version's
checkpoint can become visible later, so that its rows and the events after it are all there is.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from esops.errors import Refused
from esops.events import EventFilter, Position, RecordedEvent
from esops.postgres import catalog
from esops.projections.definition import Definition, FoldDefinition
from esops.projections.kinds.fold import Fold, following_cache
from esops.projections.projector import VersionTables
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent
from esops.running.work import Work
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.stores.inline_tables import Beyond, InlineTables

_PIECE = 2_000
_MOST_BEYOND = 200_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Which events the rows of a table are of that does not advance: all up to a position (None:
    none), and some after it, which were visible and not settled.
    """

    position: Position | None
    beyond: Beyond

    def has(self, position: Position) -> bool:
        """Whether an event is in the rows."""
        if self.position is not None and position <= self.position:
            return True
        number, ranges = position[-1], self.beyond.numbers
        at = bisect_right(ranges, number, key=lambda each: each[0]) - 1
        return at >= 0 and number <= ranges[at][1]

    @property
    def end(self) -> Position | None:
        """No event after it is in the rows; None where there is no event in them."""
        return self.beyond.end or self.position


class TooMany(Exception):
    """There are more visible events than may be applied in the time that there is: how many."""


class VisibleEvents:
    """Applies what is visible to one version, as often as it is asked, each time from the version's
    checkpoint.
    """

    def __init__(
        self,
        store: EventStore,
        version: Version,
        definition: Definition,
        settings: ProjectionSettings,
    ) -> None:
        """The store's events are in the database of the version's tables.

        Raises Refused for a store or a kind of projection that cannot do that.
        """
        if not isinstance(definition, FoldDefinition) or store.inline is None:
            raise Refused(
                f"{version.projection} is not a fold over events of a Postgres database, so that "
                "esops cannot bring its rows up to date in one transaction"
            )
        self._inline: InlineTables = store.inline
        self._conjoined = store.capabilities.tenants
        self._version, self._definition = version, definition
        self._work = Work.on(version.projection, version.version, definition, settings)

    def apply(self, connection: psycopg.Connection) -> int:
        """Write the rows of all visible events after the checkpoint, in the transaction that the
        connection is in; returns how many events there were.

        Raises Refused where the code fails on one of them.
        """
        at = registry.version(connection, self._version.projection, self._version.version)
        return self.open(connection, at).apply(connection)

    def standing(self, connection: psycopg.Connection, version: Version) -> Standing | None:
        """What a table that has all that is visible now has of it, by a version's checkpoint; None
        where that is too much to be noted.
        """
        beyond = self._inline.beyond(connection, version.position, _MOST_BEYOND)
        return None if beyond is None else Standing(version.position, beyond)

    def open(self, connection: psycopg.Connection, version: Version) -> OpenVersion:
        """What can be done of that before a lock. Raises Refused where a table is gone."""
        tables = {}
        for name, physical in version.tables.items():
            table = catalog.find_table(connection, *physical)
            if table is None:
                raise Refused(f"the table {'.'.join(physical)} does not exist any more")
            tables[name] = table
        of_version = VersionTables(
            projection=version.projection,
            version=version.version,
            by_name=tables,
            keys={name: table.key for name, table in tables.items()},
            value_types=version.value_types,
            conjoined=self._conjoined,
            empty=False,
            cache=following_cache(self._work.cache),
            ensure_keys=lambda: None,
        )
        return OpenVersion(
            self._inline, version, self._work.events, Fold(self._definition, of_version)
        )


@dataclass
class OpenVersion:
    """A version as it is at its checkpoint, to be brought further once."""

    inline: InlineTables
    version: Version
    wanted: EventFilter
    fold: Fold

    def apply(self, connection: psycopg.Connection, limit: timedelta | None = None) -> int:
        """See VisibleEvents.apply. Raises TooMany where that takes longer than `limit`."""
        until = None if limit is None else time.monotonic() + limit.total_seconds()
        events = self.inline.visible(connection, self.version.position, self.wanted)
        self.apply_these(connection, events, until)
        return len(events)

    def apply_these(
        self,
        connection: psycopg.Connection,
        events: Sequence[RecordedEvent],
        until: float | None = None,
    ) -> None:
        """Write the rows of some events, in the transaction that the connection is in. Raises as
        VisibleEvents.apply does, and TooMany after the moment `until`.
        """
        version, fold = self.version, self.fold
        try:
            change = 0
            for start in range(0, len(events), _PIECE):
                if until is not None and time.monotonic() > until:
                    raise TooMany(len(events))
                fold.apply(events[start : start + _PIECE], connection)
                if fold.full:
                    change += fold.flush(connection)
                    fold.flushed()
            change += fold.flush(connection)
        except BadEvent as bad:
            raise Refused(
                f"{version.projection} v{version.version} cannot project an event that was "
                f"appended after position {version.position}: {bad.reason}",
                hint="Nothing was changed. Fix the projection.",
            ) from bad.__cause__
        if events:
            registry.add_rows(connection, version, change, fold.value_types)
