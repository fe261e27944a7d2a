"""Whether the application could continue where a rebuild ends (`live = "app"`): the checkpoint that
esops.toml names must be that of the processor that makes the tables.

The checkpoint of another one would be moved past events that it has not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from esops.errors import Refused, nearest
from esops.events import Checkpoint
from esops.postgres.connection import database_of
from esops.readmodel import inline
from esops.readmodel.names import ReadModelName
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.stores.checkpoints import SET_BACK, checkpoint_of
from esops.stores.inline_tables import InlineTable, KeptTable


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
    notes = _check_tables(target, store, connection, name)
    reader = _reader(target, store, connection, name)
    if store.sql is not None:
        # What stands in the way even of a processor that has stopped.
        store.sql.check_checkpoint(connection, name)
    if reader is None:
        return notes
    where = reader.place or "no known position"
    return [f"the application's checkpoint {name} is at {where} now", *notes]


def _check_tables(
    target: Application, store: EventStore, connection: psycopg.Connection, named: str
) -> list[str]:
    """What to know of who writes the tables.

    Raises Refused where these are not what the named processor makes.
    """
    # Whoever made a table, this is about who writes it now.
    kept = list(inline.kept(connection, store, target.names, ()))
    for each in kept:
        if inline.written_with_events(store, each):
            raise _of_appends(each)
        if each.processors and not _is_of(named, each):
            raise Refused(
                f"esops.toml names the checkpoint {named!r} for {target.projection}, and "
                f"{each.schema}.{each.name} is made by another processor: {each.evidence}. "
                f"{named!r} would be moved past events that it has not read",
                hint=f'Set checkpoint = "{each.processors[0]}". If the application does not run '
                f"that processor any more, {each.given_up}.",
            )
        _check_alone(store, each)
    if not any(_is_of(named, each) for each in kept):
        _check_others(target, store, named)
    unknown = [f"{each.schema}.{each.name}" for each in kept if not each.processors]
    written = inline.written(connection, store, target.names, ())
    if written is not None:
        # Emmett says of an async projection that it is one, but for when its processor has stopped
        # and has a name of its own. Of Marten's, which may have any name, only rows can tell.
        if written.registered or inline.written_with_events(store, written):
            raise _of_appends(written)
        unknown.append(f"{written.schema}.{written.name} ({written.evidence})")
    return [
        f"nothing in the store tells that the processor {named!r} makes {table}. If another one "
        "does, or each append, then the hand-over takes it past events that it has not read"
        for table in unknown
    ]


def _is_of(named: str, table: KeptTable) -> bool:
    return any(named in {name, f"{name}/1"} for name in table.processors)


def _check_alone(store: EventStore, table: KeptTable) -> None:
    """Raises Refused where several processors make a table of the events that the store reads: one
    of them alone would be handed over to.
    """
    there = {each.name for each in store.checkpoints()}
    own = [each for each in table.processors if each in there]
    if len(own) > 1:
        raise Refused(
            f"{table.schema}.{table.name} is made by several processors ({', '.join(own)}), and a "
            "hand-over moves the checkpoint of one: the others would apply events again",
            hint="Build and verify with --no-switch, and switch by hand while the application is "
            "stopped.",
        )


def _check_others(target: Application, store: EventStore, named: str) -> None:
    """Raises Refused where a processor makes a table of its own name, which is not one of these: it
    has one checkpoint for all that it makes.
    """
    for each in store.inline.kept() if store.inline is not None else ():
        if _is_of(named, each):
            raise Refused(
                f"esops.toml names the checkpoint {named!r} for {target.projection}, and that "
                f"processor makes {each.schema}.{each.name}: {each.evidence}. It would be moved "
                "past events that it has not applied there",
                hint=f"Name the processor that makes {' and '.join(map(str, target.names))}. If "
                'each append writes that, set live = "inline", and leave out `checkpoint`.',
            )


def _of_appends(table: InlineTable | KeptTable) -> Refused:
    hint = 'Set live = "inline", and leave out `checkpoint`.'
    if isinstance(table, InlineTable) and table.registered:
        hint += (
            " If a processor with a name of its own makes it, start that one: its projection is "
            "'async_processing' then."
        )
    return Refused(
        f'live = "app" says that a processor makes {table.schema}.{table.name}, and the '
        f"application writes it in the transaction of each append: {inline.evidence(table)}",
        hint=hint,
    )


def _reader(
    target: Application, store: EventStore, connection: psycopg.Connection, name: str
) -> Checkpoint | None:
    """The processor of that name; None where the library begins its row with the hand-over.

    Raises Refused where the store has none that it could be handed over to, and MissingCapability
    where it keeps no checkpoints that could be set.
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
        if store.sql is not None:
            # Where no name would do, do not ask for another one.
            with suppress(Refused):
                store.sql.check_checkpoint(connection, name)
        known = [each.name for each in store.checkpoints() if each.kind == "processor"]
        raise Refused(
            f"store {store.name} has no processor {name!r}, which esops.toml names as the "
            f"checkpoint of {target.projection}",
            hint=f"{nearest(name, known)} One that has never run has no row yet: build and verify "
            "with --no-switch, or let it run first.",
        )
    if reader is not None and reader.beyond:
        raise Refused(
            f"the application cannot take over by {name}: {reader.evidence}", hint=SET_BACK
        )
    return reader
