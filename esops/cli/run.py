"""`esops run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import complete_projection, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Sequence


@command(app)
def run(
    context: typer.Context,
    projections: list[str] | None = typer.Argument(
        None, help="Which projections; left out: all.", autocompletion=complete_projection
    ),
    until_caught_up: bool = typer.Option(
        False, "--until-caught-up", help="Stop when all have reached what was settled."
    ),
) -> int:
    """Keep read models fresh: follow every version that is not retired, until stopped.

    esops run
    esops run cart_summary --until-caught-up
    """
    from esops.config import load_config
    from esops.errors import Stopped
    from esops.rebuild.lifecycle import retire_due
    from esops.running.host import Host

    output = current_output(context, talks=False)
    config = load_config(output.settings.config)
    host = Host(config, projections or [], output.settings, until_caught_up)
    output.say("following; stop with Ctrl-C or SIGTERM" if not until_caught_up else "catching up")

    def retire(names: Sequence[str]) -> None:
        for version in retire_due(config, names):
            output.say(
                f"{version.projection}: retired v{version.version}, as --retire-after asked for"
            )

    stop = stop_on_signals()
    host.run(stop, retire)
    failed = [each for each in host.ended if each.exit_code != 0]
    if until_caught_up:
        left = sum(each.left for each in host.ended)
        parts = [f"{len(host.ended) - len(failed) - left} versions are caught up"]
        parts += [f"{left} left as they are"] if left else []
        parts += [f"{len(failed)} are not"] if failed else []
        output.say(", ".join(parts))
        if stop.is_set():
            raise Stopped(
                "stopped before all versions were caught up",
                hint="Run it again: each goes on from its checkpoint.",
            )
    return max((each.exit_code for each in failed), default=0)
