"""What an operator should know before a rebuild; a plan lists it after its statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import psycopg

from esops.errors import UsageError, nearest
from esops.events import Position
from esops.postgres import catalog, publications
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.grants import given_by_others, owner_keeps, rights
from esops.postgres.held import LONGEST_WAIT
from esops.projections.definition import FoldDefinition
from esops.readmodel import conduct, locks, marks, own_rows
from esops.readmodel.foreign_keys import leaving, not_made
from esops.readmodel.forms import keeps_type
from esops.readmodel.names import physical_tables
from esops.readmodel.properties import is_unlogged
from esops.readmodel.registry import Version
from esops.readmodel.tables import not_carried
from esops.rebuild.options import Options
from esops.rebuild.snapshots import replicas
from esops.rebuild.switch import same_columns
from esops.rebuild.target import Target
from esops.rebuild.verification.bookkeeping import bookkeeping_of, library_of
from esops.rebuild.verification.paths import split_name
from esops.settings import VerifySettings
from esops.stores.base import EventStore
from esops.wording import count

_FLOORS = 3
"""Floors that a plan tells, one for each tenant that has one."""


def of_blue(
    connection: psycopg.Connection, target: Target, blue: Mapping[str, Table], to_version: int
) -> list[str]:
    """What blue has and green, the version of that number, will not get."""
    mode = target.settings.switch
    physical = physical_tables(target.names, to_version)
    green = physical
    if mode == "rename":
        green = {name.name: (name.schema, name.name) for name in target.names}
    notes = []
    for name, each in blue.items():
        if name not in green:
            continue  # moved_aside.py says what becomes of it
        lost = not_carried(connection, each, mode)
        notes += [f"not carried over from blue: {thing}" for thing in lost]
        notes += of_memberships(connection, each, green[name], mode)
        given = given_by_others(connection, each.oid)
        notes += [f"on green, the owner gives the right {right}" for right in given]
        # Its owner may have given rights up on the view that a table takes the place of.
        named = catalog.find_table(connection, *green[name]) if mode == "rename" else None
        serving = named or each
        kept = owner_keeps(connection, rights(connection, serving.oid), shown=mode == "view")
        if kept:
            who = "esops and the view in front of it need" if mode == "view" else "esops needs"
            notes.append(
                f"on {'.'.join(physical[name])}, the owner has {', '.join(kept)}, which it has not "
                f"on {serving.schema}.{serving.name}: {who} that"
            )
        if is_unlogged(connection, each):
            notes.append(
                f"{each.schema}.{each.name} is UNLOGGED, and so is green: a crash of the server "
                "empties it, and then it has to be rebuilt"
            )
    return notes


def of_foreign_keys(
    connection: psycopg.Connection, blue: Mapping[str, Table], green: Mapping[str, Table]
) -> list[str]:
    """Those that green, which exists, will not have, and those that lock tables of others."""
    milliseconds = int(LONGEST_WAIT.total_seconds() * 1000)
    return [
        *(
            f"not carried over from blue: foreign key {name} (adding it would lock the table it "
            "refers to)"
            for name in not_made(connection, blue, green)
        ),
        *(
            f"foreign key {each.name}, which the DDL makes, refers to {each.to}: a plan, creating "
            f"green and dropping a version lock {each.to} for a moment. Each try waits for that "
            f"lock for at most {milliseconds} ms"
            for each in leaving(connection, [table.oid for table in green.values()])
        ),
    ]


def of_memberships(
    connection: psycopg.Connection, blue: Table, green: tuple[str, str], mode: str
) -> list[str]:
    """The publications that name blue, and how they could name green, by what it is called then."""
    other = qualified(*green).as_string(connection)
    return [
        (
            f"the membership of publication {each.publication} goes to green in the switch. "
            "Subscribers keep the rows that they have, and get what changes from then on"
        )
        if mode == "rename" and each.ours
        else (
            f"not carried over from blue: membership of publication {each.publication}, which "
            "belongs to the table and not to its name. Once the subscribers have a table for "
            f"green: {each.add}"
        )
        for each in publications.of_table(connection, blue.oid, other)
    ]


def of_parts(target: Target, tables: Iterable[Table], parts: str | None) -> list[str]:
    """What a fold sees of its own rows while `parts` ("process" or "range"; None for a load in one)
    are loaded by themselves.
    """
    if parts is None or not isinstance(target.definition, FoldDefinition):
        return []
    typed = [
        column.name
        for table in tables
        for column in table.columns
        if keeps_type(column) and column.name not in table.key
    ]
    types = f", or with 5 for 5.0 in {', '.join(typed)}" if typed else ""
    option = "--workers and --engine" if parts == "process" else "--ranges"
    several = "several processes" if parts == "process" else "several ranges"
    return [
        (
            f"with {several}, the code may get a row back without a column that it has not set "
            f'itself{types}. If it depends on that, as `"x" in row` or `str(row["x"])` do, leave '
            f"out {option}: the rows would differ"
        )
    ]


def of_replication(
    connection: psycopg.Connection, green: Sequence[Table], *, switches: bool
) -> list[str]:
    """What subscribers and replicas will notice."""
    notes = []
    found = list(
        dict.fromkeys(
            each for table in green for each in publications.of_new_tables(connection, table.schema)
        )
    )
    if found:
        tables = " and ".join(f"{each.schema}.{each.name}" for each in green)
        notes.append(
            f"{' and '.join(found)} will publish {tables}: a "
            "subscriber without such a table stops at its first row. `esops docs "
            "logical-replication` says how it continues"
        )
    names = replicas(connection) if switches else []
    if names:
        notes.append(
            f"{count(len(names), 'replica')} ({', '.join(names[:3])}) will replay the switch's "
            "lock: a query or transaction there that has read the read model is cancelled after "
            "max_standby_streaming_delay (30 seconds by default). Rebuild while none runs for long "
            "on them, or let their readers try again"
        )
    return notes


def of_view(connection: psycopg.Connection, target: Target) -> list[str]:
    """What readers can do with the table that they have, and not with the view that they get."""
    if target.settings.switch != "view":
        return []
    # Whatever esops has noted of it: a rebuild that was aborted leaves it a table.
    now = [(name, catalog.find_table(connection, name.schema, name.name)) for name in target.names]
    names = " and ".join(str(name) for name, table in now if table and table.kind in "rp")
    if not names:
        return []
    return [
        (
            f"{names} becomes a view, and a view has no xmin, ctid or tableoid (Entity Framework "
            "uses xmin as a concurrency token) and no identity columns. Nor does it take COPY, "
            "TABLESAMPLE, GROUP BY the key alone, ON CONFLICT ON CONSTRAINT, TRUNCATE or foreign "
            'keys. If the application needs one of them, set switch = "rename"'
        )
    ]


def of_floor(target: Target, store: EventStore, head: Position | None) -> list[str]:
    """That the application's own processor reads no event up to a floor, and this rebuild does."""
    makers = {target.settings.checkpoint}
    if store.inline is not None:
        own = {(name.schema, name.name) for name in target.names}
        kept = [each for each in store.inline.kept() if (each.schema, each.name) in own]
        makers.update(name for each in kept for name in each.processors)
    found = [
        (each.name, what.removeprefix("floor").removeprefix(" of "), Position((int(floor),)))
        for each in store.checkpoints()
        if each.name in makers
        for what, floor in each.detail.items()
        if what == "floor" or what.startswith("floor of ")
    ]
    notes = [_of_one_floor(*each, head) for each in found[:_FLOORS]]
    if len(found) > _FLOORS:
        others = count(len(found) - _FLOORS, "other tenant")
        notes.append(f"{others} with a floor: see the table mt_event_projection_floors")
    return notes


def _of_one_floor(name: str, tenant: str, floor: Position, head: Position | None) -> str:
    whose = f" for tenant {tenant!r}" if tenant else ""
    what = "this one reads all, so it finds more"
    if head is None or floor >= head:
        return (
            f"{name} starts{whose} after position {floor} (its floor), and no event is there yet: "
            f"the application's own rebuild reads none, and {what}"
        )
    condition = f"event.tenant == {tenant!r} and " if tenant else ""
    return (
        f"{name} starts{whose} after position {floor} (its floor): the application's own rebuild "
        f"reads no event {'of this tenant ' if tenant else ''}before, and {what}. To start there, "
        f"too: `if {condition}event.position <= ({floor[0]},): return row` at the beginning of "
        "the fold"
    )


def of_unlike_rows(
    connection: psycopg.Connection, store: EventStore, source: Version | None
) -> list[str]:
    """That blue's rows are not those of the store's events, and so are nothing to compare with."""
    if source is None:
        return []
    other = own_rows.look(connection, source)
    if source.lost is not None:
        why = f"the rows of v{source.version} are of events that the store does not have any more"
    elif other is not None:
        why = other.message
    elif source.position is not None and not marks.same_log(connection, store, source):
        why = (
            f"v{source.version} was made of store {source.store}, whose positions are not those "
            f"of store {store.name}"
        )
    else:
        return []
    return [f"{why}, so its rows are compared only where --compare asks for it"]


def of_columns(
    blue: Mapping[str, Table], green: Mapping[str, Table], settings: VerifySettings
) -> list[str]:
    """Columns that change. Raises UsageError where `verify` names a column that green lacks, or a
    path into one that is not JSON.
    """
    kinds = {column.name: column.kind for table in green.values() for column in table.columns}
    for what, names in (("ignore", settings.ignore), ("expected", settings.expected)):
        for name in names:
            found = split_name(name, list(kinds))
            if found is None:
                raise UsageError(
                    f"verify.{what} names the column {name!r}, but green has no such column",
                    hint=nearest(name, kinds),
                )
            if found[1] and kinds[found[0]] not in {"json", "jsonb"}:
                raise UsageError(
                    f"verify.{what} names the path {name!r}, but the column {found[0]} is not JSON",
                    hint="Name the whole column, or a path into a column of type jsonb or json.",
                )
    notes = []
    for name, table in green.items():
        if name in blue:
            notes += _changes(blue[name], table)
            if left_out := bookkeeping_of(blue[name], table):
                library = library_of(blue[name], table)
                assert library is not None
                notes.append(
                    f"{name} is {library.what}: {', '.join(left_out)} are not compared, because "
                    "they tell how and when a row was written, which no events tell"
                )
    return notes


def of_end(target: Target, options: Options) -> list[str]:
    """What happens at the end, where it is not just the switch."""
    if not options.switch:
        return ["--no-switch: green is built and verified, and then stands by"]
    if target.settings.live == "inline" and not options.test_only:
        return [
            (
                "the application writes to the table with each append, and waits while the switch "
                "holds its lock: for as long as the events take that are not settled by then"
            ),
            (
                "instances with the old code keep writing rows by the old logic. After the last "
                f"of them has ended, `esops projection finish {target.name}` makes them right"
            ),
        ]
    if target.settings.live == "app" and not options.test_only:
        return [
            (
                f"the switch sets the application's checkpoint {target.settings.checkpoint} to "
                "green's position. The process of the application's projector must have ended by "
                "then, or the switch is refused: hooks.before_switch can stop it, "
                "hooks.after_switch start it, with the code that builds green. For one that was "
                "killed, and whose row cannot say that, there is --processor-stopped"
            )
        ]
    return []


def of_rollback(
    connection: psycopg.Connection, target: Target, source: Version | None
) -> list[str]:
    """What would stand against a rollback to the version that serves now."""
    if source is None:
        return []
    if target.settings.live == "inline":
        return [
            (
                f"v{source.version} does not advance after the switch. A rollback first applies to "
                "it what it lacks by then, by the code before"
            )
        ]
    if target.settings.live != "esops":
        return [
            (
                f"v{source.version} does not advance after the switch, and a rollback to it is "
                "refused: the way back is a rebuild with the code before"
            )
        ]
    if source.position is None:
        return [
            (
                f"v{source.version} has no checkpoint of esops: it is compared as it is now, and a "
                "rollback to it needs --allow-stale"
            )
        ]
    notes = []
    other = conduct.other_code(connection, source)
    if other is not None:
        notes.append(f"v{source.version} was {other}: a rollback to it needs --accept-code")
    failure = conduct.failure(connection, source)
    if failure is not None:
        notes.append(f"v{source.version} is not kept fresh; it {failure}")
    elif not locks.is_held(connection, locks.version_lock(target.name, source.version)):
        notes.append(
            f"nothing keeps v{source.version} fresh at the moment. Start `esops run`, or a "
            "rollback has to catch up first"
        )
    return notes


def _changes(blue: Table, green: Table) -> list[str]:
    if same_columns(blue, green):
        return []
    before, after = {c.name: c.type for c in blue.columns}, {c.name: c.type for c in green.columns}
    collations = {c.name: c.collation for c in blue.columns}
    changes = [f"new column {name}" for name in after if name not in before]
    changes += [f"column {name} is dropped" for name in before if name not in after]
    changes += [
        f"column {name} becomes {after[name]}"
        for name in after
        if name in before and before[name] != after[name]
    ]
    changes += [
        f"column {c.name} gets the collation {c.collation or 'of its type'}"
        for c in green.columns
        if before.get(c.name) == c.type and collations[c.name] != c.collation
    ]
    return [
        "columns change ("
        + (", ".join(changes) or "their order")
        + "). A prepared SELECT * of the application fails once after the switch, then works"
    ]
