"""What is in the table that the application wrote until a switch, and that has not advanced since.

At the switch's lock it had all events that were visible, settled or not. Those are noted then: the
ones that are settled by a position, the others one by one. So its rows can be brought further by
exactly the events that they lack, by a fold of any key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg
from psycopg.types.json import Jsonb

from esops.events import Position, RecordedEvent
from esops.postgres.statements import statements
from esops.projections.fingerprint import Code
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.running.visible import Standing, VisibleEvents
from esops.stores.inline_tables import Beyond

_SQL = statements(__package__, "standing")


def note(
    connection: psycopg.Connection, rebuild: int, version: Version, standing: Standing | None
) -> None:
    """Note what a version has that does not serve any more, in the switch's transaction; nothing
    where that is too much.
    """
    if standing is None or version.updated_at is None:
        return
    detail = {
        "version": version.version,
        # When the registry was last told of this version: by this switch.
        "updated_at": version.updated_at.isoformat(),
        "position": None if standing.position is None else str(standing.position),
        "end": None if standing.end is None else str(standing.end),
        "numbers": standing.beyond.numbers,
    }
    journal.note(connection, rebuild, journal.SWITCHED, journal.LEFT, detail)


def of(connection: psycopg.Connection, version: Version) -> Standing | None:
    """What a version has that stands by; None where that was not noted, or where the version was
    written since.
    """
    if version.position is not None:
        return Standing(version.position, Beyond(None, ()))  # a rollback was begun
    if version.updated_at is None:
        return None
    values = {
        "projection": version.projection,
        "version": version.version,
        "stands": journal.LEFT,
    }
    row = connection.execute(_SQL["noted"], values).fetchone()
    detail = None if row is None else row[0]
    if detail is None or detail["updated_at"] != version.updated_at.isoformat():
        return None
    at, end = (
        None if detail[each] is None else Position.parse(detail[each])
        for each in ("position", "end")
    )
    return Standing(at, Beyond(end, [(first, last) for first, last in detail["numbers"]]))


def take_up(
    connection: psycopg.Connection,
    version: Version,
    visible: VisibleEvents,
    end: Position,
    late: Sequence[RecordedEvent],
    code: str,
    types: Mapping[str, str],
) -> None:
    """Bring a version that did not advance to the end of what it has, and let esops advance it from
    there, in one transaction.

    `late` are the events before the end that it lacks, `code` is the fingerprint of the code that
    applies them, and `types` are the Python types of its columns. Raises Refused where somebody
    else changed the version, or where the code fails.
    """
    with connection.transaction():
        held = registry.hold(connection, version, ("standby",))
        if held.position is not None:
            return
        values = {
            "position": str(end),
            "code": code,
            "events": len(late),
            "types": Jsonb(dict(types)),
            "projection": version.projection,
            "version": version.version,
        }
        connection.execute(_SQL["take_up"], values)
        now = registry.version(connection, version.projection, version.version)
        visible.open(connection, now).apply_these(connection, late)


def old_code_is_gone(connection: psycopg.Connection, before: Version, code: Code) -> bool:
    """Whether nobody writes rows by other code than this: the version that serves up to a switch
    was made by it, and whoever wrote by another has ended.
    """
    found = journal.switched_inline(connection, before.projection, before.version)
    if found is None or not code.made(found.code):
        return False
    return found.healed or found.old_code_ended


def is_right(connection: psycopg.Connection, version: Version, code: Code) -> bool:
    """Whether the rows of a version that stands by were all found right, as this code makes them,
    while it served: what was made right since is in another table.
    """
    found = journal.switched_inline(connection, version.projection, version.version)
    return found is not None and found.healed and code.made(found.code)
