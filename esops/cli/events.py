"""`esops events`: the events of a store, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import app, command, current_output
from esops.cli.command import CommandGroup
from esops.cli.completion import complete_stream
from esops.cli.shared import archived_streams_named, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from esops.term import Output

_WHICH = "Which events"


events = typer.Typer(cls=CommandGroup, rich_markup_mode=None, invoke_without_command=True)
app.add_typer(events, name="events")


@events.callback()
def read(
    context: typer.Context,
    stream: str | None = typer.Option(
        None,
        "--stream",
        metavar="S",
        help="Only this stream, in the order of its versions.",
        autocompletion=complete_stream,
        rich_help_panel=_WHICH,
    ),
    category: str | None = typer.Option(
        None,
        "--category",
        metavar="C",
        help="Only streams of this category.",
        rich_help_panel=_WHICH,
    ),
    type_: list[str] | None = typer.Option(
        None,
        "--type",
        metavar="T",
        help="Only events of this type; can be repeated.",
        rich_help_panel=_WHICH,
    ),
    after: str | None = typer.Option(
        None,
        "--after",
        metavar="P",
        help="Only events after this position.",
        rich_help_panel=_WHICH,
    ),
    limit: int | None = typer.Option(
        None,
        "--limit",
        min=1,
        metavar="N",
        help="Only the first N of these events.",
        rich_help_panel=_WHICH,
    ),
    follow: bool = typer.Option(
        False,
        "-f",
        "--follow",
        help="Wait for new events and show them as they settle, until stopped.",
    ),
) -> None:
    """Show events in the order of the log: lines at a terminal, NDJSON in a pipe.

    esops events --type product_item_added --limit 20
    esops events --stream ShoppingCart-2b2210d1
    esops events --follow | jq .type
    esops events show 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9
    """
    if context.invoked_subcommand is not None:
        return
    from esops.config import load_config
    from esops.events import EventFilter
    from esops.stores import open_store
    from esops.trace.log import EVENT_COLUMNS, LogReader, LogRequest, event_as_dict, parse_position

    output = current_output(context)
    form = output.format("table", "ndjson", "json", "csv")
    if output.settings.output is None and not output.data.is_terminal:
        form = "ndjson"
    config = load_config(output.settings.config)
    name, settings = config.store(output.settings.store)
    request = LogRequest(
        EventFilter(tuple(type_ or ()), category, stream),
        parse_position(after) if after is not None else None,
        limit,
        follow,
    )
    stop = stop_on_signals()
    with archived_streams_named(config), open_store(name, settings) as store:
        reader = LogReader(store, request, stop.is_set)
        if follow:
            # What is waited for may come for the first time.
            for text in reader.unknown_names():
                output.say(text)
        rows = map(event_as_dict, reader)
        match form:
            case "ndjson":
                for row in rows:
                    output.ndjson([row])  # one by one: a reader of the pipe sees each at once
            case "csv":
                output.csv(rows, EVENT_COLUMNS)
            case "json":
                output.json(list(rows))
            case _:
                _lines(output, rows)
        if not reader.count and not follow and reader.incomplete is None:
            reader.check_names()
            output.say(f"store {name} has no such event")
    # Raised only now, so that what could be read is written.
    if reader.incomplete is not None:
        raise reader.incomplete


@command(events)
def show(
    context: typer.Context,
    id: str = typer.Argument(..., help="The event's id."),
) -> int:
    """Show one event by its id, with everything that the store has about it.

    Exit code 1 if the store has no such event.

    esops events show 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9
    """
    from esops.config import load_config
    from esops.errors import EsopsError
    from esops.stores import open_store
    from esops.stores.base import require
    from esops.trace.log import event_as_dict

    output = current_output(context)
    form = output.format("table", "json", "ndjson")
    if output.settings.output is None and not output.data.is_terminal:
        form = "json"
    name, settings = load_config(output.settings.config).store(output.settings.store)
    with open_store(name, settings) as store:
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


def _lines(output: Output, rows: Iterable[Mapping[str, Any]]) -> None:
    """One line for each event, in columns of a fixed width, so that nothing has to be kept."""
    from esops.escaping import visible
    from esops.term import cell, to_json

    for row in rows:
        binary = row.get("data_base64")
        data = to_json(row["data"]) if binary is None else f"<{len(binary)} characters of base64>"
        output.line(
            f"{row['position']:>10}  {cell(row['recorded_at']):<20}  {visible(row['type']):<28}  "
            f"{visible(row['stream'])} @{row['version']}  {data}"
        )


def _fields(output: Output, row: Mapping[str, Any]) -> None:
    """One line for each field of an event; JSON is indented."""
    from esops.escaping import visible
    from esops.term import to_json

    for key, value in row.items():
        is_json = isinstance(value, dict | list)
        text = to_json(value, indent=True) if is_json else visible(str(value))
        output.line(f"{key:<12} {text}")
