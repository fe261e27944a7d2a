"""`esops run`."""

from __future__ import annotations

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import complete_projection, stop_on_signals


@command(app)
def run(
    context: typer.Context,
    projections: list[str] | None = typer.Argument(
        None, help="Which projections; left out: all.", autocompletion=complete_projection
    ),
    until_caught_up: bool = typer.Option(False, "--until-caught-up", help="Stop when all have reached what was settled."),
) -> int:
    """Keep read models fresh: follow every version that is not retired, until stopped.

    esops run
    esops run cart_summary --until-caught-up
    """
    from esops.config import load_config
    from esops.projections.host import Host

    output = current_output(context, talks=False)
    config = load_config(output.settings.config)
    host = Host(config, projections or [], output.settings, until_caught_up)
    output.say("following; stop with Ctrl-C or SIGTERM" if not until_caught_up else "catching up")
    host.run(stop_on_signals())
    failed = [each for each in host.ended if each.exit_code != 0]
    if until_caught_up:
        output.say(f"{len(host.ended) - len(failed)} versions are caught up" + (f", {len(failed)} failed" if failed else ""))
    return max((each.exit_code for each in failed), default=0)
