"""`esops status`: one screen of truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import stop_on_signals

if TYPE_CHECKING:
    from esops.health.status import Status
    from esops.term import Output


@command(app)
def status(
    context: typer.Context,
    watch: bool = typer.Option(
        False, "--watch", help="Look again every two seconds, until stopped."
    ),
) -> int:
    """Show stores, their processors, the versions of all projections, and rebuilds on one screen.

    esops status
    esops status --output json

    Exits with 3 where a store or a read model cannot be reached, after showing the rest.
    """
    from esops.config import load_config
    from esops.health.status import look

    output = current_output(context)
    form = output.format("table", "json")
    config = load_config(output.settings.config)
    stop = stop_on_signals()
    while True:
        found = look(config, output.settings.store)
        if watch and output.data.is_terminal:
            output.data.clear()
        if form == "json":
            output.json(found.as_dict())
        else:
            _show(output, found)
        if not watch or stop.wait(2):
            return 0 if found.reached else 3


def _show(output: Output, found: Status) -> None:
    _section(output, "stores", found.stores, ["store", "backend", "layout", "head", "ok", "detail"])
    _section(
        output,
        "processors",
        found.processors,
        ["store", "name", "position", "lag_events", "lag_seconds", "state"],
    )
    _section(
        output,
        "projections",
        found.projections,
        [
            "projection",
            "version",
            "state",
            "position",
            "lag_events",
            "lag_seconds",
            "rows",
            "followed_by",
        ],
    )
    _section(
        output,
        "rebuilds",
        found.rebuilds,
        ["rebuild", "projection", "state", "from_version", "to_version", "updated_at"],
    )
    _section(
        output,
        "archives",
        found.archives,
        ["archive", "policy", "run", "state", "streams", "events", "removed", "sealed_at"],
    )


def _section(output: Output, title: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    if rows:
        output.table(title, columns, [[row.get(column) for column in columns] for row in rows])
        output.line()
