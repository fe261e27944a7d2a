"""`esops wait`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.options import projection_names
from esops.cli.shared import duration_if_given, stop_on_signals

if TYPE_CHECKING:
    from esops.events import Position


@command(app)
def wait(
    context: typer.Context,
    projections: Annotated[
        list[str] | None, projection_names("The projections. Default: all that are built.")
    ] = None,
    *,
    position: Annotated[
        str | None,
        typer.Option(
            "--position",
            metavar="P",
            help="Wait for this position instead, such as the one that an append returned.",
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="D",
            help="Give up after so long, like 30s or 5m. Default: wait until it is so.",
        ),
    ] = None,
) -> int:
    """Wait until the versions that serve have taken in all events that are committed now.

    esops wait cart_summary
    esops wait cart_summary --timeout 30s
    esops wait cart_summary --position 1284

    Exit code 5 when the time is over, with who or what holds a version back; 6 when a version is
    of another log than its store's, so that it could never get there.
    """
    from esops.check.wait import Wait
    from esops.config import load_config
    from esops.errors import Stopped
    from esops.wording import count

    output = current_output(context)
    form = output.format("table", "json")
    config = load_config(output.settings.config)
    goal = None if position is None else _goal(position)
    patience = duration_if_given("--timeout", timeout)
    stop = stop_on_signals()
    found = Wait(config, projections or [], goal, output.say).run(patience, stop.is_set)
    if form == "json":
        output.json({"projections": [each.as_dict() for each in found]})
    else:
        for each in found:
            output.line(str(each))
    behind = [each for each in found if not each.reached]
    if behind:
        why = "stopped" if stop.is_set() else f"the time is over ({timeout})"
        raise Stopped(
            f"{why}: {len(behind)} of {count(len(found), 'projection')} "
            f"{'has' if len(behind) == 1 else 'have'} not taken in what was to be waited for",
            hint="`esops status` and `esops doctor` show what does not advance, and why.",
        )
    return 0


def _goal(position: str) -> Position:
    """The position that is waited for. Raises UsageError."""
    from esops.errors import UsageError
    from esops.events import Position

    try:
        return Position.parse(position)
    except ValueError:
        raise UsageError(
            f"--position {position!r}: this is not a position",
            hint="`esops status` and `esops events` show positions as the store has them.",
        ) from None
