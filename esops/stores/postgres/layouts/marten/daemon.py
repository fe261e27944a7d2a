"""What Marten's daemon and options leave in the database: how far its shards are, and what an
operator should look at.

Facts: Marten's schema sources and its daemon's gap detection; see docs/reference/layouts.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from itertools import chain
from typing import LiteralString

import psycopg
from psycopg import sql

from esops.errors import Refused, nearest
from esops.events import Checkpoint, Position
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.checkpoints import moved
from esops.stores.parts import Concern
from esops.stores.postgres.drawn import refuse_beyond
from esops.stores.postgres.layouts.marten import liveness
from esops.stores.postgres.layouts.marten.variant import DEFAULT_TENANT, sequences_of_tenants

_ORPHANED = timedelta(days=1)
"""How long a shard may be idle behind a moving high-water mark before it is reported."""
_SQL = statements(__package__, "daemon")
BOOKKEEPING = {
    "HighWaterMark": "high-water mark",
    "HighWaterAllocationFence": "allocation fence",
    "HighWaterStuckGap": "stuck gap",
}
"""The rows that are no shard's, by what their names begin with: up to which number the daemon has
passed, above which none was drawn, and where it last waited for a gap, which stays for ever.
"""
_PROGRESSION = "mt_event_progression"
_COUNTED: Mapping[str, LiteralString] = {
    "mt_high_water_skips": "'HighWaterMark'",
    "mt_doc_deadletterevent": "data->>'ProjectionName' || ':' || (data->>'ShardName')",
}
"""Tables that may be missing, and the name of a progression row that each row of them is about."""
TABLES = tuple(_COUNTED)
_FLOORS = "mt_event_projection_floors"
_C = sql.Identifier


def checkpoints(
    connection: psycopg.Connection,
    schema: str,
    tenant: str | None = None,
    floors_of: Collection[str] | None = None,
) -> list[Checkpoint]:
    """The daemon's shards with their dead letters, and its bookkeeping: the high-water mark with
    the gaps that it passed, and what it keeps beside that.

    `tenant`: the one whose numbers the store reads, where each tenant has numbers of its own; the
    rows of others are of other stores. `floors_of`: the tenants, and what stands for all, whose
    floors are about the store's events; None: all.
    """
    there = catalog.there(connection, schema, _PROGRESSION, *TABLES, _FLOORS)
    if _PROGRESSION not in there:
        return []
    skips, dead_letters = (
        _counted(connection, schema, table, by) if table in there else {}
        for table, by in _COUNTED.items()
    )
    floors = _floors(connection, schema, tenant, floors_of) if _FLOORS in there else {}
    rows = connection.execute(
        sql.SQL(_SQL["progress"]).format(progression=_C(schema, _PROGRESSION))
    ).fetchall()
    others = [] if tenant is None else sequences_of_tenants(connection, schema)
    locks = {name: liveness.locks_of(schema, name) for name, *_ in rows}
    held = set(liveness.held(connection, chain.from_iterable(locks.values())))
    found = []
    for name, number, updated, agent, beat, paused in rows:
        owner = _tenant_of(name, others)
        if owner is not None and owner != tenant:
            continue
        kind = BOOKKEEPING.get(name.partition(":")[0])
        what, count = (
            ("gaps passed", skips.get(name)) if kind else ("dead letters", dead_letters.get(name))
        )
        position, evidence = (None if number is None else Position((number,))), ""
        # No lock is no proof: a daemon in solo mode has none.
        lock = None if kind else next((each for each in locks[name] if each in held), None)
        beats = agent == "Running" and beat is not None and beat < liveness.TOUCHED
        if tenant is not None and owner is None:
            # A number of no tenant cannot be compared with those of one.
            position, evidence = None, f"its number {number} belongs to no tenant"
        elif position is not None:  # beside an unknown one it would say why that is unknown
            evidence = _evidence(lock, beat if agent == "Running" else None, paused)
        detail = {what: str(count)} if count else {}
        of_floors = {} if kind else floors.get(name.partition(":")[0], {})
        found.append(
            Checkpoint(
                name,
                position,
                kind or (agent or "unknown").lower(),
                updated,
                {**detail, **of_floors},
                kind="bookkeeping" if kind else "processor",
                alive="yes" if lock is not None or beats else "unknown",
                evidence=evidence,
            )
        )
    return found


def _evidence(lock: int | None, beat: timedelta | None, paused: str | None) -> str:
    """What says that a shard runs, or why it does not; empty where nothing does.

    `beat`: how old the heartbeat is of one that says that it runs, as one that was killed does.
    """
    if lock is not None:
        return f"a daemon holds its lock {lock}"
    if beat is None:
        return paused or ""
    which = "heartbeat" if beat < liveness.TOUCHED else "last heartbeat"
    return f"its {which} is {beat.total_seconds():.0f} s old"


def _floors(
    connection: psycopg.Connection,
    schema: str,
    tenant: str | None,
    floors_of: Collection[str] | None,
) -> dict[str, dict[str, str]]:
    """Up to where projections have no history, by their names: their rebuilds start there. As
    `Checkpoint.detail` has it, with the tenant where a floor is of one alone.
    """
    rows = connection.execute(
        sql.SQL("SELECT name, tenant_id, floor FROM {} WHERE floor > 0 ORDER BY 1, 2").format(
            _C(schema, _FLOORS)
        )
    ).fetchall()
    found = defaultdict[str, dict[str, str]](dict)
    for name, of, floor in rows:
        if floors_of is None or of in floors_of:
            alone = tenant is None and of != DEFAULT_TENANT
            found[name][f"floor of {of}" if alone else "floor"] = str(floor)
    return found


def _tenant_of(name: str, tenants: Iterable[str]) -> str | None:
    """The tenant at the end of a progression row's name; None where there is none."""
    return max((each for each in tenants if name.endswith(f":{each}")), key=len, default=None)


def _counted(
    connection: psycopg.Connection, schema: str, table: str, by: LiteralString
) -> dict[str, int]:
    """How many rows a table has, by the name of a progression row."""
    return dict(
        connection.execute(
            sql.SQL(f"SELECT {by}, count(*) FROM {{}} GROUP BY 1").format(_C(schema, table))
        ).fetchall()
    )


def row_of(connection: psycopg.Connection, schema: str, name: str) -> str | None:
    """A row of progress as a text; None where there is none."""
    row = connection.execute(
        sql.SQL("SELECT to_jsonb(p)::text FROM {} p WHERE name = %s").format(
            _C(schema, "mt_event_progression")
        ),
        (name,),
    ).fetchone()
    return None if row is None else str(row[0])


def check_row(
    connection: psycopg.Connection, schema: str, name: str, *, tenant: str | None = None
) -> None:
    """Raises Refused for a name that is no shard's of the store, so that no progress can be set.

    `tenant`: as in `checkpoints`.
    """
    if not catalog.has_table(connection, schema, _PROGRESSION):
        raise Refused(f"Marten has no table {_PROGRESSION} in schema {schema}: no daemon ran here")
    progression = _C(schema, _PROGRESSION)
    statement = sql.SQL("SELECT name FROM {} ORDER BY 1").format(progression)
    there_are = [row[0] for row in connection.execute(statement).fetchall()]
    if name not in there_are:
        raise Refused(f"Marten has no progression row {name!r}", hint=nearest(name, there_are))
    _check_shard(connection, schema, name, tenant)


def set_checkpoint(
    connection: psycopg.Connection,
    schema: str,
    name: str,
    position: Position,
    *,
    sequence: sql.Identifier,
    tenant: str | None = None,
    stopped: bool,
) -> str:
    """Set a shard's progress in the caller's transaction; returns where it stands, in words.

    `sequence` numbers the events. `tenant`: as in `checkpoints`. `stopped`: the operator says that
    no daemon lives. Raises Refused for a row that is no shard's of that store, while its daemon
    lives or may live, or where it is ahead.
    """
    check_row(connection, schema, name, tenant=tenant)
    progression = _C(schema, _PROGRESSION)
    row = connection.execute(
        sql.SQL("SELECT last_seq_id FROM {} WHERE name = %s FOR UPDATE").format(progression),
        (name,),
    ).fetchone()
    liveness.refuse_if_alive(connection, schema, name, stopped=stopped)
    reached = row[0] if row else None
    refuse_beyond(connection, (sequence,), name, reached)
    if reached is not None and reached > position[0]:
        raise Refused(
            f"{name} is at {reached}, ahead of {position}",
            hint="Run it again with --resume: green catches up first.",
        )
    connection.execute(
        sql.SQL(
            "UPDATE {} SET last_seq_id = %s, last_updated = transaction_timestamp() WHERE name = %s"
        ).format(progression),
        (position[0], name),
    )
    return moved(name, reached, position)


def _check_shard(
    connection: psycopg.Connection, schema: str, name: str, tenant: str | None
) -> None:
    """Raises Refused for a row whose number is not of the events that a store reads."""
    if name.partition(":")[0] in BOOKKEEPING:
        raise Refused(
            f"the row {name!r} is the bookkeeping of Marten's daemon, and no projection's progress",
            hint="Name the projection's own row, as `esops status` shows it.",
        )
    if tenant is None:
        return
    owner = _tenant_of(name, sequences_of_tenants(connection, schema))
    if owner != tenant:
        whose = f"tenant {owner!r}" if owner is not None else "no tenant"
        raise Refused(
            f"the row {name!r} is of {whose}, and the store reads the events of tenant {tenant!r}, "
            "which have numbers of their own",
            hint="Name the row of that tenant, as `esops status` shows it.",
        )


def concerns(connection: psycopg.Connection, schema: str) -> list[Concern]:
    """Projections that are paused, and progress that nobody makes any more."""
    found = []
    if catalog.has_table(connection, schema, _PROGRESSION):
        progress = sql.SQL(_SQL["progress"]).format(progression=_C(schema, _PROGRESSION))
        for name, *_, paused in connection.execute(progress).fetchall():
            if paused:
                fix = "Correct the projection, or let Marten skip the event, and start it again."
                found.append(Concern("paused", f"{name}: {paused}", fix))
        orphans = sql.SQL(
            "SELECT p.name, p.last_seq_id, p.last_updated FROM {} p JOIN {} m ON m.name = "
            "'HighWaterMark' "
            "WHERE split_part(p.name, ':', 1) <> ALL({}) AND p.last_seq_id < m.last_seq_id AND "
            "p.last_updated < m.last_updated - {} ORDER BY 1"
        ).format(
            *[_C(schema, _PROGRESSION)] * 2,
            sql.Literal([*BOOKKEEPING]),
            sql.Literal(_ORPHANED),
        )
        for name, number, updated in connection.execute(orphans).fetchall():
            message = (
                f"progression row {name} has been at {number} since {updated:%Y-%m-%d %H:%M} "
                "while the high-water mark advances"
            )
            delete = sql.SQL("DELETE FROM {} WHERE name = {};").format(
                _C(schema, _PROGRESSION), sql.Literal(name)
            )
            found.append(
                Concern(
                    "orphan progress",
                    message,
                    f"{delete.as_string(connection)}  -- if its projection is gone; else start it",
                )
            )
    return found


def high_water_mark(connection: psycopg.Connection, schema: str, tenant: str | None) -> int | None:
    """The number up to which Marten's daemon has passed all events (of a tenant that has numbers of
    its own); None where it never ran.

    A lower bound of what is settled, never an upper one: the daemon passes a missing number by the
    same evidence as esops, or later.
    """
    name = "HighWaterMark" if tenant is None else f"HighWaterMark:{tenant}"
    row = connection.execute(
        sql.SQL("SELECT last_seq_id FROM {} WHERE name = %s").format(
            sql.Identifier(schema, _PROGRESSION)
        ),
        (name,),
    ).fetchone()
    return None if row is None else row[0]
