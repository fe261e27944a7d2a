"""Has the read model's server room for a rebuild: disk for green and its WAL, slots that keep WAL,
replicas that lag.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
from rich.filesize import decimal

from esops.health.findings import Finding

LAG_BYTES = 64 << 20
LAG_TIME = timedelta(minutes=1)
"""A replica further behind than both bytes and time say is not keeping up with what is written now.
"""

_SLOTS = """
SELECT slot_name, active, wal_status, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint,
safe_wal_size
FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 1
"""
_REPLICAS = """
SELECT coalesce(nullif(application_name, ''), client_addr::text, pid::text),
       pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, flush_lsn))::bigint,
       coalesce(replay_lag, flush_lag)
FROM pg_stat_replication WHERE state IN ('streaming', 'catchup') AND coalesce(replay_lsn, flush_lsn)
IS NOT NULL ORDER BY 1
"""


def examine(subject: str, connection: psycopg.Connection, table: str) -> Iterator[Finding]:
    """What stands in the way of building a table once more beside the one of that name."""
    row = connection.execute("SELECT pg_total_relation_size(to_regclass(%s))", (table,)).fetchone()
    needed = int(row[0]) if row is not None and row[0] is not None else 0
    yield from _disk(subject, connection, needed)
    yield from _slots(subject, connection, needed)
    yield from _replicas(subject, connection)


def _disk(subject: str, connection: psycopg.Connection, needed: int) -> Iterator[Finding]:
    """Green takes what blue takes, and its WAL as much again.

    Only a server on this machine shows its disk.
    """
    if not (connection.info.host or "/").startswith("/"):
        return
    # Not current_setting(): that is an error to a role that may not see it, and here there is no
    # row.
    row = connection.execute(
        "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
    ).fetchone()
    if row is None or not row[0] or not Path(row[0]).exists():
        return
    disk = os.statvfs(row[0])
    free = disk.f_bavail * disk.f_frsize
    if free < 2 * needed:
        message = (
            f"a rebuild takes about {decimal(2 * needed)} of disk (green and its WAL), and "
            f"{decimal(free)} are free"
        )
        yield Finding(
            "ESOPS-D027", subject, message, "Make room, or rebuild with green in another database."
        )


def _slots(subject: str, connection: psycopg.Connection, needed: int) -> Iterator[Finding]:
    for name, active, status, kept, safe in connection.execute(_SLOTS).fetchall():
        if not active:
            message = (
                f"replication slot {name} has no consumer and keeps {decimal(kept)} of WAL: "
                "what a rebuild writes stays too"
            )
            fix = (
                f"SELECT pg_drop_replication_slot('{name}');  -- if its consumer is gone; else "
                "start it"
            )
            yield Finding("ESOPS-D028", subject, message, fix)
        elif safe is not None and safe < needed:
            after = f"replication slot {name} ({status}) is lost after {decimal(safe)} more of WAL"
            message = f"{after}, and a rebuild writes about {decimal(needed)}"
            yield Finding(
                "ESOPS-D028",
                subject,
                message,
                "Raise max_slot_wal_keep_size, or let its consumer catch up.",
            )


def _replicas(subject: str, connection: psycopg.Connection) -> Iterator[Finding]:
    for name, behind, lag in connection.execute(_REPLICAS).fetchall():
        if behind > LAG_BYTES and (lag is None or lag > LAG_TIME):
            message = (
                f"replica {name} is {decimal(behind)} of WAL behind: a rebuild would leave "
                "it further behind"
            )
            yield Finding("ESOPS-D029", subject, message, "Let it catch up before a rebuild.")
