"""`esops demo`: the guided tour, and a shop to play with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import app, command, current_output, with_globals
from esops.cli.help import CommandGroup

if TYPE_CHECKING:
    from esops.term import Output

demo = typer.Typer(cls=CommandGroup, rich_markup_mode=None, invoke_without_command=True)
app.add_typer(demo, name="demo")


@demo.callback()
@with_globals
def tour(context: typer.Context) -> int:
    """Take the guided tour: a live shop's read model, rebuilt under load, on an embedded Postgres
    in ./.esops-demo.

    esops demo
    """
    if context.invoked_subcommand is not None:
        return 0
    from pathlib import Path

    from esops.demo.tour import tour as take

    output = current_output(context)
    output.format("table", "json")
    figures = take(
        Path.cwd(),
        output.say,
        lambda text: output.say(f"\n== {text}", "bold"),
        aside=output.as_json,
    )
    if output.as_json:
        output.json(figures)
    else:
        _tell(output, figures)
    return (
        0 if not (figures["failed_reads"] or figures["steps_back"] or figures["wrong_carts"]) else 1
    )


@command(demo)
def up(context: typer.Context) -> None:
    """Bring a shop up and leave it running, to play with.

    esops demo up
    """
    from pathlib import Path

    from esops.demo.sandbox import Place

    output = current_output(context)
    place = Place(Path.cwd())
    output.say("making the shop: a moment, please")
    place.up()
    output.line(
        f"The shop is up in {place.folder.name}/: a writer places orders, `esops run` keeps "
        "cart_summary fresh."
    )
    output.line(
        f"Try: cd {place.folder.name}; esops projection show cart_summary; esops events --follow"
    )
    output.line(
        "Mend shop_projections.py (it forgets removed items) and: esops rebuild cart_summary "
        "--blue-green"
    )
    output.line(f"psql {place.dsn!r} looks inside; `esops demo down` here ends it.")


@command(demo)
def down(context: typer.Context) -> None:
    """End the demo and remove its folder.

    esops demo down
    """
    from pathlib import Path

    from esops.demo.sandbox import Place

    output = current_output(context)
    there = Place(Path.cwd()).down()
    output.line("The demo is gone." if there else "There is no demo here.")


@command(demo)
def status(context: typer.Context) -> int:
    """Say whether a demo is up, and what is running.

    esops demo status
    """
    from pathlib import Path

    from esops.demo.sandbox import Place

    output = current_output(context)
    place = Place(Path.cwd())
    running = {"postgres": place.server.running, **dict.fromkeys(("esops run", "writer"), False)}
    running |= dict.fromkeys(place.running(), True)
    if output.format("table", "json") == "json":
        output.json({"folder": str(place.folder), "up": running["postgres"], "running": running})
    else:
        output.table("", ["what", "running"], list(running.items()))
        if running["postgres"]:
            output.line(f"psql {place.dsn!r}")
    return 0 if running["postgres"] else 1


def _tell(output: Output, figures: dict[str, Any]) -> None:
    rows = [
        ("events written meanwhile", f"{figures['events_written']:,}"),
        ("slowest append", f"{figures['slowest_append_seconds'] * 1000:.0f} ms"),
        ("reads meanwhile", f"{figures['reads']:,}"),
        ("failed reads", figures["failed_reads"]),
        ("reads that went back in time", figures["steps_back"]),
        ("slowest read", f"{figures['slowest_read_seconds'] * 1000:.0f} ms"),
        ("carts in the read model", f"{figures['carts']:,}"),
        ("carts that are not what the events say", figures["wrong_carts"]),
    ]
    output.line()
    output.table("", ["what happened", ""], rows)
    output.line(
        "\nPlay on: `esops demo up`. Your own database: esops docs rebuild-without-downtime"
    )
