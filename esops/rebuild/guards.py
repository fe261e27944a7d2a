"""What a rebuild asks before it takes fewer events for all of them, or those of another history.

The rule: a rebuild in place must find at least half of the events that the version before was made
of, counted by today's filter, and at least one. Where nobody knows how many those were, a fold must
find half as many as there are rows, since an event makes at most one. Where it does not find them,
they are more likely to be out of sight than gone, and the rows from before would be lost.
Documented in docs/how-to/rebuild-without-downtime.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import psycopg

from esops.config import Config
from esops.errors import AbsentArchive, EsopsError, Refused, UsageError
from esops.events import EventFilter, Position
from esops.postgres import catalog
from esops.postgres.connection import database_of
from esops.readmodel import conduct, inline, marks, registry
from esops.readmodel.dead_letters import count_dead_letters
from esops.readmodel.registry import Version
from esops.readmodel.tables import count_rows, has_rows
from esops.rebuild import refolded, snapshots
from esops.rebuild.options import Options
from esops.rebuild.target import Target
from esops.stores import open_store
from esops.stores.archive.archived_away import ArchivedAway, join_with, removed_from
from esops.stores.archive.beginnings import check_begins
from esops.stores.base import EVERYTHING, EventStore
from esops.stores.filters import check_filter
from esops.wording import became_dead_letters, count


def wanted(target: Target) -> EventFilter:
    """The events that a version of a projection is made of."""
    # A statement names its events itself: what it covers counts, whatever it takes of that.
    return EVERYTHING if target.settings.kind == "sql" else target.settings.filter


def check_enough_events(
    target: Target,
    store: EventStore,
    head: Position | None,
    connection: psycopg.Connection,
    tables: Mapping[str, tuple[str, str]],
    events: int,
) -> None:
    """Raises Refused where the store gives far fewer events than the tables' rows were made of.

    `events`: how many those were, as far as is known. Nothing is refused where the tables are
    empty, since then nothing can be lost.
    """
    if not any(has_rows(connection, table) for table in tables.values()):
        return
    rows = 0
    if not events and target.settings.kind == "fold":
        rows = sum(count_rows(connection, table) for table in tables.values())
    least = max(1, (max(events, rows) + 1) // 2)
    found = store.counts.passing(wanted(target), head, least)
    if found >= least:
        return
    made_of = count(events, "event") if events else "more"
    raise Refused(
        f"store {store.name} gives {count(found, 'event')} for {target.name}, and what serves was "
        f"made of {made_of}: a rebuild in place would lose the rows of the others",
        hint="Nothing was changed. See what hides the events: `esops doctor`, `esops status`. If "
        "these really are all: --accept-fewer.",
    )


def check_log(connection: psycopg.Connection, store: EventStore, version: Version | None) -> None:
    """Raises AnotherLog where a version was made from another history of a store than the one that
    the store has now; nothing where the operator has given it up, or where it is of another store.
    """
    if version is None or version.lost is not None or version.store != store.name:
        return
    marks.check(connection, store, version)


def check_inline(
    connection: psycopg.Connection, store: EventStore, target: Target, *, ends_with_switch: bool
) -> list[str]:
    """What to know where the application writes the projection's tables itself.

    Raises Refused where esops would come to write to them.
    """
    if target.settings.live != "esops" or target.settings.kind == "external":
        return []
    versions = registry.versions(connection, target.name)
    if ends_with_switch:
        inline.check(connection, store, target.names, versions)
        return []
    found = inline.others(connection, store, target.names, versions)
    return [] if found is None else [f"a later switch would be refused: {found.message}"]


def check_written_inline(
    connection: psycopg.Connection, store: EventStore, target: Target, options: Options
) -> list[str]:
    """What to know of a rebuild with `live = "inline"`: the sessions that could see old rows.

    Raises Refused where that is not possible.
    """
    if target.settings.live != "inline":
        return []
    if store.inline is None or store.inline.database() != database_of(connection):
        raise Refused(
            f"the events of store {target.store_name} and the tables of {target.name} are not in "
            "one Postgres database, so that nobody can write both in one transaction (live = "
            '"inline")',
        )
    if not options.switch:
        raise Refused(
            f"--no-switch leaves a version of {target.name} that could not be switched to later: "
            "nothing would bring it up to what the application has written by then",
            hint="To wait with the switch: --postpone. To build and verify only: --test-only.",
        )
    refused = inline.of_processor(connection, store, target.names)
    if refused is not None:
        raise refused
    for name in target.names:
        table = catalog.find_table(connection, name.schema, name.name)
        if table is None or table.kind not in "rp":
            what = "does not exist" if table is None else "is not a table"
            raise Refused(
                f"{name} {what}, and the application is to write it with each append",
                hint="Let the application make it first.",
            )
    lacks = refolded.missing_right(connection)
    of_finish = lacks and (
        f"this role {lacks[0]}, which `esops projection finish {target.name}` needs after the "
        f"switch. Run: {lacks[1]}"
    )
    return ([of_finish] if of_finish else []) + [
        (
            f"{each} has a snapshot now. One that is older than the switch would see the table "
            "empty, or without its newest rows, so the switch waits until it has ended"
        )
        for each in snapshots.holders(connection)
    ]


def check_archive(config: Config, target: Target, store: EventStore, *, without: bool) -> list[str]:
    """What the store does not read because it was archived and removed, as notes for the plan.

    Raises Refused, or Unavailable where the archive cannot say, unless the operator wants it
    `without` it; UsageError where that has no effect.
    """
    sql_reads_none = (
        " A projection of kind 'sql' cannot read it: use another kind."
        if target.settings.kind == "sql"
        else ""
    )

    def remedy(away: ArchivedAway) -> str:
        return join_with(config, target.store_name, away) + sql_reads_none

    def check(*, without: bool) -> list[str]:
        filter = target.settings.filter
        notes = _check_away(config, store, target.name, filter, remedy, without)
        if store.halves is not None and not without:
            check_begins(store, store.halves)
        return notes

    joined = config.stores[target.store_name].archive
    if not (joined and without):
        return check(without=without)
    try:
        check(without=False)
    except EsopsError:
        return check(without=True)
    raise UsageError(
        f"--without-archived has no effect: store {target.store_name} is joined with archive "
        f"{joined}, so what was archived is read",
        hint="Leave out --without-archived. To rebuild without these events, remove `archive` "
        f"from [stores.{target.store_name}].",
    )


def check_archive_of_others(
    config: Config, projection: str, store: str, *, without: bool
) -> list[str]:
    """The same where the application or the store itself builds the rows: neither reads archives.

    Raises Refused, or Unavailable where the archive cannot say, unless the operator wants it
    `without` it.
    """
    if not config.archives:
        return []
    # Whatever esops itself may read beside it.
    with open_store(store, config.stores[store].without_archive) as hot:
        filter = config.projection(projection).filter
        return _check_away(config, hot, projection, filter, _restore_first, without)


def _restore_first(away: ArchivedAway) -> str:
    runs = "its run" if away.runs == 1 else "its runs"
    return f"Who builds it does not read archives: restore {runs} first (esops archive restore)."


def _check_away(
    config: Config,
    store: EventStore,
    projection: str,
    filter: EventFilter,
    remedy: Callable[[ArchivedAway], str],
    without: bool,
) -> list[str]:
    try:
        found = removed_from(config, store, filter)
    except EsopsError as error:
        if without:
            return [f"it is not known what was archived and removed: {error.message}"]
        archiving = store.archiving
        if isinstance(error, AbsentArchive) and archiving is not None and not archiving.removals:
            return [f"{error.message}; esops only copies events of store {store.name}"]
        hint = (
            f"Whether events of store {store.name} were archived and removed is not known. Make "
            "the archive reachable, or leave its events out: --without-archived."
        )
        # A folder that is not mounted looks like that of an archive that has no run yet, and
        # nothing but a comparison with a version that serves would show the difference.
        if isinstance(error, AbsentArchive):
            hint += (
                " If nothing was archived yet, the first `esops archive run` makes the archive, "
                "also where it selects nothing."
            )
            raise Refused(error.message, hint=hint) from None
        error.hint = hint
        raise
    if found and not without:
        raise Refused(
            f"{found[0]}, and store {store.name} does not read that archive: the rows of these "
            f"streams {found[0].loss} {projection}",
            hint=f"{remedy(found[0])} Or leave them out: --without-archived.",
        )
    return [f"{away} and will be missing (--without-archived)" for away in found]


def check_names(target: Target, store: EventStore) -> list[str]:
    """Notes on event types that the projection names and the store does not have.

    Raises UsageError with the nearest names where no event at all passes the filter, or where the
    store's settings name a tenant that nobody has.
    """
    if absent := store.names.absent_tenant():
        raise UsageError(
            f"stores.{store.name}.tenant: {absent}",
            hint="Correct the name. Or, if this tenant has no events yet: --accept-fewer",
        )
    return check_filter(store, wanted(target), f"projections.{target.name}: ")


def concerns(green: Version, blue: Version | None) -> list[str]:
    """What speaks against taking a version that was just built for the whole read model."""
    if green.position is None:
        return []  # the store is empty
    if not green.events and (blue is None or blue.events or blue.rows):
        return ["it was made of 0 events, and the store has some"]
    if green.events and green.rows == 0 and (blue is None or blue.rows):
        return [f"it has 0 rows, made of {count(green.events, 'event')}"]
    return []


def dead_letters(version: Version, dead: int, allowed: str) -> str | None:
    """What speaks against serving a version of which `dead` events became dead letters, where that
    is more than `allowed`: "100", or "2.5%" of its events. Raises UsageError for any other text.
    """
    if dead <= _most(allowed, version.events):
        return None
    return (
        f"{dead:,} of {count(version.events, 'event')} {became_dead_letters(dead)} from "
        f"its rows ({allowed} are allowed)"
    )


def check_limit(allowed: str) -> None:
    """Raises UsageError for a `--max-dead-letters` that cannot be read."""
    _most(allowed, 0)


def _most(allowed: str, events: int) -> float:
    text = allowed.strip()
    try:
        return float(text[:-1]) / 100 * events if text.endswith("%") else int(text)
    except ValueError:
        raise UsageError(
            f"--max-dead-letters {allowed!r} is neither a number of events nor a percentage",
            hint="For example --max-dead-letters 100, or --max-dead-letters 2.5%.",
        ) from None


def check_dead_letters(connection: psycopg.Connection, version: Version, allowed: str) -> None:
    """Raises Refused where more events of a version became dead letters than are allowed."""
    dead = count_dead_letters(connection, version.projection).get(version.version, 0)
    if reason := dead_letters(version, dead, allowed):
        name = version.projection
        raise Refused(
            f"{name} v{version.version}: {reason}",
            hint=f"See them: esops projection dead-letters {name}. Serve it without them: "
            f"--max-dead-letters {dead}",
        )


def check_one_code(connection: psycopg.Connection, version: Version) -> None:
    """Raises Refused where other code than built a version has advanced it: its rows are neither
    those of the one nor of the other.
    """
    other = conduct.other_code(connection, version)
    if other is not None:
        name = version.projection
        raise Refused(
            f"v{version.version} of {name} was {other}",
            hint=f"If they are right as they are, add --accept-code. If not, rebuild: esops "
            f"rebuild {name} --blue-green",
        )


def check_first_rollback(name: str, serves: int, before: int, last: datetime | None) -> None:
    """Raises Refused where a rollback, at the time `last`, made the version serve that serves now:
    one more would serve what was rolled back from.
    """
    if last is not None:
        raise Refused(
            f"{name} was rolled back already, from v{before} to v{serves} at "
            f"{last:%Y-%m-%d %H:%M:%S} UTC: a second rollback would serve v{before} again",
            hint=f"Nothing was changed. If v{before} is to serve again: esops projection switch "
            f"{name} --to {before}",
        )


def check_spill(target: Target) -> None:
    """Raises Refused where the directory for a spill is on a disk that is not there."""
    settings = target.settings
    if settings.kind != "fold" or settings.spill is None or not settings.spill_limit:
        return
    if not settings.spill.is_dir() and not settings.spill.parent.is_dir():
        raise Refused(
            f"spill of {target.name}: there is no directory {settings.spill}",
            hint="Create it, or mount the disk that it is on. esops only makes its last part.",
        )
