"""`esops status`."""

from __future__ import annotations

from typing import Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import stop_on_signals


@command(app)
def status(
    context: typer.Context,
    *,
    watch: Annotated[
        bool,
        typer.Option("-w", "--watch", help="Refresh every two seconds, until stopped."),
    ] = False,
) -> int:
    """Show stores, their processors, versions of projections, rebuilds and archive runs.

    esops status
    esops status --watch

    Exit code 1 when a store warns of something, a version or a processor is stalled, or something
    cannot be read, and 3 when a store or a database cannot be reached. The rest is shown in any
    case.
    """
    from esops.cli import status_text as text
    from esops.config import load_config
    from esops.health.status import look

    output = current_output(context)
    form = output.format("table", "json")
    config = load_config(output.settings.config)
    stop = stop_on_signals()
    while True:
        # Everything is opened each time, so a store that comes back is shown once more.
        found = look(config, output.settings.store)
        if watch and output.data.is_terminal:
            output.data.clear()
        if form == "json":
            output.json(found.as_dict())
        else:
            text.show(output, found)
        if not watch or stop.wait(2):
            # What could not be reached weighs more: everything else that is shown may be half of
            # it.
            return 0 if found.ok else 1 if found.reached else 3
