"""`esops projection step`: what each event makes of one row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esops.cli.app import command
from esops.cli.option_groups import option_group
from esops.cli.options import ProjectionName, limit_option, report_option
from esops.cli.projection import opened, projection
from esops.cli.shared import JobProgress, archived_streams_named, stop_on_signals


@option_group()
class StepOptions:
    """Which steps of the row are shown, and of which code."""

    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="VERSION",
            help="Stop after this version of the stream; of a key of several streams, after this "
            "position of the log.",
        ),
    ] = None
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="MODULE:FUNCTION",
            help="Run this code beside that of esops.toml, and show at which event they part.",
        ),
    ] = None
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            metavar="NAME",
            help="Of a projection with several tables, the one whose row it is; default: the "
            "first.",
        ),
    ] = None
    limit: Annotated[
        int,
        limit_option(
            "Keep the steps of N events: of a row with more, the first and the last ones.", min=2
        ),
    ] = 10_000
    report: Annotated[Path | None, report_option("Write the steps as a page to go through.")] = None


@command(projection)
def step(
    context: typer.Context,
    name: ProjectionName,
    key: Annotated[
        str,
        typer.Argument(
            help="The key of the row. One of several columns is a JSON object of them, as samples "
            'of the verification show it: \'{"tenant": "acme", "cart_id": "c-1"}\'.'
        ),
    ],
    options: StepOptions,
) -> int:
    """Show a row before and after each of its events: what changed, how long the code took, and
    where it raised.

    esops projection step cart_summary shopping_cart-2b2210d1
    esops projection step cart_summary shopping_cart-2b2210d1 --report step.html
    esops projection step cart_summary shopping_cart-2b2210d1 --python shop.next:cart_summary

    Nothing is written. Events that became dead letters are shown as skipped. Where a function makes
    the key, and for handlers, programs and statements, all events of the log are read.

    Exit code 1 when the code fails on an event, or when old and new code part.
    """
    from esops.check.step import step as run
    from esops.check.steps import StepRequest
    from esops.cli import step_text
    from esops.term.result_file import checked

    output, config = opened(context)
    form = output.format("table", "json")
    checked(options.report, "--report")
    request = StepRequest(
        name, key, options.at, options.python, output.settings.store, options.limit, options.table
    )
    asked, progress = stop_on_signals(), JobProgress(output)
    try:
        with archived_streams_named(config):
            found = run(
                config,
                request,
                stop=asked.is_set,
                say=output.say,
                progress=lambda read: progress.update("reading events", read, None),
            )
    finally:
        progress.close()
    if options.report is not None:
        from esops.check.step_page import write_page

        write_page(options.report, found)
        output.say(f"written: {options.report}")
    if form == "json":
        output.json(found.as_dict())
    else:
        step_text.show(output, found)
    return 1 if found.findings else 0
