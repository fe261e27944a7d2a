"""Tries whether a projection is deterministic, and whether it is idempotent: the same events give
the same rows by another process, under another hash seed, in other batches, with restarts, and in
another order of the streams; and also where each batch comes twice.

esops applies each event exactly once, so that code that is not idempotent is no fault by itself.
Code that is not deterministic is: two rebuilds give two read models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from esops.check.trial_findings import Problem, first_difference
from esops.check.trial_plan import TRIALS, Feed, Trial, TrialEvents, Wanted, choose, feeds, plain
from esops.check.trial_process import LABEL, Ran, TrialProcesses, TrialTask
from esops.check.trial_tables import ReadModel, physical
from esops.config import Config
from esops.errors import Refused, UsageError, nearest
from esops.events import Position, RecordedEvent
from esops.postgres.connection import connect, translated
from esops.projections.definition import ExternalDefinition, SqlDefinition
from esops.projections.kinds import of_one_database
from esops.projections.kinds.sql import range_statement
from esops.readmodel import migrations
from esops.readmodel.dead_letters import positions_of
from esops.rebuild.target import Target, resolve
from esops.running.throttle import Limits, Throttle
from esops.stores import open_store
from esops.stores.base import EventStore, require

_SQL_TRIALS: tuple[Trial, ...] = ("clock", "batches", "twice")
"""A statement has no process and no memory, and reads the events in the order of the log."""


@dataclass(frozen=True)
class TrialRequest:
    """What is asked for."""

    projection: str
    wanted: Wanted
    seed: int = 1
    skip: Sequence[str] = ()
    idempotent: bool = False
    """Whether it is a finding that a batch that comes twice changes rows."""
    store: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises UsageError for a trial that there is not."""
        for each in self.skip:
            if each not in TRIALS:
                raise UsageError(
                    f"--skip {each}: there is no such trial", hint=nearest(each, list(TRIALS))
                )


@dataclass
class Tried:
    """The result."""

    projection: str
    store: str
    events: int
    how: str
    seed: int
    trials: list[Trial] = field(default_factory=list)
    """Those that were made."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    """Facts that are no faults by themselves."""
    rows: int = 0
    ignored: Sequence[str] = ()
    """Columns and paths that `verify.ignore` leaves out of every comparison."""

    @property
    def idempotent(self) -> bool | None:
        """Whether a batch that comes twice changes nothing; None where that was not tried."""
        found = (*self.problems, *self.notes)
        if "twice" not in self.trials:
            return None
        return all(each.kind != "twice" for each in found)

    @property
    def deterministic(self) -> bool | None:
        """Whether the same events always give the same rows; None where that was not tried."""
        if not set(self.trials) - {"twice"}:
            return None
        return all(each.kind in {"twice", "fails"} for each in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "store": self.store,
            "events": self.events,
            "which": self.how,
            "rows": self.rows,
            "seed": self.seed,
            "ignored": list(self.ignored),
            "trials": self.trials,
            "idempotent": self.idempotent,
            "deterministic": self.deterministic,
            "problems": [each.as_dict() for each in self.problems],
            "notes": [each.as_dict() for each in self.notes],
        }


def try_out(
    config: Config,
    request: TrialRequest,
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Tried:
    """Try a projection with events of its store. Nothing that serves is touched.

    `progress` gets which trial is made, and how many are done of how many. Raises Refused for a
    projection that esops does not build.
    """
    dsn = config.readmodel_of(request.projection).dsn
    chance = Random(request.seed)  # noqa: S311 - to be the same again
    with translated(), connect(dsn, f"test {request.projection}") as connection:
        target = resolve(config, request.projection, request.store, connection)
        if isinstance(target.definition, ExternalDefinition):
            raise Refused(
                f"the application builds {target.name}: esops applies no events to it",
                hint="A fold, handlers, a program or a statement can be tried.",
            )
        with open_store(*config.store(target.store_name)) as store:
            of_one_database(target.definition, store, connection)
            serving = ReadModel(connection, target).serving
            dead = set[Position]()
            if serving is not None and migrations.installed(connection):
                dead = positions_of(connection, target.name, serving.version)
            by_statements = isinstance(target.definition, SqlDefinition)
            wanted = replace(request.wanted, first=by_statements)
            known = dead.__contains__
            selected = choose(store, target.settings, wanted, chance, known, stop, say)
            say(f"{len(selected.events):,} events, {selected.how}")
            throttle = Throttle(dsn, target.name, request.limits, stop=stop, say=say)
            with closing(throttle), TrialProcesses(stop) as processes:
                runs = Runs(target, store, request.store, selected.events, throttle, processes)
                return _Testing(target, runs, request, selected, chance, progress).run()


class Runs:
    """Runs the code of a projection over some events, in processes of their own."""

    def __init__(
        self,
        target: Target,
        store: EventStore,
        named: str | None,
        events: Sequence[RecordedEvent],
        throttle: Throttle,
        processes: TrialProcesses,
    ) -> None:
        """`named`: the store that is to be read instead of the projection's own."""
        self.events, self.store = events, store
        self._target, self._named = target, named
        self._throttle, self._processes = throttle, processes
        self._fields = [each.fields for each in events]

    @property
    def by_statements(self) -> bool:
        """Whether the projection is a statement."""
        return isinstance(self._target.definition, SqlDefinition)

    def run(self, feed: Feed, watch: Sequence[tuple[str, str]] = ()) -> Ran:
        """The rows that one order and way gives, and after each batch those that are watched.

        Where the code fails, `failed` has the place in `feed.order`.
        """
        can, done, batches = self.store.capabilities, Ran(), 0
        watched: list[dict[tuple[str, str], Any]] = []
        for number, part in enumerate(feed.batches()):
            self._throttle.wait()
            own = [[*each] for each in part]
            task = TrialTask(
                config=self._target.config,
                projection=self._target.name,
                store=self._named,
                conjoined=can.tenants,
                begins=can.first_version if can.names_begin_again else None,
                batches=[[self._fields[at] for at in each] for each in own],
                statements=self._statements(own) if self.by_statements else (),
                twice=feed.twice,
                state=done.state if number else None,
                value_types=done.value_types,
                watch=watch,
            )
            done = self._processes.run(task, feed.seed)
            watched += done.watched
            if done.failed is not None:
                at, event, reason = done.failed
                done.failed = (batches + at, own[at][min(event, len(own[at]) - 1)], reason)
                break
            batches += len(own)
            self._throttle.spend(sum(map(len, own)))
        done.watched = watched
        return done

    def _statements(self, batches: Sequence[Sequence[int]]) -> list[str]:
        """A statement for the events of each batch, up to the last of them."""
        definition = self._target.definition
        assert isinstance(definition, SqlDefinition)
        access = require(self.store, self.store.sql, "sql")
        names = {each.name: ("pg_temp", physical(each.name, LABEL)) for each in self._target.names}
        found, after = list[str](), None
        for batch in batches:
            last = self.events[batch[-1]].position
            part = access.range(after, last, 1 << 40)
            found.append(range_statement(definition, names, part))
            after = last
        return found


class _Testing:
    """The trials of a projection, one after the other."""

    def __init__(
        self,
        target: Target,
        runs: Runs,
        request: TrialRequest,
        selected: TrialEvents,
        chance: Random,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._target, self._runs, self._request = target, runs, request
        self._chance, self._progress = chance, progress
        possible = _SQL_TRIALS if runs.by_statements else TRIALS
        self._trials = [each for each in possible if each not in request.skip]
        if not self._trials:
            raise UsageError("no trial is left", hint="Leave out --skip.")
        self.found = Tried(
            target.name, runs.store.name, len(selected.events), selected.how, request.seed
        )

    def run(self) -> Tried:
        """Make all trials."""
        found, runs = self.found, self._runs
        number = len(self._trials) + 1
        self._progress("the usual way", 0, number)
        usual = plain(len(runs.events))
        first = runs.run(usual)
        if first.failed is not None:
            found.problems.append(self._fails(first.failed))
            return found
        found.rows = sum(map(len, first.rows.values()))
        found.ignored = self._target.settings.verify.ignore
        known = set[tuple[str, str]]()
        for at, trial in enumerate(self._trials, 1):
            self._progress(trial, at, number)
            found.trials.append(trial)
            ignore = self._target.settings.verify.ignore
            for feed in feeds(trial, runs.events, self._chance):
                problem, paths = first_difference(runs, trial, first, feed, ignore, known)
                if problem is None:
                    continue
                # What differs from run to run says nothing about batches, restarts or the order.
                known |= paths if trial in {"clock", "hash"} else set()
                problem = replace(problem, cause=self._cause(problem))
                fact = trial == "twice" and not self._request.idempotent
                (found.notes if fact else found.problems).append(problem)
                break
        self._progress("", number, number)
        return found

    def _cause(self, problem: Problem) -> str | None:
        """Its cause, or what a trial that was left out would have found."""
        possible: Sequence[Trial] = ("clock",) if problem.kind == "hash" else ("clock", "hash")
        skipped = [each for each in possible if each in self._request.skip]
        if problem.cause is None or problem.kind == "clock" or not skipped:
            return problem.cause
        were = "was" if len(skipped) == 1 else "were"
        return f"{problem.cause}; or what {' and '.join(skipped)} would find, which {were} skipped"

    def _fails(self, failed: tuple[int, int, str]) -> Problem:
        return Problem(
            "fails",
            None,
            f"The code fails on an event, so that nothing was tried: {failed[2]}",
            self._runs.events[failed[1]],
        )
