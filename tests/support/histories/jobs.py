"""What esops is asked for in a history, and what has to be true of its answer.

A job that ends without an error has seen every event that was committed before it began: once, in
order, and nothing that is not there. A job may refuse with an error of its own; what it gave out
before that has no gap.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg

from esops.config import Config, load_config
from esops.errors import EsopsError
from esops.events import Position
from esops.health import heads, status
from esops.health.late import missed_by
from esops.projections.definition import load_definition
from esops.projections.fingerprint import Code
from esops.readmodel import migrations, registry
from esops.readmodel.registry import Version
from esops.rebuild.api import RebuildRequest, rebuild
from esops.running.follower import open_runner
from esops.running.runner import Runner
from esops.stores import open_store
from esops.stores.postgres.layouts import finding
from tests.support.config import toml
from tests.support.histories.world import World
from tests.support.histories.writers import THRESHOLD

_MODULE = "history_tokens"
_CODE = """
from esops import fold

@fold(key=lambda event: event.json()["token"])
def tokens(row, event):
    return {"token": event.json()["token"], "times": 1 if row is None else row["times"] + 1}
"""
_DDL = "CREATE TABLE {table} (token text PRIMARY KEY, times int NOT NULL)"
_BRIEF = timedelta(seconds=2.5 * THRESHOLD)
_WITH_SETTLING = (
    "esops.rebuild.planning",
    "esops.rebuild.phases.loading",
    "esops.rebuild.variants.in_place",
)


class Wrong(AssertionError):
    """A job said something that is not true."""


class Jobs:
    """The jobs of one history, on one store with one projection."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world, self._folder = world, folder
        self._config = configure(world.dsn, world.tables.settings, folder)
        # Its own: the world's may be in a transaction, of a step that goes on meanwhile.
        self._view = psycopg.connect(world.dsn, autocommit=True)
        self._runner: Runner | None = None
        self.meanwhile: threading.Thread | None = None
        """Carries out steps while a job runs."""
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self._refused = False
        """Whether a job of this history has refused."""
        self._jobs: dict[str, Callable[[], None]] = {
            name.removeprefix("job_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("job_")
        }

    def knows(self, job: str) -> bool:
        return job in self._jobs

    def reset(self) -> None:
        """No version has seen anything yet, and esops remembers nothing."""
        self._refused = False
        self._end_runner()
        forget(self._view, self._config)

    def end(self) -> None:
        """The end of a history."""
        self._end_runner()

    def close(self) -> None:
        self._end_runner()
        self._view.close()

    def do(self, job: str) -> None:
        """Ask for a job. Raises Wrong where what it says is not true."""
        try:
            with _impatient():
                self._jobs[job]()
        except EsopsError as refused:
            self.counts[f"{job} refused"] += 1
            self.refusals[type(refused).__name__] += 1
            self._refused = True
            if refused.exit_code not in (3, 5, 6):
                raise Wrong(f"{job}: {refused.message}, with {refused.exit_code}") from refused
        except (Wrong, psycopg.errors.DeadlockDetected):
            raise
        except Exception as error:
            raise Wrong(f"{job}: a defect, {type(error).__name__}: {error}") from error
        else:
            self.counts[job] += 1

    # -- the jobs

    def job_read(self) -> None:
        """`esops events` in a new process."""
        before = set(self._world.books.committed)
        seen: list[tuple[tuple[int, ...], str]] = []
        complete = True
        try:
            with open_store("s", self._config.store()[1]) as store:
                for batch in store.read_all():
                    seen += [(tuple(e.position), e.json()["token"]) for e in batch.events]
        except EsopsError:
            complete = False
            raise
        finally:
            self._check_read(before, seen, complete=complete)

    def job_catch_up(self) -> None:
        """`esops run --until-caught-up` in a new process."""
        before = self._before()
        self._end_runner()
        runner = self._open()
        try:
            runner.catch_up()
        finally:
            runner.close()
            runner._store.close()
        alarms = missed_by(self._config, ["tokens"])  # it ends with 1 then
        if alarms:
            self.counts["alarms"] += 1
        self._check_rows("catch_up", before, alarmed={each.event.position for each in alarms})

    def job_again(self) -> None:
        """What was refused before is asked for once more, when an operator has done something."""
        if self._refused:
            self.job_catch_up()

    def job_finish(self) -> None:
        """Nobody made a mistake, and the application has stopped: all has to come out."""
        for attempt in range(5):
            try:
                return self.job_catch_up()
            except EsopsError as refused:
                # A number that was drawn just now has to get old, on a busy machine.
                if attempt == 4 or refused.exit_code != 5:
                    raise Wrong(f"finish: refused, and nothing is wrong: {refused}") from refused

    def job_follow(self) -> None:
        """One turn of `esops run`, in a process that lives as long as it can."""
        if self._runner is None:
            self._runner = self._open()
        try:
            self._runner.step(timedelta(seconds=THRESHOLD / 10))
        except BaseException:
            self._end_runner()  # the host starts another process
            raise
        self._wait()
        position = self._runner.position
        before = {
            each.token
            for each in self._world.books.committed.values()
            if position is not None and each.position <= tuple(position)
        }
        self._check_rows("follow", before)

    def job_status(self) -> None:
        """`esops status`: where it says that all is well and applied, all is applied."""
        before = self._before()
        with mock.patch.object(heads, "LOOKING", _BRIEF):
            found = status.look(self._config)
        active = [each for each in found.projections if each["state"] == "active"]
        held = any(each.get("held_back_by") for each in found.stores)
        if found.ok and not held and all(each["lag_events"] == 0 for each in active):
            self._check_rows("status", before, alarmed=set())

    def job_in_place(self) -> None:
        """`esops rebuild --in-place`: what serves is replaced, or stays as it is."""
        before, served = self._before(), self._rows()
        self._end_runner()
        try:
            rebuild(self._config, ["tokens"], RebuildRequest(in_place=True), stop=_soon())
        except EsopsError as refused:
            if refused.exit_code == 6 and served and not self._rows():
                raise Wrong(f"in_place: refused after it had emptied: {refused}") from refused
            raise
        self._check_rows("in_place", before)

    def job_rebuild(self) -> None:
        """`esops rebuild --blue-green`, switched."""
        before = self._before()
        self._end_runner()
        request = RebuildRequest(compare="none")
        [outcome] = rebuild(self._config, ["tokens"], request, stop=_soon())
        if outcome.state == "switched":
            # Green is as far as what has settled; what follows is said, and comes later.
            position = registry.read_position(self._view, "tokens", outcome.to_version)
            known = self._world.books.committed
            reached = {
                token
                for token in before
                if token in known and position is not None and known[token].position <= position
            }
            self._check_rows("rebuild", reached, built=True)

    # -- what has to be true

    def _wait(self) -> None:
        """Until the books are closed: nobody writes any more."""
        if self.meanwhile is not None:
            self.meanwhile.join()

    def _before(self) -> set[str]:
        return set(self._world.books.committed)

    def _check_read(
        self, before: set[str], seen: list[tuple[tuple[int, ...], str]], *, complete: bool
    ) -> None:
        self._wait()
        books = self._world.books
        tokens = [token for _, token in seen]
        if len(tokens) != len(set(tokens)):
            raise Wrong(f"read: twice: {_some(t for t in tokens if tokens.count(t) > 1)}")
        positions = [position for position, _ in seen]
        if positions != sorted(positions):
            raise Wrong(f"read: not in order: {positions[:20]}")
        if unknown := set(tokens) - set(books.committed) - self._world.lost:
            raise Wrong(f"read: never committed: {_some(unknown)}")
        wanted = before & set(books.committed)
        if not complete:
            last = positions[-1] if positions else ()
            wanted = {token for token in wanted if books.committed[token].position <= last}
        self._none_missed("read", wanted - set(tokens))

    def _check_rows(
        self,
        job: str,
        before: set[str],
        *,
        built: bool = False,
        alarmed: set[Position] | None = None,
    ) -> None:
        """The rows that serve are those of the events that were committed before, once each.

        `built`: in this job, from the beginning. `alarmed`: the positions of which it says that
        their events came late; None where it is not its business.
        """
        self._wait()
        books, rows = self._world.books, self._rows()
        if twice := {token for token, times in rows.items() if times != 1}:
            raise Wrong(f"{job}: applied twice: {_some(twice)}")
        # What is archived later stays in a read model that has seen it, as does what is lost by a
        # restore that begins when the job has read it.
        allowed = set(books.committed) | (set() if built else books.removed) | self._world.lost
        if unknown := set(rows) - allowed:
            raise Wrong(f"{job}: rows of events that the store does not have: {_some(unknown)}")
        missed = (before & set(books.committed)) - set(rows)
        late = missed & books.missable()
        if late and not built:
            self._check_alarms(job, late & books.alarming(), alarmed)
            self.counts["late and missed"] += 1
            missed -= late
        self._none_missed(job, missed)

    def _check_alarms(self, job: str, late: set[str], alarmed: set[Position] | None) -> None:
        if alarmed is None or not self._world.tables.remembers:
            return
        known = self._world.books.committed
        if silent := {token for token in late if known[token].position not in alarmed}:
            raise Wrong(f"{job}: no alarm for events that came late: {self._describe(silent)}")

    def _none_missed(self, job: str, missed: set[str]) -> None:
        if missed:
            raise Wrong(f"{job}: missed {len(missed)}: {self._describe(missed)}")

    def _describe(self, tokens: set[str]) -> str:
        known = self._world.books.committed
        found = sorted((known[token] for token in tokens), key=lambda each: each.position)
        return _some(f"{each.position}{' late' * bool(each.late)}" for each in found)

    def _rows(self) -> dict[str, int]:
        admin = self._view
        version = registry.active(admin, "tokens")
        assert version is not None
        schema, table = version.table
        return dict(admin.execute(f'SELECT token, times FROM "{schema}"."{table}"').fetchall())

    # -- the processes

    def _open(self) -> Runner:
        version = registry.active(self._view, "tokens")
        assert version is not None
        return open_runner(self._config, version, stop=lambda: False)

    def _end_runner(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            with suppress(Exception):
                runner.close()
                runner._store.close()


@contextmanager
def _impatient() -> Iterator[None]:
    """No long waits: a history's transactions do not end by themselves."""
    with ExitStack() as stack:
        # Looking for other packages' layouts takes most of the time in which a store is opened.
        stack.enter_context(mock.patch.object(finding, "known", return_value=finding.LAYOUTS))
        for module in _WITH_SETTLING:
            stack.enter_context(mock.patch(f"{module}.SETTLING", _BRIEF))
        yield


def _soon() -> Callable[[], bool]:
    """Asks a rebuild to stop that waits for somebody who may never end."""
    end = time.monotonic() + 5
    return lambda: time.monotonic() > end


def _some(what: Any) -> str:
    found = [str(each) for each in what]
    return ", ".join(found[:6]) + ("…" if len(found) > 6 else "")


def configure(dsn: str, settings: Any, folder: Path) -> Config:
    """A project whose projection keeps each event's token, and how often it was applied."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_MODULE}.py").write_text(_CODE)
    (folder / "tokens.sql").write_text(_DDL)
    store = {
        "dsn": dsn,
        "hole_threshold": f"{THRESHOLD * 1000:.0f}ms",
        "settle_timeout": f"{THRESHOLD * 1500:.0f}ms",
        **settings,
    }
    (folder / "esops.toml").write_text(
        toml(
            {
                "stores": {"s": store},
                "projections": {
                    "tokens": {
                        "python": f"{_MODULE}:tokens",
                        "tables": ["tokens"],
                        "ddl": "tokens.sql",
                    }
                },
            }
        )
    )
    return load_config(folder / "esops.toml")


def forget(admin: psycopg.Connection, config: Config) -> None:
    """One version that has seen nothing; all else that esops keeps is emptied."""
    migrations.install(admin)
    found = admin.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'esops' AND "
        "tablename <> 'schema_migrations'"
    ).fetchall()
    admin.execute(f"TRUNCATE {', '.join(row[0] for row in found)}")
    for (name,) in admin.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND "
        "c.relname LIKE 'tokens\\_\\_v%' AND c.relkind = 'r' AND c.relname <> 'tokens__v1'"
    ).fetchall():
        admin.execute(f"DROP TABLE {name} CASCADE")
    admin.execute(
        "CREATE TABLE IF NOT EXISTS tokens__v1 (token text PRIMARY KEY, times int NOT NULL);"
        "TRUNCATE tokens__v1; CREATE OR REPLACE VIEW tokens AS SELECT * FROM tokens__v1"
    )
    settings = config.projection("tokens")
    definition = load_definition(settings, config.directory, "esops.toml")
    code = Code(definition, settings, config.directory).fingerprint
    registry.insert(
        admin,
        Version("tokens", 1, "active", "s", None, 0, 0, {"tokens": ("public", "tokens__v1")}, code),
    )
    registry.set_active(admin, "tokens", 1, None)
