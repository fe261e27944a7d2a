"""`esops events`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import app, command, current_output, with_globals
from esops.cli.help import CommandGroup
from esops.cli.shared import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from esops.events import EventFilter, Position, RecordedEvent
    from esops.stores.base import Batch, EventStore, Unsettled

_WHICH = "Which events"


events = typer.Typer(cls=CommandGroup, rich_markup_mode=None, invoke_without_command=True)
app.add_typer(events, name="events")


@events.callback()
@with_globals
def read(
    context: typer.Context,
    stream: str | None = typer.Option(
        None, "--stream", metavar="S", help="Of one stream, by version.", rich_help_panel=_WHICH
    ),
    category: str | None = typer.Option(
        None, "--category", metavar="C", help="Of one category's streams.", rich_help_panel=_WHICH
    ),
    type_: list[str] | None = typer.Option(
        None, "--type", metavar="T", help="Of these types; may be repeated.", rich_help_panel=_WHICH
    ),
    after: str | None = typer.Option(
        None, "--after", metavar="P", help="After this position.", rich_help_panel=_WHICH
    ),
    limit: int | None = typer.Option(
        None, "--limit", min=1, metavar="N", help="At most N events.", rich_help_panel=_WHICH
    ),
    follow: bool = typer.Option(
        False, "-f", "--follow", help="Go on as new events settle, until stopped."
    ),
) -> None:
    """Read events in the order of the log: a table at a terminal, NDJSON in a pipe.

    esops events --type product_item_added --limit 20
    esops events --follow | jq .type
    esops events show 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9
    """
    if context.invoked_subcommand is not None:
        return
    from esops.config import load_config
    from esops.errors import UsageError
    from esops.events import EventFilter, Position
    from esops.stores import open_store

    output = current_output(context)
    form = (
        output.format("table", "ndjson", "json", "csv")
        if output.settings.output
        else "table"
        if output.data.is_terminal
        else "ndjson"
    )
    config = load_config(output.settings.config)
    name, settings = config.store(output.settings.store)
    try:
        position = Position.parse(after) if after is not None else None
    except ValueError:
        raise UsageError(
            f"{after!r} is not a position",
            hint="Positions are printed by this command, like 42 or 490:402.",
        ) from None
    filter = EventFilter(tuple(type_ or ()), category, stream)
    stop = stop_on_signals()
    with open_store(name, settings) as store:
        try:
            short: list[Unsettled] = []
            if follow:
                batches = store.follow(position, filter, stop.is_set)
            else:
                batches = _to_the_end(store, position, filter, limit, stop.is_set, short)
            found = (event for batch in batches for event in batch.events)
            rows = (
                (_as_dict(event) for _, event in zip(range(limit), found, strict=False))
                if limit
                else map(_as_dict, found)
            )
            if form == "ndjson":
                for row in rows:
                    output.ndjson([row])
            elif form == "csv":
                output.csv(
                    rows,
                    [
                        "position",
                        "recorded_at",
                        "type",
                        "stream",
                        "version",
                        "id",
                        "data",
                        "metadata",
                    ],
                )
            elif form == "json":
                output.json(list(rows))
            else:
                _lines(output, rows)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if short:
            raise short[0]


def _to_the_end(
    store: EventStore,
    after: Position | None,
    filter: EventFilter,
    limit: int | None,
    stop: Callable[[], bool],
    short: list[Unsettled],
) -> Iterator[Batch]:
    """All that is settled; where that is not all, `short` gets the reason, to be raised when what
    was read is written out.
    """
    from esops.stores.base import settled

    until, why = settled(store, after, stop) if filter.stream is None else (None, None)
    if why is None or until is not None:
        yield from store.read_all(after, until, filter, limit)
    if why is not None:
        short.append(why)


@command(events)
def show(
    context: typer.Context,
    id: str = typer.Argument(..., help="The event's id."),
) -> int:
    """Show one event by its id, with all that the store has of it.

    esops events show 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9

    Exits with 1 where there is none of that id.
    """
    from esops.config import load_config
    from esops.stores import open_store
    from esops.stores.base import require
    from esops.term import to_json

    output = current_output(context)
    form = (
        output.format("table", "json", "ndjson")
        if output.settings.output or output.data.is_terminal
        else "json"
    )
    config = load_config(output.settings.config)
    name, settings = config.store(output.settings.store)
    with open_store(name, settings) as store:
        found = require(store, store.search, "search").find(event_id=id)
        if found.how.startswith("a scan"):
            output.say(f"looking by {found.how}")
        rows = [_as_dict(event) for event in found.events]
    if form == "ndjson":
        output.ndjson(rows)
    elif form == "json":
        output.json(rows[0] if len(rows) == 1 else rows)
    else:
        for row in rows:
            for key, value in row.items():
                output.line(
                    f"{key:<12} "
                    f"{to_json(value, indent=True) if isinstance(value, dict | list) else value}"
                )
    if not rows:
        output.say(f"store {name} has no event {id}")
    return 0 if rows else 1


def _lines(output: Any, rows: Any) -> None:
    """A line an event, in columns that stay where they are, so that a long read needs no memory."""
    from esops.term import to_json

    for row in rows:
        data = to_json(row["data"]) if "data" in row else f"<{len(row['data_base64'])} base64>"
        output.line(
            f"{row['position']:>10}  {row['recorded_at']:%Y-%m-%d %H:%M:%S}  {row['type']:<28}  "
            f"{row['stream']} @{row['version']}  {data}"
        )


def _as_dict(event: RecordedEvent) -> dict[str, Any]:
    """Under the documented field names; a payload that is no JSON comes as base64."""
    row: dict[str, Any] = {
        "id": event.id,
        "stream": event.stream,
        "version": event.version,
        "position": str(event.position),
        "type": event.type,
        "recorded_at": event.recorded_at,
    }
    try:
        row["data"] = event.json()
    except ValueError:
        row["data"] = None
        row["data_base64"] = base64.b64encode(event.data).decode()
    try:
        row["metadata"] = event.meta()
    except ValueError:
        row["metadata"] = {}
    if event.tenant:
        row["tenant"] = event.tenant
    return row
