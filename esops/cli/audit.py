"""`esops audit`: how long streams are, what is in them, and how the events are modelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli import audit_text as text
from esops.cli.app import command, current_output, group
from esops.cli.option_groups import option_group
from esops.cli.options import (
    StreamName,
    Tenant,
    category_option,
    limit_option,
    report_option,
    since_option,
)
from esops.cli.shared import JobProgress, archived_streams_named, duration

if TYPE_CHECKING:
    from esops.audit.streams import StreamsAudit, StreamsRequest
    from esops.config import Config
    from esops.stores.base import EventStore
    from esops.term import Output

audit = group(
    "audit",
    "Find streams that are too long, look into them, and review how events are modelled.",
    "esops audit streams",
    "esops audit stream ShoppingCart-2b2210d1",
)


@option_group()
class StreamOptions:
    """The streams that are looked at."""

    category: Annotated[str | None, category_option("Look only at streams of this category.")] = (
        None
    )
    tenant: Tenant = None


@option_group()
class FirstEventsOptions(StreamOptions):
    """The events that are looked at."""

    limit: Annotated[
        int | None,
        limit_option("Look only at the first N events."),
    ] = None


@option_group()
class ListOptions:
    """Which streams are listed, and what is shown of them."""

    longest: Annotated[
        int | None,
        typer.Option(
            "--longest",
            metavar="N",
            min=0,
            help="List the N longest streams. Default: 20 in a table, otherwise 1,000.",
        ),
    ] = None
    over: Annotated[
        int,
        typer.Option(
            "--over", metavar="N", min=0, help="List only streams with more than N events."
        ),
    ] = 0
    all_: Annotated[
        bool,
        typer.Option(
            "--all", help="List every stream by name, as ndjson or csv, and nothing else."
        ),
    ] = False
    percentiles: Annotated[
        bool,
        typer.Option(
            "--percentiles", help="Show more percentiles, and a histogram of each category."
        ),
    ] = False


@option_group()
class MeasureOptions:
    """How the events of a stream are counted, and over what time."""

    growth: Annotated[
        bool,
        typer.Option(
            "--growth", help="Show how many events a day each stream has got since --since."
        ),
    ] = False
    since: Annotated[str, since_option("How far back growth and its budgets are measured.")] = "7d"
    count: Annotated[
        bool,
        typer.Option(
            "--count", help="Count the events instead of using the store's list of streams."
        ),
    ] = False
    archived: Annotated[
        bool,
        typer.Option("--archived", help="Include streams that the store has marked as archived."),
    ] = False


@command(audit)
def streams(
    context: typer.Context,
    which: StreamOptions,
    listed: ListOptions,
    measured: MeasureOptions,
    *,
    report: Annotated[Path | None, report_option("Also write a page with plots.")] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Estimate from a sample, with its error, if counting all events takes long.",
        ),
    ] = False,
) -> int:
    """Show how long streams are, list the longest, and check the budgets of [audit.budgets].

    Exit code 1 if a budget is broken or fits no category of the store, or a stream may not be read.

    esops audit streams
    esops audit streams --category ShoppingCart --longest 50
    esops audit streams --output json | jq .findings
    esops audit streams --report audit.html
    """
    from esops.audit.streams import StreamsRequest
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    request = StreamsRequest(
        which.category,
        measured.archived,
        measured.count,
        over=listed.over,
        growth=measured.growth,
        window=duration("--since", measured.since),
    )
    if listed.all_:
        return _list_all(output, config, request, which.tenant)
    if estimate and _estimate(output, config, request, which.tenant):
        return 0
    found = _longest(output, config, request, which.tenant, listed.longest, report)
    text.streams(output, found, percentiles=listed.percentiles, growth=measured.growth)
    for sentence in found.unmatched:
        output.warn(sentence)
    text.denied(output, found.denied)
    return 1 if found.broken or found.unmatched or found.denied else 0


def _longest(
    output: Output,
    config: Config,
    request: StreamsRequest,
    tenant: str | None,
    longest: int | None,
    report: Path | None,
) -> StreamsAudit:
    """The lengths of streams with the longest ones, which the page has, too, if there is one."""
    from esops.audit.streams import LISTED, LONGEST, audit_streams
    from esops.term.result_file import checked

    form = output.format("table", "json", "csv", "ndjson")
    checked(report, "--report")
    limit = longest if longest is not None else text.ROWS if form == "table" else LONGEST
    request = replace(request, longest=limit if report is None else max(limit, LISTED))
    with _opened(output, config, tenant) as store:
        found = audit_streams(store, config.audit, request, output.say)
        if report is not None:
            from esops.audit.report import write_report

            budgets = bool(config.audit.budgets)
            write_report(report, store, found, request, budgets=budgets, say=output.say)
            output.say(f"written: {report}")
    found.longest = found.longest[:limit]
    return found


def _list_all(output: Output, config: Config, request: StreamsRequest, tenant: str | None) -> int:
    from esops.audit.streams import listed, stream_as_dict, stream_columns

    form = output.format("ndjson", "csv")
    with _opened(output, config, tenant) as store:
        denied: list[str] = []
        rows = map(stream_as_dict, listed(store, config.audit, request, denied))
        if form == "csv":
            output.csv(rows, stream_columns(store))
        else:
            output.ndjson(rows)
    text.denied(output, denied)
    return 1 if denied else 0


def _estimate(output: Output, config: Config, request: StreamsRequest, tenant: str | None) -> bool:
    """Show an estimate. False if the store is counted instead."""
    from esops.audit.estimate import estimate

    form = output.format("table", "json")
    with _opened(output, config, tenant) as store:
        found = estimate(store, request.filter)
    if found is None:
        output.say("this store is counted instead of estimated, since that is as quick")
        return False
    if form == "json":
        output.json(found.as_dict())
    else:
        text.estimate(output, found)
    return True


@command(audit)
def stream(
    context: typer.Context,
    name: StreamName,
    *,
    tenant: Tenant = None,
) -> None:
    """Show one stream: its types, months, gaps and bursts, and where it could be split.

    Exit code 1 if there is no such stream.

    esops audit stream ShoppingCart-2b2210d1
    """
    from esops.audit.stream import audit_stream
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    form = output.format("table", "json")
    with archived_streams_named(config, exit_code=1), _opened(output, config, tenant) as store:
        found = audit_stream(store, name, config.audit.closed_by)
    if form == "json":
        output.json(found.as_dict())
    else:
        text.stream(output, found)


@command(audit)
def events(
    context: typer.Context,
    which: FirstEventsOptions,
) -> None:
    """Show the event types: how many, how large, since when, and the shapes of their payloads.

    A shape is a set of keys. A type with several shapes has changed over time.

    esops audit events
    esops audit events --category ShoppingCart --limit 100000
    """
    from esops.audit.store import read_events
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    output.format("table", "json", "ndjson", "csv")  # refuses others before the long read
    progress = JobProgress(output)
    try:
        with _opened(output, config, which.tenant) as store:
            found = read_events(
                store,
                which.category,
                which.limit,
                lambda done, total: progress.update("events", done, total),
            )
    finally:
        progress.close()
    text.events(output, found)
    if found.short is not None:
        raise found.short


@command(audit)
def modelling(
    context: typer.Context,
    which: FirstEventsOptions,
) -> int:
    """Review how events are modelled: rules of thumb, each with its evidence and its source.

    [audit.rules] switches rules off or sets their thresholds. `esops docs modelling-rules` explains
    them.

    Exit code 1 if a rule has noticed something.

    esops audit modelling
    """
    from esops.audit.modelling import observe
    from esops.audit.store import audit_store
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    output.format("table", "json", "ndjson")  # refuses others before the long read
    progress = JobProgress(output)
    try:
        with _opened(output, config, which.tenant) as store:
            audit = audit_store(
                store,
                config.audit,
                which.category,
                which.limit,
                lambda done, total: progress.update("events", done, total),
                config.trace,
            )
    finally:
        progress.close()
    observations = observe(audit, config.audit.rules)
    text.modelling(output, audit.events, observations)
    if audit.events.short is not None:
        raise audit.events.short
    return 1 if observations else 0


def _opened(output: Output, config: Config, tenant: str | None) -> EventStore:
    from esops.stores.one_tenant import open_for

    name, settings = config.store(output.settings.store)
    return open_for(name, settings, tenant)
