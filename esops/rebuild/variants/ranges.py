"""A rebuild in place that never empties anything: the keys are split into ranges, and each range's
rows are replaced in one transaction.

A range is built in a table of its own from the events of its streams, as a version that nobody
reads, up to one position for all ranges. Then what differs is deleted, inserted and updated in the
table that serves, and the range is noted as done in the same transaction. So readers see each row
as it was or as it will be, and a rebuild that dies continues with the range that it was working on.
In the meantime the version has no checkpoint, so that nobody follows it: some of its rows are older
than others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import Busy, Refused
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.sharding import shard_predicate
from esops.readmodel import checkpoints, registry, spills
from esops.readmodel.marks import mark_at
from esops.readmodel.names import physical_name
from esops.readmodel.registry import Version
from esops.readmodel.shards import (
    Shard,
    create_shards,
    drop_shards,
    finish_range,
    merge_shards,
    shards_of,
)
from esops.readmodel.tables import drop_tables
from esops.rebuild.load.sharding import stream_column
from esops.rebuild.session import Session
from esops.rebuild.short_tries import Tries, in_short_tries, of_tables
from esops.rebuild.target import Target
from esops.running.runner import Runner
from esops.running.spill.directory import remove_of
from esops.running.work import Progress, RunControl, Work
from esops.stores.base import EventStore

Record = Callable[[psycopg.Connection, Mapping[str, Any]], None]
_LOCK_PATIENCE = timedelta(seconds=10)


class Ranges:
    """The ranges of one version's rows."""

    def __init__(
        self,
        session: Session,
        target: Target,
        store: EventStore,
        version: Version,
        scratch: int,
        batch_size: int | None,
        control: RunControl,
    ) -> None:
        """`scratch` is the number of the version that nobody reads, in which a range is built."""
        self._session, self._target, self._store = session, target, store
        self._version, self._scratch, self._batch_size = version, scratch, batch_size
        self._control = control

    def begin(self, of: int, until: Position, record: Record) -> None:
        """Create the table for ranges, and set the version's checkpoint aside, in one transaction,
        in which `record` keeps it.
        """
        version, names = self._version, self._names()
        staging, mark = qualified(*names), mark_at(self._store, until)

        def do(connection: psycopg.Connection) -> None:
            if shards_of(connection, version):
                return  # the answer to this transaction's commit was lost with the connection
            real = self._real(connection)
            key = sql.SQL(", ").join(map(sql.Identifier, real.key))
            like = qualified(real.schema, real.name)
            connection.execute(
                sql.SQL(
                    # Without the indexes of the table that serves: nobody reads this one, and its
                    # key is enough to compare by.
                    "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING "
                    "IDENTITY, PRIMARY KEY ({}))"
                ).format(staging, like, key)
            )
            # With rows of two positions, no single checkpoint would be true; without one, nobody
            # follows.
            before = checkpoints.set_aside(connection, version)
            registry.insert(
                connection,
                Version(
                    version.projection,
                    self._scratch,
                    "building",
                    version.store,
                    None,
                    0,
                    0,
                    {next(iter(version.tables)): names},
                    self._target.code.fingerprint,
                ),
            )
            create_shards(connection, version, of, until, mark)
            record(connection, before)

        self._in_short_tries(do, "beginning the ranges")

    def drop(self, before: Mapping[str, Any], record: Callable[[psycopg.Connection], None]) -> None:
        """Drop the table for ranges, of which none was replaced, and restore the checkpoint from
        before, in one transaction, in which `record` notes it.
        """
        version, left = self._version, list[spills.Spill]()

        def do(connection: psycopg.Connection) -> None:
            if not shards_of(connection, version):
                return  # it was committed, and the answer was lost
            known = registry.versions(connection, version.projection)
            scratch = next((each for each in known if each.version == self._scratch), None)
            drop_shards(connection, version)
            checkpoints.restore(connection, version, before)
            if scratch is not None:
                left.extend(spills.spills_of(connection, scratch))
                drop_tables(connection, scratch)
                registry.delete(connection, scratch.projection, scratch.version)
            record(connection)

        self._in_short_tries(do, "dropping the ranges")
        for each in left:
            remove_of(each.directory, each.spill)

    def fill(self, check: Callable[[], None]) -> None:
        """Replace each range that is not done, and set the version's checkpoint at the end.

        `check` raises where what was built must not replace anything.
        """
        ranges = self._session.do(lambda on: shards_of(on, self._version))
        for each in ranges:
            # Those that are done were committed with their rows.
            if each.position != each.until:
                self._control.say(f"range {each.number + 1} of {each.of}")
                self._build(each)
                check()
                self._replace(each)
        if ranges:
            self._session.do(lambda on: self._finish(on, ranges[0].until))

    def _names(self) -> tuple[str, str]:
        schema, _ = self._version.table
        return schema, physical_name(next(iter(self._version.tables)), self._scratch)

    def _real(self, connection: psycopg.Connection) -> Table:
        table = catalog.find_table(connection, *self._version.table)
        if table is None or not table.key:
            raise Refused(
                f"the table {'.'.join(self._version.table)}, which should serve, does not exist "
                "any more"
            )
        return table

    def _build(self, part: Shard) -> None:
        target = self._target
        work = Work.on(
            target.name, self._scratch, target.definition, target.settings, self._batch_size
        )
        work = replace(work, filter=replace(work.filter, shard=(part.number, part.of)))
        done = sum(
            each.events for each in self._session.do(lambda on: shards_of(on, self._version))
        )
        before = self._session.do(
            lambda on: registry.version(on, target.name, self._scratch)
        ).events

        def report(progress: Progress) -> None:
            done_here = replace(progress, events=done + before + progress.events)
            self._control.report(done_here)

        control = replace(self._control, report=report)
        runner = Runner(self._store, target.dsn, work, control, lock_patience=_LOCK_PATIENCE)
        try:
            runner.run_until(part.until)
        finally:
            runner.close()

    def _replace(self, part: Shard) -> None:
        """Give the serving table the rows that were built for a range, and empty the table for
        ranges, in one transaction.
        """

        def do(connection: psycopg.Connection) -> None:
            registry.lock_checkpoint(connection, self._target.name, self._scratch)
            built = registry.version(connection, self._target.name, self._scratch)
            ranges = shards_of(connection, self._version)
            now = next(each for each in ranges if each.number == part.number)
            first = all(each.position != each.until for each in ranges)
            if now.position == part.until:
                # It was committed, and the answer was lost. The table for ranges is empty by now,
                # so doing it again would delete the range's rows.
                return
            if built.position != part.until:
                raise Busy(
                    f"range {part.number + 1} of {self._target.name} was changed by somebody else"
                )
            real, names = self._real(connection), qualified(*self._names())
            # The server must split keys as the reader split streams, or rows of others would be
            # deleted: so the rows that were built are counted against it first.
            mine = shard_predicate(
                sql.Identifier("t", stream_column(real.key)), part.number, part.of
            )
            strays = connection.execute(
                sql.SQL("SELECT count(*) FROM {} AS t WHERE NOT {}").format(names, mine)
            ).fetchone()
            if strays is None or strays[0]:
                raise Refused(
                    "the table's keys fall into other ranges than the streams' names do",
                    hint="Rebuild without --ranges.",
                )
            try:
                _delete_missing(connection, real, names, mine)
                _write_changed(connection, real, names)
            except psycopg.errors.IntegrityError as error:
                why = f"{error.diag.message_primary} {error.diag.message_detail or ''}"
                raise Refused(
                    f"the new rows of range {part.number + 1} violate a constraint: {why}",
                    hint="Rows of other ranges, still made by the old code, are in the way. "
                    "Rebuild with --blue-green, or without --ranges.",
                ) from error
            if first:
                checkpoints.forget_before(connection, self._version)
            finish_range(connection, self._version, part, built)
            connection.execute(sql.SQL("TRUNCATE {}").format(names))
            # The same table serves the next range, which begins from the log's start again.
            checkpoints.reset(connection, built, self._target.code.fingerprint)

        self._in_short_tries(do, f"replacing range {part.number + 1}")

    def _in_short_tries(self, do: Callable[[psycopg.Connection], None], what: str) -> None:
        tries = Tries(
            what,
            of_tables(list(self._version.tables.values())),
            hint="What was done stays. Once it has ended, run this again with --resume.",
            stop=self._control.stop,
            say=self._control.say,
        )
        self._session.do(lambda on: in_short_tries(on, lambda: do(on), tries))

    def _finish(self, connection: psycopg.Connection, until: Position) -> None:
        with connection.transaction():
            if not shards_of(connection, self._version):
                return
            version = replace(self._version, fingerprint=self._target.code.fingerprint)
            merge_shards(connection, version, until)
            connection.execute(sql.SQL("DROP TABLE {}").format(qualified(*self._names())))
            registry.delete(connection, self._target.name, self._scratch)


def _delete_missing(
    connection: psycopg.Connection, real: Table, built: sql.Composable, mine: sql.Composable
) -> None:
    same = sql.SQL(" AND ").join(
        sql.SQL("s.{0} = t.{0}").format(sql.Identifier(name)) for name in real.key
    )
    connection.execute(
        sql.SQL(
            "DELETE FROM {} AS t WHERE {} AND NOT EXISTS (SELECT FROM {} AS s WHERE {})"
        ).format(qualified(real.schema, real.name), mine, built, same)
    )


def _write_changed(connection: psycopg.Connection, real: Table, built: sql.Composable) -> None:
    """Insert and update rows, but write no row that is unchanged: a rebuild that changes little
    makes little bloat.
    """
    # What the server makes itself, it also makes here: such columns cannot be written.
    made = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped "
        "AND (attgenerated <> '' OR attidentity <> '')",
        (real.oid,),
    ).fetchall()
    names = [column.name for column in real.columns if (column.name,) not in made]
    others = [name for name in names if name not in real.key]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    key = sql.SQL(", ").join(map(sql.Identifier, real.key))
    conflict: sql.Composable = sql.SQL("NOTHING")
    if others:
        sides = [
            sql.SQL(", ").join(
                sql.SQL("{}.{}::text").format(sql.SQL(side), sql.Identifier(name))
                for name in others
            )
            for side in ("t", "EXCLUDED")
        ]
        conflict = sql.SQL("UPDATE SET {} WHERE ROW({}) IS DISTINCT FROM ROW({})").format(
            sql.SQL(", ").join(
                sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in others
            ),
            *sides,
        )
    connection.execute(
        sql.SQL(
            "INSERT INTO {} AS t ({columns}) SELECT {columns} FROM {} ON CONFLICT ({}) DO {}"
        ).format(qualified(real.schema, real.name), built, key, conflict, columns=columns)
    )
