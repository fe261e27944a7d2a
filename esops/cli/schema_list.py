"""`esops schema list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esops.cli import schema_inventory
from esops.cli.app import command
from esops.cli.options import report_option, types_option
from esops.cli.schema import schema
from esops.cli.schema_inventory import Category, InventoryOptions


@command(schema, "list")
def list_(
    context: typer.Context,
    category: Category = None,
    types: Annotated[
        list[str] | None,
        types_option(
            "Show only this type of event, with or without its version; can be given several "
            "times.",
            metavar="TYPE",
        ),
    ] = None,
    *,
    options: InventoryOptions,
    report: Annotated[
        Path | None, report_option("Also write a page with a plot of each type.")
    ] = None,
) -> None:
    """Show each type of event with its versions and shapes, and who still has the old ones.

    A version is one that a type's name ends in, or that the metadata names. A shape is the set of
    paths and JSON types of a payload. Every event is read once.

    esops schema list
    esops schema list --category order --closed-by order_closed
    esops schema list --output json | jq '.types[].versions[]'
    """
    from esops.schema.history import inventory_of

    output, config = schema_inventory.begin(context, report)
    found = schema_inventory.read(
        output,
        config,
        options,
        lambda store, rule, progress: inventory_of(
            store,
            rule,
            category=category,
            types=tuple(types or ()),
            by_day=report is not None,
            progress=progress,
        ),
    )
    schema_inventory.end(output, found, report)
