"""`esops schema list`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import command, current_output
from esops.cli.schema import schema
from esops.cli.shared import TENANT, JobProgress

if TYPE_CHECKING:
    from esops.config import Config
    from esops.schema.closing import ClosingRule
    from esops.stores.base import EventStore
    from esops.term import Output

CATEGORY: Any = typer.Option(
    None, "--category", metavar="C", help="Look only at streams of this category."
)
CLOSED_BY: Any = typer.Option(
    None,
    "--closed-by",
    metavar="TYPE",
    help="A type of event after which its stream is closed; can be given several times. Those of "
    "policies and of [audit] count, too.",
)


@command(schema, "list")
def list_(
    context: typer.Context,
    category: str | None = CATEGORY,
    types: list[str] | None = typer.Option(
        None,
        "--type",
        metavar="TYPE",
        help="Show only this type of event, with or without its version; can be given several "
        "times.",
    ),
    tenant: str | None = TENANT,
    closed_by: list[str] | None = CLOSED_BY,
    report: Path | None = typer.Option(
        None, "--report", metavar="FILE.html", help="Also write a page with a plot of each type."
    ),
) -> None:
    """Show each type of event with its versions and shapes, and who still has the old ones.

    A version is one that a type's name ends in, or that the metadata names. A shape is the set of
    paths and JSON types of a payload. Every event is read once.

    esops schema list
    esops schema list --category order --closed-by order_closed
    esops schema list --output json | jq '.types[].versions[]'
    """
    from esops.cli import schema_inventory_text as text
    from esops.config import load_config
    from esops.schema.history import inventory_of
    from esops.term.result_file import checked

    output = current_output(context)
    config = load_config(output.settings.config)
    output.format("table", "json", "ndjson", "csv")  # refuses others before the long read
    checked(report, "--report")
    rule = rule_of(output, config, closed_by)
    progress = JobProgress(output)
    try:
        with opened(output, config, tenant) as store:
            found = inventory_of(
                store,
                rule,
                category=category,
                types=tuple(types or ()),
                by_day=report is not None,
                progress=lambda done, total: progress.update("events", done, total),
            )
    finally:
        progress.close()
    if report is not None:
        from esops.schema.report import write_inventory

        write_inventory(report, found)
        output.say(f"written: {report}")
    text.inventory(output, found)
    if found.short is not None:
        raise found.short


def rule_of(output: Output, config: Config, closed_by: list[str] | None) -> ClosingRule:
    """What closes the streams of the store that was asked for."""
    from esops.schema.closing import closing_rule

    name, settings = config.store(output.settings.store)
    return closing_rule(config, {name, *settings.sources(name)}, closed_by or ())


def opened(output: Output, config: Config, tenant: str | None) -> EventStore:
    """The store that was asked for."""
    from esops.stores.one_tenant import open_for

    name, settings = config.store(output.settings.store)
    return open_for(name, settings, tenant)
