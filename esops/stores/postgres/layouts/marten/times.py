"""Whether the times of Marten's events are wrong by the offset of a time zone, and what is right.

Plain quick appends write `now() at time zone 'utc'`, which has no zone, into a column that has one:
the server takes it for local time of the session. Where that is not UTC, each event is dated wrong
by the offset, earlier than it happened east of Greenwich (QuickAppendEventFunction.cs). Several
applications may have several offsets, and old events keep theirs when the sessions are set right.
So each stream is asked for itself: its last append has its time in mt_streams, which is right.

A rich append leaves that time as it was when the stream began, so a time that is too late for it is
no sign by itself. Nor is one that is too early by something else than an offset: the row may have
been touched or imported. Yet then nobody knows that the stream was not appended to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from esops.events import RecordedEvent, StreamKey
from esops.moments import Moment, between
from esops.postgres.statements import statements
from esops.stores.parts import Concern
from esops.stores.postgres.layouts.base import NO_TENANT, TRUE
from esops.stores.postgres.layouts.marten.variant import DEFAULT_TENANT, MartenVariant

_SQL = statements(__package__, "times")
_LOOKED_AT, _READ = 1_000, 100_000
"""Events, the newest ones of a tenant, and among how many they are looked for."""
_QUARTER = timedelta(minutes=15)
"""All offsets of time zones are multiples of it."""
_NEAR = timedelta(minutes=1)
_FURTHEST = timedelta(hours=14)
_LIMITS = {"near": _NEAR, "quarter": _QUARTER, "most": _FURTHEST}
_FEW = 3
"""Streams, and below which share of them nothing is said of times that are too late."""
_MOST = 0.8
NONE = timedelta(0)


@dataclass(frozen=True)
class Newest:
    """By how much the newest events are dated wrong, and how many of the streams they are of."""

    wrong: timedelta = NONE
    """Below zero where they are dated earlier than they happened; the furthest of several."""
    streams: int = 0
    of: int = 0


class Times:
    """The times of a store's events, and those of the last appends to its streams."""

    def __init__(self, variant: MartenVariant) -> None:
        """Of all tenants, or of the one that the variant is of."""
        by_tenant = variant.conjoined or variant.own_numbers
        tenant = None if variant.tenant is None else sql.Literal(variant.tenant)
        own = sql.Literal(variant.tenant or DEFAULT_TENANT) if variant.own_numbers else None
        key = [("id", "stream_id")] + ([("tenant_id", "tenant_id")] if by_tenant else [])

        def same(event: str) -> sql.Composed:
            pairs = [
                sql.SQL("{} = {}").format(sql.Identifier("s", a), sql.Identifier(event, b))
                for a, b in key
            ]
            # An id that was used again has both lives in these tables.
            if variant.archivable and variant.streams.has("is_archived"):
                life = "coalesce(s.is_archived, FALSE) = coalesce({}.is_archived, FALSE)"
                pairs.append(sql.SQL(life).format(sql.Identifier(event)))
            return sql.SQL(" AND ").join(pairs)

        def only(condition: bool, text: str) -> sql.SQL:
            return sql.SQL(text if condition else "")

        of_tenant = TRUE if tenant is None else sql.SQL("tenant_id = {}").format(tenant)
        names: dict[str, sql.Composable] = {
            "events": variant.table("mt_events"),
            "streams": variant.table("mt_streams"),
            "kind": sql.SQL(variant.id_kind),
            "own_tenant": sql.Identifier("s", "tenant_id") if by_tenant else NO_TENANT,
            "and_any_tenant": only(by_tenant, " AND s.tenant_id = ANY(%(tenant)s::text[])"),
            "and_own_tenant": only(by_tenant, " AND s.tenant_id = %(tenant)s"),
            "same": sql.SQL("{} AND s.version = e.version").format(same("e")),
            "same_first": same("f"),
            "scope": of_tenant if variant.events.has("tenant_id") else TRUE,
            "of_streams": sql.SQL("s.{}").format(of_tenant)
            if tenant is not None and variant.streams.has("tenant_id")
            else TRUE,
            "numbered": TRUE if own is None else sql.SQL("tenant_id = {}").format(own),
            "not_compacted": sql.SQL("e.type <> 'tombstone' AND lower(e.type) NOT LIKE {}").format(
                sql.Literal("%compacted<%")
            ),
        }
        self._sql = {name: sql.SQL(text).format(**names) for name, text in _SQL.items()}

    def last_appends(
        self, connection: psycopg.Connection, keys: Sequence[StreamKey]
    ) -> dict[StreamKey, Moment]:
        """When each of these streams was last appended to, by its row; those without are left out.

        After rich appends, that is when it began.
        """
        values = {"stream": [key.stream for key in keys], "tenant": [key.tenant for key in keys]}
        rows = connection.execute(self._sql["appends"], values).fetchall()
        return {StreamKey(name, tenant): at for name, tenant, at in rows}

    def dated_early_by(self, connection: psycopg.Connection) -> timedelta:
        """By how much any stream's last event is dated earlier than it happened, at most."""
        row = connection.execute(self._sql["furthest"], _LIMITS).fetchone()
        return row[0] if row is not None and row[0] is not None else NONE

    def appended_at(self, connection: psycopg.Connection, event: RecordedEvent) -> Moment | None:
        """When an event was appended, as the last event of its stream tells."""
        at, values = event.moment, {"stream": event.stream, "tenant": event.tenant}
        row = connection.execute(self._sql["append"], values).fetchone()
        apart = None if row is None else between(row[0], row[1])
        wrong = NONE if apart is None else _of_a_zone(apart)
        if apart is None or wrong > NONE:
            newest = self._newest(connection).wrong
            wrong = newest if apart is None or newest == wrong else NONE
        return at - wrong if isinstance(at, datetime) else at

    def _newest(self, connection: psycopg.Connection) -> Newest:
        values: dict[str, Any] = {**_LIMITS, "limit": _LOOKED_AT, "read": _READ}
        rows = connection.execute(self._sql["newest"], values).fetchall()
        found = [(_of_a_zone(last), last, first, future) for last, first, future in rows]
        early = [wrong for wrong, *_ in found if wrong < NONE]
        # Of rows that were touched, a few are apart by what looks like an offset.
        otherwise = sum(-_FURTHEST < last < -_NEAR and not wrong for wrong, last, _, _ in found)
        if len(early) > otherwise and len(early) >= min(_FEW, len(found) / 2):
            return Newest(min(early), len(early), len(found))
        late, number = (
            Counter(wrong for wrong, *_ in found).most_common(1)[0] if found else (NONE, 0)
        )
        if late <= NONE or number < max(_FEW, _MOST * len(found)):
            return Newest()
        # Where streams end at a fixed time after they began, rich appends look like this: there the
        # first events are right, and no event lies in the future.
        of_these = [(first, future) for wrong, _, first, future in found if wrong == late]
        begun = sum(first is not None and _of_a_zone(first) == late for first, _ in of_these)
        if begun >= _MOST * number or any(future for _, future in of_these):
            return Newest(late, number, len(found))
        return Newest()

    def concerns(self, connection: psycopg.Connection) -> list[Concern]:
        """That events are dated wrong, where they are."""
        found = self._newest(connection)
        if not found.wrong:
            return []
        hours = f"{abs(found.wrong) / timedelta(hours=1):g} hours"
        seen = "earlier" if found.wrong < NONE else "later"
        message = (
            f"the newest events are dated {hours} {seen} than they were appended, as mt_streams "
            f"tells of {found.streams} of {found.of} streams: plain quick appends write UTC into a "
            "session that is in another time zone"
        )
        fix = (
            "Let the application's sessions be in UTC (Timezone=UTC in its connection string, or "
            "ALTER ROLE … SET timezone = 'UTC'), or append with "
            "EventAppendMode.QuickWithServerTimestamps. The times of old events stay wrong."
        )
        return [Concern("times", message, fix)]


def _of_a_zone(difference: timedelta) -> timedelta:
    """The offset that explains a difference; zero where none does."""
    whole = round(difference / _QUARTER) * _QUARTER
    near = abs(difference - whole) <= _NEAR and abs(whole) <= _FURTHEST
    return whole if near else NONE
