"""`esops projection check`: does a version still say what its events say?

Pieces of keys are copied in one short snapshot, together with the position that their rows are made
up to; then their rows are made again from the events up to exactly there, in temporary tables, and
compared. Nothing else is written, beside the record of the check.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from esops.check import checks
from esops.check.by_log import LogCheck
from esops.check.by_stream import StreamCheck
from esops.check.choosing import check_widths, keys_of_streams, streams_since
from esops.check.context import CheckContext, Report
from esops.check.recording import CheckRecord
from esops.check.result import CheckResult
from esops.check.sample import ALL_UP_TO, Amount, Draw, amount
from esops.check.scratch import Scratch
from esops.check.standing import AppCheckpoint, InlineRows, OwnCheckpoint, PositionSource
from esops.check.subject import Subject, built_by, find_subject
from esops.check.tables import CheckedTable, KeyText
from esops.check.wholeness import archived_away
from esops.config import Config
from esops.errors import Refused, UsageError
from esops.postgres.connection import connect, database_of, qualified, translated
from esops.readmodel import erased, marks, own_rows, registry
from esops.readmodel.registry import Version
from esops.running.throttle import Limits, Throttle
from esops.stores import open_store
from esops.stores.base import EventStore
from esops.wording import count


@dataclass(frozen=True)
class CheckRequest:
    """What is to be checked, and at which load.

    `sample`: as `--sample` says. `keys`: the texts of the columns of each key. Only one of `keys`,
    `streams` and `since` is given.
    """

    sample: str | None = None
    seed: str | None = None
    keys: Sequence[KeyText] | None = None
    streams: Sequence[str] | None = None
    since: timedelta | None = None
    version: int | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def named(self) -> bool:
        """Whether it names what is checked, so that no sample is drawn."""
        return self.keys is not None or self.streams is not None or self.since is not None


def check(
    config: Config,
    name: str,
    request: CheckRequest = CheckRequest(),
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    report: Report = lambda *_: None,
) -> CheckResult:
    """Check a version of a projection, the one that serves unless another is named.

    Raises UsageError for what cannot be asked for, Refused where no row could be checked, and
    Stopped.
    """
    dsn = config.readmodel_of(name).dsn
    with translated(), connect(dsn, f"check {name}") as connection:
        subject = find_subject(config, name, request.version, connection)
        with open_store(*config.store(subject.version.store)) as store:
            # Under another name, so that a projection that is paused can be checked.
            throttle = Throttle(dsn, f"check of {name}", request.limits, stop=stop, say=say)
            with closing(throttle):
                run = _Run(config, connection, store, subject, request)
                return run.run(throttle, stop, say, report)


class _Run:
    """One check."""

    def __init__(
        self,
        config: Config,
        connection: psycopg.Connection,
        store: EventStore,
        subject: Subject,
        request: CheckRequest,
    ) -> None:
        """Raises Refused where the log is another one, or the code."""
        self._config, self._connection, self._store = config, connection, store
        self._subject, self._request = subject, request
        version = subject.version
        self._settings = settings = config.projection(version.projection)
        marks.check(connection, store, version)
        own_rows.check_applied(version)
        definition = built_by(config, version)
        # The application does not forget what is archived.
        filter = settings.filter
        if subject.kept_by != "esops":
            filter = replace(filter, archived=True)
        self._scratch = Scratch(connection, store, version, definition, settings, filter=filter)
        self._tables = [
            CheckedTable(
                connection, name, (table, self._scratch.tables[name]), self._scratch.keys[name],
                settings.verify, number, self._scratch.unwritten(name),
            )
            for number, (name, table) in enumerate(self._scratch.live.items())
        ]  # fmt: skip
        self._away = archived_away(config, store, self._scratch, settings, subject.in_words)
        self._no_keys: list[KeyText] = []
        """Those that were named and that no row of the table can have."""

    def run(
        self,
        throttle: Throttle,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        report: Report,
    ) -> CheckResult:
        """Check, and record what was found."""
        request, version = self._request, self._subject.version
        about = _about(self._connection, version)
        wanted = amount(request.sample, about)
        seed = request.seed or secrets.token_hex(4)
        share = 1.0 if request.named else _share(wanted, about, exact=self._scratch.by_stream)
        standing, inline = self._standing()
        context = CheckContext(
            self._connection,
            self._store,
            self._settings,
            self._scratch,
            self._tables,
            standing,
            inline,
            Draw(seed, share),
            throttle,
            self._away,
            stop,
            report,
            about=about,
        )
        keys = self._named(context)
        sampled = keys is None and share < 1
        asked = self._asked(wanted, seed if sampled else None, keys)
        name = version.projection
        result = CheckResult(
            name, self._subject.number, None, asked, context.found, sampled=sampled
        )
        result.notes += self._notes(context)
        with translated():
            before = checks.open_keys(self._connection, name, self._subject.number)
        context.wrong_before = before
        say(self._plan(context, wanted, keys))
        record = CheckRecord(context, result)
        record.keep(lambda: self._check(context, wanted, keys), named=request.named)
        record.forget_right(keys)
        self._note_without_row(result, keys)
        return result

    def _check(self, context: CheckContext, wanted: Amount, keys: Sequence[KeyText] | None) -> None:
        if self._scratch.by_stream:
            of_streams = StreamCheck(context)
            if keys is not None:
                of_streams.named(keys)
            else:
                of_streams.drawn(wanted.number)
            return
        of_log = LogCheck(context)
        if keys is not None:
            of_log.named(keys)
        else:
            of_log.drawn()

    def _note_without_row(self, result: CheckResult, keys: Sequence[KeyText] | None) -> None:
        """Note how many of the keys that were named have no row."""
        found = result.found
        if self._no_keys:
            result.without_row = len(self._no_keys)
            result.notes.append(
                f"{count(len(self._no_keys), 'key')} cannot be in the table, whose columns make "
                f"another value of it, such as {'/'.join(self._no_keys[0])}"
            )
        if keys is not None and (none := len(set(keys)) - found.keys - found.unknown) > 0:
            result.without_row += none
            have = "has" if none == 1 else "have"
            result.notes.append(
                f"{count(none, 'key')} {have} no row, neither in the read model nor by the events"
            )

    # -- what is checked

    def _standing(self) -> tuple[PositionSource, InlineRows | None]:
        connection, store, subject = self._connection, self._store, self._subject
        if subject.kept_by == "esops":
            return OwnCheckpoint(connection, subject.version, registry.LIVE_STATES), None
        if store.inline is None or store.inline.database() != database_of(connection):
            raise Refused(
                f"the application keeps {subject.in_words} fresh, in another database than its "
                "events, so nobody can say up to which event its rows are made",
                hint="Only what moves in one transaction with its checkpoint, or with its events, "
                "can be checked.",
            )
        if subject.kept_by == "inline":
            rows = InlineRows(connection, store, store.inline, self._settings.filter)
            return rows, rows
        assert subject.checkpoint is not None
        return AppCheckpoint(connection, store, subject.checkpoint), None

    def _named(self, context: CheckContext) -> list[KeyText] | None:
        """The keys that are named; None where a sample decides."""
        request = self._request
        if not request.named:
            return None
        if len(context.tables) > 1:
            raise UsageError(
                f"{self._subject.in_words} has several tables, so a key does not say which row is "
                "meant",
                hint="Check a sample of all of them: --sample 1%, or --sample all.",
            )
        if request.keys is not None:
            check_widths(request.keys, context.tables[0].key)
            keys, self._no_keys = context.tables[0].canonical(request.keys)
            return keys
        streams = request.streams
        if streams is None:
            assert request.since is not None
            streams = streams_since(context, request.since)
        return keys_of_streams(context, streams)

    def _asked(
        self, wanted: Amount, seed: str | None, keys: Sequence[KeyText] | None
    ) -> dict[str, Any]:
        request = self._request
        if keys is None:
            return {"sample": str(wanted), "seed": seed}
        asked: dict[str, Any] = {"keys": len(keys)}
        if request.streams is not None:
            asked["streams"] = len(request.streams)
        if request.since is not None:
            asked["since"] = str(request.since)
        return asked

    def _plan(self, context: CheckContext, wanted: Amount, keys: Sequence[KeyText] | None) -> str:
        """What the check will read, before it does."""
        about, share = context.about or 0, context.draw.share
        if keys is not None:
            what = count(len(keys), "key")
        elif context.draw.whole:
            what = f"all of about {count(about, 'key')}"
        else:
            what = f"a sample ({wanted}) of about {count(about, 'key')}, seed {context.draw.seed}"
        if self._scratch.by_stream:
            version = self._subject.version
            events = version.events or self._store.counts.between(None, context.standing.position())
            part = len(keys) / max(about, len(keys), 1) if keys is not None else share
            reads = f"about {count(math.ceil(events * min(1.0, part)), 'event')} of their streams"
        else:
            events = self._store.counts.between(None, context.standing.position())
            reads = f"the log once, about {count(events, 'event')}, and makes rows in temporary "
            reads += "tables"
        return f"checks {what} of {self._subject.in_words}; reads {reads}"

    def _notes(self, context: CheckContext) -> list[str]:
        """What to know of what is checked."""
        version, on = self._subject.version, self._connection
        notes = []
        if any(each[:2] == (version.projection, version.version) for each in erased.noted(on)):
            notes.append(
                f"rows of {self._subject.in_words} still have what was erased from their events, "
                f"and differ until it is rebuilt: esops rebuild {version.projection} --blue-green"
            )
        if context.scratch.skipped:
            skipped = count(len(context.scratch.skipped), "dead letter")
            notes.append(f"{skipped} of {version.projection} stay left out, as in the version")
        return notes


def _share(wanted: Amount, about: int, *, exact: bool) -> float:
    """The share of the keys that is drawn: somewhat more than a number where the rest can be left
    out again.
    """
    if wanted.number is None or not exact:
        return wanted.of(about)
    number = wanted.number
    return Amount(number=math.ceil(number + 5 * math.sqrt(number) + 10)).of(about)


def _about(connection: psycopg.Connection, version: Version) -> int:
    """About how many keys a version has."""
    if version.rows is not None and version.rows > 0 and version.position is not None:
        return version.rows
    with translated():
        return sum(_rows(connection, *table) for table in version.tables.values())


def _rows(connection: psycopg.Connection, schema: str, name: str) -> int:
    """By the planner's estimate, or counted up to where it matters no more."""
    row = connection.execute(
        "SELECT c.reltuples::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s",
        (schema, name),
    ).fetchone()
    if row is not None and row[0] > ALL_UP_TO:
        return int(row[0])
    found = connection.execute(
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT {}) AS counted").format(
            qualified(schema, name), sql.Literal(2 * ALL_UP_TO)
        )
    ).fetchone()
    return 0 if found is None else int(found[0])
