"""What stands against removing esops from a database: each is one sentence, before any change."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta

import psycopg

from esops.config import Config
from esops.errors import Busy, Refused
from esops.postgres.connection import process_name
from esops.postgres.statements import statements
from esops.readmodel import migrations
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.uninstall.leftover import Leftover, UninstallOptions

_SQL = statements(__package__, "uninstall")
_LEAVING = timedelta(seconds=3)
"""How long a short command that is just ending may take to leave."""
_KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialised view", "S": "sequence"}


def check_schema(
    connection: psycopg.Connection, left: Leftover, row: tuple[str, bool, str, bool]
) -> None:
    """Note what is in the schema. Raises Refused where this role may not remove it all."""
    owner, may, role, replica = row
    if replica:
        raise Refused(
            f"the database {left.database} is a replica, in which nothing can be removed",
            hint="Give the address of the primary.",
        )
    found = connection.execute(_SQL["relations"]).fetchall()
    strange = [
        f"{_KINDS.get(kind, 'relation')} esops.{name}"
        for name, kind, *_ in found
        if kind != "r" or name not in migrations.own_tables()
    ]
    strange += [each for (each,) in connection.execute(_SQL["functions"]).fetchall()]
    if strange:
        raise Refused(
            f"the schema esops of {left.database} has what esops did not make: "
            f"{', '.join(strange[:5])}",
            hint="Move it to another schema, or drop it; then run this again.",
        )
    denied = [f"table esops.{name} of {whose}" for name, _, whose, mine, _ in found if not mine]
    denied += [] if may else [f"the schema esops of {owner}"]
    if denied:
        raise Refused(
            f"role {role} may not remove {', '.join(denied[:3])} in {left.database}",
            hint=f"Run it as {owner}, or as a member of that role.",
        )
    left.tables = [name for name, *_ in found]
    left.size = sum(each[-1] for each in found)


def check_nobody(
    connection: psycopg.Connection,
    leaving: timedelta = _LEAVING,
    hint: str = "Nothing was changed.",
) -> None:
    """Raises Busy while another process of esops works here."""
    deadline = time.monotonic() + leaving.total_seconds()
    ours = process_name(socket.gethostname(), os.getpid()) + " "
    while rows := connection.execute(_SQL["sessions"], {"ours": ours}).fetchall():
        if time.monotonic() >= deadline:
            who = ", ".join(f"{name!r} (backend {pid})" for pid, name in rows[:5])
            raise Busy(
                f"esops is at work in this database: {who}",
                hint=f"Stop `esops run`, rebuilds and timers; then run this again. {hint}",
            )
        time.sleep(0.1)


def check_named(config: Config, versions: Sequence[Version], options: UninstallOptions) -> None:
    """Raises Refused where projections would go that nobody named."""
    live = ("active", "standby", "building")
    others = sorted(
        {each.projection for each in versions if each.state in live} - set(config.projections)
    )
    if others and not options.unnamed:
        raise Refused(
            f"esops' tables also have {', '.join(others)}, which {config.path.name} does not name: "
            "somebody else may use them",
            hint="If nobody does, add --unnamed.",
        )


def check_memory(connection: psycopg.Connection, left: Leftover, options: UninstallOptions) -> None:
    """Raises Refused where read models in other databases, which nobody here can see, may rely on
    what is known of numbers that were passed as dead, and of events that came at them later.
    """
    kept = [each for each in ("late_events", "passed") if each in left.tables]
    used = any(
        connection.execute(f"SELECT FROM esops.{each} LIMIT 1".encode()).fetchone() is not None
        for each in kept
    )
    if used and not options.unnamed:
        raise Refused(
            f"{left.database} remembers which missing numbers of its events were passed as dead, "
            "and read models in databases of other projects may rely on that",
            hint="If there are none, add --unnamed.",
        )


def check_finished(
    config: Config, connection: psycopg.Connection, versions: Sequence[Version]
) -> None:
    """Raises Refused where something has begun that only esops can finish."""
    for rebuild, name, state, open_ in connection.execute(_SQL["unfinished"]).fetchall():
        if open_:
            raise Refused(
                f"rebuild {rebuild} of {name} is not finished ({state})",
                hint=f"Finish it with `esops rebuild {name} --blue-green --resume`, or drop it "
                "with --abort; then run this again.",
            )
        if journal.owes_hook(connection, rebuild):
            raise Refused(
                f"the hook after the switch of {name} has not ended well",
                hint=f"Run it: esops rebuild {name} --blue-green --resume",
            )
    for each in versions:
        if each.state != "active":
            continue
        settings = config.projections.get(each.projection)
        # Of one that esops.toml does not name, the journal alone tells how it was switched.
        inline = settings is None or settings.live == "inline"
        if inline and journal.unhealed(connection, each.projection, each.version) is not None:
            raise Refused(
                f"rows of {each.projection} may be of the old code still, and only esops knows "
                "which",
                hint=f"When the last instance with the old code has ended: esops projection finish "
                f"{each.projection}",
            )


def check_erasures(connection: psycopg.Connection) -> None:
    """Raises Refused where places of personal data are known to esops' tables alone."""
    if not migrations.has(connection, "erasures"):
        return
    rows = connection.execute(_SQL["erasures"]).fetchall()
    if rows:
        named = ", ".join(
            f"{number} (store {store}, {left} places)" for number, store, left in rows
        )
        raise Refused(
            f"erasures of personal data are not cleared: {named}; what is left of them is known "
            "to esops' tables alone",
            hint="`esops erase --done N` says that the places are cleared.",
        )
