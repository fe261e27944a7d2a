"""Whether a version can serve again that the application wrote until a switch, where it writes with
each append; and what has to be done for it.

The old table has not advanced since the switch, and what is in its rows was noted then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg

from esops.config import Config
from esops.errors import Refused, Stopped, Unavailable
from esops.events import RecordedEvent, StreamKey
from esops.projections.definition import FoldDefinition
from esops.readmodel import read_as
from esops.readmodel.read_as import names_of_version
from esops.readmodel.registry import Version
from esops.rebuild import (
    guards,
    journal,
    moved_aside,
    standing,
    switch,
    unchanged,
)
from esops.rebuild.options import Options
from esops.rebuild.standing_rows import MOST_ONLY_HERE, Checked, StandingRows
from esops.rebuild.target import Target
from esops.running.visible import Standing
from esops.settings import ProjectionSettings
from esops.stores.archive.archived_away import join_with, removed_from
from esops.stores.base import EventStore
from esops.stores.shortened import by_type, in_words, not_taken
from esops.wording import count

_SETTLING = timedelta(seconds=60)
"""How long the events from before the last switch may take to settle."""
_SHOWN = 5


@dataclass(frozen=True)
class Going:
    """From the version that serves to one that stands by; `back`: it is the one that served
    before.
    """

    config: Config
    target: Target
    store: EventStore
    serving: Version
    wanted: Version
    back: bool
    accept_code: bool
    accept_stale: bool

    @property
    def settings(self) -> ProjectionSettings:
        """Those that the version is made by: what the application applied counts, whether or not
        its stream is archived by now.
        """
        return self.target.settings.model_copy(update={"include_archived": True})

    @property
    def what(self) -> switch.Switch:
        """What is switched."""
        return switch.Switch(names_of_version(self.wanted), "rename", self.serving, self.wanted)

    @property
    def from_the_events(self) -> str:
        """What is always possible, as the end of a hint."""
        return (
            f"build it from the events, by the code of v{self.wanted.version}: esops rebuild "
            f"{self.target.name} --blue-green --max-diff 100%"
        )


@dataclass(frozen=True)
class Ready:
    """That a version can be gone to: what it has, the events before the end of that which it
    lacks, and what its rows were found to be.
    """

    standing: Standing
    made_by: str | None
    """The fingerprint of the code that made its rows; None where the application alone did."""
    late: Sequence[RecordedEvent]
    checked: Checked
    behind: int
    notes: Sequence[str]


def look(connection: psycopg.Connection, going: Going, stop: Callable[[], bool]) -> Ready:
    """Whether a version can be gone to, and what has to be done. Changes nothing.

    Raises Refused that says why not, Unavailable where events do not settle, Stopped.
    """
    name, wanted = going.target.name, going.wanted
    notes = guards.check_written_inline(connection, going.store, going.target, Options())
    read_as.check_together(connection, going.serving, going.wanted)
    moved_aside.check_written(going.serving, going.what.names)
    unchanged.check(connection, going.serving, going.wanted, by_rename=True)
    _check_code(connection, going)
    stands = standing.of(connection, wanted)
    if stands is None:
        raise Refused(
            f"it is not known which events the rows of v{wanted.version} of {name} have: an older "
            "esops switched from it, or too many events were not settled then",
            hint=f"So {going.from_the_events}",
        )
    _check_archived(going, stands)
    _check_shortened(connection, going, stands)
    late, around = _around(going, stands, stop)
    checked = Checked()
    if _by_stream(going.target):
        target = replace(going.target, settings=going.settings)
        rows = StandingRows(connection, going.store, target, wanted, stands)
        checked = rows.check(going.serving, around, stop)
        _check_rows(going, checked)
    head = going.store.head(timedelta(milliseconds=200), stands.end).position
    behind = 0 if head is None else going.store.counts.between(stands.end, head)
    return Ready(stands, _made_by(connection, wanted), late, checked, behind, notes)


def _by_stream(target: Target) -> bool:
    return isinstance(target.definition, FoldDefinition) and target.definition.key is None


def _made_by(connection: psycopg.Connection, version: Version) -> str | None:
    """The fingerprint of the code that made a version; None of one that only the application
    made.
    """
    made = journal.switched_inline(connection, version.projection, version.version)
    return version.fingerprint or (None if made is None else made.code)


def _check_code(connection: psycopg.Connection, going: Going) -> None:
    """Raises Refused where esops.toml does not name the code of the version that is gone to, as far
    as that is known.
    """
    if going.accept_code:
        return
    name, code = going.target.name, going.target.code
    wanted, serving = going.wanted.version, going.serving.version
    kept = _made_by(connection, going.wanted)
    of_serving = _made_by(connection, going.serving)
    fix = (
        f"Nothing was changed. Put the code of v{wanted} back, in the application and where "
        "esops.toml finds it, and run this again."
    )
    if kept is not None and not code.made(kept):
        now = f"that of v{serving}" if code.made(of_serving) else "another one"
        raise Refused(
            f"v{wanted} of {name} was made by other code than esops.toml names now, which is {now}",
            hint=f"{fix} If both make the same rows: --accept-code",
        )
    if kept is None and of_serving is not None and code.made(of_serving):
        raise Refused(
            f"esops.toml still names the code of v{serving} of {name}, from which you go back",
            hint=f"{fix} If the application made v{wanted} by the same: --accept-code",
        )
    if kept is None and not _by_stream(going.target):
        raise Refused(
            f"the application alone made v{wanted} of {name}, of the events of several streams, so "
            "that it cannot be known whether esops.toml names the code of then",
            hint="If it does: --accept-code",
        )
    guards.check_one_code(connection, going.wanted)


def _check_archived(going: Going, stands: Standing) -> None:
    """Raises Refused where events that a version lacks were archived and removed."""
    wanted = going.wanted
    assert wanted.updated_at is not None
    since = wanted.updated_at - timedelta(days=1)  # clocks
    found = removed_from(going.config, going.store, going.settings.filter, since, stands.position)
    for away in found:
        raise Refused(
            f"{away}, up to position {away.last_position}, and v{wanted.version} of "
            f"{wanted.projection} has not advanced since {stands.position}: it would miss some of "
            "them",
            hint=join_with(going.config, going.target.store_name, away),
        )


def _check_shortened(connection: psycopg.Connection, going: Going, stands: Standing) -> None:
    """Raises Refused where streams have lost events that a version lacks, as when a library
    compacted them.
    """
    inline, wanted = going.store.inline, going.wanted
    if stands.end is None or inline is None:
        return
    all_of = replace(going.settings.filter, archived=True)
    late = inline.late_beginnings(connection, stands.end, all_of)
    shortened = by_type(going.store, late, going.settings.filter)
    found = not_taken(shortened, going.settings.begins_with)
    if found:
        raise Refused(
            f"since v{wanted.version} of {wanted.projection} served, "
            f"{in_words(found[0])} (one is {found[0].example!r}): it would miss them",
            hint="Nothing was changed. See `esops docs rebuild-compacted-streams`.",
        )


def _around(
    going: Going, stands: Standing, stop: Callable[[], bool]
) -> tuple[list[RecordedEvent], list[StreamKey]]:
    """The events before the end of what a version has that it lacks, since they committed after the
    switch; and the streams of all events that were not settled then.

    Raises Unavailable where some are not settled yet, and Stopped.
    """
    end = stands.end
    if end is None or end == stands.position:
        return [], []
    deadline = time.monotonic() + _SETTLING.total_seconds()
    while True:
        head = going.store.head(timedelta(seconds=1), stands.position, stop)
        if head.position is not None and head.position >= end:
            break
        if stop():
            raise Stopped("stopped; nothing was changed")
        if time.monotonic() >= deadline:
            who = "; ".join(each.in_words() for each in head.held_back_by[:_SHOWN])
            raise Unavailable(
                f"events up to {end}, from before the last switch, are not settled yet: {who}",
                hint="Nothing was changed. Run this again when they are.",
            )
        time.sleep(0.2)
    filter = going.settings.filter
    events = [
        each
        for batch in going.store.read_all(stands.position, end, filter)
        for each in batch.events
    ]
    streams = dict.fromkeys(StreamKey(each.stream, each.tenant) for each in events)
    return [each for each in events if not stands.has(each.position)], list(streams)


def _check_rows(going: Going, found: Checked) -> None:
    """Raises Refused where rows are not what the code makes of their events, or are of streams that
    were deleted since.
    """
    name, wanted, serving = going.target.name, going.wanted, going.serving
    if found.unlike and not going.accept_code:
        some = ", ".join(found.unlike[:_SHOWN])
        raise Refused(
            f"of {count(found.rows, 'row')} of v{wanted.version} of {name} that were looked at, "
            f"{len(found.unlike):,} are not what the code in esops.toml makes of their events: "
            f"{some}",
            hint=f"Nothing was changed. Put the code of v{wanted.version} back. If it is that, the "
            "rows were so before, as those of two logics are: with --accept-code they come back, "
            f"and `esops projection finish {name}` makes them right. Or {going.from_the_events}",
        )
    if found.deleted and not going.accept_stale:
        some = ", ".join(found.deleted[:_SHOWN])
        table = ".".join(wanted.table)
        raise Refused(
            f"{count(len(found.deleted), 'row')} of v{wanted.version} of {name} would come back "
            f"whose streams are gone, and which v{serving.version} does not have: {some}",
            hint=f"Nothing was changed. Delete them from {table}, or let them come back: "
            "--allow-stale",
        )
    if found.more_only_here and not going.accept_stale:
        raise Refused(
            f"v{wanted.version} of {name} has more than {MOST_ONLY_HERE:,} rows that "
            f"v{serving.version} does not have: too many to look for each one's stream, which may "
            "be gone",
            hint="Nothing was changed. If rows of streams that are gone may come back: "
            f"--allow-stale. Or {going.from_the_events}",
        )
