"""`esops events`: the events of a store, as they are."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esops.cli.app import app, command, current_output
from esops.cli.command import CommandGroup
from esops.cli.completion import complete_stream
from esops.cli.option_groups import option_group, with_flat_options
from esops.cli.options import (
    EventId,
    Tenant,
    category_option,
    limit_option,
    since_option,
    types_option,
)
from esops.cli.shared import archived_streams_named, duration_if_given, stop_on_signals

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from esops.stores.base import EventStore
    from esops.term import Output
    from esops.trace.conditions import Condition
    from esops.trace.log import LogReader, LogRequest

events = typer.Typer(cls=CommandGroup, rich_markup_mode=None, invoke_without_command=True)
app.add_typer(events, name="events")


@option_group(panel="Which events")
class EventOptions:
    """The events that are shown."""

    stream: Annotated[
        str | None,
        typer.Option(
            "--stream",
            metavar="S",
            help="Only this stream, in the order of its versions.",
            autocompletion=complete_stream,
        ),
    ] = None
    category: Annotated[str | None, category_option()] = None
    types: Annotated[list[str] | None, types_option()] = None
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="T", help="Only events of this tenant."),
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="PATH=VALUE",
            help="Only events with this value in their data, or in their metadata "
            "(metadata:PATH); can be repeated.",
        ),
    ] = None
    since: Annotated[
        str | None,
        since_option(
            "Only events recorded since then: 10m, 2026-11-28T10:15 or 10:15, in UTC.",
            metavar="D|TIME",
        ),
    ] = None
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="D|TIME", help="Only events recorded before then."),
    ] = None
    skew: Annotated[
        str | None,
        typer.Option(
            "--skew",
            metavar="D",
            help="You know that times are out of the log's order by this much at most: --since "
            "then looks no further back.",
        ),
    ] = None
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="P", help="Only events after this position."),
    ] = None
    last: Annotated[
        int | None,
        typer.Option("--last", min=1, metavar="N", help="Only the last N of these events."),
    ] = None
    limit: Annotated[
        int | None,
        limit_option("Only the first N of these events."),
    ] = None

    def conditions(self) -> tuple[Condition, ...]:
        """What --where asks for. Raises UsageError."""
        from esops.trace.conditions import parse_condition

        return tuple(map(parse_condition, self.where or ()))

    def request(
        self, store: EventStore, conditions: tuple[Condition, ...], order: OrderOptions
    ) -> LogRequest:
        """The same for the log. Asks the store for its time where it is needed. Raises
        UsageError.
        """
        from functools import cache

        from esops.events import EventFilter
        from esops.trace.log import LogRequest, parse_position
        from esops.trace.times import point_in_time

        @cache
        def now() -> datetime:
            return store.ping().clock

        begin, end = (
            None if text is None else point_in_time(option, text, now)
            for option, text in (("--since", self.since), ("--until", self.until))
        )
        return LogRequest(
            EventFilter(
                tuple(self.types or ()), self.category, self.stream, since=begin, before=end
            ),
            parse_position(self.after) if self.after is not None else None,
            self.limit,
            self.last,
            order.reverse,
            order.follow,
            conditions,
            duration_if_given("--skew", self.skew),
        )


@option_group()
class OrderOptions:
    """In which order they are shown, and until when."""

    reverse: Annotated[
        bool, typer.Option("-r", "--reverse", help="Show the newest events first.")
    ] = False
    follow: Annotated[
        bool,
        typer.Option(
            "-f",
            "--follow",
            help="Wait for new events and show them as they settle, until stopped: those from now "
            "on, and before them those of --last, --since or --after.",
        ),
    ] = False


@events.callback()
@with_flat_options
def read(context: typer.Context, which: EventOptions, order: OrderOptions) -> int:
    """Show events in the order of the log: lines at a terminal, NDJSON in a pipe.

    Exit code 1 if no event is of the stream, type, category or tenant, or has the path of --where.

    esops events --last 20
    esops events --since 10m --type product_item_added
    esops events --stream ShoppingCart-2b2210d1 --reverse
    esops events --where 'customer.email = jane@example.com' --limit 20
    esops events --follow | jq .type
    esops events show 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9
    """
    if context.invoked_subcommand is not None:
        return 0
    from esops.config import load_config
    from esops.stores.one_tenant import open_for

    output = current_output(context)
    form = output.format("table", "ndjson", "json", "csv")
    if output.settings.output is None and not output.data.is_terminal:
        form = "ndjson"
    config = load_config(output.settings.config)
    name, settings = config.store(output.settings.store)
    conditions = which.conditions()
    stop = stop_on_signals()
    with (
        archived_streams_named(config, exit_code=1),
        open_for(name, settings, which.tenant) as store,
    ):
        return _read(output, store, which.request(store, conditions, order), form, stop)


def _read(
    output: Output, store: EventStore, request: LogRequest, form: str, stop: threading.Event
) -> int:
    from esops.trace.log import LogReader, event_as_dict
    from esops.wording import count

    reader = LogReader(store, request, stop.is_set, output.say)
    unknown = None
    if request.follow:
        # What is waited for may come for the first time.
        for text in reader.unknown_names():
            output.say(text)
    else:
        unknown = reader.nobody_has_names()
    rows = iter(()) if unknown is not None else map(event_as_dict, reader)
    with _says_how_to_continue(request, reader):
        _write(output, store, rows, form, follow=request.follow)
    if unknown is not None:
        output.error(unknown)
        return unknown.exit_code
    if reader.timeless:
        output.say(
            f"{count(reader.timeless, 'event was', 'events were')} left out, since store "
            f"{store.name} does not say when they were recorded"
        )
    # Raised only now, so that what could be read is written.
    if reader.incomplete is not None:
        raise reader.incomplete
    if reader.count or request.follow:
        return 0
    found = reader.nothing_found()
    if isinstance(found, str):
        output.say(found)
        return 0
    output.error(found)
    return found.exit_code


def _write(
    output: Output,
    store: EventStore,
    rows: Iterable[Mapping[str, Any]],
    form: str,
    *,
    follow: bool,
) -> None:
    from datetime import UTC, datetime

    from esops.trace.log import event_columns

    match form:
        case "ndjson":
            for row in rows:
                output.ndjson([row])  # one by one: a reader of the pipe sees each at once
        case "csv":
            output.csv(rows, event_columns(store))
        case "json":
            output.json(list(rows))
        case _:
            _lines(output, rows, None if follow else datetime.now(UTC))


@contextmanager
def _says_how_to_continue(request: LogRequest, reader: LogReader) -> Iterator[None]:
    """Say so where the connection is lost while events are waited for: whoever begins again would
    miss those that came in between.
    """
    from esops.errors import Unavailable

    try:
        yield
    except Unavailable as error:
        if not request.follow or reader.reached is None:
            raise
        without = " instead of --last" if request.last is not None else ""
        raise type(error)(
            error.message,
            hint=f"Nothing is missing up to here. Continue with --after {reader.reached}{without}.",
        ) from error


@command(events)
def show(
    context: typer.Context,
    id: EventId,
    *,
    tenant: Tenant = None,
) -> int:
    """Show one event by its id, with everything that the store has about it.

    Exit code 1 if the store has no such event.

    esops events show 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9
    """
    from esops.config import load_config
    from esops.errors import EsopsError
    from esops.stores.base import require
    from esops.stores.one_tenant import open_for
    from esops.trace.log import event_as_dict

    output = current_output(context)
    form = output.format("table", "json", "ndjson")
    if output.settings.output is None and not output.data.is_terminal:
        form = "json"
    name, settings = load_config(output.settings.config).store(output.settings.store)
    with open_for(name, settings, tenant) as store:
        # Ids need not be unique in every layout, so several events may be shown.
        found = require(store, store.search, "search").find(event_id=id)
        if found.how.startswith("a scan"):
            output.say(f"no index helps, so this is {found.how}")
        rows = [event_as_dict(event) for event in found.events]
    if not rows:
        output.error(EsopsError(f"store {name} has no event with the id {id!r}"))
        return 1
    match form:
        case "ndjson":
            output.ndjson(rows)
        case "json":
            output.json(rows[0] if len(rows) == 1 else rows)
        case _:
            for row in rows:
                _fields(output, row)
    return 0


def _lines(output: Output, rows: Iterable[Mapping[str, Any]], now: datetime | None) -> None:
    """One line for each event, in columns of a fixed width, so that nothing has to be kept. `now`:
    the time to say how long ago they were; None where they come as they are written.
    """
    from esops.escaping import visible
    from esops.term import to_json
    from esops.trace.times import ago, clock

    for row in rows:
        binary = row.get("data_base64")
        data = to_json(row["data"]) if binary is None else f"<{len(binary)} characters of base64>"
        at = row["recorded_at"]
        since = f"{ago(at, now):>8}  " if now is not None else ""
        tenant = f"{visible(row['tenant'])}/" if row.get("tenant") else ""
        output.line(
            f"{row['position']:>10}  {clock(at):<24}  {since}{visible(row['type']):<28}  "
            f"{tenant}{visible(row['stream'])} @{row['version']}  {data}"
        )


def _fields(output: Output, row: Mapping[str, Any]) -> None:
    """One line for each field of an event; JSON is indented."""
    from esops.escaping import visible
    from esops.term import to_json

    for key, value in row.items():
        is_json = isinstance(value, dict | list)
        text = to_json(value, indent=True) if is_json else visible(str(value))
        output.line(f"{key:<12} {text}")
