"""The events that `esops schema` looks at: which of a store, and from where on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.option_groups import option_group
from esops.cli.options import Tenant, category_option, types_option

if TYPE_CHECKING:
    from esops.schema.reading import EventSelection


@option_group()
class SelectedEvents:
    """Events of a category, of some types, of a tenant."""

    category: Annotated[str | None, category_option()] = None
    types: Annotated[list[str] | None, types_option()] = None
    tenant: Tenant = None

    def selection(self) -> EventSelection:
        """The same for a reader; the tenant is the store's business."""
        from esops.schema.reading import EventSelection

        return EventSelection(self.category, tuple(self.types or ()))


@option_group()
class ProgressOptions:
    """Where the read begins, and whether the next one begins where it ends."""

    since_last: Annotated[
        bool, typer.Option("--since-last", help="Only events since the last run.")
    ] = False
    from_start: Annotated[
        bool,
        typer.Option(
            "--from-start",
            help="With --since-last: forget what was kept, and read all events.",
        ),
    ] = False
