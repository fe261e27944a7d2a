"""What the commands of `esops audit` write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from esops.escaping import visible
from esops.wording import count

if TYPE_CHECKING:
    from esops.audit.budgets import BudgetBreach
    from esops.audit.estimate import StreamsEstimate
    from esops.audit.events import EventsAudit
    from esops.audit.modelling import Observation
    from esops.audit.stream import StreamAudit
    from esops.audit.streams import StreamsAudit
    from esops.term import Output

ROWS = 20
"""Rows of a table, unless more are asked for."""


def streams(output: Output, found: StreamsAudit, *, percentiles: bool, growth: bool) -> None:
    """An audit of streams in the format that was asked for."""
    from esops.audit.streams import STREAM_COLUMNS

    document = found.as_dict(full=percentiles, growth=growth)
    columns = [*STREAM_COLUMNS, *(["recent_per_day"] if growth else [])]
    match output.format("table", "json", "csv", "ndjson"):
        case "json":
            output.json(document)
        case "csv":
            output.csv(document["streams"], columns)
        case "ndjson":
            output.ndjson(document["streams"])
        case _:
            _summary(output, found, document["summary"])
            _categories(output, found, document["categories"], percentiles=percentiles)
            if percentiles:
                _histogram(output, document["summary"]["histogram"])
            if found.longest:
                _longest(output, document["streams"], columns)
            _breaches(output, found)


def denied(output: Output, streams: Sequence[str]) -> None:
    """Say which streams are left out, since this user may not read them."""
    if streams:
        output.warn(
            f"{count(len(streams), 'stream is', 'streams are')} left out, since this user may not "
            f"read {'it' if len(streams) == 1 else 'them'}: {visible(', '.join(streams[:3]))}"
            + (" …" if len(streams) > 3 else "")
        )


def _and_commands(commands: int | None) -> str:
    """The commands beside some events, where there are any."""
    return f" and {count(commands, 'command')}" if commands else ""


def _summary(output: Output, found: StreamsAudit, whole: dict[str, Any]) -> None:
    output.line(
        f"Store {found.store}: {count(whole['streams'], 'stream')}, "
        f"{count(whole['events'], 'event')}{_and_commands(found.commands)} ({found.how})"
    )
    output.line(
        f"A stream has {whole['mean']:,} events on average. Half of the streams have at most "
        f"{whole['p50']:,}, 90% at most {whole['p90']:,}, 99% at most {whole['p99']:,}; the "
        f"longest has {whole['max']:,}. The longest 1% of the streams hold "
        f"{whole['longest_1_percent_share']:.0%} of all events."
    )


def _categories(
    output: Output, found: StreamsAudit, categories: list[dict[str, Any]], *, percentiles: bool
) -> None:
    names = ["streams", "events", "p50", "p90", "p99", "max"]
    # Most stores have one tenant, and an empty column would push others out.
    if any(each["tenant"] for each in categories):
        names = ["tenant", *names]
    rows = [
        [each["category"] or "-", *(each[name] for name in names)] for each in categories[:ROWS]
    ]
    if percentiles:
        # Only now: the rows have no such field, it is drawn from the distribution.
        names.append("lengths")
        rows = [[*row, each.spark()] for row, (_, each) in zip(rows, found.ordered(), strict=False)]
    output.line()
    output.table(
        "Categories", ["category", *names], rows, drop=["lengths", "p50", "p90", "p99", "streams"]
    )
    if len(categories) > ROWS:
        output.line(f"and {len(categories) - ROWS:,} more (--output json)")


def _histogram(output: Output, bins: list[dict[str, Any]]) -> None:
    output.line()
    rows = [
        (f"{each['from']:,} to {each['to']:,}", each["streams"], each["events"]) for each in bins
    ]
    output.table("Lengths", ["length", "streams", "events"], rows)


def _longest(output: Output, longest: list[dict[str, Any]], columns: list[str]) -> None:
    first = [
        "stream",
        *(["tenant"] if any("tenant" in each for each in longest) else []),
        "category",
        "length",
    ]
    # The first three are stream, category and length, which `first` has, with the tenant between.
    others = columns[3:]
    rows = [
        [
            *(each.get(name) or "-" for name in first),
            f"{each['first_version']} to {each['last_version']}",
            *(_minutes(each.get(name)) for name in others),
        ]
        for each in longest
    ]
    output.line()
    output.table(
        "Longest streams",
        [*first, "versions", *others],
        rows,
        drop=[
            "bytes",
            "archived",
            "first_at",
            "category",
            "growth_per_day",
            "closed",
            "last_at",
            "versions",
        ],
    )


def _breaches(output: Output, found: StreamsAudit) -> None:
    if not found.broken:
        output.line(
            "No budget is broken."
            if found.budgets
            else "No budget is set: see [audit.budgets] in `esops docs configuration`."
        )
        return
    shown = found.breaches[:ROWS]
    output.line()
    names = ["stream", "rule", "limit", "value"]
    if any(each.tenant for each in shown):
        names.insert(1, "tenant")
    output.table(
        "Broken budgets",
        names,
        [[_of_breach(each, name) for name in names] for each in shown],
        drop=["limit"],
    )
    more = found.broken - len(shown)
    output.line(
        f"{count(found.broken, 'budget is', 'budgets are')} broken"
        + (f"; {more:,} more than shown (--output json)" if more else "")
    )


def estimate(output: Output, found: StreamsEstimate) -> None:
    """An estimate: each value with its interval."""
    output.line(
        f"Store {found.store}: {found.how}; the longest stream in the sample has "
        f"{count(found.longest_seen, 'event')}"
    )
    summary = {name: each.as_dict() for name, each in found.summary.items()}
    output.line()
    output.table(
        "Estimates",
        ["of", "value", "with 95% confidence"],
        [
            (name, each["value"], f"{each['low']:,} to {each['high']:,}")
            for name, each in summary.items()
        ],
    )
    output.line()
    output.table(
        "Categories",
        ["category", "streams", "events"],
        [
            (
                category or "-",
                *(
                    f"{each['value']:,} ({each['low']:,} to {each['high']:,})"
                    for each in (streams.as_dict(), events.as_dict())
                ),
            )
            for category, _, streams, events in found.categories[:ROWS]
        ],
        drop=[],
    )
    output.line("Budgets need exact lengths. To check them, leave --estimate out.")


def stream(output: Output, found: StreamAudit) -> None:
    """One stream: a summary, three tables, and what is unusual about it."""
    from rich.filesize import decimal

    document = found.as_dict()
    named = f"{found.tenant}/{found.stream}" if found.tenant else found.stream
    state = {True: ", closed", False: ", open", None: ""}[found.closed]
    output.line(
        f"{visible(named)}: {count(found.length, 'event')}{_and_commands(found.commands)}, "
        f"versions "
        f"{found.first_version:,} to {found.last_version:,}, {decimal(found.bytes)}{state}; "
        f"reading all of it took {found.seconds_to_load * 1000:,.0f} ms"
    )
    if found.first_at is not None and found.last_at is not None:
        output.line(
            f"from {found.first_at:%Y-%m-%d %H:%M:%S} to {found.last_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    names = ("type", "events", "bytes", "first_version", "last_version", "first_at", "last_at")
    output.line()
    output.table(
        "Types",
        names,
        [[_minutes(each[name]) for name in names] for each in document["types"]],
        drop=["first_at", "last_at", "bytes", "first_version", "last_version"],
    )
    # A single month says no more than the line above.
    if len(found.months) > 1:
        output.line()
        output.table("Months", ["month", "events"], list(found.months.items()))
    output.line()
    output.table("Largest payloads", ["bytes", "version", "type"], found.largest, drop=[])
    output.line()
    for line in _unusual(found):
        output.line(line)
    output.line(found.suggestion)


def _unusual(found: StreamAudit) -> Iterator[str]:
    """What is unusual about a stream, a sentence each."""
    from esops.audit.stream import COMPETING

    if found.lost > 0:
        first = min(found.types.items(), key=lambda each: each[1].first_version)[0]
        yield (
            f"The first {count(found.lost, 'event is', 'events are')} gone: the stream begins with "
            f"{first} at version {found.first_version}."
        )
    if found.gaps:
        gaps = ", ".join(f"after {low}, the next is {high}" for low, high in found.gaps)
        yield f"Versions are missing: {gaps}."
    number, at = found.busiest
    if number > 1 and at is not None:
        yield f"Busiest second: {count(number, 'event')}, starting at {at:%Y-%m-%d %H:%M:%S.%f}."
    if found.same_instant:
        yield (
            f"{count(found.same_instant, 'event was', 'events were')} recorded at exactly the time "
            "of the event before: probably they were appended together."
        )
    if found.competing:
        milliseconds = COMPETING.total_seconds() * 1000
        yield (
            f"{count(found.competing, 'time')} two commands wrote within {milliseconds:.0f} ms of "
            "each other: writers compete for this stream."
        )
    if found.backwards:
        yield (
            f"{count(found.backwards, 'event was', 'events were')} recorded earlier than the event "
            "before: clocks differ, or writers raced."
        )


def events(output: Output, found: EventsAudit) -> None:
    """The event types, in the format that was asked for."""
    document = found.as_dict()
    names = ("type", "events", "mean_bytes", "largest_bytes", "first_at", "last_at")
    match output.format("table", "json", "ndjson", "csv"):
        case "json":
            output.json(document)
        case "ndjson":
            output.ndjson(document["types"])
        case "csv":
            output.csv(document["types"], names)
        case _:
            rows = [
                [*(_minutes(each[name]) for name in names), len(each["shapes"])]
                for each in document["types"]
            ]
            output.table(
                "Types of events",
                [*names, "shapes"],
                rows,
                drop=["first_at", "last_at", "largest_bytes", "mean_bytes"],
            )


def modelling(output: Output, audit: EventsAudit, observations: Sequence[Observation]) -> None:
    """What the rules noticed, in the format that was asked for."""
    match output.format("table", "json", "ndjson"):
        case "json":
            output.json(
                {
                    "store": audit.store,
                    "events": audit.events,
                    "observations": [each.as_dict() for each in observations],
                }
            )
        case "ndjson":
            output.ndjson(each.as_dict() for each in observations)
        case _:
            rule = ""
            for each in observations:
                if each.rule != rule:
                    rule = each.rule
                    output.line(f"{rule}  (esops docs modelling-rules {rule}; {each.source})")
                output.line(f"  {visible(each.subject)}: {each.evidence}")
            output.line(
                f"{count(len(observations), 'observation')} on {count(audit.events, 'event')}"
                if observations
                else "No rule has noticed anything."
            )


def _of_breach(breach: BudgetBreach, name: str) -> Any:
    """A field of a broken budget; a time as a person says it."""
    from esops.term import duration

    value = getattr(breach, name)
    if breach.rule == "open_for" and name in ("limit", "value"):
        return duration(value).removesuffix(" 0 h")
    return value


def _minutes(value: Any) -> Any:
    """A time without its seconds; anything else as it is."""
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value
