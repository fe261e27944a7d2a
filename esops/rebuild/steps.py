"""A rebuild as a story: provision, catch up, build what was left off, follow, verify, switch.

Each step can be done again: it looks what is there and does what is missing. The journal holds the
state before and after;
whoever finds it unfinished can go on. While it works, a rebuild holds its projection's lock and
green's; blue is touched by
nothing but the comparison's reads and the one transaction of the switch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import structlog

from esops.errors import ConnectionLost, EsopsError, Refused, Stopped, UsageError
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.connection import qualified, translated
from esops.readmodel import migrations, registry
from esops.readmodel.after_load import build_after_load
from esops.readmodel.registry import Version
from esops.readmodel.shards import shards_of
from esops.readmodel.tables import count_rows, drop_tables
from esops.rebuild import journal, switch
from esops.rebuild.context import RebuildContext
from esops.rebuild.load import coordinator as shards
from esops.rebuild.load.executors import engine_of
from esops.rebuild.load.worker import Task
from esops.rebuild.outcome import Outcome
from esops.rebuild.plan import SETTLING, Options, Plan
from esops.rebuild.verification import comparison as verify
from esops.rebuild.verification.comparer import LOOK_EVERY, Comparer, Going, taken_in
from esops.running import throttle as control
from esops.running.runner import Runner
from esops.stores.base import require, settled
from esops.stores.parts import SqlAccess

log = structlog.get_logger("esops.rebuild")
_STILLNESS = timedelta(seconds=60)
_BULKY = 10_000
_GLANCE = timedelta(milliseconds=50)
"""So long green waits, while it follows, for what is being written: longer, and as much would have
been written meanwhile.
"""


class Rebuild(RebuildContext):
    """One rebuild of one projection, at work."""

    # -- ways in

    def begin(self, plan: Plan, options: Options) -> Outcome:
        """Do a plan from its start. Raises Refused if another rebuild is unfinished."""
        return self.run_steps(self.enter(plan, options))

    def enter(self, plan: Plan, options: Options, group: str | None = None) -> journal.Entry:
        """Enter a plan into the journal.

        `group` is shared by those that are begun together. Raises Refused if one is unfinished.
        """
        with translated():
            self._prepare()
            from_version = plan.source.version if plan.source else None
            with self._session.connection.transaction():
                if plan.adopt and plan.source is not None:
                    registry.insert(self._session.connection, plan.source)
                    registry.set_active(
                        self._session.connection, self.target.name, plan.source.version, None
                    )
                entry = journal.begin(
                    self._session.connection,
                    self.target.name,
                    from_version,
                    plan.to_version,
                    {
                        **options.as_dict(),
                        "compare": plan.compare,
                        "create": [*plan.create, *plan.drop_now],
                        "group": group,
                    },
                )
                registry.insert(self._session.connection, plan.version())
        return entry

    def latest(self) -> journal.Entry | None:
        """The projection's newest rebuild, finished or not."""
        with translated():
            return journal.latest(self._session.connection, self.target.name)

    def _prepare(self) -> None:
        """What comes before anything is entered.

        Raises Refused if another rebuild is unfinished.
        """
        entry = journal.latest(self._session.connection, self.target.name)
        if entry is not None and entry.finished_at is None:
            raise Refused(
                f"rebuild {entry.rebuild} of {self.target.name} is not finished: {entry.state}"
                + (f" ({entry.reason})" if entry.reason else ""),
                hint="Go on with --resume, or give it up with --abort.",
            )
        migrations.install(self._session.connection)
        control.request(self._session.connection, self.target.name, switch_now=False)

    def resume(self, options: Mapping[str, Any]) -> Outcome:
        """Go on where the last process stopped or died, with these options changed.

        A finished one is only reported.
        """
        with translated():
            entry = journal.latest(self._session.connection, self.target.name)
            if entry is None:
                raise UsageError(
                    f"no rebuild of {self.target.name} was ever begun", hint="Leave --resume out."
                )
            if entry.finished_at is not None:
                self._entry = entry
                return self._outcome(findings=False)
            self._check_way(entry)
            entry = replace(
                journal.reopen(self._session.connection, entry),
                options={**entry.options, **options},
            )
        return self.run_steps(entry)

    def _check_way(self, entry: journal.Entry) -> None:
        """Raises UsageError where a rebuild that was begun in the other way is to be gone
        on with.
        """
        if bool(entry.options.get("in_place")) != self.in_place:
            way = (
                "in place: leave --blue-green out"
                if entry.options.get("in_place")
                else "with --blue-green"
            )
            raise UsageError(f"rebuild {entry.rebuild} of {self.target.name} was begun {way}")

    def abort(self) -> Outcome:
        """Give an unfinished rebuild up and drop green. Raises UsageError where there is none."""
        with translated():
            entry = self._unfinished()
            with self._session.connection.transaction():
                green = registry.version(
                    self._session.connection, self.target.name, entry.to_version
                )
                self._drop(self._session.connection, green)
                registry.set_state(
                    self._session.connection, self.target.name, green.version, "aborted"
                )
                journal.enter(
                    self._session.connection, entry.rebuild, journal.ABORTED, finished=True
                )
            self._entry = journal.latest(self._session.connection, self.target.name)
        return self._outcome(findings=False)

    def _unfinished(self) -> journal.Entry:
        entry = journal.latest(self._session.connection, self.target.name)
        if entry is None or entry.finished_at is not None:
            raise UsageError(f"there is no unfinished rebuild of {self.target.name} to abort")
        self._check_way(entry)
        return entry

    # -- the story

    def run_steps(self, entry: journal.Entry) -> Outcome:
        """Do what is left to do of a rebuild that is entered.

        Raises Stopped, and whatever stops it.
        """
        self._entry = entry
        known = {
            key: value
            for key, value in entry.options.items()
            if key in Options.__dataclass_fields__
        }
        self._options = Options(**known)
        self._say(f"begins at state {entry.state}, to build v{entry.to_version}")
        log.info(
            "rebuild",
            rebuild=entry.rebuild,
            projection=entry.projection,
            to_version=entry.to_version,
            state=entry.state,
        )
        self._state = entry.state
        self._worked = True
        while True:
            try:
                return self._outcome(findings=not self._story())
            except Stopped as stopped:
                self._pause("asked to stop" if self._stop() else stopped.message)
                if not self._stop():
                    self._on_failure(stopped.message)
                raise Stopped(
                    f"rebuild {entry.rebuild} of {self.target.name} is paused: {stopped.message}",
                    hint="Go on with --resume.",
                ) from None
            except ConnectionLost as lost:
                # Each step can be done again: wait for the database, and take the story up where it
                # was.
                self._say(f"waiting for the database: {lost.message}")
                self._let_runner_go()
                time.sleep(1)
                self._session.do(lambda _: None)
            except EsopsError as error:
                self._pause(error.message)
                self._on_failure(error.message)
                raise

    def _story(self) -> bool:
        """All steps from the state that is reached; False where the verification found what is not
        tolerated.
        """
        self._check_code()
        if self._state == journal.PLANNED:
            self._provision()
        if self._state in {journal.PROVISIONED, journal.CATCHING_UP}:
            self._catch_up()
        if self._state == journal.FOLLOWING:
            self._follow()
            if not self._verify():
                self._pause("the verification found differences")
                self._on_failure("the verification found differences")
                return False
            self._enter(journal.VERIFIED)
        if self._options.test_only:
            self._end_test()
        elif self._options.switch:
            self._await_leave()
            self._follow()
            self._hooks.run("before_switch", self._told())
            self._follow()
            self._switch()
            self._state = journal.SWITCHED
            return self._after_switch()
        else:
            self._stand_by()
        return True

    def _provision(self) -> None:
        """Make green, and take its indexes off, in one transaction."""
        self._say(
            f"making green: {', '.join(physical for _, physical in self._green().tables.values())}"
        )

        def make(connection: psycopg.Connection) -> None:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '5s'")
                if catalog.find_table(connection, *self._green().table) is None:
                    for statement in self._the_entry.options["create"]:
                        connection.execute(statement.encode())
                journal.enter(connection, self._the_entry.rebuild, journal.PROVISIONED)

        self._session.do(make)
        self._state = journal.PROVISIONED

    def _catch_up(self) -> None:
        """Load all events that are settled, build keys and indexes, analyse; compare on the way
        where blue stands still.
        """
        if self._state == journal.PROVISIONED:
            self._hooks.run("before_catch_up", self._told())
        self._enter(journal.CATCHING_UP)
        blue = self._blue()
        head = self._head(SETTLING)
        standing = blue.position if blue is not None and not self._session.followed(blue) else None
        if head is not None:
            self._load_in_shards(standing if standing is not None and standing <= head else head)
        runner = self._take_runner()
        early = (
            standing is not None
            and head is not None
            and (runner.position is None or runner.position <= standing <= head)
        )
        if early and standing is not None and blue is not None:
            self._say(f"catching up to v{blue.version}, which stands still at position {standing}")
            self._load(runner, standing)
            self._build(runner)
            self._kept(self._comparer().as_they_stand(blue, str(standing)))
        # All that is many goes in before the indexes are built; what comes meanwhile is for
        # following.
        while head is not None and self._behind(runner, head) > (_BULKY if runner.position else 0):
            self._say(f"catching up to position {head}")
            self._load(runner, head)
            head = self._head()
        self._build(runner)
        self._enter(journal.FOLLOWING)

    def _load_in_shards(self, until: Position) -> None:
        """Load by several processes, where that was asked for or was begun so; up to a position at
        which blue can be compared.
        """
        green = self._green()
        begun = self._session.do(lambda on: shards_of(on, green))
        sharded = self._options.engine is not None or (self._options.workers or 1) > 1
        if not begun and (not sharded or green.position is not None):
            return
        engine = engine_of(self._options.engine)
        total = self.store.count_between(None, until)
        limits, target = self._options.limits, self.target

        def task(number: int, of: int, until: Position, owner: int | None) -> Task:
            return Task(
                target.config,
                target.name,
                green.version,
                target.store_name,
                number,
                of,
                str(until),
                self._options.batch_size,
                limits,
                target.code,
                owner,
            )

        try:
            shards.load(
                self._session,
                green,
                task,
                until,
                engine,
                self._options.workers or engine.processes(),
                stop=self._stop,
                progress=lambda done: self._watcher.progress(done, total),
                say=self._say,
            )
        finally:
            engine.close()
        self._watcher.progress(total, total)

    def _behind(self, runner: Runner, head: Position) -> int:
        return self.store.count_between(runner.position, head)

    def _load(self, runner: Runner, until: Position) -> None:
        done = self._green().events
        self._total = done + self._behind(runner, until)
        self._target_position = until
        self._watcher.progress(done, self._total)
        runner.run_until(until)
        self._target_position = None
        done = self._green().events
        self._watcher.progress(done, done)

    def _build(self, runner: Runner) -> None:
        """Build what is missing of keys and indexes, then the statistics."""
        green = self._green()
        with translated():
            built = build_after_load(runner.connection, green, dsn=self.target.dsn)
            if built or runner.events:
                for table in green.tables.values():
                    runner.connection.execute(
                        b"ANALYZE " + qualified(*table).as_bytes(runner.connection)
                    )
            if (built or runner.events) and not runner.counts_rows:
                rows = sum(count_rows(runner.connection, table) for table in green.tables.values())
                registry.set_rows(runner.connection, green, rows)
        if built:
            self._say(f"built {', '.join(built)}")
            self._note("built", {"built": built})

    def _follow(self) -> None:
        """Keep up until the lag has been small twice in a row, or nothing is left."""
        runner = self._take_runner()
        small = 0
        while small < 2:
            if self._stop():
                raise Stopped(f"stopped at position {runner.position}")
            runner.step(_GLANCE)
            head = self._head(_GLANCE)
            lag = self._behind(runner, head) if head is not None else 0
            if lag == 0:
                if self._may_leave_the_rest(runner):
                    return
                continue
            near = lag <= self._options.switch_lag or self._take_throttle().look().switch_now
            small = small + 1 if near else 0
            if not small:
                self._say(f"following: {lag:,} events behind")
            elif small < 2:
                time.sleep(0.05)

    def _may_leave_the_rest(self, runner: Runner) -> bool:
        """Whether following may end where the head does: at all that was committed, or where blue
        is no further either.

        Else what is held back is waited for, since readers would miss it.
        """
        if not self._held_back or self._whole:
            return True
        blue = None if self.in_place else self._blue()
        if (
            blue is not None
            and blue.position is not None
            and runner.position is not None
            and runner.position >= blue.position
        ):
            self._say_once(
                f"the newest events have not settled: {self._held_back[0].in_words()} holds "
                "them back. "
                f"Green stands at {runner.position}, no further back than v{blue.version}, and "
                "applies them when they settle"
            )
            return True
        head, short = settled(self.store, runner.position, self._stop)
        if head is not None and (runner.position is None or head > runner.position):
            runner.run_until(head)
        if short is None:
            self._whole = True
        else:
            self._say_once(f"waiting: {short.message}")
        return False

    def _say_once(self, text: str) -> None:
        if text != self._told_short:
            self._told_short = text
            self._say(text)

    def _await_leave(self) -> None:
        """Keep up while the switch is put off, by an option or from another terminal, until
        `switch-now`.
        """
        throttle, told = self._take_throttle(), False
        while True:
            wished = throttle.look(now=True)
            if not (wished.postponed or (self._options.postpone and not wished.switch_now)):
                return
            if not told:
                self._say(
                    f"green keeps up and waits for: esops projection switch-now {self.target.name}"
                )
                told = True
            if self._stop():
                raise Stopped("stopped while the switch was put off")
            self._keep_up()

    def _keep_up(self) -> None:
        self._take_throttle().wait()
        if not self._take_runner().step(timedelta(milliseconds=50)):
            time.sleep(0.1)

    def _verify(self) -> bool:
        """Compare green with blue at one position, and ask the user's assertions; whether the
        switch may go on.
        """
        runner = self._take_runner()
        self._build(runner)
        blue = self._blue()
        if blue is None or self._options.compare == "none":
            note = "nothing served before" if blue is None else None
            self._keep(
                verify.Verification(
                    "none", None, self._green().rows or 0, 0, str(runner.position), note=note
                )
            )
        elif self._must_compare(blue, runner):
            self._say("verifying")
            if blue.position is None and self.target.settings.live == "app":
                self._kept(
                    self._comparer().until_they_agree(
                        blue, str(runner.position), self._going(runner)
                    )
                )
            elif blue.position is None:
                note = f"v{blue.version} has no checkpoint: compared as it stood"
                self._kept(self._comparer().as_they_stand(blue, str(runner.position), note))
            else:
                self._kept(self._comparer().at_one_position(blue, runner))
        found = self._comparer().assertions(
            self._verification(), self.target.settings.verify.assertions
        )
        fine = verify.tolerated(found, self._options.max_diff)
        if not fine:
            # Kept for the summary; a resumed rebuild compares again.
            self._keep(found)
        return fine

    def _going(self, runner: Runner) -> Going:
        """Between two looks at rows that the application writes, green follows."""
        head = self._head()

        def step() -> None:
            if self._stop():
                raise Stopped("stopped while rows that differ were looked at again")
            runner.step(timedelta(milliseconds=50))
            time.sleep(LOOK_EVERY)

        name = self.target.settings.checkpoint
        return Going(step, taken_in(self.store, [name] if name else [], head), self._say)

    def _comparer(self) -> Comparer:
        method: verify.Method = self._options.compare or "exact"  # type: ignore[assignment]
        return Comparer(
            self._session,
            self.target.dsn,
            self.store,
            self._green(),
            method,
            self.target.settings.verify,
        )

    def _kept(self, found: verify.Verification) -> None:
        self._keep(found)
        self._compared = True

    def _must_compare(self, blue: Version, runner: Runner) -> bool:
        """Not again what was compared on the way, at blue's position, since green has gone past it;
        else anew after a pause.
        """
        return self._refresh().verification is None or (
            not self._compared
            and (blue.position in {None, runner.position} or self._session.followed(blue))
        )

    def _switch(self) -> None:
        """Point the name at green, with green at or past blue, in one transaction with the
        journal's entry.
        """
        runner = self._take_runner()
        self._take_throttle().wait()
        blue, green = self._blue(), self._green()
        self._taken_over = blue is not None and self._session.followed(blue)
        self._say(f"switching {', '.join(map(str, self.target.names))} to v{green.version}")

        def record(connection: psycopg.Connection) -> None:
            if self.target.settings.live == "app":
                self._hand_over(connection, green)
            journal.enter(connection, self._the_entry.rebuild, journal.SWITCHED, finished=True)

        def bring_to(position: Position) -> None:
            if runner.position is None or runner.position < position:
                runner.run_until(position)

        if self.target.settings.live == "app":
            self._await_stillness()
        if self.target.settings.switch == "hook" and self._green().state != "active":
            self._hooks.run("switch", self._told())

        def do(connection: psycopg.Connection) -> None:
            if registry.version(connection, green.projection, green.version).state == "active":
                return
            switch.perform(
                connection,
                self.target.names,
                self.target.settings.switch,
                blue,
                green,
                bring_to=bring_to,
                record=record,
                stop=self._stop,
                say=self._say,
            )

        self._session.do(do)

    def _sql(self) -> SqlAccess:
        return require(self.store, self.store.sql, "checkpoints to set")

    def _await_stillness(self) -> None:
        """Wait a minute for the application's projector to stand still, by trying what the switch
        will do. Raises Refused.
        """
        name, deadline, told = (
            self.target.settings.checkpoint,
            time.monotonic() + _STILLNESS.total_seconds(),
            False,
        )
        runner = self._take_runner()
        assert name is not None
        assert runner.position is not None
        at = runner.position

        def attempt(connection: psycopg.Connection) -> None:
            with connection.transaction(force_rollback=True):
                self._sql().set_checkpoint(connection, name, at)

        while True:
            try:
                return self._session.do(attempt)
            except Refused as refused:
                if self._stop() or time.monotonic() >= deadline:
                    raise
                if not told:
                    self._say(
                        f"waiting a minute for the application's projector: {refused.message}"
                    )
                    told = True
                time.sleep(1)
                runner.step(timedelta(milliseconds=50))
                at = runner.position

    def _hand_over(self, connection: psycopg.Connection, green: Version) -> None:
        """Let the application go on where green is, in the switch's own transaction.

        Raises Refused.
        """
        name = self.target.settings.checkpoint
        position = registry.read_position(connection, green.projection, green.version)
        if name is None or position is None:
            raise Refused("there is no checkpoint to be handed over")
        self._sql().set_checkpoint(connection, name, position)
        registry.release(connection, green)
        self._handed = position
        self._say(f"handed over to the application: {name} at {position}")

    def _end_test(self) -> None:
        """Drop green, which was built and verified for a test; blue serves as before."""
        self._let_runner_go()
        green = self._green()

        def do(connection: psycopg.Connection) -> None:
            with connection.transaction():
                self._drop(connection, green)
                registry.set_state(connection, green.projection, green.version, "aborted")
                journal.enter(connection, self._the_entry.rebuild, journal.TESTED, finished=True)

        self._session.do(do)
        self._say(f"tested; {self._dropped(green)}")

    def _drop(self, connection: psycopg.Connection, green: Version) -> None:
        """Drop what was built."""
        drop_tables(connection, green)

    def _dropped(self, green: Version) -> str:
        """What became of it, in words."""
        return f"{', '.join(physical for _, physical in green.tables.values())} dropped again"

    def _stand_by(self) -> None:
        green = self._green()

        def do(connection: psycopg.Connection) -> None:
            with connection.transaction():
                registry.set_state(connection, green.projection, green.version, "standby")
                journal.enter(connection, self._the_entry.rebuild, journal.VERIFIED, finished=True)

        self._session.do(do)
