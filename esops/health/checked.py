"""What the last check of a read model found."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from esops.check import checks
from esops.health.findings import Finding
from esops.readmodel import registry
from esops.wording import count


def examine(subject: str, connection: psycopg.Connection, projection: str) -> Iterator[Finding]:
    """Rows of the version that serves which the last finished check found wrong."""
    last = checks.latest(connection, projection)
    if last is None:
        return
    active = registry.active(connection, projection)
    wrong = last["differing"] - last["healed"]
    # Another version serves since.
    if wrong <= 0 or (active is not None and last["version"] not in {None, active.version}):
        return
    fix = f"esops rebuild {projection} --from-check {last['check']}"
    if last["version"] is None:
        fix = f"See which they are: esops projection check {projection}"
    yield Finding(
        "ESOPS-D073",
        subject,
        f"check {last['check']} of {last['finished_at']:%Y-%m-%d %H:%M} UTC found "
        f"{count(wrong, 'row')} that are not what the events make",
        fix,
    )
