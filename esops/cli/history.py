"""`esops history`."""

from __future__ import annotations

import typer

from esops.cli.app import app, command, current_output
from esops.cli.completion import complete_projection
from esops.cli.shared import duration

_COLUMNS = ["at", "who", "host", "command", "subject", "options", "result", "exit_code"]


@command(app)
def history(
    context: typer.Context,
    projection: str | None = typer.Option(
        None,
        "--projection",
        metavar="NAME",
        help="Only what was done with this projection.",
        autocompletion=complete_projection,
    ),
    since: str | None = typer.Option(
        None, "--since", metavar="D", help="Only what began in this time, such as 24h."
    ),
    last: int = typer.Option(50, "--last", min=1, metavar="N", help="The newest N."),
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
    span = None if since is None else duration("--since", since)
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
