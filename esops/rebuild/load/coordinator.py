"""The first load of a version by several processes, each with a share of the streams, a connection
and a checkpoint of its own.

Streams are split by a hash of their names, in the server, so that each event is read once. All
shards go up to the same position; then their checkpoints become the version's, in one transaction,
and one process continues. A process that dies is started again at its shard's checkpoint; a rebuild
that dies continues with as many shards as it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import structlog

from esops.errors import Stopped, Unavailable
from esops.events import Position
from esops.readmodel.after_load import build_after_load
from esops.readmodel.registry import Version
from esops.readmodel.shards import (
    Shard,
    create_shards,
    merge_shards,
    shards_of,
    unlike_one_load,
)
from esops.rebuild.load.executors import Engine
from esops.rebuild.load.worker import Died, Failure, Task
from esops.rebuild.session import Session
from esops.running.work import Progress
from esops.stores.parts import Mark

log = structlog.get_logger("esops.shards")
_LOOK_EVERY_SECONDS = 0.5
_DEATHS = 5
"""How often processes may die in a row without any checkpoint having moved."""

MakeTask = Callable[[int, int, Position, int | None], Task]
"""Makes a shard's task of its number, the number of shards, the position to load up to, and the
rebuild's session (None where the process ends with ours anyway).
"""


class Unlike(Exception):
    """The processes would not make the rows that one makes."""


@dataclass(frozen=True)
class ShardedLoad:
    """A load by several processes.

    `progress` gets what each shard has applied so far.
    """

    session: Session
    version: Version
    engine: Engine
    task: MakeTask
    stop: Callable[[], bool]
    progress: Callable[[Sequence[Progress]], None]
    say: Callable[[str], None]
    mark: Callable[[Position], Mark | None]
    """Gives what tells the store's log at a position from any other."""
    as_one: bool
    """Whether the rows must be those of a load in one: esops has found the number of processes, and
    nobody has agreed to anything else.
    """

    def run(self, until: Position, workers: int) -> None:
        """Load the version up to a position with `workers` processes.

        Continues with shards that are there, and then with their number and position. Raises what
        stops a shard, Stopped, and Unlike.
        """
        found = self._shards()
        if not found:
            # Before the processes start: otherwise one of them would build the key while the others
            # write.
            self.session.do(lambda on: build_after_load(on, self.version, primary_only=True))
            mark = self.mark(until)
            self.session.do(lambda on: create_shards(on, self.version, workers, until, mark))
            found = self._shards()
        # If shards exist already, they keep the position that they began with.
        until = found[0].until
        self.say(f"{len(found)} processes {self.engine.where} load up to position {until}")
        self._load(found)
        self._check_alike()
        self.session.do(lambda on: merge_shards(on, self.version, until))

    def _check_alike(self) -> None:
        """Raises Unlike, as soon as it shows in what the processes have committed."""
        if self.as_one and (why := unlike_one_load(self._shards())) is not None:
            raise Unlike(why)

    def _load(self, shards: list[Shard]) -> None:
        """Until all shards are at their end, start again those whose process died."""
        deaths, events = 0, -1
        while left := self._left(shards):
            try:
                self._load_once(left)
            except Died:
                now = self._events()
                # A process that dies after a checkpoint may get further next time; one that dies
                # again and again at the same place will not.
                deaths, events = (deaths + 1 if now == events else 1), now
                if deaths > _DEATHS:
                    raise Unavailable(
                        f"processes that load {self.version.projection} keep dying",
                        hint="See the system's log for the reason, for example too little memory. "
                        "Then continue with --resume.",
                    ) from None
                self.say("a process died; it is started again at its checkpoint")
                log.warning("a process died", projection=self.version.projection)

    def _left(self, shards: list[Shard]) -> list[Task]:
        owner = self.session.do(lambda on: on.info.backend_pid) if self.engine.far else None
        unfinished = {each.number for each in self._shards() if each.position != each.until}
        return [
            self.task(each.number, each.of, each.until, owner)
            for each in shards
            if each.number in unfinished
        ]

    def _shards(self) -> list[Shard]:
        return self.session.do(lambda on: shards_of(on, self.version))

    def _events(self) -> int:
        return sum(each.events for each in self._shards())

    def _report(self, before: Mapping[int, Shard], since: Mapping[int, Progress]) -> None:
        """`before`: the shards' checkpoints when the processes began; `since`: what these have
        applied by now.
        """
        self.progress(
            [
                Progress(
                    shard.events + (last.events if last else 0),
                    last.position if last else shard.position,
                    *((last.doing, last.paused) if last else ()),
                )
                for number, shard in before.items()
                for last in [since.get(number)]
            ]
        )

    def _load_once(self, tasks: list[Task]) -> None:
        before = {each.number: each for each in self._shards()}
        with self.engine.opened(len(tasks)) as at_work:
            waiting: set[Future[Failure | None]] = {at_work.submit(task) for task in tasks}
            failure: Failure | None = None
            try:
                while waiting:
                    at_work.check()
                    done, waiting = wait(waiting, _LOOK_EVERY_SECONDS, FIRST_COMPLETED)
                    self._report(before, at_work.reported())
                    self._check_alike()
                    failure = next(
                        (found for each in done if (found := at_work.result(each)) is not None),
                        failure,
                    )
                    # One that fails stops the others. Their work is kept.
                    if failure is not None or self.stop():
                        at_work.ask_to_stop()
            except BaseException:
                at_work.ask_to_stop()
                raise
        if failure is not None and failure.error != "Stopped":
            raise failure.raised()
        if self.stop():
            raise Stopped("stopped while processes were loading")
