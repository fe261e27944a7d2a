"""Rebuilds several projections at the same time from one read of the events.

Each has its own thread, and one that fails does not stop the others.
"""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import psycopg
import structlog

from esops.config import Config
from esops.errors import EsopsError, Refused, UsageError
from esops.postgres.connection import connect
from esops.rebuild.by_kind import OperatorReporter, make_plan, open_rebuild
from esops.rebuild.journal import JournalEntry
from esops.rebuild.load.shared_read import SharedRead
from esops.rebuild.outcome import Outcome, RebuildsFailed
from esops.rebuild.plan import RebuildPlan
from esops.rebuild.request import Operator, RebuildRequest
from esops.rebuild.steps import Rebuild
from esops.rebuild.target import Target, resolve
from esops.stores import open_store
from esops.stores.base import EventStore

log = structlog.get_logger("esops.rebuild")
_JOIN_SECONDS = 0.2
_READS_ITSELF = ("sql", "external")
"""Kinds that do not take part in the shared read: a statement over ranges reads in the server, and
so does the application.
"""


@dataclass(frozen=True)
class _Member:
    """One of the projections, with its store and its read model's database open."""

    target: Target
    store: EventStore
    connection: psycopg.Connection


class SeveralRebuilds:
    """Rebuilds of several projections."""

    def __init__(
        self,
        config: Config,
        names: Sequence[str],
        request: RebuildRequest,
        operator: Operator,
        stop: Callable[[], bool],
    ) -> None:
        """Raises UsageError for what only the rebuild of one projection can do."""
        request.check_several(names)
        for name in names:
            if config.projection(name).kind == "server":
                raise UsageError(
                    f"{name} runs inside its store and cannot be rebuilt together with others",
                    hint=f"Rebuild it by itself: esops rebuild {name} --blue-green",
                )
        self._config, self._names, self._request = config, names, request
        self._operator, self._stop = operator, stop

    def plans(self) -> list[RebuildPlan]:
        """The plan of each. Changes nothing."""
        with self._opened() as members:
            return [self._plan(each) for each in members.values()]

    def run(self) -> list[Outcome]:
        """Do all of them as the request says. Raises RebuildsFailed where some did not finish."""
        with ExitStack() as stack:
            members = stack.enter_context(self._opened())
            reads = self._shared_reads(members)
            works = {
                name: stack.enter_context(
                    open_rebuild(
                        each.target,
                        each.store,
                        OperatorReporter(self._operator, name),
                        self._stop,
                        reads[each.target.store_name].reader(name),
                        each.connection,
                    )
                )
                for name, each in members.items()
            }
            # Locks are taken in any case: a rebuild that is running must not be aborted.
            if self._request.action == "abort":
                return self._abort(works)

            def leave(name: str) -> None:
                reads[members[name].target.store_name].leave(name)

            return _run_all(self._starts(works, members), leave)

    @contextmanager
    def _opened(self) -> Iterator[dict[str, _Member]]:
        with ExitStack() as stack:
            members: dict[str, _Member] = {}
            for name in self._names:
                dsn = self._config.readmodel_of(name).dsn
                connection = stack.enter_context(connect(dsn, f"plan {name}"))
                target = resolve(self._config, name, self._request.store, connection)
                store = stack.enter_context(self._open_store(target.store_name))
                members[name] = _Member(target, store, connection)
            yield members

    def _open_store(self, store: str) -> EventStore:
        return open_store(store, self._config.store(store)[1])

    def _plan(self, member: _Member) -> RebuildPlan:
        # Processes would read for themselves, and these share a read.
        options = replace(self._request.options, workers=1)
        return make_plan(self._config, member.target, options, member.store, member.connection)

    def _shared_reads(self, members: Mapping[str, _Member]) -> dict[str, SharedRead]:
        """A shared read for each store."""
        by_store: dict[str, list[str]] = {}
        for name, each in members.items():
            readers = by_store.setdefault(each.target.store_name, [])
            if each.target.settings.kind not in _READS_ITSELF:
                readers.append(name)
        return {
            store: SharedRead(functools.partial(self._open_store, store), readers, self._stop)
            for store, readers in by_store.items()
        }

    def _starts(
        self, works: Mapping[str, Rebuild], members: Mapping[str, _Member]
    ) -> dict[str, Callable[[], Outcome]]:
        """What each projection's thread calls.

        All plans are made, and all are entered into the journal, before any work begins.
        """
        # Asked with all locks held: nobody can start another rebuild of these any more.
        latest = {name: work.latest() for name, work in works.items()}
        unfinished = [each for each in latest.values() if _is_unfinished(each)]
        resumed = self._request.action == "resume"
        if unfinished and not resumed:
            names = ", ".join(
                f"rebuild {each.rebuild} of {each.projection} ({each.state})"
                for each in unfinished
                if each is not None
            )
            raise Refused(
                f"not finished: {names}",
                hint="Continue them with --resume, or drop them with --abort.",
            )
        groups = {
            each.options.get("group")
            for each in unfinished
            if each is not None and each.options.get("group")
        }
        fresh = [
            name for name, entry in latest.items() if not resumed or _never_began(entry, groups)
        ]
        plans = {name: self._plan(members[name]) for name in fresh}
        for plan in plans.values():
            self._operator.planned(plan)
        # Who joins an interrupted group gets its mark, so that a further --resume finds it.
        group = next(iter(groups)) if resumed and groups else uuid.uuid4().hex
        entered = {
            name: works[name].enter(plans[name], self._request.options, group) for name in fresh
        }

        def start(name: str) -> Callable[[], Outcome]:
            if name in entered:
                return lambda: works[name].run_steps(entered[name])
            return lambda: works[name].resume(self._request.given)

        return {name: start(name) for name in self._names}

    def _abort(self, works: Mapping[str, Rebuild]) -> list[Outcome]:
        entries = {name: work.latest() for name, work in works.items()}
        unfinished = [name for name, entry in entries.items() if _is_unfinished(entry)]
        if not unfinished:
            raise UsageError(f"no rebuild of {', '.join(self._names)} is unfinished")
        self._operator.confirm_abort(unfinished)
        return [works[name].abort() for name in unfinished]


def _is_unfinished(entry: JournalEntry | None) -> bool:
    return entry is not None and entry.finished_at is None


def _never_began(entry: JournalEntry | None, groups: Collection[str | None]) -> bool:
    """Whether a projection belongs to an interrupted group, but was not entered into the journal
    before the process died. Then resuming the group starts it.
    """
    if not groups:
        return False
    return entry is None or (
        entry.finished_at is not None and entry.options.get("group") not in groups
    )


def _run_all(
    starts: Mapping[str, Callable[[], Outcome]], leave: Callable[[str], None]
) -> list[Outcome]:
    """Run each in a thread, and wait for the last one.

    `leave` is called with the name of each that ends, so that nobody waits for it. Raises
    RebuildsFailed where errors stopped some, and a defect as it is.
    """
    outcomes: dict[str, Outcome] = {}
    errors: dict[str, EsopsError] = {}
    defects: list[BaseException] = []

    def run(name: str) -> None:
        try:
            outcomes[name] = starts[name]()
        except EsopsError as error:
            errors[name] = error
        except BaseException as error:  # noqa: BLE001 - raised again below
            log.error("a defect", projection=name, error=f"{type(error).__name__}: {error}")
            defects.append(error)
        finally:
            leave(name)

    threads = [
        threading.Thread(target=run, args=(name,), name=name, daemon=True) for name in starts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(_JOIN_SECONDS)  # with a timeout, so that Ctrl-C reaches this thread
    if defects:
        raise defects[0]
    done = [outcomes[name] for name in starts if name in outcomes]
    if errors:
        raise RebuildsFailed(done, {name: errors[name] for name in starts if name in errors})
    return done
