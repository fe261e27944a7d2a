"""What is asked of stores when somebody looks for something: audits, traces, streams, events, dead
letters. Each opens what it needs, in the thread that it runs in, and closes it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any

import psycopg
from psycopg.rows import dict_row

from esops.actions.history import history as read_history
from esops.audit.streams import StreamsRequest, audit_streams
from esops.config import Config
from esops.errors import EsopsError, NoStream, Refused
from esops.events import RecordedEvent
from esops.moments import between
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations
from esops.readmodel.dead_letters import page_of_dead_letters
from esops.rebuild import journal
from esops.rebuild.overview import describe
from esops.stores import open_store
from esops.stores.archive.whereabouts import archived_stream
from esops.stores.base import EventStore, require
from esops.trace.log import event_as_dict
from esops.trace.render import apart, as_dict, clock, remark, tree
from esops.trace.search import Trace, Tracer, open_tracer
from esops.web.charts import bars

QUICKLY = 20_000
"""Events that a search may read without being asked whether it may."""
SHOWN_EVENTS = 100
"""Events of a stream on one page, and dead letters of a projection."""
_TRACED = 2_000
_IN_TREE = 500
_LISTED = 50
_LAST_ACTIONS = 6
_NOTES = (journal.COMPOSITION, journal.LEFT, "made of")
"""What the journal notes for later rebuilds, and that tells nobody anything."""
_ID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
"""A UUID; the hex digits of a trace id look the same."""

Row = dict[str, Any]


@contextmanager
def _opened(config: Config, store: str | None) -> Iterator[EventStore]:
    name, settings = config.store(store)
    with translated(), open_store(name, settings) as found:
        yield found


# -- audits


def cost(config: Config, store: str) -> Row:
    """What an audit of a store costs: how many events there are, and whether each is read."""
    with _opened(config, store) as found:
        lengths = require(found, found.lengths, "lengths")
        events = found.counts.between(None, found.head(timedelta(0)).position)
        return {"events": events, "reads_all": lengths.reads_everything(counted=False)}


def audit(config: Config, store: str, category: str | None, say: Any) -> Row:
    """The lengths of a store's streams, the longest ones, and the budgets that are broken."""
    request = StreamsRequest(category=category or None, longest=_LISTED)
    with _opened(config, store) as found:
        done = audit_streams(found, config.audit, request, say)
    shown = done.as_dict(full=True)
    shown["bars"] = bars(shown["summary"].get("histogram", []))
    shown["findings"] = shown["findings"][:_LISTED]
    shown["budgets"] = done.budgets
    return {**shown, "category": category}


# -- traces


def trace(config: Config, store: str, by: str, sought: str, *, scan: bool = False) -> Row:
    """What was found about an event id, a correlation id or a stream.

    `by`: event, correlation, stream, or auto for the first of them that has anything. Without
    `scan`, a search that no index helps is Refused where it would read many events.
    """
    limit = config.trace.scan_limit
    config = config.model_copy(
        update={"trace": config.trace.model_copy(update={"scan_limit": min(limit, QUICKLY)})}
    )
    names = [config.store(store)[0]]
    refused: Refused | None = None
    with translated(), open_tracer(config, names, scan=scan, limit=_TRACED) as tracer:
        for kind in _kinds(by, sought):
            try:
                found = _ask(tracer, kind, sought)
            except Refused as error:
                refused = error
                continue
            except NoStream:
                continue
            if found.forest.nodes:
                return {**_traced(found), "by": kind}
    if refused is not None:
        raise refused
    return {"events": [], "by": by}


def _kinds(by: str, sought: str) -> Sequence[str]:
    if by != "auto":
        return (by,)
    # An id is seldom a stream's name, and a stream is found by an index in every store.
    looks_like_id = _ID.fullmatch(sought) is not None
    return (
        ("event", "correlation", "stream") if looks_like_id else ("stream", "correlation", "event")
    )


def _ask(tracer: Tracer, kind: str, sought: str) -> Trace:
    asks = {"event": tracer.event, "correlation": tracer.correlation, "stream": tracer.stream}
    return asks[kind](sought)


def _traced(found: Trace) -> Row:
    """A trace as the page shows it: a tree, whose lines know their depth, and what is missing."""
    forest = found.forest
    shown = as_dict(found)
    rows: list[Row] = []
    for line in islice(tree(forest), _IN_TREE):
        if line.at is None:
            rows.append({"before": line.before, "outside": line.outside and line.outside.in_words})
            continue
        each = forest.nodes[line.at]
        rows.append(
            {
                "before": line.before,
                "outside": None,
                "store": each.store,
                "stream": each.stream,
                "version": each.version,
                "tenant": each.tenant,
                "id": each.id,
                "type": each.type,
                "since": line.since,
                "at": clock(each.recorded_at),
                "remark": remark(forest, line.at),
            }
        )
    times = [each.recorded_at for each in forest.nodes if each.recorded_at is not None]
    lasted = None
    if times:
        span = between(min(times), max(times))
        lasted = None if span is None else apart(span)
    return {
        **{key: shown[key] for key in ("missing_causes", "not_loaded", "limited", "not_searched")},
        "events": shown["events"],
        "rows": rows,
        "beyond": max(0, len(forest.nodes) - _IN_TREE),
        "streams": len({(each.store, each.tenant, each.stream) for each in forest.nodes}),
        "lasted": lasted,
        "first": clock(min(times)) if times else "",
    }


def size(config: Config, store: str) -> int:
    """About how many events a search without an index would read."""
    with _opened(config, store) as found:
        return found.counts.between(None, found.head(timedelta(0)).position)


# -- streams and events


def stream(config: Config, store: str, name: str, after: int | None) -> Row:
    """Some events of a stream, without their payloads, and what the store knows of it.

    Raises NoStream, or what says that it was archived.
    """
    with _opened(config, store) as found:
        info = found.stream_info(name)
        if info is None:
            raise archived_stream(config, NoStream(found.name, name))
        read = found.read_stream(name, after, limit=SHOWN_EVENTS + 1)
        events = [_without_payload(each) for each in islice(read, SHOWN_EVENTS + 1)]
    more = len(events) > SHOWN_EVENTS
    events = events[:SHOWN_EVENTS]
    return {
        "info": info,
        "events": events,
        "next": events[-1]["version"] if more else None,
        "after": after,
    }


def event(config: Config, store: str, name: str, version: int) -> list[Row]:
    """An event with everything that the store has about it: several where tenants share a stream's
    name.
    """
    with _opened(config, store) as found:
        read = found.read_stream(name, version - 1 if version else None, limit=10)
        return [event_as_dict(each) for each in islice(read, 10) if each.version == version]


def _without_payload(each: RecordedEvent) -> Row:
    shown: Row = {
        "id": each.id,
        "stream": each.stream,
        "version": each.version,
        "position": str(each.position),
        "type": each.type,
        "recorded_at": each.moment,
        "bytes": len(each.data),
    }
    if each.tenant:
        shown["tenant"] = each.tenant
    return shown


# -- projections


def versions(config: Config, name: str) -> Row:
    """All versions of a projection, the retired ones too, and the steps of its last rebuild."""
    described = describe(config, name)
    steps: list[Row] = []
    if config.projection(name).kind != "server":
        with translated(), connect(config.readmodel_of(name).dsn, "serve") as connection:
            steps = _steps(connection, name)
    done = history(config, name, last=_LAST_ACTIONS)["actions"]
    return {**described, "steps": steps, "actions": done}


def _steps(connection: psycopg.Connection, name: str) -> list[Row]:
    """The steps of the newest rebuild, the oldest first, and how long after its beginning each was
    done.
    """
    if not migrations.installed(connection):
        return []
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT at, step, event FROM esops.rebuild_log WHERE rebuild = "
            "(SELECT max(rebuild) FROM esops.rebuilds WHERE projection = %s) "
            "AND event <> ALL(%s) ORDER BY at DESC LIMIT 40",
            (name, [*_NOTES]),
        ).fetchall()
    rows.reverse()
    return [{**each, "after": (each["at"] - rows[0]["at"]).total_seconds()} for each in rows]


def history(config: Config, name: str | None, last: int = SHOWN_EVENTS) -> Row:
    """The newest actions, of a projection or of all, the newest first."""
    found = read_history(config, name, last=last)
    shown = found.as_dict()
    return {"actions": shown["actions"][::-1], "notes": found.notes, "complete": found.complete}


def dead_letters(config: Config, projections: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The first dead letters of each projection, and why some could not be read."""
    found: list[Row] = []
    problems: list[str] = []
    for name in projections:
        if config.projection(name).kind == "server":
            continue
        try:
            rows = page_of_dead_letters(config, name, SHOWN_EVENTS)
        except EsopsError as error:
            problems.append(f"{name}: {error.message}")
            continue
        found += [{"projection": name, "store": _store_of(config, name), **row} for row in rows]
    return found, problems


def _store_of(config: Config, name: str) -> str:
    return config.store(config.projection(name).store)[0]
