"""One call of `esops rebuild`: plans, does and tells; one projection, several at once, in place, or
inside the store.
"""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from esops.cli.rebuild_words import as_dict, summary
from esops.cli.shared import is_interactive, stop_on_signals
from esops.config import Config
from esops.errors import EsopsError, Refused, UsageError
from esops.postgres.connection import connect
from esops.rebuild.load.shared_read import Ended, OneRead, run_all
from esops.rebuild.plan import Options, Plan, Target, make_plan, resolve
from esops.rebuild.steps import Rebuild
from esops.rebuild.variants import external
from esops.rebuild.variants.in_place import InPlace, lines, tables_of
from esops.rebuild.verification import comparison as verify
from esops.rebuild.verification.report import write_report
from esops.stores import open_store

if TYPE_CHECKING:
    import psycopg

    from esops.rebuild.outcome import Outcome
    from esops.rebuild.variants.server.work import ServerRebuild
    from esops.running.runner import Reader
    from esops.stores.base import EventStore
    from esops.term import Output, ProgressLine


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    `given` holds the options that were given, to be changed of a resumed rebuild.
    """

    given: Mapping[str, object]
    dry_run: bool
    resume: bool
    abort: bool
    yes: bool
    blue_green: bool
    report: Path | None
    options: Options = field(init=False)

    def __post_init__(self) -> None:
        """Check what no plan is needed for. Raises UsageError."""
        object.__setattr__(self, "options", Options(**self.given))  # type: ignore[arg-type]
        verify.tolerated(verify.Verification("none", 0, 0, 0), self.options.max_diff)


class CommandReporter:
    """Tells how a rebuild goes: a Reporter."""

    def __init__(self, output: Output, config: Config, name: str, asked: Asked) -> None:
        """Take the way out, and what is rebuilt."""
        self.output, self.config, self.name, self.asked = output, config, name, asked
        self._line: ProgressLine | None = None

    def say(self, text: str) -> None:
        """See Reporter."""
        self.output.say(text)

    def progress(self, done: int, total: int | None) -> None:
        """See Reporter."""
        if self._line is None:
            self._line = self.output.progress(f"rebuild {self.name}: events", done, total)
        self._line.update(done, total)
        if total is not None and done >= total:
            self.close_line()

    def close_line(self) -> None:
        """Take the progress away."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def show_plan(self, plan: Plan) -> dict[str, object]:
        """Print a plan for a person; returns it as a document."""
        if not self.output.as_json:
            for line in plan.lines():
                self.output.line(line)
        return {
            "projection": self.name,
            "from_version": plan.source.version if plan.source else None,
            "to_version": plan.to_version,
            "events": plan.events,
            "position": None if plan.head is None else str(plan.head),
            "compare": plan.compare,
            "statements": [
                *plan.create,
                *plan.drop_now,
                *(each.statement for each in plan.after_load),
                *plan.switch,
            ],
            "notes": list(plan.notes),
        }

    def show_lines(self, shown: Sequence[str], document: Mapping[str, object]) -> int:
        """Print what would be done, and that nothing was."""
        if self.output.as_json:
            self.output.json(document)
            return 0
        for line in shown:
            self.output.line(line)
        self.output.line("\nNothing was changed (--dry-run).")
        return 0

    def tell(self, outcome: Outcome, *, documented: bool = True) -> int:
        """Print what was done, and write the report; returns the exit code."""
        if self.asked.report is not None and outcome.verification is not None:
            try:
                write_report(self.asked.report, outcome)
            except OSError as error:
                raise UsageError(f"--report: {error}") from None
            self.output.say(f"written: {self.asked.report}")
        if not self.output.as_json:
            settings = self.config.projection(self.name)
            for line in summary(outcome, settings.kind, settings.live):
                self.output.line(line)
        elif documented:
            self.output.json(as_dict(outcome))
        return 1 if outcome.findings else 0

    def confirm_abort(self, names: str) -> None:
        """Ask, where there is a person to be asked."""
        if is_interactive() and not self.asked.yes:
            typer.confirm(
                f"Give up the rebuild of {names} and drop what it built?", abort=True, err=True
            )


class Job:
    """The rebuild of one projection."""

    def __init__(self, output: Output, config: Config, name: str, asked: Asked) -> None:
        """Take the way out, the projection, and what is asked for."""
        self.output, self.config, self.name, self.asked = output, config, name, asked
        self._teller = CommandReporter(output, config, name, asked)

    def run(self) -> int:
        """Plan, do, and tell; returns the exit code."""
        kind = self.config.projection(self.name).kind
        if kind in {"server", "external"} and not self.asked.blue_green:
            where = (
                "a projection inside its store"
                if kind == "server"
                else "what the application builds"
            )
            raise UsageError(f"{where} is rebuilt beside what serves", hint="Add --blue-green.")
        if kind == "server":
            return self._run_in_server()
        stop = stop_on_signals()
        with connect(self.config.readmodel_of(self.name).dsn, f"plan {self.name}") as planning:
            target = resolve(self.config, self.name, self.output.settings.store, planning)
            with open_store(target.store_name, self.config.store(target.store_name)[1]) as store:
                if not self.asked.blue_green:
                    return self._run_in_place(target, store, planning, stop.is_set)
                return self._run_beside(target, store, planning, stop.is_set)

    def _run_beside(
        self,
        target: Target,
        store: EventStore,
        planning: psycopg.Connection,
        stop: Callable[[], bool],
    ) -> int:
        if self.asked.dry_run:
            document = self._teller.show_plan(
                planned(self.config, target, self.asked.options, store, planning)
            )
            return self._teller.show_lines([], document)
        with work_on(target, store, self._teller, stop) as work:

            def begin() -> Outcome:
                plan = planned(self.config, target, self.asked.options, store, planning)
                self.output.say(
                    "\n".join(plan.lines(statements=self.output.settings.verbose)) + "\n"
                )
                return work.begin(plan, self.asked.options)

            outcome = self._carried_out(work, begin)
        return self._teller.tell(outcome)

    def _carried_out(self, work: Rebuild | ServerRebuild, begin: Callable[[], Outcome]) -> Outcome:
        """What came of giving a rebuild up, going on with it, or beginning it, as is asked for."""
        if self.asked.abort:
            self._teller.confirm_abort(self.name)
            return work.abort()
        try:
            return work.resume(self.asked.given) if self.asked.resume else begin()
        finally:
            self._teller.close_line()

    def _run_in_place(
        self,
        target: Target,
        store: EventStore,
        planning: psycopg.Connection,
        stop: Callable[[], bool],
    ) -> int:
        head = store.head().position
        events = store.count_between(None, head)
        tables = tables_of(planning, self.name, list(target.names))
        ranges = self.asked.options.ranges
        plan = lines(self.name, tables, events, store.capabilities.count_between, ranges)
        if self.asked.dry_run:
            document = {
                "projection": self.name,
                "in_place": True,
                "ranges": ranges,
                "tables": tables,
                "events": events,
            }
            return self._teller.show_lines(plan, document)
        if not (self.asked.resume or self.asked.abort):
            self.output.say("\n".join(plan) + "\n")
            self._confirm_in_place(tables)
        with InPlace(target, store, self._teller, stop) as work:
            try:
                if self.asked.abort:
                    work.abort()
                outcome = (
                    work.resume(self.asked.given)
                    if self.asked.resume
                    else work.begin_in_place(self.asked.options)
                )
            finally:
                self._teller.close_line()
        return self._teller.tell(outcome)

    def _confirm_in_place(self, tables: list[str]) -> None:
        if self.asked.yes:
            return
        if not is_interactive():
            raise UsageError(
                "a rebuild in place changes what readers see, and asks before",
                hint="Add --yes, or --blue-green to build beside it.",
            )
        what = "Empty" if self.asked.options.ranges is None else "Replace rows of"
        typer.confirm(f"{what} {', '.join(tables)}, while readers see it?", abort=True, err=True)

    def _run_in_server(self) -> int:
        from esops.rebuild.variants.server.work import ServerRebuild
        from esops.rebuild.variants.server.work import make_plan as make_server_plan

        config, options = self.config, self.asked.options
        stop = stop_on_signals()
        with open_store(
            *config.store(self.output.settings.store or config.projection(self.name).store)
        ) as opened:
            store = opened
            if self.asked.dry_run:
                plan = make_server_plan(config, self.name, store, options)
                document = {"projection": self.name, "to": plan.target.name, "query": plan.query}
                return self._teller.show_lines(plan.lines(), document)
            work = ServerRebuild(config, self.name, store, self._teller, stop.is_set)

            def begin() -> Outcome:
                plan = make_server_plan(config, self.name, store, options)
                self.output.say("\n".join(plan.lines()) + "\n")
                return work.begin(plan, options)

            outcome = self._carried_out(work, begin)
        return self._teller.tell(outcome)


def planned(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> Plan:
    """The plan for a projection of its kind."""
    make = external.make_plan if target.settings.kind == "external" else make_plan
    return make(config, target, options, store, connection)


def work_on(
    target: Target,
    store: EventStore,
    teller: CommandReporter,
    stop: Callable[[], bool],
    read: Reader = lambda *_: None,
) -> Rebuild:
    """The rebuild of a projection of its kind."""
    kind = external.External if target.settings.kind == "external" else Rebuild
    return kind(target, store, teller, stop, read)


class _Shared:
    """One progress line for several rebuilds."""

    def __init__(self, output: Output, names: Sequence[str]) -> None:
        self._output, self._names, self._lock = output, names, threading.Lock()
        self._done: dict[str, int] = {}
        self._total: dict[str, int | None] = {}
        self._line: ProgressLine | None = None

    def update(self, name: str, done: int, total: int | None) -> None:
        with self._lock:
            self._done[name], self._total[name] = done, total
            totals = [self._total.get(each) for each in self._names]
            total = sum(each for each in totals if each is not None) if None not in totals else None
            done = sum(self._done.values())
            if self._line is None:
                self._line = self._output.progress(
                    f"rebuild {', '.join(self._names)}: events", done, total
                )
            self._line.update(done, total)

    def close(self) -> None:
        if self._line is not None:
            self._line.close()


class _TellerOfMany(CommandReporter):
    """Tells of one of several, with its name before each line."""

    def __init__(
        self, output: Output, config: Config, name: str, asked: Asked, shared: _Shared
    ) -> None:
        super().__init__(output, config, name, asked)
        self._shared = shared

    def say(self, text: str) -> None:
        super().say(f"{self.name}: {text}")

    def progress(self, done: int, total: int | None) -> None:
        self._shared.update(self.name, done, total)


class Jobs:
    """The rebuild of several projections from one read of the events."""

    def __init__(self, output: Output, config: Config, names: Sequence[str], asked: Asked) -> None:
        """Take the way out, the projections, and what is asked for.

        Raises UsageError for what only one can do.
        """
        self.output, self.config, self.names, self.asked = output, config, names, asked
        if len(set(names)) < len(names):
            raise UsageError("a projection is named twice")
        if not asked.blue_green:
            raise UsageError(
                "several projections are rebuilt beside what serves", hint="Add --blue-green."
            )
        if asked.options.workers or asked.options.engine or asked.report is not None:
            raise UsageError("--workers, --engine and --report are for one projection")
        for name in names:
            if config.projection(name).kind == "server":
                raise UsageError(f"{name} runs inside its store: rebuild it by itself")
        self._shared = _Shared(output, names)
        self._tellers = {
            name: _TellerOfMany(output, config, name, asked, self._shared) for name in names
        }

    def run(self) -> int:
        """Plan all, do all, and tell of each; returns the exit code."""
        stop = stop_on_signals()
        with ExitStack() as stack:
            targets: dict[str, Target] = {}
            stores: dict[str, EventStore] = {}
            plannings: dict[str, psycopg.Connection] = {}
            for name in self.names:
                plannings[name] = stack.enter_context(
                    connect(self.config.readmodel_of(name).dsn, f"plan {name}")
                )
                targets[name] = resolve(
                    self.config, name, self.output.settings.store, plannings[name]
                )
                stores[name] = stack.enter_context(self._open(targets[name].store_name))
            if self.asked.dry_run:
                return self._show(
                    {
                        name: self._plan(targets[name], stores[name], plannings[name])
                        for name in self.names
                    }
                )
            reads = self._reads(targets, stop.is_set)
            works = {
                name: stack.enter_context(
                    work_on(
                        targets[name],
                        stores[name],
                        self._tellers[name],
                        stop.is_set,
                        reads[targets[name].store_name].reader(name),
                    )
                )
                for name in self.names
            }
            if self.asked.abort:
                return self._abort(works)
            does = self._beginnings(works, targets, stores, plannings)

            def leave(name: str) -> None:
                reads[targets[name].store_name].leave(name)

            try:
                ended = run_all(does, leave)
            finally:
                self._shared.close()
        return self._tell(ended)

    def _open(self, store: str) -> EventStore:
        return open_store(store, self.config.store(store)[1])

    def _plan(self, target: Target, store: EventStore, connection: psycopg.Connection) -> Plan:
        return planned(self.config, target, self.asked.options, store, connection)

    def _reads(self, targets: Mapping[str, Target], stop: Callable[[], bool]) -> dict[str, OneRead]:
        """A read for each store.

        A statement over ranges reads for itself, and so does the application.
        """
        stores = {target.store_name for target in targets.values()}

        def readers(store: str) -> list[str]:
            apart = {"sql", "external"}
            return [
                name
                for name, each in targets.items()
                if each.store_name == store and each.settings.kind not in apart
            ]

        return {
            store: OneRead(functools.partial(self._open, store), readers(store), stop)
            for store in stores
        }

    def _beginnings(
        self,
        works: Mapping[str, Rebuild],
        targets: Mapping[str, Target],
        stores: Mapping[str, EventStore],
        plannings: Mapping[str, psycopg.Connection],
    ) -> dict[str, Callable[[], Outcome]]:
        """What each does in its thread.

        All plans are made, and all are entered, before anything is begun.

        Resumed are those that are unfinished, and those that were begun with them; one that was to
        be and was not is begun now.
        """
        latest = {name: work.latest() for name, work in works.items()}
        unfinished = [
            each for each in latest.values() if each is not None and each.finished_at is None
        ]
        if unfinished and not self.asked.resume:
            names = ", ".join(
                f"rebuild {each.rebuild} of {each.projection} ({each.state})" for each in unfinished
            )
            raise Refused(
                f"not finished: {names}", hint="Go on with --resume, or give them up with --abort."
            )
        groups = {each.options.get("group") for each in unfinished if each.options.get("group")}
        fresh = [
            name
            for name, entry in latest.items()
            if not self.asked.resume
            or (
                groups
                and (
                    entry is None
                    or (entry.finished_at is not None and entry.options.get("group") not in groups)
                )
            )
        ]
        plans = {name: self._plan(targets[name], stores[name], plannings[name]) for name in fresh}
        for plan in plans.values():
            self.output.say("\n".join(plan.lines(statements=self.output.settings.verbose)) + "\n")
        group = next(iter(groups)) if self.asked.resume and groups else uuid.uuid4().hex
        entered = {
            name: works[name].enter(plans[name], self.asked.options, group) for name in fresh
        }

        def beginning(name: str) -> Callable[[], Outcome]:
            if name in entered:
                return lambda: works[name].run_steps(entered[name])
            return lambda: works[name].resume(self.asked.given)

        return {name: beginning(name) for name in self.names}

    def _abort(self, works: Mapping[str, Rebuild]) -> int:
        entries = {name: work.latest() for name, work in works.items()}
        unfinished = [
            name
            for name, entry in entries.items()
            if entry is not None and entry.finished_at is None
        ]
        if not unfinished:
            raise UsageError(f"there is no unfinished rebuild of {', '.join(self.names)} to abort")
        self._tellers[unfinished[0]].confirm_abort(", ".join(unfinished))
        return self._tell([Ended(name, outcome=works[name].abort()) for name in unfinished])

    def _show(self, plans: Mapping[str, Plan]) -> int:
        documents = [self._tellers[name].show_plan(plan) for name, plan in plans.items()]
        return self._tellers[self.names[0]].show_lines([], {"rebuilds": documents})

    def _tell(self, ended: Sequence[Ended]) -> int:
        """Tell of each that came to its end; raises the gravest error of the others when all are
        told.
        """
        outcomes = [each.outcome for each in ended if each.outcome is not None]
        codes = [
            self._tellers[outcome.projection].tell(outcome, documented=False)
            for outcome in outcomes
        ]
        errors = [(each.projection, each.error) for each in ended if each.error is not None]
        for name, error in errors:
            if not isinstance(error, EsopsError):
                raise error
            self.output.say(f"{name}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        if self.output.as_json:
            self.output.json({"rebuilds": [as_dict(each) for each in outcomes]})
        if errors:
            worst = max(
                (error for _, error in errors if isinstance(error, EsopsError)),
                key=lambda error: error.exit_code,
            )
            raise type(worst)(
                f"{len(errors)} of {len(ended)} rebuilds did not come to their end: "
                f"{worst.message}",
                hint=worst.hint,
            )
        return max(codes, default=0)
