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
from esops.postgres.statements import statements

LAG_BYTES = 64 << 20
LAG_TIME = timedelta(minutes=1)
"""A replica that is further behind than both, in bytes and in time, does not keep up already."""
_SQL = statements(__package__, "postgres")


def examine(subject: str, connection: psycopg.Connection, table: str) -> Iterator[Finding]:
    """Check whether a table as large as this one can be built beside it."""
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
    # Not current_setting(): for a role that may not see it that is an error, and this is no row.
    row = connection.execute(
        "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
    ).fetchone()
    if row is None or not row[0] or not Path(row[0]).exists():
        return
    disk = os.statvfs(row[0])
    free = disk.f_bavail * disk.f_frsize
    if free < 2 * needed:
        yield Finding(
            "ESOPS-D027",
            subject,
            f"a rebuild needs about {decimal(2 * needed)} of disk (green and its WAL), and "
            f"{decimal(free)} are free",
            "Make room, or build green in another database.",
        )


def _slots(subject: str, connection: psycopg.Connection, needed: int) -> Iterator[Finding]:
    for name, active, status, kept, safe in connection.execute(_SQL["slots"]).fetchall():
        if not active:
            yield Finding(
                "ESOPS-D028",
                subject,
                f"replication slot {name} has no consumer and keeps {decimal(kept)} of WAL; it "
                "would also keep all that a rebuild writes",
                f"SELECT pg_drop_replication_slot('{name}');  -- if its consumer is gone for good; "
                "otherwise start it",
            )
        elif safe is not None and safe < needed:
            yield Finding(
                "ESOPS-D028",
                subject,
                f"replication slot {name} ({status}) is lost after {decimal(safe)} more of WAL, "
                f"and a rebuild writes about {decimal(needed)}",
                "Raise max_slot_wal_keep_size, or let its consumer catch up.",
            )


def _replicas(subject: str, connection: psycopg.Connection) -> Iterator[Finding]:
    for name, behind, lag in connection.execute(_SQL["replicas"]).fetchall():
        if behind > LAG_BYTES and (lag is None or lag > LAG_TIME):
            yield Finding(
                "ESOPS-D029",
                subject,
                f"replica {name} is {decimal(behind)} of WAL behind, and a rebuild would leave it "
                "further behind",
                "Let it catch up before a rebuild.",
            )
