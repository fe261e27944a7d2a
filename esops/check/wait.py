"""Waits until the versions that serve have taken in what was committed before.

For deployments and end-to-end tests: whoever has appended an event, and waits here, finds it in the
read model. So the goal covers every event that was committed before the call: where a writer still
holds a lower number, the wait is for that writer first, since nobody reads past it.

A version need not be at the goal. One whose filter passes no event up to there has taken in
all of it, whatever its checkpoint says: an application's processor may note only the events that it
handles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta

import psycopg

from esops.check.awaited import Awaited
from esops.check.reach import Reach, Reader
from esops.config import Config
from esops.errors import EsopsError, Refused, UsageError
from esops.events import EventFilter, Position
from esops.postgres.connection import connect, translated
from esops.postgres.statements import statements
from esops.readmodel import by_ranges, marks, migrations, registry, served
from esops.readmodel.dead_letters import count_dead_letters
from esops.readmodel.owners import remedy
from esops.readmodel.registry import Version
from esops.readmodel.renamed import former_name
from esops.rebuild import not_advancing
from esops.running.code import code_of
from esops.settings import ProjectionSettings
from esops.stores import open_store
from esops.stores.checkpoints import checkpoint_of, processor_of
from esops.wording import count

_SQL = statements(__package__, "serving")
_OWN, _OF_APPLICATION = 0.5, 2.0
"""Seconds between two looks, so that a look at each database makes no more than five statements a
second: one at the registry, and eight at the tables of an application's library.
"""
_SOONEST = 0.05
_SAYS_AFTER, _SAYS_EVERY = 2.0, 15.0
_FOREVER = timedelta(days=3650)


@dataclass
class _Awaiting:
    """A projection that is waited for."""

    name: str
    settings: ProjectionSettings
    dsn: str
    reach: Reach
    version: Version | None = None
    """The one that serves, as it was when it was first seen to."""
    position: Position | None = None
    reached: bool = False
    reader: Reader | None = None
    checked: set[int] = field(default_factory=set)

    @property
    def inline(self) -> bool:
        return self.settings.live == "inline"

    @property
    def checkpoint(self) -> str | None:
        """The application's processor that makes what serves; None where esops does."""
        if self.settings.live == "app":
            return self.settings.checkpoint
        return None if self.version is None else self.version.checkpoint


class Wait:
    """Waits for the versions that serve. Open it once for one wait."""

    def __init__(
        self,
        config: Config,
        names: Sequence[str],
        position: Position | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`names`: none means all of esops.toml that are built. `position`: wait for that one
        instead of what is committed now. `say` gets sentences for an operator.

        Raises UsageError for what cannot be waited for.
        """
        self._config, self._say = config, say
        self._all = not names
        self._names = list(dict.fromkeys(names)) or [
            name for name, each in config.projections.items() if each.kind != "server"
        ]
        for name in self._names:
            self._check(name)
        stores = {self._store_of(name) for name in self._names}
        if position is not None and len(stores) > 1:
            raise UsageError(
                "--position is a position of one store, and these projections read "
                f"{', '.join(sorted(stores))}",
                hint="Name the projections of one store.",
            )
        if not self._names:
            raise UsageError(
                f"{config.path}: no projection is there to wait for",
                hint=f"Add a section [projections.NAME] to {config.path.name}.",
            )
        self._position = position
        self._connections: dict[str, psycopg.Connection] = {}
        self._filters: dict[tuple[str, int], EventFilter] = {}
        self._said = ""

    def run(
        self, timeout: timedelta | None = None, stop: Callable[[], bool] = lambda: False
    ) -> list[Awaited]:
        """Wait until all have reached the goal, until the time is over, or until `stop`.

        Raises AnotherLog where a version is not of the log that its store has now, and Refused
        where one could never reach it.
        """
        began = time.monotonic()
        deadline = began + (_FOREVER if timeout is None else timeout).total_seconds()

        def over() -> bool:
            return stop() or time.monotonic() >= deadline

        with ExitStack() as stack, translated():
            stack.callback(self._disconnect)
            awaiting = list(self._open(stack))
            self._look(awaiting)
            for reach in {id(each.reach): each.reach for each in awaiting}.values():
                left = timedelta(seconds=max(0.0, deadline - time.monotonic()))
                if all(each.inline for each in awaiting if each.reach is reach):
                    left = timedelta(0)  # what is committed is in the rows, whoever else writes
                reach.settle(self._position, left, stop, self._say, _passed(awaiting, reach))
            self._look(awaiting)
            pause, says = _SOONEST, began + _SAYS_AFTER
            while not self._all_reached(awaiting) and not over():
                if time.monotonic() >= says:
                    says = time.monotonic() + _SAYS_EVERY
                    self._say_why(awaiting)
                self._rest(awaiting, pause, deadline, stop)
                pause = min(pause * 1.5, _OWN)
                self._look(awaiting)
            return [self._concluded(each) for each in awaiting]

    # -- what is there to wait for

    def _check(self, name: str) -> None:
        settings = self._config.projection(name)
        if settings.kind == "server":
            raise UsageError(
                f"{name} runs inside its store, which tells how far it is in per cent only, so "
                "nobody can wait for an event",
                hint="Ask the store: esops projection show " + name,
            )
        if settings.live == "app" and settings.checkpoint is None:
            raise UsageError(
                f'the application keeps {name} fresh (live = "app"), and esops.toml does not name '
                "its checkpoint",
                hint='Name it as `esops status` shows it: checkpoint = "…".',
            )

    def _store_of(self, name: str) -> str:
        return self._config.store(self._config.projection(name).store)[0]

    def _open(self, stack: ExitStack) -> Iterator[_Awaiting]:
        reaches: dict[str, Reach] = {}
        unbuilt = []
        for name in self._names:
            settings = self._config.projection(name)
            dsn = self._config.readmodel_of(name).dsn
            connection = self._connection(dsn)
            built = any(
                each.state in {*registry.LIVE_STATES, "building"}
                for each in registry.versions(connection, name)
            )
            former = None if built else former_name(self._config, connection, name)
            if former is not None:
                raise UsageError(
                    f"nothing serves {name}: the registry knows it as {former}",
                    hint=remedy(former, name),
                )
            if not built and settings.live == "esops":
                unbuilt.append(name)
                continue
            store = self._store_of(name)
            if store not in reaches:
                opened = stack.enter_context(open_store(*self._config.store(store)))
                reaches[store] = Reach(opened)
            yield _Awaiting(name, settings, dsn, reaches[store])
        if unbuilt and (not self._all or not reaches):
            raise UsageError(
                f"nothing is built yet of {', '.join(unbuilt)}",
                hint=f"Build {'it' if len(unbuilt) == 1 else 'them'} with: esops rebuild "
                f"{' '.join(unbuilt)} --blue-green",
            )
        if unbuilt:
            self._say(f"not waited for, since nothing is built yet: {', '.join(unbuilt)}")

    # -- looking

    def _look(self, awaiting: Sequence[_Awaiting]) -> None:
        """See which versions serve now, and how far each of them is."""
        for dsn in dict.fromkeys(each.dsn for each in awaiting):
            of_it = {each.name: each for each in awaiting if each.dsn == dsn}
            connection = self._connection(dsn)
            rows: list[tuple[str, int, str | None]] = []
            if migrations.installed(connection):
                rows = connection.execute(_SQL["serving"], {"names": [*of_it]}).fetchall()
            serving = {name: (version, position) for name, version, position in rows}
            for name, each in of_it.items():
                self._take(connection, each, serving.get(name))
        for name, reach in {(e.checkpoint, e.reach) for e in awaiting if e.checkpoint}:
            there = processor_of(reach.store, name)
            for each in awaiting:
                if each.checkpoint == name and each.reach is reach:
                    each.reader = Reader.of_application(there, each.name)
                    each.position = None if there is None else there.position
        for each in awaiting:
            each.reached = self._has_reached(each)

    def _take(
        self,
        connection: psycopg.Connection,
        each: _Awaiting,
        serving: tuple[int, str | None] | None,
    ) -> None:
        if serving is None:
            each.version, each.position, each.reader = None, None, None
            return
        number, position = serving
        each.position = None if position is None else Position.parse(position)
        if each.version is None or each.version.version != number:
            each.version = registry.version(connection, each.name, number)
        each.reader = Reader((each.name, number), each.position, self._filter_of(each))
        if number not in each.checked and not each.inline:
            self._check_log(connection, each)
            each.checked.add(number)

    def _filter_of(self, each: _Awaiting) -> EventFilter:
        """Which events the version wants. Nobody knows of one that was built by other code, or with
        other settings, than there are now: any event may be its own.
        """
        wanted, at = each.settings.filter, each.version
        assert at is not None
        if (
            wanted != EventFilter()
            and not each.inline
            and (at.projection, at.version) not in (self._filters)
        ):
            try:
                _, same = code_of(self._config, at)
            except EsopsError:
                same = False
            known = wanted if same else EventFilter(archived=True)
            self._filters[at.projection, at.version] = known
        return self._filters.get((at.projection, at.version), wanted)

    def _check_log(self, connection: psycopg.Connection, each: _Awaiting) -> None:
        """Raises AnotherLog, or Refused or Busy where nobody knows how far a version is."""
        assert each.version is not None
        version = each.version
        if version.store != each.reach.store.name:
            raise Refused(
                f"{each.name} v{version.version} is made of events of store {version.store}, and "
                f"esops.toml names {each.reach.store.name}",
                hint=f"Rebuild it: esops rebuild {each.name} --blue-green",
            )
        marks.check(connection, each.reach.store, replace(version, position=each.position))
        unfinished = by_ranges.unfinished(connection, version)
        if unfinished is not None:
            raise unfinished
        adopted = version.position is None and version.fingerprint is None
        if adopted and each.checkpoint is None:
            raise Refused(
                f"nobody knows how far {each.name} v{version.version} is: it was adopted from the "
                "application, and has no checkpoint",
                hint='Where the application keeps it fresh, say so: live = "app", and checkpoint = '
                f'"…". Else rebuild it: esops rebuild {each.name} --blue-green',
            )

    def _has_reached(self, each: _Awaiting) -> bool:
        if each.inline:
            return True  # the row is written in the transaction of the event
        return each.reader is not None and each.reach.passed_by(each.reader)

    def _all_reached(self, awaiting: Sequence[_Awaiting]) -> bool:
        """Whether all have, each by the version that serves at this moment."""
        if not all(each.reached for each in awaiting):
            return False
        for each in awaiting:
            if each.version is not None and not each.inline:
                connection = self._connection(each.dsn)
                each.version = registry.version(connection, each.name, each.version.version)
                self._check_log(connection, each)
                if each.version.state != "active":
                    return False
        return True

    # -- between two looks

    def _rest(
        self,
        awaiting: Sequence[_Awaiting],
        pause: float,
        deadline: float,
        stop: Callable[[], bool],
    ) -> None:
        if any(each.checkpoint for each in awaiting if not each.reached):
            pause = _OF_APPLICATION
        end = min(time.monotonic() + pause, deadline)
        while not stop() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _say_why(self, awaiting: Sequence[_Awaiting]) -> None:
        behind = [self._concluded(each) for each in awaiting if not each.reached]
        text = "waiting for " + "\n  ".join(map(str, behind))
        reasons = "".join(str(each.held_back_by) for each in behind)
        if reasons != self._said:
            self._said = reasons
            self._say(text)

    def _concluded(self, each: _Awaiting) -> Awaited:
        connection = self._connection(each.dsn)
        number = None if each.version is None else each.version.version
        goal = each.reach.goal
        position = None if each.inline else each.position
        if each.reached:
            notes = self._notes(connection, each)
            return Awaited(each.name, number, position, goal, True, 0, notes=notes)
        lag = None
        if goal is not None and each.reader is not None and not each.reader.unknown:
            lag = each.reach.lag(each.reader)
        why = self._why(connection, each)
        return Awaited(each.name, number, position, goal, False, lag, why)

    def _why(self, connection: psycopg.Connection, each: _Awaiting) -> list[str]:
        if not each.reach.settled:
            return [each.reach.why_not_settled()]
        if each.checkpoint is not None:
            there = checkpoint_of(each.reach.store, each.checkpoint)
            if there is None:
                return [f"the store has no processor {each.checkpoint}: did it ever run?"]
            return [not_advancing.of_processor(there)]
        if each.version is None:
            return ["no version serves yet: its rebuild is not finished"]
        version = registry.version(connection, each.name, each.version.version)
        return not_advancing.of_version(connection, version)

    def _notes(self, connection: psycopg.Connection, each: _Awaiting) -> list[str]:
        if each.inline:
            return ["the application writes each row in the transaction of its event"]
        if each.checkpoint is not None:
            there = checkpoint_of(each.reach.store, each.checkpoint)
            number = None if there is None else there.detail.get("dead letters")
            return [f"its processor has dead letters: {number}"] if number else []
        if each.version is None:
            return []
        dead = count_dead_letters(connection, each.name).get(each.version.version, 0)
        other = served.look(self._config, connection, each.name)
        return [
            *([f"{count(dead, 'event')} became dead letters and are not in it"] if dead else []),
            *(f"readers do not read it: {found.message}" for found in other),
        ]

    def _connection(self, dsn: str) -> psycopg.Connection:
        if dsn not in self._connections:
            self._connections[dsn] = connect(dsn, "wait")
        return self._connections[dsn]

    def _disconnect(self) -> None:
        for each in self._connections.values():
            each.close()
        self._connections = {}


def _passed(awaiting: Sequence[_Awaiting], reach: Reach) -> Position | None:
    """The highest checkpoint of esops' own in a store: what is before it is settled."""
    own = (each.position for each in awaiting if each.reach is reach and not each.checkpoint)
    return max((each for each in own if each is not None), default=None)
