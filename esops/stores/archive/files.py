"""The archived events of one store as rows of SQL: what an `ArchiveStore` and its parts ask of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.events import EventFilter, Position, RecordedEvent
from esops.stores.archive.reading import Database, beyond, read, up_to
from esops.stores.archiving import TenantScope
from esops.stores.payloads import DECODERS

_FAR = "recorded_at < TIMESTAMPTZ '4714-11-24 (BC) 00:00:00+00'"


@dataclass
class ArchiveFiles:
    """The files of some runs. To be closed."""

    runs: Sequence[tuple[Run, Manifest]]
    """The oldest first."""
    scope: TenantScope | None
    """The only tenant whose events are given."""
    of: str
    """The store that the events were archived from, as its manifests name it."""
    layout: str = field(init=False)
    parts: int = field(init=False)
    """How many numbers a position of that store has."""

    def __post_init__(self) -> None:
        """The newest run says what they are."""
        newest = self.runs[-1][1] if self.runs else None
        self.layout = newest.layout if newest is not None else "empty"
        self.parts = newest.position_parts if newest is not None else 1

    @cached_property
    def database(self) -> Database:
        """Opened when something is first asked."""
        return Database(self.runs, self.scope)

    def where(
        self,
        filter: EventFilter,
        after: Position | None = None,
        until: Position | None = None,
    ) -> tuple[str, list[Any]]:
        """The condition for what passes a filter between two positions, and its values."""
        conditions, values = ["store = ?"], [self.of]
        if filter.types:
            conditions.append(f"type IN ({', '.join('?' * len(filter.types))})")
            values += filter.types
        if filter.stream is not None:
            conditions.append("stream = ?")
            values.append(filter.stream)
        if filter.category is not None:
            condition, more = self.database.in_category(filter.category)
            conditions.append(condition)
            values += more
        if filter.tenant is not None:
            conditions.append("tenant = ?")
            values.append(filter.tenant)
        if self.layout not in DECODERS:  # of which the payloads tell the time
            for sign, at in ((">=", filter.since), ("<", filter.before)):
                if at is not None:
                    # What esops.moments keeps below all times is far in the future.
                    conditions.append(f"(recorded_at {sign} ?::TIMESTAMPTZ OR {_FAR})")
                    values.append(at.isoformat())
        for position, compare in ((after, beyond), (until, up_to)):
            if position is not None:
                condition, more = compare(position)
                conditions.append(condition)
                values += more
        return " AND ".join(conditions), values

    def ask(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement."""
        cursor = self.database.connection.cursor()
        try:
            return cursor.execute(statement, list(values)).fetchall()
        finally:
            cursor.close()

    def rows(self, statement: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement, some at a time."""
        cursor = self.database.connection.cursor()
        try:
            result = cursor.execute(statement, list(values))
            while rows := result.fetchmany(1_000):
                yield from rows
        finally:
            cursor.close()

    def about_streams(
        self, statement: str, filter: EventFilter, **more: str
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement about `{stored}` events of which `{where}` holds, so that a
        filter without its types wants them, the `{categories}` of streams, and more of its own.
        """
        if not self.runs:
            return
        where, values = self.where(replace(filter, types=()))
        asked = statement.format(
            stored=self.database.stored(filter.stream),
            where=where,
            categories=self.database.categories.of_streams(),
            **more,
        )
        yield from self.rows(asked, values)

    def read(
        self,
        source: str,
        where: tuple[str, list[Any]],
        order: str = "position_1, position_2",
        limit: int | None = None,
    ) -> Iterator[list[RecordedEvent]]:
        """Events of a source (`Database.stored`) that a condition holds for, each once though
        several runs hold it, in batches.
        """
        return read(self.database, source, self.parts, self.layout, *where, order, limit)

    def close(self) -> None:
        """Delete what was fetched."""
        opened: Database | None = vars(self).pop("database", None)
        if opened is not None:
            opened.close()
