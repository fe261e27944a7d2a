"""`esops projection rename`: the registry follows a new name in esops.toml."""

from __future__ import annotations

from typing import Annotated

import typer

from esops.cli.app import command
from esops.cli.completion import complete_projection
from esops.cli.options import dry_run_option, yes_option
from esops.cli.projection import opened, projection
from esops.cli.shared import confirm


@command(projection)
def rename(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="The name that the registry has.")],
    new: Annotated[
        str, typer.Argument(help="The name in esops.toml.", autocompletion=complete_projection)
    ],
    yes: Annotated[bool, yes_option()] = False,
    dry_run: Annotated[bool, dry_run_option()] = False,
) -> None:
    """Give a projection the name that it has in esops.toml, with all its versions.

    esops projection rename cart_summary carts

    Stop `esops run`, rename the section in esops.toml, run this, and start `esops run` again.
    Versions, checkpoints, the journal and dead letters move in one transaction; tables keep their
    names.
    """
    from esops.rebuild.renaming import plan
    from esops.wording import count

    output, config = opened(context)
    found = plan(config, old, new)
    if output.format("table", "json") == "table":
        output.line(
            f"rename {old} to {new} in the registry, with {count(len(found.versions), 'version')}"
        )
        for each in found.versions:
            output.line(f"  v{each.version} ({each.state})")
        for statement in found.statements if dry_run else ():
            output.line(f"{statement};")
    if not dry_run:
        confirm(
            f"Rename {old} to {new}?",
            yes=yes,
            what="renaming changes the registry",
            hint="Add --yes, or --dry-run to see the statements only.",
        )
        found.run()
    if output.as_json:
        output.json({**found.as_dict(), "dry_run": dry_run})
    elif not dry_run:
        output.line(f"{old} is {new} now; start `esops run` again")
