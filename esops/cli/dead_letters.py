"""`esops projection dead-letters`: the events that a projection failed on and skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from esops.cli.app import command, current_output
from esops.cli.options import ProjectionName, accept_code_option, yes_option
from esops.cli.projection import projection
from esops.cli.shared import confirm

if TYPE_CHECKING:
    from esops.config import Config
    from esops.term import Output

_COLUMNS = ["version", "position", "event_id", "stream", "stream_version", "type", "at", "error"]
_DROP = ["event_id", "at", "position", "stream_version", "type"]
"""Columns that a narrow terminal leaves out, the least important first."""


@command(projection, "dead-letters")
def dead_letters(
    context: typer.Context,
    name: ProjectionName,
    action: Annotated[
        Literal["list", "replay", "discard"],
        typer.Argument(
            help="list them; replay them, after the code is fixed; or discard them: forget them, "
            "and leave the rows as they are."
        ),
    ] = "list",
    accept_code: Annotated[
        bool,
        accept_code_option(
            "Replay with changed code; the other rows stay as the old code made them."
        ),
    ] = False,
    out_of_order: Annotated[
        bool,
        typer.Option(
            "--out-of-order",
            help="Handlers and programs: replay although later events were applied before; older "
            "values may replace newer ones.",
        ),
    ] = False,
    yes: Annotated[bool, yes_option("Do not ask before they are discarded.")] = False,
) -> int:
    """List the events that a projection failed on and skipped (on_error = "dead-letter").

    esops projection dead-letters cart_summary
    esops projection dead-letters cart_summary replay --accept-code
    esops projection dead-letters cart_summary discard

    Of a fold, the rows of the skipped events are made again from all their events; handlers and
    programs get the skipped events now, after later ones: that is refused without --out-of-order.
    Exit code 1 when some cannot be replayed.
    """
    from esops.config import load_config
    from esops.readmodel.dead_letters import list_dead_letters
    from esops.wording import count

    output = current_output(context)
    config = load_config(output.settings.config)
    found = list_dead_letters(config, name)
    if action == "list":
        output.records(found, _COLUMNS, drop=_DROP, wrap=["error"])
        return 0
    output.format("table", "json")
    if action == "replay":
        return _replay(output, config, name, accept_code, out_of_order)
    if found:
        confirm(
            f"Forget {count(len(found), 'dead letter')} of {name}? Its rows stay without them.",
            yes=yes,
            what="discarding forgets which events are missing",
        )
    _discard(output, config, name)
    return 0


def _discard(output: Output, config: Config, name: str) -> None:
    from esops.rebuild.dead_letters import discard
    from esops.wording import count

    gone = discard(config, name)
    if output.as_json:
        output.json({"projection": name, "discarded": gone})
    else:
        output.line(f"{count(gone, 'dead letter')} of {name} discarded; the rows stay as they are")


def _replay(
    output: Output, config: Config, name: str, accept_code: bool, out_of_order: bool
) -> int:
    from esops.rebuild.dead_letters import replay
    from esops.wording import count

    done = replay(config, name, accept_code=accept_code, out_of_order=out_of_order, say=output.say)
    replayed, failed = sum(each.replayed for each in done), sum(len(each.failed) for each in done)
    if output.as_json:
        output.json({"projection": name, "replayed": replayed, "failed": failed})
    else:
        output.line(f"{count(replayed, 'dead letter')} of {name} replayed")
    if failed and not output.as_json:
        output.line(
            f"{count(failed, 'event')} cannot be projected still: esops projection dead-letters "
            f"{name}"
        )
    return 1 if failed else 0
