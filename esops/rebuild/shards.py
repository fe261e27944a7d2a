"""The first load of a version by several processes, each with a share of the streams, a connection and a checkpoint of its own.

Streams are dealt by a hash of their names, in the server, so that each event is read once. All shards go up to the same position; then
their checkpoints become the version's, in one transaction, and one process goes on. A process that dies is begun again at its
shard's checkpoint; a rebuild that dies goes on with as many shards as it began with.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import structlog

from esops import backends, errors
from esops.backends.base import EventStore
from esops.config import load_config
from esops.errors import EsopsError, Refused, Stopped, Unavailable
from esops.events import Position
from esops.projections import readmodel, registry
from esops.projections.control import Gate, Limits
from esops.projections.definition import Definition, FoldDefinition, load_definition
from esops.projections.registry import Version
from esops.projections.runner import Runner, Work
from esops.rebuild.session import Session

log = structlog.get_logger("esops.shards")
_LOOK_EVERY = 0.5
_PATIENCE = timedelta(seconds=15)
_DEATHS = 5
"""So many times processes may die without any checkpoint having moved."""
_asked: Event | None = None


def check(definition: Definition, store: EventStore, workers: int) -> None:
    """Raises Refused where a projection cannot be made in shards."""
    if workers <= 1:
        return
    if not isinstance(definition, FoldDefinition):
        raise Refused(
            "--workers is for folds: of this kind, what is written for one event may depend on any other",
            hint="Leave --workers out.",
        )
    if definition.key is not None:
        raise Refused(
            "--workers takes a fold that is keyed by the stream: the server cannot deal events by a Python function",
            hint="Leave --workers out.",
        )
    if not store.capabilities.shards:
        raise Refused(f"store {store.name} cannot deal its streams to several readers", hint="Leave --workers out.")


@dataclass(frozen=True)
class Task:
    """One shard's work, as it is handed to a process."""

    config: Path
    projection: str
    version: int
    store: str
    shard: int
    of: int
    until: str
    batch_size: int | None
    limits: Limits


@dataclass(frozen=True)
class Failure:
    """Why a process gave up: an error of esops by its name, since exceptions do not travel whole."""

    error: str
    message: str
    hint: str | None

    def raised(self) -> EsopsError:
        """The error again."""
        kind = getattr(errors, self.error, EsopsError)
        error: EsopsError = kind(self.message, hint=self.hint)
        return error


def load(
    session: Session,
    version: Version,
    task: Callable[[int, int, Position], Task],
    until: Position,
    workers: int,
    *,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Load a version up to a position by processes. Goes on with shards that are there. Raises what stops a shard, and Stopped."""
    found = session.do(lambda on: registry.shards(on, version))
    if not found:
        # One of them would build the key while the others write.
        session.do(lambda on: readmodel.build(on, version, primary_only=True))
        session.do(lambda on: registry.make_shards(on, version, workers, until))
        found = session.do(lambda on: registry.shards(on, version))
    until = found[0].until
    say(f"{len(found)} processes load up to position {until}")
    _Pool(session, version, [task(each.number, each.of, until) for each in found], stop, progress, say).run()
    session.do(lambda on: registry.merge_shards(on, version, until))


class _Pool:
    """Processes at work on shards."""

    def __init__(
        self,
        session: Session,
        version: Version,
        tasks: list[Task],
        stop: Callable[[], bool],
        progress: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self._session, self._version, self._tasks = session, version, tasks
        self._stop, self._progress, self._say = stop, progress, say

    def run(self) -> None:
        """Until all shards are at their end."""
        deaths, events = 0, -1
        while left := self._left():
            try:
                self._once(left)
            except BrokenProcessPool:
                now = self._events()
                deaths, events = (deaths + 1 if now == events else 1), now
                if deaths > _DEATHS:
                    raise Unavailable(f"processes that load {self._version.projection} die again and again") from None
                self._say("a process died: begun again at its checkpoint")
                log.warning("a process died", projection=self._version.projection)

    def _left(self) -> list[Task]:
        shards = {each.number: each for each in self._session.do(lambda on: registry.shards(on, self._version))}
        return [task for task in self._tasks if shards[task.shard].position != shards[task.shard].until]

    def _events(self) -> int:
        return sum(each.events for each in self._session.do(lambda on: registry.shards(on, self._version)))

    def _once(self, tasks: list[Task]) -> None:
        context = multiprocessing.get_context("spawn")
        asked = context.Event()
        with ProcessPoolExecutor(len(tasks), mp_context=context, initializer=_begin, initargs=(asked, os.getpid())) as pool:
            waiting: set[Future[Failure | None]] = {pool.submit(load_shard, task) for task in tasks}
            failure: Failure | None = None
            try:
                while waiting:
                    done, waiting = wait(waiting, _LOOK_EVERY, FIRST_COMPLETED)
                    failure = next((found for each in done if (found := each.result()) is not None), failure)
                    if failure is not None or self._stop():
                        asked.set()
                    self._progress(self._events())
            except BaseException:
                asked.set()
                raise
        if failure is not None and failure.error != "Stopped":
            raise failure.raised()
        if self._stop():
            raise Stopped("stopped while processes were loading")


def _begin(asked: Event, parent: int) -> None:
    """At the start of a process. Where the rebuild is killed its pool tells nobody: who waits for work would wait for ever."""
    global _asked  # noqa: PLW0603 - what a process of a pool is given at its start
    _asked = asked

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)  # as if killed, too: what is not committed is done again

    threading.Thread(target=watch, daemon=True).start()


def load_shard(task: Task) -> Failure | None:
    """A shard's process: from its checkpoint to the end of its share; None where it got there."""

    def stop() -> bool:
        return _asked is not None and _asked.is_set()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        config = load_config(task.config)
        settings = config.projection(task.projection)
        definition = load_definition(settings, config.directory, f"projections.{task.projection}")
        share = (task.shard, task.of)
        work = Work.on(task.projection, task.version, definition, settings, task.batch_size, share)
        name, store_settings = config.store(task.store)
        dsn = config.readmodel_of(task.projection).dsn
        gate = Gate(dsn, task.projection, task.limits, stop=stop, share=1 / task.of)
        with backends.open_store(name, store_settings) as store:
            runner = Runner(store, dsn, work, stop=stop, lock_patience=_PATIENCE, gate=gate)
            try:
                runner.run_until(Position.parse(task.until))
            finally:
                runner.close()
    except EsopsError as error:
        return Failure(type(error).__name__, error.message, error.hint)
    return None
