"""`esops projection dead-letters`: the events that a projection failed on and skipped."""

from __future__ import annotations

from typing import Literal

import typer

from esops.cli.app import command, current_output
from esops.cli.completion import complete_projection
from esops.cli.projection import projection
from esops.cli.shared import confirm

_COLUMNS = ["version", "position", "event_id", "stream", "stream_version", "type", "at", "error"]
_DROP = ["event_id", "at", "position", "stream_version", "type"]
"""Columns that a narrow terminal leaves out, the least important first."""


@command(projection, "dead-letters")
def dead_letters(
    context: typer.Context,
    name: str = typer.Argument(..., help="The projection.", autocompletion=complete_projection),
    action: Literal["list", "discard"] = typer.Argument(
        "list", help="list them, or discard them: forget them, and leave the rows as they are."
    ),
    yes: bool = typer.Option(False, "-y", "--yes", help="Do not ask before they are discarded."),
) -> None:
    """List the events that a projection failed on and skipped (on_error = "dead-letter").

    esops projection dead-letters cart_summary
    esops projection dead-letters cart_summary discard
    """
    from esops.config import load_config
    from esops.readmodel.dead_letters import list_dead_letters
    from esops.rebuild.dead_letters import discard
    from esops.wording import count

    output = current_output(context)
    config = load_config(output.settings.config)
    found = list_dead_letters(config, name)
    if action == "list":
        output.records(found, _COLUMNS, drop=_DROP, wrap=["error"])
        return
    form = output.format("table", "json")
    if found:
        confirm(
            f"Forget {count(len(found), 'dead letter')} of {name}? Its rows stay without them.",
            yes=yes,
            what="discarding forgets which events are missing",
        )
    gone = discard(config, name)
    if form == "json":
        output.json({"projection": name, "discarded": gone})
    else:
        output.line(f"{count(gone, 'dead letter')} of {name} discarded; the rows stay as they are")
