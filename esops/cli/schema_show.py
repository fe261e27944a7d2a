"""`esops schema show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esops.cli import schema_inventory
from esops.cli.app import command
from esops.cli.option_groups import option_group
from esops.cli.options import report_option
from esops.cli.schema import schema
from esops.cli.schema_inventory import Category, InventoryOptions


@option_group()
class ShapeOptions:
    """The one shape that is shown, where not all are."""

    shape: Annotated[
        str | None,
        typer.Option(
            "--shape",
            metavar="HASH",
            help="Show only the fields of this shape, and the open streams that have it; 4 digits "
            "or more are enough.",
        ),
    ] = None
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="With --shape: show all of these streams, not just the first 20.",
        ),
    ] = False


@command(schema)
def show(
    context: typer.Context,
    type_: Annotated[
        str,
        typer.Argument(metavar="TYPE", help="The type of event, with or without its version."),
    ],
    category: Category = None,
    *,
    options: InventoryOptions,
    show_values: Annotated[
        bool,
        typer.Option(
            "--show-values",
            help="Show new values of fields with few values; they may be personal data.",
        ),
    ] = False,
    report: Annotated[Path | None, report_option("Also write a page with plots over time.")] = None,
    one: ShapeOptions,
) -> None:
    """Show one type's shapes over time, and the first event of each change of a field.

    A field was added or removed, got a type that it never had, became null or absent for the first
    time, or got a new value where it has few. Every event of the store is read once.

    esops schema show product_item_added
    esops schema show product_item_added --report product_item_added.html
    esops schema show product_item_added --shape 6d095cebf224
    """
    from esops.schema.history import history_of

    output, config = schema_inventory.begin(context, report)
    if one.shape is not None or one.every:
        from esops.cli.schema_shape import AskedShape, show_shape

        asked = AskedShape(type_, one.shape, category, options, every=one.every)
        show_shape(output, config, asked, report=report, show_values=show_values)
        return
    found = schema_inventory.read(
        output,
        config,
        options,
        lambda store, rule, progress: history_of(
            store, type_, rule, category=category, show_values=show_values, progress=progress
        ),
    )
    schema_inventory.end(output, found, report)
