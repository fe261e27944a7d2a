"""`esops audit`: how long streams are, what is in them, and what the modelling costs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import command, current_output, group
from esops.cli.shared import Shown, duration

if TYPE_CHECKING:
    from esops.audit.streams import StreamsAudit
    from esops.config import Config
    from esops.stores.base import EventStore
    from esops.term import Output

audit = group(
    "audit",
    "Which streams are too long, what is in them, and how the events are modelled.",
    "esops audit streams --category ShoppingCart --longest 50",
)

_CATEGORY = typer.Option(None, "--category", metavar="C", help="Of one category's streams alone.")
_IN_TABLE = 20


@command(audit)
def streams(
    context: typer.Context,
    category: str | None = _CATEGORY,
    longest: int | None = typer.Option(
        None,
        "--longest",
        metavar="N",
        min=0,
        help="List the N longest; left out: 20 in a table, else 1,000.",
    ),
    over: int = typer.Option(
        0, "--over", metavar="N", min=0, help="List only streams of more than N events."
    ),
    all_: bool = typer.Option(
        False, "--all", help="List every stream by name, as ndjson or csv, and nothing else."
    ),
    percentiles: bool = typer.Option(
        False, "--percentiles", help="Percentiles of each category, and a histogram."
    ),
    growth: bool = typer.Option(
        False, "--growth", help="How many events a day came to each listed stream since --since."
    ),
    since: str = typer.Option(
        "7d", "--since", metavar="D", help="The days that growth and its budgets are about."
    ),
    count: bool = typer.Option(
        False, "--count", help="Count the events themselves, not the store's list of streams."
    ),
    archived: bool = typer.Option(
        False, "--archived", help="Also streams that the store has marked as archived."
    ),
    report: Path | None = typer.Option(
        None, "--report", metavar="FILE.html", help="Write a page with plots, too."
    ),
    estimate: bool = typer.Option(
        False,
        "--estimate",
        help="Estimate from a sample, with its error, where counting all events would be dear.",
    ),
) -> int:
    """Show how long streams are, the longest of them, and which break the budgets of
    [audit.budgets].

    esops audit streams --category ShoppingCart --longest 50
    esops audit streams --output json | jq .findings
    esops audit streams --report audit.html

    Exits with 1 where a budget is broken.
    """
    from esops.audit.streams import LISTED, LONGEST, audit_streams
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    window = duration("--since", since)
    if all_:
        return _list_all(output, config, category, archived)
    if estimate and _estimated(output, config, category, archived):
        return 0
    form = output.format("table", "json", "csv", "ndjson")
    limit = longest if longest is not None else _IN_TABLE if form == "table" else LONGEST
    with _opened(output, config) as store:
        found = audit_streams(
            store,
            config.audit,
            category=category,
            longest=limit if report is None else max(limit, LISTED),
            over=over,
            window=window,
            counted=count,
            archived=archived,
            growth=growth,
            say=output.say,
        )
        if report is not None:
            _report(output, store, config, report, found, category, archived)
    found.longest = found.longest[:limit]
    _show(output, form, found, percentiles, growth)
    return 1 if found.broken else 0


def _list_all(output: Output, config: Config, category: str | None, archived: bool) -> int:
    from esops.audit.streams import listed, stream_as_dict

    form = output.format("ndjson", "csv")
    with _opened(output, config) as store:
        rows = map(stream_as_dict, listed(store, config.audit, category, archived))
        if form == "csv":
            output.csv(rows, _COLUMNS)
        else:
            output.ndjson(rows)
    return 0


def _estimated(output: Output, config: Config, category: str | None, archived: bool) -> bool:
    """Show an estimate; False where the store is counted instead, which is then said."""
    from esops.audit.estimate import estimate
    from esops.events import EventFilter

    form = output.format("table", "json")
    with _opened(output, config) as store:
        found = estimate(store, EventFilter(category=category, archived=archived))
    if found is None:
        output.say("this store's lengths are known, or counted in little time: no estimate is made")
        return False
    if form == "json":
        output.json(found.as_dict())
        return True
    whole = {name: each.as_dict() for name, each in found.summary.items()}
    output.line(
        f"Store {found.store}: {found.how}; the longest stream that was drawn has "
        f"{found.longest_seen:,} events"
    )
    output.line()
    rows: list[tuple[object, ...]] = [
        (name, each["value"], f"{each['low']:,} to {each['high']:,}")
        for name, each in whole.items()
    ]
    output.table("Estimates", ["of", "value", "with 95 % probability"], rows)
    output.line()
    named = [
        (category or "-", streams.as_dict(), events.as_dict())
        for category, _, streams, events in found.categories[:_IN_TABLE]
    ]
    output.table(
        "Categories",
        ["category", "streams", "events"],
        [
            (name, *(f"{each['value']:,} ({each['low']:,} to {each['high']:,})" for each in both))
            for name, *both in named
        ],
    )
    output.line("Budgets are judged by exact lengths alone: leave --estimate out for them.")
    return True


def _report(
    output: Output,
    store: EventStore,
    config: Config,
    file: Path,
    found: StreamsAudit,
    category: str | None,
    archived: bool,
) -> None:
    from esops.audit.report import write_report
    from esops.audit.streams import MANY
    from esops.errors import UsageError
    from esops.events import EventFilter
    from esops.stores.base import require

    if found.whole.events > MANY:
        output.say(
            f"the report's plots over time take a look at each of {found.whole.events:,} events"
        )
    lengths = require(store, store.lengths, "lengths")
    months = lengths.monthly(EventFilter(category=category, archived=archived))
    try:
        write_report(file, found, months, category=category, budgets=bool(config.audit.budgets))
    except OSError as error:
        raise UsageError(f"--report: {error}") from None
    output.say(f"written: {file}")


_COLUMNS = (
    "stream",
    "category",
    "length",
    "first_at",
    "last_at",
    "bytes",
    "archived",
    "closed",
    "growth_per_day",
)


def _show(output: Output, form: str, found: StreamsAudit, percentiles: bool, growth: bool) -> None:
    document = found.as_dict(full=percentiles, growth=growth)
    if form == "json":
        output.json(document)
        return
    columns = [*_COLUMNS, *(["recent_per_day"] if growth else [])]
    if form == "csv":
        output.csv(document["streams"], columns)
        return
    if form == "ndjson":
        output.ndjson(document["streams"])
        return
    whole = document["summary"]
    output.line(
        f"Store {found.store}: {whole['streams']:,} streams, {whole['events']:,} events "
        f"({found.how})\n"
        f"A stream has {whole['mean']:,} events on average; half have at most {whole['p50']:,}, 90 "
        f"% {whole['p90']:,}, "
        f"99 % {whole['p99']:,}, the longest {whole['max']:,}. The longest 1 % hold "
        f"{whole['longest_1_percent_share']:.0%} of all events."
    )
    names = ["streams", "events", "p50", "p90", "p99", "max"]
    if any(each["tenant"] for each in document["categories"]):
        names = ["tenant", *names]
    rows = [
        [each["category"] or "-", *(each[name] for name in names)]
        for each in document["categories"][:_IN_TABLE]
    ]
    if percentiles:
        names.append("lengths")
        rows = [[*row, each.spark()] for row, (_, each) in zip(rows, found.ordered(), strict=False)]
    output.line()
    output.table("Categories", ["category", *names], rows)
    if percentiles:
        output.line()
        bins = [
            (f"{each['from']:,} to {each['to']:,}", each["streams"], each["events"])
            for each in whole["histogram"]
        ]
        output.table("Lengths", ["length", "streams", "events"], bins)
    if found.longest:
        output.line()
        shown = [
            "stream",
            *(["tenant"] if any("tenant" in each for each in document["streams"]) else []),
            "category",
            "length",
        ]
        listed = [
            [
                *(each.get(name) or "-" for name in shown),
                _versions(each),
                *(_shown(each.get(name)) for name in columns[3:]),
            ]
            for each in document["streams"]
        ]
        output.table("Longest streams", [*shown, "versions", *columns[3:]], listed)
    if found.broken:
        output.line()
        told = [
            [each.stream, each.rule, each.limit, each.value] for each in found.findings[:_IN_TABLE]
        ]
        output.table("Budgets broken", ["stream", "rule", "limit", "value"], told)
        more = found.broken - min(_IN_TABLE, len(found.findings))
        output.line(
            f"{found.broken:,} streams break a budget"
            + (f"; {more:,} more than shown (--output json)" if more else "")
        )
    else:
        output.line("No budget is broken.")


def _versions(stream: dict[str, Any]) -> str:
    return f"{stream['first_version']} to {stream['last_version']}"


def _shown(value: Any) -> Any:
    return (
        "-"
        if value is None
        else f"{value:%Y-%m-%d %H:%M}"
        if hasattr(value, "isoformat")
        else value
    )


@command(audit)
def stream(context: typer.Context, name: str = typer.Argument(..., help="The stream.")) -> int:
    """Show one stream: types, months, gaps, bursts, how long it takes to load, and where its books
    could be closed.

    esops audit stream ShoppingCart-2b2210d1

    Exits with 1 where there is no such stream.
    """
    from rich.filesize import decimal

    from esops.audit.stream import COMPETING, audit_stream
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    form = output.format("table", "json")
    with _opened(output, config) as store:
        found = audit_stream(store, name, config.audit.closed_by)
    if found is None:
        output.say(f"store {store.name} has no stream {name!r}")
        return 1
    document = found.as_dict()
    if form == "json":
        output.json(document)
        return 0
    open_or_closed = {True: ", closed", False: ", open", None: ""}[found.closed]
    output.line(
        f"{name}: {found.length:,} events, versions {found.first_version:,} to "
        f"{found.last_version:,}, {decimal(found.bytes)}"
        f"{open_or_closed}; all of it is read in {found.seconds_to_load * 1000:,.0f} ms"
    )
    if found.first_at is not None and found.last_at is not None:
        output.line(
            f"from {found.first_at:%Y-%m-%d %H:%M:%S} to {found.last_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    output.line()
    names = ("type", "events", "bytes", "first_version", "last_version", "first_at", "last_at")
    output.table(
        "Types", names, [[_shown(each[name]) for name in names] for each in document["types"]]
    )
    if len(found.months) > 1:
        output.line()
        output.table(
            "Months", ["month", "events"], [list(each.values()) for each in document["months"]]
        )
    output.line()
    output.table("Largest payloads", ["bytes", "version", "type"], found.largest)
    output.line()
    if found.gaps:
        output.line(
            "Versions are missing: "
            + ", ".join(f"after {low}, the next is {high}" for low, high in found.gaps)
        )
    if found.busiest[0] > 1 and found.busiest[1] is not None:
        output.line(
            f"Busiest second: {found.busiest[0]:,} events, from "
            f"{found.busiest[1]:%Y-%m-%d %H:%M:%S.%f} on"
        )
    if found.same_instant:
        output.line(
            f"{found.same_instant:,} events have the very time of the one before: appended together"
        )
    if found.competing:
        output.line(
            f"{found.competing:,} times two commands wrote within "
            f"{COMPETING.total_seconds() * 1000:.0f} ms of each other: "
            "writers compete for this stream"
        )
    if found.backwards:
        output.line(
            f"{found.backwards:,} events were recorded before the one before them: clocks differ, "
            "or writers raced"
        )
    output.line(found.suggestion)
    return 0


@command(audit)
def events(
    context: typer.Context,
    category: str | None = _CATEGORY,
    limit: int | None = typer.Option(
        None, "--limit", metavar="N", min=1, help="Look at the first N events alone."
    ),
) -> None:
    """Show the types of events: how many, how large, since when, and which shapes their payloads
    have had.

    esops audit events
    """
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    form = output.format("table", "json", "ndjson", "csv")
    with _opened(output, config) as store:
        found = _pass(output, store, category, limit)
    document = found.as_dict()
    names = ("type", "events", "mean_bytes", "largest_bytes", "first_at", "last_at")
    if form == "json":
        output.json(document)
    elif form == "ndjson":
        output.ndjson(document["types"])
    elif form == "csv":
        output.csv(document["types"], names)
    else:
        rows = [
            [*(_shown(each[name]) for name in names), len(each["shapes"])]
            for each in document["types"]
        ]
        output.table("Types of events", [*names, "shapes"], rows)
    if found.short is not None:
        raise found.short


@command(audit)
def modelling(
    context: typer.Context,
    category: str | None = _CATEGORY,
    limit: int | None = typer.Option(
        None, "--limit", metavar="N", min=1, help="Look at the first N events alone."
    ),
) -> int:
    """Look at the events as a reviewer would: rules of thumb, each with its evidence and its
    source.

    esops audit modelling

    A rule is switched off or tuned by [audit.rules]. Exits with 1 where a rule has something to
    say.
    """
    from esops.audit.modelling import observe
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    form = output.format("table", "json", "ndjson")
    with _opened(output, config) as store:
        seen = _seen(output, store, config, category, limit)
    found = observe(seen, config.audit.rules)
    if form == "json":
        output.json(
            {
                "store": store.name,
                "events": seen.events.events,
                "observations": [each.as_dict() for each in found],
            }
        )
    elif form == "ndjson":
        output.ndjson(each.as_dict() for each in found)
    else:
        rule = ""
        for each in found:
            if each.rule != rule:
                rule = each.rule
                output.line(f"{rule}  (esops docs modelling-rules {rule}; {each.source})")
            output.line(f"  {each.subject}: {each.evidence}")
        output.line(
            f"{len(found)} observations on {seen.events.events:,} events"
            if found
            else "No rule has anything to say."
        )
    if seen.events.short is not None:
        raise seen.events.short
    return 1 if found else 0


def _seen(
    output: Output, store: EventStore, config: Config, category: str | None, limit: int | None
) -> Any:
    from esops.audit.modelling import StoreAudit
    from esops.audit.streams import audit_streams

    settings = config.audit.model_copy(update={"budgets": {}})
    streams = audit_streams(store, settings, category=category)
    return StoreAudit(_pass(output, store, category, limit), streams)


def _pass(output: Output, store: EventStore, category: str | None, limit: int | None) -> Any:
    from esops.audit.events import audit_events

    total = limit or store.count_between(
        None, store.head(timedelta(0)).position
    )  # what is read is waited for; this is for the eye alone
    shown = Shown(output)
    try:
        return audit_events(
            store,
            category=category,
            limit=limit,
            tick=lambda done: shown.update("events", done, total),
        )
    finally:
        shown.close()


def _opened(output: Output, config: Config) -> EventStore:
    from esops.stores import open_store

    name, settings = config.store(output.settings.store)
    return open_store(name, settings)
