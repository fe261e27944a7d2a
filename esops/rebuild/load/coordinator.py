"""The first load of a version by several processes, each with a share of the streams, a connection
and a checkpoint of its own.

Streams are dealt by a hash of their names, in the server, so that each event is read once. All
shards go up to the same position; then
their checkpoints become the version's, in one transaction, and one process goes on. A process that
dies is begun again at its
shard's checkpoint; a rebuild that dies goes on with as many shards as it began with.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

import structlog

from esops.errors import Refused, Stopped, Unavailable
from esops.events import Position
from esops.projections.definition import Definition, FoldDefinition
from esops.readmodel.after_load import build_after_load
from esops.readmodel.registry import Version
from esops.readmodel.shards import create_shards, merge_shards, shards_of
from esops.rebuild.load.executors import Engine
from esops.rebuild.load.worker import Died, Failure, Task
from esops.rebuild.session import Session
from esops.stores.base import EventStore

log = structlog.get_logger("esops.shards")
_LOOK_EVERY = 0.5
_DEATHS = 5
"""So many times processes may die without any checkpoint having moved."""


def check(definition: Definition, store: EventStore, *, sharded: bool) -> None:
    """Raises Refused where a projection cannot be made in shards and is to be."""
    if sharded:
        check_dealt(definition, store, "--workers and --engine")


def check_dealt(definition: Definition, store: EventStore, what: str) -> None:
    """Raises Refused where the server cannot deal a projection's keys, which an option takes."""
    if not isinstance(definition, FoldDefinition):
        raise Refused(
            f"{what}: for folds only: of this kind, what is written for one event may depend on "
            "any other",
            hint="Leave it out.",
        )
    if definition.key is not None:
        raise Refused(
            f"{what}: only for a fold that is keyed by the stream: the server cannot deal events "
            "by a Python function",
            hint="Leave it out.",
        )
    if not store.capabilities.shards:
        raise Refused(
            f"store {store.name} cannot deal its streams to several readers", hint="Leave it out."
        )


def load(
    session: Session,
    version: Version,
    task: Callable[[int, int, Position, int | None], Task],
    until: Position,
    engine: Engine,
    workers: int,
    *,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Load a version up to a position by processes.

    Goes on with shards that are there. Raises what stops a shard, and Stopped.
    """
    found = session.do(lambda on: shards_of(on, version))
    if not found:
        # One of them would build the key while the others write.
        session.do(lambda on: build_after_load(on, version, primary_only=True))
        session.do(lambda on: create_shards(on, version, workers, until))
        found = session.do(lambda on: shards_of(on, version))
    until = found[0].until
    say(f"{len(found)} processes {engine.where} load up to position {until}")
    _Pool(
        session,
        version,
        engine,
        lambda owner: [task(each.number, each.of, until, owner) for each in found],
        stop,
        progress,
        say,
    ).run()
    session.do(lambda on: merge_shards(on, version, until))


class _Pool:
    """Processes at work on shards."""

    def __init__(
        self,
        session: Session,
        version: Version,
        engine: Engine,
        tasks: Callable[[int | None], list[Task]],
        stop: Callable[[], bool],
        progress: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self._session, self._version, self._engine, self._tasks = session, version, engine, tasks
        self._stop, self._progress, self._say = stop, progress, say

    def run(self) -> None:
        """Until all shards are at their end."""
        deaths, events = 0, -1
        while left := self._left():
            try:
                self._once(left)
            except Died:
                now = self._events()
                deaths, events = (deaths + 1 if now == events else 1), now
                if deaths > _DEATHS:
                    raise Unavailable(
                        f"processes that load {self._version.projection} die again and again"
                    ) from None
                self._say("a process died: begun again at its checkpoint")
                log.warning("a process died", projection=self._version.projection)

    def _left(self) -> list[Task]:
        shards = {
            each.number: each for each in self._session.do(lambda on: shards_of(on, self._version))
        }
        owner = self._session.do(lambda on: on.info.backend_pid) if self._engine.far else None
        return [
            task
            for task in self._tasks(owner)
            if shards[task.shard].position != shards[task.shard].until
        ]

    def _events(self) -> int:
        return sum(
            each.events for each in self._session.do(lambda on: shards_of(on, self._version))
        )

    def _once(self, tasks: list[Task]) -> None:
        with self._engine.opened(len(tasks)) as at_work:
            waiting: set[Future[Failure | None]] = {at_work.submit(task) for task in tasks}
            failure: Failure | None = None
            try:
                while waiting:
                    at_work.check()
                    done, waiting = wait(waiting, _LOOK_EVERY, FIRST_COMPLETED)
                    failure = next(
                        (found for each in done if (found := at_work.result(each)) is not None),
                        failure,
                    )
                    if failure is not None or self._stop():
                        at_work.ask_to_stop()
                    self._progress(self._events())
            except BaseException:
                at_work.ask_to_stop()
                raise
        if failure is not None and failure.error != "Stopped":
            raise failure.raised()
        if self._stop():
            raise Stopped("stopped while processes were loading")
