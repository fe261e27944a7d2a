"""Loading: create green, apply all settled events in big batches, build keys and indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg
from psycopg.sql import SQL

from esops.errors import Refused
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.connection import qualified, translated
from esops.readmodel import checkpoints, properties, registry
from esops.readmodel.after_load import build_after_load, noted_key
from esops.readmodel.marks import mark_at
from esops.readmodel.registry import Version
from esops.readmodel.shards import drop_shards, shards_of
from esops.readmodel.tables import count_rows
from esops.rebuild import journal
from esops.rebuild.load.coordinator import ShardedLoad, Unlike
from esops.rebuild.load.estimate import Load
from esops.rebuild.load.executors import engine_of
from esops.rebuild.load.sharding import blurred
from esops.rebuild.load.worker import Task
from esops.rebuild.options import SETTLING
from esops.rebuild.phases.beginning import Beginning
from esops.rebuild.short_tries import Tries, in_short_tries, to_make
from esops.rebuild.stopped_processor import StandingProcessor
from esops.rebuild.verification.result import Verification, tolerated
from esops.running.runner import Runner
from esops.running.work import Progress

_BULKY = 10_000
"""Fewer events than this that are behind are left to following, when the indexes are there."""


class Loading(Beginning):
    """The steps up to a green that has its indexes and is almost fresh."""

    _shares: list[Load]
    """What each of several processes has to load."""

    def _provision(self) -> None:
        """Create green, and drop its indexes for the load, in one transaction."""
        green, blue = self._green(), self._blue()
        made: Sequence[str] = self._journal_entry.options["create"]
        self._say(f"creating green: {', '.join(physical for _, physical in green.tables.values())}")

        def create(connection: psycopg.Connection) -> None:
            journal.enter(connection, self._journal_entry.rebuild, journal.PROVISIONED)
            # It exists already where the answer to this transaction's commit was lost.
            if not catalog.has_table(connection, *green.table):
                for statement in made:
                    connection.execute(statement.encode())
                # Somebody may have made a publication since the plan.
                properties.check_published(connection, green.tables.values())

        command = self._command(in_place=False)
        tries = Tries(
            "creating green",
            to_make(made, [] if blue is None else list(blue.tables.values())),
            hint=f"Once it has ended, continue with: {command} --resume.",
            stop=self._stop,
            say=self._say,
        )
        self._session.do(lambda on: in_short_tries(on, lambda: create(on), tries))
        self._state = journal.PROVISIONED

    def _catch_up(self) -> None:
        """Load all events that are settled, and build keys and indexes.

        Where nothing advances blue, stop at its position once and compare: later green is ahead.
        """
        if self._state == journal.PROVISIONED:
            self._hooks.run("before_catch_up", self._facts())
        self._enter(journal.CATCHING_UP)
        self._lost.forget()
        blue = self._blue()
        head = self._head(SETTLING)
        blue_stops_at = self._where_blue_stops(blue, head)
        if head is not None:
            self._load_in_shards(head if blue_stops_at is None else min(head, blue_stops_at))
        runner = self._open_runner()
        # What a process before has spilled may go beyond where blue stops.
        runner.complete_spill()
        # More than once where blue has moved during the load, and stands again.
        while (
            blue is not None
            and blue_stops_at is not None
            and head is not None
            and (runner.position is None or runner.position <= blue_stops_at <= head)
        ):
            self._say(f"catching up to position {blue_stops_at}, where v{blue.version} stopped")
            self._load_up_to(runner, blue_stops_at)
            self._build(runner)
            with self._doing(f"comparing with v{blue.version}"):
                found = self._compare_where_it_stands(blue, blue_stops_at)
            if found is not None:
                self._keep_comparison(found)
                break
            self._say(f"v{blue.version} has moved, so it is compared later")
            if blue.position is None:
                break  # the application writes it, and may be at work
            blue = self._blue()
            blue_stops_at = self._where_blue_stops(blue, head)
        # All that is much is loaded before the indexes are built; what is committed during that is
        # left to following.
        while head is not None and self._behind(runner, head) > (_BULKY if runner.position else 0):
            self._say(f"catching up to position {head}")
            self._load_up_to(runner, head)
            head = self._head()
        self._look_for_lost(runner)
        self._build(runner)
        self._enter(journal.FOLLOWING)

    def _look_for_lost(self, runner: Runner) -> None:
        """Begin to look for streams that have lost first events before these were read; the server
        does so beside the work on keys and indexes.
        """
        if not self._options.test_only and not self._lost.looks:
            self._lost.ask(runner.position)

    def _where_blue_stops(self, blue: Version | None, head: Position | None) -> Position | None:
        """Blue's position, if nothing advances it and it is one of this log."""
        if blue is not None and blue.position is None:
            return self._application().stands_at(head)
        if blue is not None and self._apart(blue):
            return None
        return blue.position if blue is not None and not self._session.followed(blue) else None

    def _compare_where_it_stands(self, blue: Version, at: Position) -> Verification | None:
        """Compare at the position of a blue that stands there; None where it has moved, and where
        rows that differ may be the application's that is at work.
        """
        if blue.position is not None:
            return self._comparer().where_it_stands(blue, at)
        application = self._application()
        found = self._comparer().where_application_stands(blue, at, application.position)
        if found is None or tolerated(found, self._options.max_diff) or application.stopped():
            return found
        return None

    def _application(self) -> StandingProcessor:
        """The application's processor that writes blue."""
        settings = self.target.settings
        name = settings.checkpoint if settings.live == "app" else None
        return StandingProcessor(self.store, name, said=self._options.processor_stopped)

    def _keep_comparison(self, found: Verification) -> None:
        self._keep_verification(found)
        self._compared = True

    def _load_in_shards(self, until: Position) -> None:
        """Load up to a position by several processes, where that was asked for, or was begun by
        the process before.
        """
        green = self._green()
        begun = self._session.do(lambda on: shards_of(on, green))
        # Shards begin with an empty green: with rows of its own checkpoint in it, nobody could
        # tell which of them belong to which shard.
        if not begun and (not self._options.sharded or green.position is not None):
            return
        self._session.do(self._check_keys)
        engine = engine_of(self._options.engine)
        load = Load(None, until, 0, self.store.counts.between(None, until))
        self._shares = []
        try:
            ShardedLoad(
                self._session,
                green,
                engine,
                self._task,
                stop=self._stop,
                progress=lambda shards: self._report_shards(load, shards),
                say=self._say,
                mark=lambda at: mark_at(self.store, at),
                as_one=self._options.measured,
            ).run(until, self._options.processes if self._options.workers else engine.processes())
        except Unlike as unlike:
            self._load_in_one(str(unlike))
            return
        finally:
            engine.close()
        done = self._green().events
        self._reporter.progress(done, done)

    def _check_keys(self, connection: psycopg.Connection) -> None:
        """Raises Refused where several processes could write one row. The plan has looked, but an
        older esops may have made it.
        """
        green = self._green()
        table = catalog.find_table(connection, *green.table)
        if table is None:
            return  # whoever opens it says so
        why = blurred(self.store, table, table.key or noted_key(green, table.name))
        if why is not None:
            command = self._command(in_place=False)
            raise Refused(
                f"several processes cannot load {green.projection}: {why}",
                hint=f"Drop this rebuild with `{command} --abort`, and start it again.",
            )

    def _load_in_one(self, why: str) -> None:
        """Drop what several processes have loaded, and leave the load to one."""
        green = self._green()
        self._say(f"{why}, and a fold may see that: one process begins the load again")

        def begin_again(connection: psycopg.Connection) -> None:
            with connection.transaction():
                # The checkpoint's row first, as everybody does.
                registry.lock_checkpoint(connection, green.projection, green.version)
                for table in green.tables.values():
                    connection.execute(SQL("TRUNCATE {}").format(qualified(*table)))
                drop_shards(connection, green)
                checkpoints.reset(connection, green, green.fingerprint or "")
                journal.load_in_one(connection, self._journal_entry.rebuild)

        self._session.do(begin_again)
        one = {**self._journal_entry.options, "workers": 1, "measured": False}
        self._entry = replace(self._journal_entry, options=one)
        self._options = replace(self._options, workers=1, measured=False)

    def _report_shards(self, load: Load, shards: Sequence[Progress]) -> None:
        self._shares = self._shares or load.shared(len(shards))
        if all(each.doing for each in shards):
            # One stands for all: their shares of the log are alike.
            more = f", in each of {len(shards)} processes"
            self._reporter.doing(f"{shards[0].doing}{more}", paused=shards[0].paused)
            return
        done = sum(each.events for each in shards)
        total = sum(
            share.total(each.events, each.position)
            for share, each in zip(self._shares, shards, strict=True)
        )
        # Streams are not all of one length, so the estimates of shares are off by a little.
        if abs(total - load.counted) * 20 <= load.counted:
            total = max(done, load.counted)
        self._reporter.progress(done, total)
        # The processes wait silently; why is said here, once for all of them, and without the
        # figures, which change at every look.
        if (reason := self._open_throttle().others_wait()) is not None:
            self._say_once(f"waiting: {reason.partition(' (')[0]}")

    def _task(self, number: int, of: int, until: Position, owner: int | None) -> Task:
        target = self.target
        return Task(
            target.config,
            target.name,
            self._journal_entry.to_version,
            target.store_name,
            number,
            of,
            str(until),
            self._options.batch_size,
            self._options.limits,
            target.code.fingerprint,
            target.code.names(),
            owner,
        )

    def _behind(self, runner: Runner, head: Position) -> int:
        return self.store.counts.between(runner.position, head)

    def _load_up_to(self, runner: Runner, until: Position) -> None:
        done = self._green().events
        self._load = Load(runner.position, until, done, self._behind(runner, until))
        self._reporter.progress(done, done + self._load.counted)
        try:
            runner.run_until(until)
        finally:
            self._load = None
        # From here on, progress is what is committed and no estimate any more.
        done = self._green().events
        self._reporter.progress(done, done)

    def _build(self, runner: Runner) -> None:
        """Build the keys and indexes that are missing, and then the statistics."""
        green = self._green()
        with translated(), self._doing("building keys and indexes"):
            built = build_after_load(runner.connection, green, dsn=self.target.dsn)
            changed = built or (runner.events and runner.position != self._described)
            if changed:
                self._reporter.doing("gathering statistics")
                # Without statistics the first queries after the switch would be planned blindly.
                for table in green.tables.values():
                    runner.connection.execute(
                        b"ANALYZE " + qualified(*table).as_bytes(runner.connection)
                    )
            # Kinds other than folds do not know how many rows they add; a full count is paid once.
            if changed and not runner.counts_rows:
                self._reporter.doing("counting rows")
                rows = sum(count_rows(runner.connection, table) for table in green.tables.values())
                registry.set_rows(runner.connection, green, rows)
            self._described = runner.position
        if built:
            self._say(f"built {', '.join(built)}")
            self._note("built", {"built": built})
