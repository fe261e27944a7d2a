"""Whether the application could continue where a rebuild ends (`live = "app"`): the checkpoint that
esops.toml names must be that of the processor that makes the tables.

The checkpoint of another one would be moved past events that it has not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from esops.errors import Refused, nearest
from esops.events import Checkpoint
from esops.postgres.connection import database_of
from esops.readmodel import inline
from esops.readmodel.names import ReadModelName
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.stores.checkpoints import checkpoint_of


@dataclass(frozen=True)
class Application:
    """A projection of esops.toml, by its name, and the tables that readers read."""

    projection: str
    settings: ProjectionSettings
    names: Sequence[ReadModelName]


def check(target: Application, store: EventStore, connection: psycopg.Connection) -> list[str]:
    """What to know of a hand-over, where the projection has one.

    Raises Refused where the application could not take over what the switch points to.
    """
    if target.settings.live != "app":
        return []
    name = target.settings.checkpoint
    if name is None:
        raise Refused(
            f'the application keeps {target.projection} fresh (live = "app"), but esops.toml does '
            "not name its checkpoint",
            hint='Name it as `esops status` shows it: checkpoint = "…". Or build and verify only, '
            "with --no-switch.",
        )
    of_store = store.sql.database() if store.sql is not None else None
    if of_store != database_of(connection):
        raise Refused(
            f"the application's checkpoint and the tables of {target.projection} are in different "
            "databases, so they cannot move in one transaction",
            hint="Build and verify with --no-switch, and switch by hand while the application "
            "is stopped.",
        )
    _check_tables(target, store, connection)
    reader = _reader(target, store, name)
    if reader is None:
        return []
    return [f"the application's checkpoint {name} is at {reader.place or 'no known position'} now"]


def _check_tables(target: Application, store: EventStore, connection: psycopg.Connection) -> None:
    """Raises Refused where the tables are not what the named processor makes."""
    # Whoever made a table, this is about who writes it now.
    written = inline.written(connection, store, target.names, ())
    if written is not None:
        raise Refused(
            f'live = "app" says that a processor makes {written.schema}.{written.name}, and the '
            "application writes it in the transaction of each append: "
            f"{written.evidence}",
            hint='Set live = "inline", and leave out `checkpoint`.',
        )
    for each in inline.kept(connection, store, target.names, ()):
        named, own = target.settings.checkpoint, each.processors
        if own and not any(named in {name, f"{name}/1"} for name in own):
            raise Refused(
                f"esops.toml names the checkpoint {named!r} for {target.projection}, and "
                f"{each.schema}.{each.name} is made by another processor: {each.evidence}. "
                f"{named!r} would be moved past events that it has not read",
                hint=f'Set checkpoint = "{own[0]}". If the application does not run that '
                f"processor any more, {each.given_up}.",
            )


def _reader(target: Application, store: EventStore, name: str) -> Checkpoint | None:
    """The processor of that name; None where the library begins its row with the hand-over.

    Raises Refused where the store has none that it could be handed over to.
    """
    reader = checkpoint_of(store, name)
    if reader is not None and reader.kind != "processor":
        raise Refused(
            f"{name!r} is the library's own bookkeeping ({reader.state}), and no processor's "
            "checkpoint",
            hint=f"Name the checkpoint of the processor that makes {target.projection}, as `esops "
            "status` shows it.",
        )
    if reader is None and not (store.sql is not None and store.sql.begins_checkpoints):
        known = [each.name for each in store.checkpoints() if each.kind == "processor"]
        raise Refused(
            f"store {store.name} has no processor {name!r}, which esops.toml names as the "
            f"checkpoint of {target.projection}",
            hint=f"{nearest(name, known)} One that has never run has no row yet: build and verify "
            "with --no-switch, or let it run first.",
        )
    return reader
