"""What `esops schema list` and `show` have in common: all events are read once, a page is written,
and what was found is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from esops.cli.app import current_output
from esops.cli.option_groups import option_group
from esops.cli.options import Tenant, category_option
from esops.cli.shared import JobProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esops.config import Config
    from esops.schema.closing import ClosingRule
    from esops.schema.history import TypeHistory
    from esops.schema.inventory import Inventory
    from esops.schema.reading import Progress
    from esops.stores.base import EventStore
    from esops.term import Output

    _Found = TypeVar("_Found", Inventory, TypeHistory)

Category = Annotated[str | None, category_option("Look only at streams of this category.")]


@option_group()
class InventoryOptions:
    """Whose events are read, and which streams count as open."""

    tenant: Tenant = None
    closed_by: Annotated[
        list[str] | None,
        typer.Option(
            "--closed-by",
            metavar="TYPE",
            help="A type of event after which its stream is closed; can be given several times. "
            "Those of policies and of [audit] count, too.",
        ),
    ] = None

    def rule(self, output: Output, config: Config) -> ClosingRule:
        """What closes the streams of the store that was asked for."""
        from esops.schema.closing import closing_rule

        name, settings = config.store(output.settings.store)
        return closing_rule(config, {name, *settings.sources(name)}, self.closed_by or ())

    def store(self, output: Output, config: Config) -> EventStore:
        """The store that was asked for."""
        from esops.stores.one_tenant import open_for

        name, settings = config.store(output.settings.store)
        return open_for(name, settings, self.tenant)


def begin(context: typer.Context, report: Path | None) -> tuple[Output, Config]:
    """The output and the configuration. Raises UsageError before the long read."""
    from esops.config import load_config
    from esops.term.result_file import checked

    output = current_output(context)
    config = load_config(output.settings.config)
    output.format("table", "json", "ndjson", "csv")
    checked(report, "--report")
    return output, config


def read(
    output: Output,
    config: Config,
    options: InventoryOptions,
    find: Callable[[EventStore, ClosingRule, Progress], _Found],
) -> _Found:
    """What `find` finds in the events, with a progress line."""
    rule = options.rule(output, config)
    progress = JobProgress(output)
    try:
        with options.store(output, config) as store:
            return find(store, rule, lambda done, total: progress.update("events", done, total))
    finally:
        progress.close()


def end(output: Output, found: Inventory | TypeHistory, report: Path | None) -> None:
    """Write the page, if there is to be one, and say what was found. Raises what kept events
    from being read.
    """
    from esops.cli import schema_inventory_text as text
    from esops.schema.inventory import Inventory

    if report is not None:
        from esops.schema.report import write_history, write_inventory

        if isinstance(found, Inventory):
            write_inventory(report, found)
        else:
            write_history(report, found)
        output.say(f"written: {report}")
    if isinstance(found, Inventory):
        text.inventory(output, found)
        short = found.short
    else:
        text.history(output, found)
        short = found.inventory.short
    if short is not None:
        raise short
