"""The steps of a rebuild of a projection in the server; each can be repeated, and is noted before
and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from esops.config import Config
from esops.errors import ConnectionLost, Refused, Stopped, Unavailable, UsageError
from esops.rebuild import journal as states
from esops.rebuild.outcome import Outcome, Reporter
from esops.rebuild.plan import Options
from esops.rebuild.variants.server import compare
from esops.rebuild.variants.server.handover import hand_over
from esops.rebuild.variants.server.inside import projections_in
from esops.rebuild.variants.server.journal import Entry, Journal, Version
from esops.rebuild.verification import comparison as verify
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.stores.eventstoredb.server_projections import ServerProjection

T = TypeVar("T")
SUFFIX = "{suffix}"
"""Stands in the JavaScript where streams are named that a version emits to: empty for version 1,
`-v2` for version 2.
"""
POLL = 0.25
_PATIENCE = 600.0


@dataclass(frozen=True)
class Plan:
    """What will be done."""

    projection: str
    store: str
    source: Version | None
    target: Version
    query: str
    emit: bool
    method: compare.Method
    handover: Sequence[str]
    switch: bool
    old: ServerProjection | None

    def lines(self) -> list[str]:
        """The plan for a person, with the query word for word."""
        serves = "nothing serves yet" if self.source is None else f"{self.source.name} serves now"
        lines = [
            (
                f"Plan: rebuild {self.projection} blue-green in the server of {self.store}, as "
                f"{self.target.name} ({serves})"
            ),
            (
                f"  create projection {self.target.name}, continuous, "
                f"{'emitting to tracked streams' if self.emit else 'emitting nothing'}"
            ),
            "  wait until it is caught up",
        ]
        if self.source is not None:
            lines.append(f"  compare its results with those of {self.source.name}: {self.method}")
        if self.switch:
            lines.append(f"  hand over by running: {' '.join(self.handover)}")
            lines.append("  the old one runs on until `esops projection retire`")
        else:
            lines.append("  --no-switch: it is built and compared, and stands by")
        return [*lines, "", "Query:", *(f"  {line}" for line in self.query.splitlines())]


def make_plan(config: Config, name: str, store: EventStore, options: Options) -> Plan:
    """Find out what a rebuild would do. Changes nothing. Raises UsageError or Refused."""
    settings = config.projection(name)
    journal = Journal.read(store, name)
    source = journal.active
    number = max(journal.versions, default=0) + 1
    target = Version(number, journal.name_of(number), "building")
    query = read_query(config, settings, name, number)
    if options.switch and source is not None and not settings.handover:
        raise UsageError(
            f"projections.{name}.handover: nobody is named who moves the readers to {target.name}",
            hint="Give a program there, or build and compare alone with --no-switch.",
        )
    if projections_in(store).get(target.name) is not None:
        raise Refused(
            f"there is a projection {target.name} in the server already, which is no version that "
            "esops knows",
            hint="Look at it, and delete it or give the projection another name.",
        )
    method = compare.method_of(options.compare) if source is not None else "none"
    old = projections_in(store).get(source.name) if source is not None else None
    if source is not None and old is None:
        raise Refused(f"the projection {source.name}, which should serve, is gone")
    switch = options.switch
    return Plan(
        name,
        store.name,
        source,
        target,
        query,
        settings.emit,
        method,
        settings.handover,
        switch,
        old,
    )


def read_query(config: Config, settings: ProjectionSettings, name: str, version: int) -> str:
    """The JavaScript of a version.

    Raises UsageError where it cannot be read, Refused where two versions would emit to one stream.
    """
    assert settings.javascript is not None
    path = config.directory / settings.javascript
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{config.path}: projections.{name}.javascript: {path} cannot be read: {error}"
        ) from None
    emits = "emit(" in text or "linkTo(" in text
    if emits and not settings.emit:
        raise UsageError(
            f"projections.{name}.emit: its query emits events, and emit = true is not set"
        )
    if emits and SUFFIX not in text:
        raise Refused(
            f"{path.name} emits events, and a second version would write them into the same "
            "streams once more",
            hint=f"Write {SUFFIX} into the names of the streams that it emits to: it becomes -v2 "
            "for version 2.",
        )
    return text.replace(SUFFIX, "" if version == 1 else f"-v{version}")


class ServerRebuild:
    """A rebuild under way."""

    def __init__(
        self,
        config: Config,
        name: str,
        store: EventStore,
        watcher: Reporter,
        stop: Callable[[], bool],
    ) -> None:
        """Take what is to be rebuilt, and who wants to know."""
        self._config, self._name, self._store, self._watcher, self._stop = (
            config,
            name,
            store,
            watcher,
            stop,
        )
        self._settings = config.projection(name)
        self._journal = Journal.read(store, name)
        self._began = time.monotonic()

    def begin(self, plan: Plan, options: Options) -> Outcome:
        """Start. Raises Refused where an unfinished one is there."""
        latest = self._journal.latest
        if latest is not None and latest.unfinished and not self._stands_by(latest):
            raise Refused(
                f"rebuild {latest.rebuild} of {self._name} is unfinished ({latest.state})",
                hint="Go on with --resume, or give it up with --abort.",
            )
        if plan.source is not None and latest is None:
            self._journal.write("adopted", version=1)
        number = latest.rebuild + 1 if latest else 1
        source = plan.source.version if plan.source else None
        self._journal.write(
            "planned",
            rebuild=number,
            **{"from": source, "to": plan.target.version},
            options=options.as_dict(),
        )
        return self._work()

    def resume(self, changed: Mapping[str, Any]) -> Outcome:
        """Go on with an unfinished one, with options changed where they are given.

        Raises UsageError where there is none.
        """
        latest = self._unfinished()
        if latest.state == states.PAUSED and latest.resume_state:
            self._journal.write("entered", state=latest.resume_state)
        return self._work(changed)

    def abort(self) -> Outcome:
        """Give an unfinished one up: stop and delete what it built."""
        latest = self._unfinished()
        delete(self._store, self._journal.name_of(latest.to_version), emitted=self._settings.emit)
        self._journal.write("entered", state=states.ABORTED)
        return self._outcome(None)

    def _stands_by(self, entry: Entry) -> bool:
        return entry.state == states.VERIFIED and not entry.options.get("switch", True)

    def _unfinished(self) -> Entry:
        latest = self._journal.latest
        if latest is None or not latest.unfinished:
            raise UsageError(f"{self._name} has no unfinished rebuild")
        return latest

    def _work(self, changed: Mapping[str, Any] | None = None) -> Outcome:
        entry = self._unfinished()
        options = Options(**{**entry.options, **(changed or {})})
        blue = (
            self._journal.versions.get(entry.from_version)
            if entry.from_version is not None
            else None
        )
        green = self._journal.versions[entry.to_version]
        with self._paused_on_error():
            if entry.state == states.PLANNED:
                self._create(green)
            if self._state in {states.PROVISIONED, states.CATCHING_UP}:
                self._catch_up(green, blue)
            if self._state == states.FOLLOWING and not self._verify(green, blue, options):
                return self._outcome(green, findings=True)
            if self._state == states.VERIFIED and options.switch:
                if blue is not None:
                    hand_over(
                        self._settings.handover,
                        self._config.directory,
                        self._name,
                        blue,
                        green,
                        self._say,
                    )
                self._enter(states.SWITCHED)
        return self._outcome(green)

    @property
    def _state(self) -> str:
        return self._unfinished().state

    def _enter(self, state: str, **more: Any) -> None:
        now = time.monotonic()
        self._journal.write("entered", state=state, seconds=round(now - self._began, 3), **more)
        self._began = now

    @contextmanager
    def _paused_on_error(self) -> Iterator[None]:
        try:
            yield
        except (Stopped, UsageError) as error:
            latest = self._journal.latest
            if latest is not None and latest.unfinished and latest.state != states.PAUSED:
                self._enter(states.PAUSED, resume_state=latest.state, reason=error.message)
            raise

    def _create(self, green: Version) -> None:
        # Journal first: a projection of this name that is there now is what a killed process made.
        if projections_in(self._store).get(green.name) is None:
            self._say(f"creating projection {green.name}")
            query = read_query(self._config, self._settings, self._name, green.version)
            projections_in(self._store).create(
                green.name, query, emit=self._settings.emit, track=self._settings.emit
            )
        self._enter(states.PROVISIONED)

    def _catch_up(self, green: Version, blue: Version | None) -> None:
        if self._state == states.PROVISIONED:
            self._enter(states.CATCHING_UP)
        self._say(f"waiting until {green.name} is caught up")
        while True:
            if self._stop():
                raise Stopped(f"stopped while {green.name} catches up; it goes on in the server")
            found = self._patiently(lambda: projections_in(self._store).get(green.name))
            if found is None:
                raise Refused(
                    f"the projection {green.name} is gone from the server",
                    hint="Give the rebuild up with --abort.",
                )
            if found.faulted:
                raise Refused(
                    f"{green.name} is faulted: {found.reason}",
                    hint="Give the rebuild up with --abort, and mend the query.",
                )
            if not found.running:
                raise Refused(
                    f"{green.name} is {found.status} in the server",
                    hint="Enable it there, and go on with --resume.",
                )
            self._watcher.progress(
                int(found.processed),
                int(found.processed * 100 / found.progress) if found.progress > 0 else None,
            )
            old = (
                self._patiently(lambda: projections_in(self._store).get(blue.name))
                if blue is not None
                else None
            )
            if found.progress >= 100 or (old is not None and found.progress >= old.progress > 99):
                break
            time.sleep(POLL)
        self._watcher.progress(int(found.processed), int(found.processed))
        self._enter(states.FOLLOWING)

    def _verify(self, green: Version, blue: Version | None, options: Options) -> bool:
        if blue is None:
            found = verify.Verification(
                "none",
                None,
                len(compare.partitions(self._store, green.name)),
                0,
                note="nothing served before",
            )
        else:
            self._say(f"comparing {green.name} with {blue.name}")
            method = compare.method_of(options.compare)
            ignore = self._settings.verify.ignore
            found = self._patiently(
                lambda: compare.compare(
                    self._store, blue.name, green.name, method, ignore, self._stop
                )
            )
        if not verify.tolerated(found, options.max_diff):
            resume = states.FOLLOWING
            self._enter(
                states.PAUSED,
                resume_state=resume,
                reason="the comparison found differences",
                verification=found.as_dict(),
            )
            return False
        self._enter(states.VERIFIED, verification=found.as_dict())
        return True

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask, and wait for a node that went away, at most ten minutes."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return ask()
            except ConnectionLost as lost:
                if time.monotonic() > deadline:
                    raise
                self._say(f"waiting for the store: {lost.message}")
                if self._stop():
                    raise Stopped("stopped while the store was away") from lost
                time.sleep(1)

    def _outcome(self, green: Version | None, *, findings: bool = False) -> Outcome:
        latest = self._journal.latest
        assert latest is not None
        told = projections_in(self._store).get(green.name) if green is not None else None
        verification = latest.verification
        return Outcome(
            rebuild=latest.rebuild,
            projection=self._name,
            state=latest.state,
            from_version=latest.from_version,
            to_version=latest.to_version,
            events=told.processed if told else 0,
            rows=verification["rows_green"] if verification else None,
            seconds=latest.seconds,
            position=told.place if told else None,
            verification=verification,
            findings=findings,
            followed=True,
        )

    def _say(self, text: str) -> None:
        latest = self._journal.latest
        self._watcher.say(f"rebuild {latest.rebuild if latest else ''}: {text}")


def delete(store: EventStore, name: str, *, emitted: bool) -> None:
    """Stop and delete a projection with the streams it emitted to, if it is there."""
    found = projections_in(store).get(name)
    if found is None:
        return
    if found.running:
        projections_in(store).disable(name)
        deadline = time.monotonic() + 30
        while (found := projections_in(store).get(name)) is not None and found.running:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"projection {name} does not stop",
                    hint="See what its node says, and do it again.",
                )
            time.sleep(POLL)
    projections_in(store).delete(name, emitted_streams=emitted)
