"""`esops history`."""

from __future__ import annotations

from typing import Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.completion import complete_projection
from esops.cli.options import since_option
from esops.cli.shared import duration_if_given

_COLUMNS = ["at", "who", "host", "command", "subject", "options", "result", "exit_code"]


@command(app)
def history(
    context: typer.Context,
    projection: Annotated[
        str | None,
        typer.Option(
            "--projection",
            metavar="NAME",
            help="Only what was done with this projection.",
            autocompletion=complete_projection,
        ),
    ] = None,
    since: Annotated[str | None, since_option("Only what began in this time, such as 24h.")] = None,
    last: Annotated[int, typer.Option("--last", min=1, metavar="N", help="The newest N.")] = 50,
) -> int:
    """Show who did what with esops here, and how it ended; the newest last.

    esops history
    esops history --projection cart_summary --since 7d

    Shown is what writes: rebuilds, switches, erasures, archive runs and the like.
    Exit code 1 when a database or archive cannot be read, so that something may be missing.
    """
    from esops.actions.history import history as read
    from esops.config import load_config

    output = current_output(context)
    form = output.format("table", "json", "ndjson", "csv")
    span = duration_if_given("--since", since)
    found = read(load_config(output.settings.config), projection, since=span, last=last)
    if form == "json":
        output.json(found.as_dict())
    elif form == "table" and not found.actions:
        output.line("Nothing is recorded" + (" of this time." if since else "."))
    else:
        rows = [each.as_dict() for each in found.actions]
        output.records(rows, _COLUMNS, drop=["options", "host", "exit_code", "who"])
    for note in found.notes:
        output.warn(note) if not found.complete else output.say(note)
    return 0 if found.complete else 1
