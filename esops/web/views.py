"""What the pages show, made from the readings: rows for tables, and sentences about troubles."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esops.health import checked
from esops.health.stalls import Stall
from esops.rebuild import under_way
from esops.web.charts import chart
from esops.web.lags import LagHistory
from esops.web.readings import SLOW, Readings, StoreReading, processor_key

Row = dict[str, Any]
_ALONE = 10.0
"""Seconds of lag from which a version that serves and that nobody follows is worth a word."""


def status_view(readings: Readings) -> Row:
    """Everything that the first page shows."""
    found = [each for each in readings.of.values() if each.status is not None]
    projections = [row for each in found for row in _projections(each, readings.lags)]
    rebuilds = [row for each in found for row in _rebuilds(each, readings.lags)]
    view: Row = {
        "stores": [_store(each) for each in readings.of.values()],
        "projections": projections,
        "processors": [row for each in found for row in _processors(each, readings.lags)],
        "rebuilds": rebuilds,
        "works": [each for each in rebuilds if each["works"]],
        "checks": [_check(row) for each in found if each.status for row in each.status.checks],
        "archives": _archives(found),
        "several_stores": len(readings.of) > 1,
    }
    view["troubles"] = list(_troubles(view))
    view["read"] = all(each.at is not None or each.problem for each in readings.of.values())
    return view


def projection_view(readings: Readings, name: str) -> Row:
    """What is known of one projection without asking any database: its versions, its rebuild, its
    last check.
    """
    view = status_view(readings)
    kept: Row = {
        key: [each for each in view[key] if each.get("projection") == name]
        for key in ("projections", "rebuilds", "checks")
    }
    kept["name"] = name
    kept["troubles"] = [each for each in view["troubles"] if each["projection"] == name]
    kept["read"] = view["read"]
    kept["paused"] = next((each["paused"] for each in kept["projections"]), None)
    kept["limits"] = next((each["limits"] for each in kept["projections"]), {})
    return kept


def _store(reading: StoreReading) -> Row:
    """A store as its row shows it: as it was read last, and whether that still holds."""
    shown: Row = {"store": reading.store, "backend": "", "layout": None, "head": None}
    shown |= {"detail": "", "version": None, "held_back_by": [], "ok": None}
    if reading.status is not None:
        own = (each for each in reading.status.stores if each["store"] == reading.store)
        shown |= next(own, {})
    state = "unread" if shown["ok"] is None else "ok" if shown["ok"] else "warns"
    if reading.status is not None and shown["head"] is None and "version" not in _own(reading):
        state = "down"
    if reading.problem is not None:
        state, shown["detail"] = "down", reading.problem
    waits = None if reading.since is None else time.monotonic() - reading.since
    shown["waits"] = waits if waits is not None and waits > SLOW else None
    return {**shown, "state": state, "at": reading.at, "seconds": reading.seconds}


def _own(reading: StoreReading) -> Mapping[str, Any]:
    rows = reading.status.stores if reading.status is not None else []
    return next((each for each in rows if each["store"] == reading.store), {})


def _projections(reading: StoreReading, lags: LagHistory) -> Iterator[Row]:
    assert reading.status is not None
    # Together by projection, in the order of the configuration; what serves comes first.
    order = list(dict.fromkeys(each["projection"] for each in reading.status.projections))
    rows = sorted(
        reading.status.projections,
        key=lambda each: (order.index(each["projection"]), each["state"] != "active"),
    )
    for each in rows:
        number = each.get("version")
        row: Row = {
            "tables": {},
            "paused": None,
            "limits": {},
            "lag_events": None,
            "lag_seconds": None,
            "rows": None,
            "position": None,
            "followed_by": None,
            "dead_letters": 0,
            "stalled": None,
            "detail": None,
            "ok": True,
            "kept_by": "esops",
            "updated_at": None,
            "version": number,
            "store": reading.store,
            "chart": None,
            **each,
        }
        if number is not None:
            row["chart"] = chart(lags.line((each["projection"], f"v{number}")))
        if row["kept_by"] == "application" and row["followed_by"] is None:
            row["followed_by"] = "the application" if row["state"] == "active" else None
        yield row


def _processors(reading: StoreReading, lags: LagHistory) -> Iterator[Row]:
    assert reading.status is not None
    for each in reading.status.processors:
        line = lags.line((each["store"], processor_key(each)))
        yield {**each, "label": processor_key(each), "chart": chart(line)}


def _rebuilds(reading: StoreReading, lags: LagHistory) -> Iterator[Row]:
    """Rebuilds, with the progress of those that work now."""
    assert reading.status is not None
    status = reading.status
    for each in status.rebuilds:
        row = {"detail": None, **each, "store": reading.store}
        left = each["unfinished"]
        row["works"] = bool(left and left["works"])
        row["waits"] = bool(left and not left["works"])
        row["in_words"] = under_way.in_words(left, each["projection"]) if left else None
        row |= {"done": None, "total": None, "rate": None, "left": None}
        green = next(
            (
                it
                for it in status.projections
                if it["projection"] == each["projection"]
                and it.get("version") == each["to_version"]
            ),
            None,
        )
        if left and green is not None and green.get("lag_events") is not None:
            row["done"] = green["events"]
            row["total"] = green["events"] + green["lag_events"]
            line = lags.line((each["projection"], f"v{each['to_version']}"))
            row["rate"] = line.rate() if line is not None and row["works"] else None
            if row["rate"]:
                row["left"] = green["lag_events"] / row["rate"]
        yield row


def _check(row: Mapping[str, Any]) -> Row:
    return {**row, "says": checked.in_words(row)}


def _archives(readings: Sequence[StoreReading]) -> list[Row]:
    """The last runs; what could not be read of an archive is said once, whichever store asked."""
    found: dict[tuple[str, str, str], Row] = {}
    for each in readings:
        for row in each.status.archives if each.status is not None else ():
            shown = {
                "policy": None,
                "run": None,
                "streams": None,
                "events": None,
                "remove": None,
                "removed_events": None,
                "sealed_at": None,
                "finished_at": None,
                "detail": None,
                **row,
            }
            found[row["archive"], str(shown["policy"]), str(shown["run"])] = shown
    return list(found.values())


def _troubles(view: Row) -> Iterator[Row]:
    """What a person should look at: a sentence each."""
    for each in view["stores"]:
        if each["state"] in ("down", "warns"):
            level = "bad" if each["state"] == "down" else "warn"
            yield _trouble(level, f"store {each['store']}", each["detail"])
    for each in view["projections"]:
        yield from _of_version(each)
    for each in view["processors"]:
        if each["stalled"]:
            yield _trouble("bad", f"processor {each['label']}", str(Stall(**each["stalled"])))
    yield from _of_work(view)


def _of_work(view: Row) -> Iterator[Row]:
    """The same of rebuilds, checks and archive runs."""
    for each in view["rebuilds"]:
        if not each["ok"]:
            yield _trouble("bad", "rebuild", each["detail"], each["projection"])
        elif each["waits"]:
            yield _trouble("warn", "rebuild", each["in_words"], each["projection"])
    for each in view["checks"]:
        if each["says"]:
            yield _trouble("bad", "check", each["says"], each["projection"])
    for each in view["archives"]:
        if each["state"] in ("unknown", "damaged", "failed"):
            said = each["detail"] or f"the last run of {each['policy']} is {each['state']}"
            yield _trouble("bad", f"archive {each['archive']}", said)


def _of_version(each: Row) -> Iterator[Row]:
    name = each["projection"]
    what = name if each["version"] is None else f"{name} v{each['version']}"
    if each["state"] == "unknown" or not each["ok"]:
        yield _trouble("bad", what, each["detail"] or "cannot be read", name)
    if each["stalled"]:
        yield _trouble("bad", what, str(Stall(**each["stalled"])), name)
    elif _is_left_alone(each):
        yield _trouble("warn", what, "serves, and no process keeps it fresh: esops run does", name)
    if each["dead_letters"]:
        number = each["dead_letters"]
        events = "1 event is" if number == 1 else f"{number:,} events are"
        yield _trouble("warn", what, f"{events} missing from its rows (dead letters)", name)
    if each["paused"] and each["state"] in ("active", "never built"):
        by = f" by {each['paused']['by']}" if each["paused"]["by"] else ""
        yield _trouble("warn", name, f"is paused{by}: readers see nothing new", name)


def _is_left_alone(each: Row) -> bool:
    """Whether a version that serves gets behind, since nobody follows it."""
    alone = each["state"] == "active" and each["followed_by"] is None
    return alone and bool(each["lag_events"]) and (each["lag_seconds"] or 0) > _ALONE


def _trouble(level: str, subject: str, text: str, projection: str | None = None) -> Row:
    return {"level": level, "subject": subject, "text": text, "projection": projection}
