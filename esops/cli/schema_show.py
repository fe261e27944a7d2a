"""`esops schema show`."""

from __future__ import annotations

from pathlib import Path

import typer

from esops.cli.app import command, current_output
from esops.cli.schema import schema
from esops.cli.schema_list import CATEGORY, CLOSED_BY, opened, rule_of
from esops.cli.shared import TENANT, JobProgress


@command(schema)
def show(
    context: typer.Context,
    type_: str = typer.Argument(
        ..., metavar="TYPE", help="The type of event, with or without its version."
    ),
    category: str | None = CATEGORY,
    tenant: str | None = TENANT,
    closed_by: list[str] | None = CLOSED_BY,
    show_values: bool = typer.Option(
        False,
        "--show-values",
        help="Show new values of fields with few values; they may be personal data.",
    ),
    report: Path | None = typer.Option(
        None, "--report", metavar="FILE.html", help="Also write a page with plots over time."
    ),
    shape: str | None = typer.Option(
        None,
        "--shape",
        metavar="HASH",
        help="Show only the fields of this shape, and the open streams that have it; 4 digits or "
        "more are enough.",
    ),
    every: bool = typer.Option(
        False, "--all", help="With --shape: show all of these streams, not just the first 20."
    ),
) -> None:
    """Show one type's shapes over time, and the first event of each change of a field.

    A field was added or removed, got a type that it never had, became null or absent for the first
    time, or got a new value where it has few. Every event of the store is read once.

    esops schema show product_item_added
    esops schema show product_item_added --report product_item_added.html
    esops schema show product_item_added --shape 6d095cebf224
    """
    from esops.cli import schema_inventory_text as text
    from esops.config import load_config
    from esops.schema.history import history_of
    from esops.term.result_file import checked

    output = current_output(context)
    config = load_config(output.settings.config)
    output.format("table", "json", "ndjson", "csv")  # refuses others before the long read
    checked(report, "--report")
    if shape is not None or every:
        from esops.cli.schema_shape import AskedShape, show_shape

        asked = AskedShape(type_, shape, category, tenant, closed_by, every=every)
        show_shape(output, asked, report=report, show_values=show_values)
        return
    rule = rule_of(output, config, closed_by)
    progress = JobProgress(output)
    try:
        with opened(output, config, tenant) as store:
            found = history_of(
                store,
                type_,
                rule,
                category=category,
                show_values=show_values,
                progress=lambda done, total: progress.update("events", done, total),
            )
    finally:
        progress.close()
    if report is not None:
        from esops.schema.report import write_history

        write_history(report, found)
        output.say(f"written: {report}")
    text.history(output, found)
    if found.inventory.short is not None:
        raise found.inventory.short
