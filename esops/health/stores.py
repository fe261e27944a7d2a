"""What doctor checks of every store: can it be opened, does its clock agree, is its head free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta

from esops.config import Config
from esops.errors import ContradictedSequence, EsopsError, UnknowableNumbers
from esops.health import eventstoredb, postgres, schema_checks, searches, stalls
from esops.health.denied import grant_for
from esops.health.findings import SESSIONS, Finding
from esops.health.heads import seen_by_followers
from esops.health.late import missed
from esops.init import NO_EVENT_STORE, WHY_NOT
from esops.stores import open_store
from esops.stores.base import EventStore, Head, StoreInfo
from esops.stores.checkpoints import SET_BACK

MOST_SKEW = timedelta(seconds=5)


def examine(config: Config, name: str) -> Iterator[Finding]:
    """Check one store."""
    settings = config.stores[name]
    subject = f"store {name}"
    if NO_EVENT_STORE.match(settings.address):
        yield Finding(
            "ESOPS-D004", subject, WHY_NOT, "Name the store that the application decides on."
        )
        return
    try:
        # A store that is joined with its archive has no SQL; its tables are looked at alone.
        with (
            open_store(name, settings) as store,
            open_store(name, settings.without_archive)
            if settings.archive
            else nullcontext(store) as own,
        ):
            asked = datetime.now(UTC)
            info = store.ping()
            yield from _clock(subject, info.clock, asked, datetime.now(UTC))
            yield from _warnings(subject, own, info)
            if absent := store.names.absent_tenant():
                yield Finding(
                    "ESOPS-D051", subject, absent, "Correct `tenant`, if none is to come."
                )
            if store.admin is not None:
                yield from eventstoredb.examine(subject, info, store.admin)
            if own.sql is not None:
                yield from postgres.examine(subject, info, own.sql)
                yield from searches.examine(subject, own, config.trace)
            if info.warnings:
                return  # nothing can be read
            yield from _beyond(subject, store)
            head = seen_by_followers(config, store)
            yield from _head(subject, head)
            yield from _stalled(subject, own, store, head)
            yield from schema_checks.examine(subject, own, settings)
            for each in missed(config, name, store):
                yield Finding("ESOPS-D038", subject, each.in_words(), each.remedy)
    except UnknowableNumbers as error:
        yield Finding("ESOPS-D037", subject, error.message, error.hint)
    except ContradictedSequence as error:
        yield Finding("ESOPS-D005", subject, error.message, error.hint)
    except EsopsError as error:
        code = SESSIONS.get(type(error), "ESOPS-D001")
        fix = grant_for(error, settings.postgres or "") or error.hint
        yield Finding(code, subject, error.message, fix)


def _warnings(subject: str, store: EventStore, info: StoreInfo) -> Iterator[Finding]:
    """Those that have no finding of their own."""
    own: set[str] = set()
    if info.warnings and store.sql is not None:
        with suppress(EsopsError):  # what is denied is a finding, too
            own = {each.message for each in store.sql.concerns()}
    yield from (Finding("ESOPS-D013", subject, text) for text in info.warnings if text not in own)


def _beyond(subject: str, store: EventStore) -> Iterator[Finding]:
    for each in store.checkpoints():
        if each.beyond:
            yield Finding(
                "ESOPS-D101",
                subject,
                f"nobody knows where the processor {each.name} stands: {each.evidence}",
                SET_BACK,
            )


def _clock(subject: str, clock: datetime, asked: datetime, answered: datetime) -> Iterator[Finding]:
    # The server looked at its clock at some time in between: a slow answer is no difference.
    skew = max(asked - clock, clock - answered)
    if skew > MOST_SKEW:
        yield Finding(
            "ESOPS-D016",
            subject,
            f"the server's clock and this machine's are {skew.total_seconds():.0f} s apart, so "
            "ages and lags are wrong by as much",
            "Let both follow NTP.",
        )


def _stalled(subject: str, own: EventStore, store: EventStore, head: Head) -> Iterator[Finding]:
    """Processors that have not advanced for a minute, and that nothing else says that of."""
    said = "\n".join(each.message for each in own.sql.concerns()) if own.sql is not None else ""
    for each, stall in stalls.stalled_processors(store, head):
        if not re.search(rf"(?<!\S){re.escape(each.name)}[:\s]", said):
            yield Finding(
                "ESOPS-D089",
                subject,
                f"the processor {each.name} {stall}",
                "Look into the log of the application's projector, and start it again. If it was "
                "stopped for good, do not: delete its row (esops docs doctor ESOPS-D089).",
            )


def _head(subject: str, head: Head) -> Iterator[Finding]:
    # Wait for the head only as long as a normal writer takes: whoever holds it back longer than
    # that is worth a finding.
    for holder in head.held_back_by:
        since = f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC" if holder.since else ""
        yield Finding(
            "ESOPS-D012",
            subject,
            f"{holder.who} holds back the settled head{since}: {holder.what}",
            holder.remedy,
        )
