"""`esops demo`: the guided tour, and a shop to play with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import app, command, current_output
from esops.cli.command import CommandGroup

if TYPE_CHECKING:
    from esops.term import Output

demo = typer.Typer(cls=CommandGroup, rich_markup_mode=None, invoke_without_command=True)
app.add_typer(demo, name="demo")


@demo.callback()
def guided_tour(context: typer.Context) -> int:
    """Run the guided tour: rebuild a live shop's read model under load.

    esops demo

    It needs no database: an embedded Postgres runs in ./.esops-demo, and is removed at the end.
    """
    if context.invoked_subcommand is not None:
        return 0
    from pathlib import Path

    from esops.demo.tour import tour

    output = current_output(context)
    output.format("table", "json")
    figures = tour(
        Path.cwd(),
        output.say,
        lambda text: output.say(f"\n== {text}", "bold"),
        aside=output.as_json,
    )
    if output.as_json:
        output.json(figures)
    else:
        _report(output, figures)
    return (
        0 if not (figures["failed_reads"] or figures["steps_back"] or figures["wrong_carts"]) else 1
    )


@command(demo)
def up(context: typer.Context) -> None:
    """Start a shop and leave it running, to play with.

    esops demo up
    """
    from pathlib import Path

    from esops.demo.sandbox import Sandbox

    output = current_output(context)
    sandbox = Sandbox(Path.cwd())
    output.say("Starting the shop. This takes some seconds.")
    sandbox.up()
    output.line(
        f"The shop is running in {sandbox.folder.name}/: a writer places orders, and `esops run` "
        "keeps cart_summary fresh."
    )
    output.line(
        f"Try: cd {sandbox.folder.name}; esops projection show cart_summary; esops events --follow"
    )
    output.line(
        "Fix shop_projections.py (it ignores removed items), then: esops rebuild cart_summary "
        "--blue-green"
    )
    output.line(f"Look inside with: psql {sandbox.dsn!r}. End it with: esops demo down")


@command(demo)
def down(context: typer.Context) -> None:
    """Stop the demo and remove its folder.

    esops demo down
    """
    from pathlib import Path

    from esops.demo.sandbox import Sandbox

    output = current_output(context)
    there = Sandbox(Path.cwd()).down()
    output.line("The demo is gone." if there else "There is no demo here.")


@command(demo)
def status(context: typer.Context) -> int:
    """Show whether a demo is running, and which of its processes.

    esops demo status

    Exit code 1 when there is no demo.
    """
    from pathlib import Path

    from esops.demo.sandbox import Sandbox

    output = current_output(context)
    sandbox = Sandbox(Path.cwd())
    running = {"postgres": sandbox.server.running, **dict.fromkeys(("esops run", "writer"), False)}
    # All names first, so that what is not running is shown as such.
    running |= dict.fromkeys(sandbox.running(), True)
    if output.format("table", "json") == "json":
        output.json({"folder": str(sandbox.folder), "up": running["postgres"], "running": running})
    else:
        output.table("", ["what", "running"], list(running.items()))
        if running["postgres"]:
            output.line(f"psql {sandbox.dsn!r}")
    return 0 if running["postgres"] else 1


def _report(output: Output, figures: dict[str, Any]) -> None:
    rows = [
        ("events written", f"{figures['events_written']:,}"),
        ("slowest append", f"{figures['slowest_append_seconds'] * 1000:.0f} ms"),
        ("reads", f"{figures['reads']:,}"),
        ("failed reads", figures["failed_reads"]),
        ("reads that went back in time", figures["steps_back"]),
        ("slowest read", f"{figures['slowest_read_seconds'] * 1000:.0f} ms"),
        ("carts in the read model", f"{figures['carts']:,}"),
        ("carts that contradict the events", figures["wrong_carts"]),
    ]
    output.line()
    output.table("", ["what happened", ""], rows)
    output.line()
    output.line("To play with it: esops demo up")
    output.line("For your own database: esops docs which-tutorial")
