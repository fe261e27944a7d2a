"""Where the shards of a first load are worked on: by processes of this machine, or by the workers
of an existing Dask cluster.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from esops.config import load_config
from esops.errors import ConnectionLost, EsopsError, Unavailable, UsageError
from esops.events import Position
from esops.postgres.connection import connect, translated
from esops.readmodel import locks
from esops.rebuild.load.worker import Died, Failure, Task, in_process
from esops.running.work import Progress

if TYPE_CHECKING:
    import distributed

_LOOK_EVERY_SECONDS = 0.5
_CONNECT_TIMEOUT_SECONDS = 10
_SCHEDULER_PATIENCE_SECONDS = 20.0
_DASK = "dask://"
_LOCAL = "local"
_SECRETS = re.compile(r"(?<=//)\S*@|^[^/\s]*@|\?\S*")
"""Parts of an address that may have a password."""
_RESUME = (
    "What is loaded so far is kept. Continue with --resume, and --engine with another scheduler or "
    "local."
)


class AtWork(Protocol):
    """An engine while it has work."""

    def submit(self, task: Task) -> Future[Failure | None]:
        """Start loading a shard."""
        ...

    def result(self, future: Future[Failure | None]) -> Failure | None:
        """The result of a shard that is done: None, or why it gave up. Raises Died."""
        ...

    def reported(self) -> Mapping[int, Progress]:
        """By shard, what its process has applied since it began, as far as that is known."""
        ...

    def ask_to_stop(self) -> None:
        """Ask all processes to stop after their next checkpoint."""
        ...

    def check(self) -> None:
        """Raises Unavailable where the processes cannot be reached any more."""
        ...


class Engine(Protocol):
    """Where shards are worked on.

    `far`: on machines that do not notice by themselves when the rebuild's process dies. `where`
    continues "4 processes …" in messages.
    """

    far: bool
    where: str

    def opened(self, tasks: int) -> Any:
        """A context that gives an AtWork for `tasks` tasks, and at its end waits for them."""
        ...

    def processes(self) -> int:
        """How many processes to use where the operator did not say."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def engine_of(address: str | None) -> Engine:
    """The engine at an address; None is this machine. Raises UsageError or Unavailable."""
    if address in {None, _LOCAL}:
        return Processes()
    assert address is not None
    if not address.startswith(_DASK) or not address.removeprefix(_DASK):
        raise UsageError(
            f"unknown engine {address!r} (--engine)",
            hint="Write dask://HOST:PORT for a Dask cluster's scheduler, or local.",
        )
    if importlib.util.find_spec("distributed") is None:
        raise UsageError(
            "--engine dask:// needs Dask, which is not installed",
            hint="Run pip install 'esops[dask]' here and on the machines of its workers.",
        )
    return Dask(address.removeprefix(_DASK))


class Processes:
    """Processes of this machine: each is started and watched by a thread of ours."""

    far = False
    where = "on this machine"

    def processes(self) -> int:
        """One, unless the operator asks for more."""
        return 1

    def close(self) -> None:
        """There is nothing to close."""

    @contextmanager
    def opened(self, tasks: int) -> Iterator[AtWork]:
        """See Engine."""
        with ThreadPoolExecutor(tasks) as pool:
            yield _LocalWork(pool)


class _LocalWork:
    """Processes of this machine at work."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool, self._asked = pool, threading.Event()
        self._reported: dict[int, Progress] = {}

    def submit(self, task: Task) -> Future[Failure | None]:
        report = partial(self._reported.__setitem__, task.shard)
        return self._pool.submit(in_process, task, self._asked.is_set, report)

    def reported(self) -> Mapping[int, Progress]:
        return dict(self._reported)

    @staticmethod
    def result(future: Future[Failure | None]) -> Failure | None:
        return future.result()

    def ask_to_stop(self) -> None:
        self._asked.set()

    def check(self) -> None:
        """Threads of this process always know."""


class Dask:
    """The workers of a Dask cluster.

    They need esops, the configuration and the code in the same places as here. Each shard is a
    process of its own there, too: a worker lives long, and would use the code that it once
    imported.
    """

    far = True

    def __init__(self, scheduler: str) -> None:
        """Connect. Raises Unavailable."""
        import distributed

        logging.getLogger("distributed").setLevel(
            logging.CRITICAL
        )  # esops reports what matters in its own words
        shown = _SECRETS.sub("…", scheduler)
        self.where = f"of the Dask cluster at {shown}"
        address = scheduler if "://" in scheduler else f"tcp://{scheduler}"
        try:
            self._client = distributed.Client(
                address, timeout=_CONNECT_TIMEOUT_SECONDS, set_as_default=False
            )
        except (OSError, ValueError) as error:
            reason = _SECRETS.sub("…", str(error))
            raise Unavailable(f"cannot reach the Dask scheduler at {shown}: {reason}") from None

    def processes(self) -> int:
        """One for each of the cluster's workers."""
        return max(1, len(self._client.nthreads()))

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._client.close()

    @contextmanager
    def opened(self, tasks: int) -> Iterator[AtWork]:  # noqa: ARG002 - the cluster is as large as it is
        """See Engine."""
        work = _ClusterWork(self._client)
        try:
            yield work
        except BaseException:
            work.ask_to_stop()
            raise
        finally:
            work.wait()


class _ClusterWork:
    """Processes of a cluster at work."""

    def __init__(self, client: distributed.Client) -> None:
        import distributed

        self._client = client
        self._name = f"esops-{uuid.uuid4()}"
        self._asked = distributed.Event(self._name, client=client)
        self._gone_since: float | None = None
        self._pool = client.get_executor(pure=False, retries=0)
        self._futures: list[Future[Failure | None]] = []
        self._reported: dict[int, Progress] = {}
        client.subscribe_topic(self._name, self._hear)

    def submit(self, task: Task) -> Future[Failure | None]:
        future: Future[Failure | None] = self._pool.submit(_load_in_cluster, task, self._name)
        self._futures.append(future)
        return future

    @staticmethod
    def result(future: Future[Failure | None]) -> Failure | None:
        from distributed import KilledWorker

        try:
            return future.result()
        except (KilledWorker, OSError) as killed:
            raise Died from killed
        except (CancelledError, asyncio.CancelledError):
            raise Unavailable(
                "the connection to the Dask scheduler is lost", hint=_RESUME
            ) from None

    def reported(self) -> Mapping[int, Progress]:
        return dict(self._reported)

    def _hear(self, event: tuple[float, tuple[int, int, str]]) -> None:
        shard, events, position = event[1]
        self._reported[shard] = Progress(events, Position.parse(position))

    def ask_to_stop(self) -> None:
        if self._client.status == "running":
            self._asked.set()

    def check(self) -> None:
        if self._client.status == "running":
            self._gone_since = None
            return
        self._gone_since = self._gone_since or time.monotonic()
        if time.monotonic() - self._gone_since > _SCHEDULER_PATIENCE_SECONDS:
            raise Unavailable("the connection to the Dask scheduler is lost", hint=_RESUME)

    def wait(self) -> None:
        """Wait until all have ended, as a thread pool does.

        Without a scheduler they end by themselves, once the rebuild's session is gone.
        """
        for future in self._futures:
            while not future.done() and self._client.status == "running":
                time.sleep(_LOOK_EVERY_SECONDS / 5)


def _load_in_cluster(task: Task, name: str) -> Failure | None:
    """Load a shard in a worker of a cluster.

    Stops when it is asked to, and when the rebuild's session is gone.
    """
    import distributed

    asked = distributed.Event(name, client=distributed.get_client())
    stop, over = threading.Event(), threading.Event()
    worker = distributed.get_worker()
    reports: list[Progress] = []

    def watch() -> None:
        while not over.wait(_LOOK_EVERY_SECONDS):
            try:
                if reports:
                    last = reports[-1]
                    reports.clear()
                    worker.log_event(name, (task.shard, last.events, str(last.position)))
                if not _owned(task) or asked.is_set():
                    stop.set()
                    return
            except (EsopsError, OSError, RuntimeError):
                # The scheduler or the database is unreachable for the moment. If it is the
                # database, the work itself waits for it too.
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        return in_process(task, stop.is_set, reports.append)
    finally:
        over.set()
        thread.join()


def _owned(task: Task) -> bool:
    """Whether the session that started the work still holds the projection's lock."""
    config = load_config(task.config)
    try:
        with (
            translated(),
            connect(
                config.readmodel_of(task.projection).dsn, f"watch {task.projection}"
            ) as connection,
        ):
            holder = locks.holder(connection, locks.rebuild_lock(task.projection))
    except ConnectionLost:
        return True
    return holder is not None and holder.pid == task.owner
