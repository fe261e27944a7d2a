"""Whether the times of Marten's events are wrong by the offset of a time zone.

Plain quick appends write `now() at time zone 'utc'`, which has no zone, into a column that has one:
the server takes it for local time of the session. Where that is not UTC, each event is dated wrong
by the offset, earlier than it happened east of Greenwich (QuickAppendEventFunction.cs). The time of
the stream's last append in mt_streams is right, so the two are compared.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import psycopg
from psycopg import sql

from esops.postgres.statements import statements
from esops.stores.parts import Concern
from esops.stores.postgres.layouts.marten.variant import MartenVariant

_SQL = statements(__package__, "times")
_LOOKED_AT = 1_000
"""Events, the newest ones."""
_QUARTER = timedelta(minutes=15)
"""All offsets of time zones are multiples of it."""
_NEAR = timedelta(minutes=1)
_FURTHEST = timedelta(hours=14)
_FEW = 3
"""Streams, and below which share of them nothing is said of times that are too late."""
_MOST = 0.8
NONE = timedelta(0)


def offset(connection: psycopg.Connection, variant: MartenVariant) -> timedelta:
    """By how much the newest events are dated wrong: below zero where earlier than they happened.

    Of several offsets, as where the clock is changed in summer, the one furthest back.
    """
    key = ("tenant_id", "id") if variant.conjoined or variant.own_numbers else ("id",)
    same = [
        sql.SQL("s.{} = e.{}").format(
            sql.Identifier(name), sql.Identifier("stream_id" if name == "id" else name)
        )
        for name in key
    ]
    rows = connection.execute(
        sql.SQL(_SQL["differences"]).format(
            events=variant.table("mt_events"),
            streams=variant.table("mt_streams"),
            same=sql.SQL(" AND ").join(same),
        ),
        {"limit": _LOOKED_AT},
    ).fetchall()
    found = Counter(_of_a_zone(row[0]) for row in rows)
    early = sum(number for each, number in found.items() if each < NONE)
    if early * 2 >= len(rows) > 0:
        return min(found)
    # A rich append leaves the stream's time as it was, so later events are no sign by themselves.
    common, number = found.most_common(1)[0] if found else (NONE, 0)
    return common if number >= max(_FEW, _MOST * len(rows)) else NONE


def _of_a_zone(difference: timedelta) -> timedelta:
    """The offset that explains a difference; zero where none does."""
    whole = round(difference / _QUARTER) * _QUARTER
    near = abs(difference - whole) <= _NEAR and abs(whole) <= _FURTHEST
    return whole if near else NONE


def concerns(connection: psycopg.Connection, variant: MartenVariant) -> list[Concern]:
    """That events are dated wrong, where they are."""
    wrong = offset(connection, variant)
    if not wrong:
        return []
    hours = f"{abs(wrong) / timedelta(hours=1):g} hours"
    seen = "earlier" if wrong < NONE else "later"
    message = (
        f"the newest events are dated {hours} {seen} than they were appended, as mt_streams tells: "
        "plain quick appends write UTC into a session that is in another time zone"
    )
    fix = (
        "Let the application's sessions be in UTC (Timezone=UTC in its connection string, or ALTER "
        "ROLE … SET timezone = 'UTC'), or append with EventAppendMode.QuickWithServerTimestamps. "
        "The times of old events stay wrong."
    )
    return [Concern("times", message, fix)]
