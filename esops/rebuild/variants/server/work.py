"""The steps of a rebuild of a projection in the server. Each can be done again, and is noted in the
journal before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from esops.config import Config
from esops.errors import ConnectionLost, Refused, Stopped, Unavailable, UsageError
from esops.rebuild import journal
from esops.rebuild.options import Options
from esops.rebuild.outcome import Outcome, Reporter
from esops.rebuild.variants.server import compare
from esops.rebuild.variants.server.inside import projections_in
from esops.rebuild.variants.server.journal import (
    ServerJournal,
    ServerJournalEntry,
    ServerVersion,
)
from esops.rebuild.variants.server.plan import ServerRebuildPlan, read_query
from esops.rebuild.variants.server.readers import move_readers
from esops.rebuild.verification.result import not_compared, tolerated
from esops.stores.base import EventStore
from esops.stores.outage import Outage

T = TypeVar("T")
_POLL_SECONDS = 0.25
_STOP_PATIENCE_SECONDS = 30.0


class ServerRebuild:
    """One rebuild of a projection in the server, at work."""

    def __init__(
        self,
        config: Config,
        name: str,
        store: EventStore,
        reporter: Reporter,
        stop: Callable[[], bool],
    ) -> None:
        """Read the projection's journal."""
        self._config, self._name, self._store, self._reporter, self._stop = (
            config,
            name,
            store,
            reporter,
            stop,
        )
        self._settings = config.projection(name)
        self._journal = ServerJournal.read(store, name)
        self._began = time.monotonic()

    def begin(self, plan: ServerRebuildPlan, options: Options) -> Outcome:
        """Carry out a plan from its start. Raises Refused if another rebuild is unfinished."""
        latest = self._journal.latest
        if latest is not None and latest.unfinished and not self._stands_by(latest):
            raise Refused(
                f"rebuild {latest.rebuild} of {self._name} is not finished: {latest.state}",
                hint="Continue it with --resume, or drop it with --abort.",
            )
        # The first rebuild of a projection that esops did not create: from now on the journal knows
        # it.
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
        return self._run_steps()

    def resume(self, changed: Mapping[str, Any]) -> Outcome:
        """Continue an unfinished rebuild, with these options changed.

        Raises UsageError where there is none.
        """
        latest = self._unfinished()
        # A process that was killed could not note a pause: then the state itself is where to
        # continue.
        if latest.state == journal.PAUSED and latest.resume_state:
            self._journal.write("entered", state=latest.resume_state)
        return self._run_steps(changed)

    def abort(self) -> Outcome:
        """End an unfinished rebuild: stop and delete what it built."""
        latest = self._unfinished()
        delete(self._store, self._journal.name_of(latest.to_version), emitted=self._settings.emit)
        self._journal.write("entered", state=journal.ABORTED)
        return self._outcome(None)

    def check_unfinished(self) -> None:
        """Raises UsageError where there is no rebuild to abort."""
        self._unfinished()

    def _stands_by(self, entry: ServerJournalEntry) -> bool:
        return entry.state == journal.VERIFIED and not entry.options.get("switch", True)

    def _unfinished(self) -> ServerJournalEntry:
        latest = self._journal.latest
        if latest is None or not latest.unfinished:
            raise UsageError(f"{self._name} has no unfinished rebuild")
        return latest

    def _run_steps(self, changed: Mapping[str, Any] | None = None) -> Outcome:
        entry = self._unfinished()
        options = Options(**{**entry.options, **(changed or {})})
        blue = (
            self._journal.versions.get(entry.from_version)
            if entry.from_version is not None
            else None
        )
        green = self._journal.versions[entry.to_version]
        with self._paused_on_error():
            if entry.state == journal.PLANNED:
                self._create(green)
            if self._state in {journal.PROVISIONED, journal.CATCHING_UP}:
                self._catch_up(green, blue)
            if self._state == journal.FOLLOWING and not self._verify(green, blue, options):
                return self._outcome(green, findings=True)
            if self._state == journal.VERIFIED and options.switch:
                if blue is not None:
                    move_readers(
                        self._settings.handover,
                        self._config.directory,
                        self._name,
                        blue,
                        green,
                        self._say,
                    )
                # Killed before this, the program runs again at the resume: it has to bear that, as
                # the docs say.
                self._enter(journal.SWITCHED)
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
        """Note in the journal why the work stopped."""
        try:
            yield
        except (Stopped, UsageError) as error:
            latest = self._journal.latest
            if latest is not None and latest.unfinished and latest.state != journal.PAUSED:
                self._enter(journal.PAUSED, resume_state=latest.state, reason=error.message)
            raise

    def _create(self, green: ServerVersion) -> None:
        # The journal was written first, so a projection of this name was made by a process that was
        # killed before it could note that.
        if projections_in(self._store).get(green.name) is None:
            self._say(f"creating projection {green.name}")
            query = read_query(self._config, self._settings, self._name, green.version)
            projections_in(self._store).create(
                green.name, query, emit=self._settings.emit, track=self._settings.emit
            )
        self._enter(journal.PROVISIONED)

    def _catch_up(self, green: ServerVersion, blue: ServerVersion | None) -> None:
        if self._state == journal.PROVISIONED:
            self._enter(journal.CATCHING_UP)
        self._say(f"waiting until {green.name} has caught up")
        while True:
            if self._stop():
                raise Stopped(f"stopped waiting; {green.name} keeps catching up in the server")
            found = self._patiently(lambda: projections_in(self._store).get(green.name))
            if found is None:
                raise Refused(
                    f"the projection {green.name} does not exist in the server any more",
                    hint="Drop the rebuild with --abort, and start again.",
                )
            if found.faulted:
                raise Refused(
                    f"{green.name} is faulted: {found.reason}",
                    hint="Fix the query, drop the rebuild with --abort, and start again.",
                )
            if not found.running:
                raise Refused(
                    f"{green.name} is {found.status} in the server",
                    hint="Enable it there, and continue with --resume.",
                )
            self._reporter.progress(
                int(found.processed),
                int(found.processed * 100 / found.progress) if found.progress > 0 else None,
            )
            old = (
                self._patiently(lambda: projections_in(self._store).get(blue.name))
                if blue is not None
                else None
            )
            # While events keep coming, neither version ever reaches 100 %: as far as the old one is
            # far enough.
            if found.progress >= 100 or (old is not None and found.progress >= old.progress > 99):
                break
            time.sleep(_POLL_SECONDS)
        self._reporter.progress(int(found.processed), int(found.processed))
        self._enter(journal.FOLLOWING)

    def _verify(self, green: ServerVersion, blue: ServerVersion | None, options: Options) -> bool:
        if blue is None:
            rows = len(compare.partitions(self._store, green.name))
            found = not_compared(rows, note="nothing served before")
        else:
            self._say(f"comparing {green.name} with {blue.name}")
            method = compare.method_of(options.compare)
            paths = compare.Paths.of(self._settings.verify)
            found = self._patiently(
                lambda: compare.compare(
                    self._store, blue.name, green.name, method, paths, self._stop
                )
            )
        if not tolerated(found, options.max_diff):
            resume = journal.FOLLOWING
            self._enter(
                journal.PAUSED,
                resume_state=resume,
                reason="the comparison found differences",
                verification=found.as_dict(),
            )
            return False
        self._enter(journal.VERIFIED, verification=found.as_dict())
        return True

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask, and wait up to ten minutes for a node that is unreachable."""
        outage = Outage("the store", self._say, self._stop)
        while True:
            try:
                return ask()
            except ConnectionLost as lost:
                outage.wait(lost)

    def _outcome(self, green: ServerVersion | None, *, findings: bool = False) -> Outcome:
        latest = self._journal.latest
        assert latest is not None
        found = projections_in(self._store).get(green.name) if green is not None else None
        verification = latest.verification
        return Outcome(
            rebuild=latest.rebuild,
            projection=self._name,
            state=latest.state,
            from_version=latest.from_version,
            to_version=latest.to_version,
            events=found.processed if found else 0,
            rows=verification["rows_green"] if verification else None,
            seconds=latest.seconds,
            position=found.place if found else None,
            verification=verification,
            findings=findings,
            followed=True,
        )

    def _say(self, text: str) -> None:
        latest = self._journal.latest
        self._reporter.say(f"rebuild {latest.rebuild if latest else ''}: {text}")


def delete(store: EventStore, name: str, *, emitted: bool) -> None:
    """Stop and delete a projection, if it exists; with `emitted`, also the streams it emitted to.

    Raises Unavailable where it does not stop.
    """
    found = projections_in(store).get(name)
    if found is None:
        return
    if found.running:
        projections_in(store).disable(name)
        deadline = time.monotonic() + _STOP_PATIENCE_SECONDS
        # The server answers before it has stopped, and refuses to delete what still runs.
        while (found := projections_in(store).get(name)) is not None and found.running:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the projection {name} does not stop",
                    hint="See the log of its node, and try again.",
                )
            time.sleep(_POLL_SECONDS)
    projections_in(store).delete(name, emitted_streams=emitted)
