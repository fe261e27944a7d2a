"""What doctor checks of a node of EventStoreDB: its version, system projections, faulted
projections and parked messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from esops.health.findings import Finding
from esops.stores.base import StoreInfo
from esops.wording import count

if TYPE_CHECKING:
    from esops.stores.parts import ServerAdmin

OLDEST = (20, 10)
_LISTED_WITHIN = timedelta(seconds=20)
"""How long doctor reads a list of streams that may lack some."""
_SYSTEM_PROJECTIONS = {
    "$streams": "list all streams",
    "$by_correlation_id": "find the events of a correlation id",
}
"""Projections inside the server that esops uses where they run, and what for."""


def examine(subject: str, info: StoreInfo, admin: ServerAdmin) -> Iterator[Finding]:
    """Check a node."""
    version = (
        tuple(int(part) for part in info.version.split(".")[:2])
        if info.version[:1].isdigit()
        else None
    )
    if version is not None and version < OLDEST:
        yield Finding(
            "ESOPS-D015",
            subject,
            f"EventStoreDB {info.version} is older than {OLDEST[0]}.{OLDEST[1]}",
            "Upgrade the cluster.",
        )
    yield from _projections(subject, admin)
    yield from _parked(subject, admin)


def _projections(subject: str, admin: ServerAdmin) -> Iterator[Finding]:
    known = {one.name: one for one in admin.projections.all()}
    for name, use in _SYSTEM_PROJECTIONS.items():
        if name in known and not known[name].running:
            yield Finding(
                "ESOPS-D017",
                subject,
                f"the system projection {name} is not running, so esops scans $all to {use}",
                f"Enable {name} if you ask that often.",
            )
    lacking = admin.unlisted(_LISTED_WITHIN)
    if lacking:
        yield Finding(
            "ESOPS-D087",
            subject,
            lacking,
            "Nothing has to be done: where esops finds this, it reads $all for a list of streams, "
            "which takes longer. `esops audit streams --count` always does.",
        )
    for one in known.values():
        if one.faulted:
            yield Finding(
                "ESOPS-D018",
                subject,
                f"projection {one.name} has faulted: {one.reason}",
                "Fix its query, and enable it.",
            )


def _parked(subject: str, admin: ServerAdmin) -> Iterator[Finding]:
    for group in admin.subscriptions.all():
        if group.parked:
            since = admin.subscriptions.oldest_parked(group.stream, group.name)
            yield Finding(
                "ESOPS-D019",
                subject,
                f"group {group.name} on {group.stream} has {count(group.parked, 'parked message')}"
                f", the oldest of {since:%Y-%m-%d %H:%M} UTC",
                "Find out why its consumers refuse them, then replay them.",
            )
