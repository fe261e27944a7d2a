"""One run of a trial, by a process of its own: events go into temporary tables, batch by batch, and
the rows that result come back.

The process is a fork of `python -m esops.check.trial_process`, which gets tasks pickled on its
input, by the process that started it, and writes the result of each pickled on its output. When its
input ends, it ends, too; its tables are temporary, so that nothing of them is left.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from esops import errors
from esops.check import trial_tables
from esops.check.trial_tables import ReadModel
from esops.config import load_config
from esops.errors import EsopsError, Stopped, Unavailable
from esops.events import RecordedEvent
from esops.postgres.catalog import Table
from esops.postgres.connection import connect, qualified, translated
from esops.projections.definition import Handlers, SqlDefinition
from esops.projections.kinds import check, open_projector
from esops.projections.kinds.fold import following_cache
from esops.projections.projector import Projector, VersionTables
from esops.readmodel.names import with_names
from esops.readmodel.rows import BadEvent, one_line
from esops.rebuild.target import Target, resolve

LABEL = "trial"
"""In the names of the tables."""
_LOOK_EVERY_SECONDS = 0.1
_LENGTH = 8
"""Bytes of the length before each message."""
Rows = dict[str, dict[str, Any]]
"""Of each table, the rows by their keys as JSON text."""


@dataclass(frozen=True)
class TrialTask:
    """What one process does. `events` are the fields of events, in batches."""

    config: Path
    projection: str
    store: str | None
    conjoined: bool
    begins: int | None
    batches: Sequence[Sequence[tuple[Any, ...]]]
    statements: Sequence[str] = ()
    """Kind sql: a statement instead of each batch, with {table}."""
    twice: bool = False
    """Whether each batch is applied, and committed, twice."""
    state: Mapping[str, bytes] | None = None
    """What is in the tables at first, as COPY gives it; None: nothing."""
    value_types: Mapping[str, str] = field(default_factory=dict)
    watch: Sequence[tuple[str, str]] = ()
    """Rows that are looked at after each batch: their tables and keys."""


@dataclass
class Ran:
    """The result."""

    rows: Rows = field(default_factory=dict)
    state: dict[str, bytes] = field(default_factory=dict)
    numbered: dict[str, list[str]] = field(default_factory=dict)
    """Of each table, the columns that it numbers by itself."""
    value_types: dict[str, str] = field(default_factory=dict)
    watched: list[dict[tuple[str, str], Any]] = field(default_factory=list)
    """After each batch, the rows that are watched."""
    failed: tuple[int, int, str] | None = None
    """The batch and the event in it that the code failed on, and why."""
    again: bool = False
    """Whether that was when a batch came the second time."""
    error: tuple[str, str, str | None] | None = None
    """An error of esops, by its class's name, with its message and hint."""


class TrialProcesses:
    """Processes that run tasks, each in a fork of its own of a process that has loaded esops and
    none of the user's code. Use it with `with`.
    """

    def __init__(self, stop: Callable[[], bool]) -> None:
        """None is started yet. `stop` is asked while a task runs."""
        self._stop = stop
        self._by_seed: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._by_seed.values():
            # Its end kills what still runs.
            process.kill()
            process.communicate()

    def run(self, task: TrialTask, seed: str) -> Ran:
        """Run a task in a process that hashes by a seed. Raises Stopped, Unavailable where the
        process died, and what was wrong there.
        """
        process = self._by_seed.get(seed) or self._start(seed)
        assert process.stdin is not None
        assert process.stdout is not None
        content = pickle.dumps(task)
        process.stdin.write(len(content).to_bytes(_LENGTH, "big") + content)
        process.stdin.flush()
        output = process.stdout.fileno()
        size = int.from_bytes(self._read(output, _LENGTH), "big")
        ran = pickle.loads(self._read(output, size))  # noqa: S301 - from our own process
        if isinstance(ran, int):
            how = f"signal {-ran}" if ran < 0 else f"code {ran}"
            raise Unavailable(
                f"the process that ran the code ended with {how}",
                hint="What it wrote to stderr is above. The code may end its process, as a crash "
                "in a library does.",
            )
        assert isinstance(ran, Ran)
        if ran.error is not None:
            name, message, hint = ran.error
            kind: type[EsopsError] = getattr(errors, name, EsopsError)
            raise kind(message, hint=hint)
        return ran

    def _start(self, seed: str) -> subprocess.Popen[bytes]:
        # -P: a module of the project named like one of ours must not be imported instead.
        command = [sys.executable, "-P", "-m", "esops.check.trial_process"]
        self._by_seed[seed] = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        return self._by_seed[seed]

    def _read(self, output: int, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            if self._stop():
                raise Stopped("stopped; nothing was changed")
            if not select.select([output], [], [], _LOOK_EVERY_SECONDS)[0]:
                continue
            part = os.read(output, size - len(content))
            if not part:
                raise Unavailable("a process that runs the code was killed")
            content += part
        return bytes(content)


class _Trial:
    """The run, in its process."""

    def __init__(self, task: TrialTask, connection: psycopg.Connection) -> None:
        self._task, self._connection = task, connection
        config = load_config(task.config)
        self._target: Target = resolve(config, task.projection, task.store, connection)
        model = ReadModel(connection, self._target)
        self._tables = trial_tables.make(connection, self._target, model, LABEL)
        # A statement may write beside its tables, and so may a handler.
        definition = self._target.definition
        self._read_only = isinstance(definition, Handlers | SqlDefinition)
        check(definition, [*self._tables.values()], conjoined=task.conjoined)
        self._types = dict(task.value_types)
        self._empty = task.state is None
        for name, content in (task.state or {}).items():
            self._load(self._tables[name], content)

    def run(self) -> Ran:
        """Apply all batches."""
        task, ran = self._task, Ran()
        projector = self._open()
        try:
            for number in range(max(len(task.batches), len(task.statements))):
                for again in (False, True) if task.twice else (False,):
                    bad = self._batch(projector, number)
                    if bad is not None:
                        ran.failed, ran.again = (number, *bad), again
                        return ran
                if task.watch:
                    ran.watched.append({each: self._row(*each) for each in task.watch})
            ran.value_types = dict(projector.value_types) if projector is not None else {}
        finally:
            if projector is not None:
                projector.close()
        ran.rows = {name: self._rows(table) for name, table in self._tables.items()}
        ran.numbered = {
            name: trial_tables.numbered(self._connection, table)
            for name, table in self._tables.items()
        }
        ran.state = {name: self._dump(table) for name, table in self._tables.items()}
        return ran

    def _batch(self, projector: Projector | None, number: int) -> tuple[int, str] | None:
        """Apply a batch; returns the event that the code fails on, and why, where it does."""
        task = self._task
        if projector is None:
            names = {name: (table.schema, table.name) for name, table in self._tables.items()}
            try:
                with trial_tables.trying(self._connection, read_only=self._read_only):
                    self._connection.execute(with_names(task.statements[number], names).encode())
            except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as error:
                return 0, one_line(error)
            return None
        events = [RecordedEvent(*each) for each in task.batches[number]]
        try:
            self._apply(projector, events)
        except BadEvent as bad:
            return self._which(events, bad)
        return None

    def _which(self, events: list[RecordedEvent], bad: BadEvent) -> tuple[int, str]:
        """The first event that fails, by applying them one by one."""
        projector = self._open()
        assert projector is not None
        try:
            for at, event in enumerate(events):
                try:
                    self._apply(projector, [event])
                except BadEvent as alone:
                    return at, alone.reason
        finally:
            projector.close()
        return len(events) - 1, bad.reason

    def _apply(self, projector: Projector, events: list[RecordedEvent]) -> None:
        at = 0
        while at < len(events):
            step = max(1, projector.most_at_once)
            projector.apply(events[at : at + step], self._connection)
            at += step
        with trial_tables.trying(self._connection, read_only=self._read_only):
            projector.flush(self._connection)
        projector.flushed()
        self._types = {**self._types, **projector.value_types}
        self._empty = False

    def _open(self) -> Projector | None:
        task, settings = self._task, self._target.settings
        return open_projector(
            self._target.definition,
            VersionTables(
                projection=self._target.name,
                version=0,
                by_name=self._tables,
                keys={name: table.key for name, table in self._tables.items()},
                value_types=self._types,
                conjoined=task.conjoined,
                empty=self._empty,
                cache=following_cache(settings.cache),
                ensure_keys=lambda: None,
                begins=task.begins,
            ),
        )

    # -- the rows

    def _load(self, table: Table, content: bytes) -> None:
        name = qualified(table.schema, table.name)
        statement = sql.SQL("COPY {} FROM STDIN").format(name)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(content)
        for column in trial_tables.numbered(self._connection, table):
            self._connection.execute(
                sql.SQL(
                    "SELECT setval(pg_get_serial_sequence({}, {}), max({})) FROM {} HAVING max({}) "
                    "IS NOT NULL"
                ).format(
                    sql.Literal(name.as_string(None)),
                    sql.Literal(column),
                    sql.Identifier(column),
                    name,
                    sql.Identifier(column),
                )
            )

    def _dump(self, table: Table) -> bytes:
        name = qualified(table.schema, table.name)
        statement = sql.SQL("COPY {} TO STDOUT").format(name)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            return b"".join(copy)

    def _rows(self, table: Table) -> dict[str, Any]:
        statement = sql.SQL("SELECT {}, to_jsonb(t)::text FROM {} AS t").format(
            _key(table), qualified(table.schema, table.name)
        )
        return {key: _parsed(row) for key, row in self._connection.execute(statement)}

    def _row(self, name: str, key: str) -> Any:
        table = self._tables[name]
        statement = sql.SQL("SELECT to_jsonb(t)::text FROM {} AS t WHERE {} = %s").format(
            qualified(table.schema, table.name), _key(table)
        )
        found = self._connection.execute(statement, [key]).fetchone()
        return None if found is None else _parsed(found[0])


def _key(table: Table) -> sql.Composable:
    """The key of a row as JSON; of a table without one, the whole row."""
    if not table.key:
        return sql.SQL("to_jsonb(t)::text")
    return sql.SQL("jsonb_build_object({})::text").format(
        sql.SQL(", ").join(
            sql.SQL("{}::text, {}").format(sql.Literal(name), sql.Identifier("t", name))
            for name in table.key
        )
    )


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def run(task: TrialTask) -> Ran:
    """Run a task in this process; what is wrong is in the answer."""
    try:
        dsn = load_config(task.config).readmodel_of(task.projection).dsn
        with translated(), connect(dsn, f"test {task.projection}") as connection:
            # Nothing that this session writes lasts, so nobody waits for a disk.
            connection.execute("SET synchronous_commit = off")
            return _Trial(task, connection).run()
    except EsopsError as error:
        return Ran(error=(type(error).__name__, error.message, error.hint))


def main() -> None:
    """Do what each task on standard input says, in a fork of this process."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    # A terminal signals the whole process group. When to stop is for the trial to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a projection or a library of its prints must not mix with the answers.
    answer = os.dup(1)
    os.dup2(2, 1)
    while length := _exactly(_LENGTH):
        content = _exactly(int.from_bytes(length, "big"))
        child = os.fork()
        if child == 0:
            threading.Thread(target=_end_with_parent, daemon=True).start()
            _answer(answer, run(pickle.loads(content)))  # noqa: S301 - who started it wrote it
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            _answer(answer, code)


def _end_with_parent() -> None:
    """End at once where the trial is gone: nobody wants the answer."""
    looked = select.poll()
    looked.register(0, 0)  # no event but the end of what writes to it
    looked.poll()
    os._exit(0)


def _exactly(size: int) -> bytes:
    content = bytearray()
    while len(content) < size and (part := os.read(0, size - len(content))):
        content += part
    return bytes(content)


def _answer(output: int, what: Ran | int) -> None:
    content = pickle.dumps(what)
    left = memoryview(len(content).to_bytes(_LENGTH, "big") + content)
    with suppress(BrokenPipeError):
        while left:
            left = left[os.write(output, left) :]


if __name__ == "__main__":
    # What is pickled has to be of the module as the other process knows it.
    from esops.check.trial_process import main as entry

    entry()
