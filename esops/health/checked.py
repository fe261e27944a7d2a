"""What the last check of a read model found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from esops.check import checks
from esops.health.findings import Finding
from esops.readmodel import registry
from esops.wording import count


def examine(subject: str, connection: psycopg.Connection, projection: str) -> Iterator[Finding]:
    """Rows of the version that serves which a check found wrong, and nobody found right since."""
    last = checks.latest(connection, projection)
    if last is None:
        return
    said = in_words(last)
    if said is None:
        return
    fix = f"esops rebuild {projection} --from-check {last['wrong_by']}"
    if registry.active(connection, projection) is None:
        fix = f"See which they are: esops projection check {projection}"
    yield Finding("ESOPS-D073", subject, said, fix)


def in_words(last: Mapping[str, Any]) -> str | None:
    """What checks have found wrong, for a person; None where nothing is."""
    wrong = last["wrong"]
    if not wrong:
        return None
    are = "is" if wrong == 1 else "are"
    by = last["check"] if last["wrong_by"] is None else last["wrong_by"]
    return f"check {by} found {count(wrong, 'row')} that {are} not what the events make"
