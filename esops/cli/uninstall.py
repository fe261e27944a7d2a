"""`esops uninstall`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.options import dry_run_option, yes_option
from esops.cli.shared import confirm, stop_on_signals

if TYPE_CHECKING:
    from esops.uninstall.leftover import Leftover
    from esops.uninstall.run import Uninstalling


@command(app)
def uninstall(
    context: typer.Context,
    keep_older: Annotated[
        bool,
        typer.Option(
            "--keep-older",
            help="Leave the tables of versions that nobody reads, under the names that they have.",
        ),
    ] = False,
    unnamed: Annotated[
        bool,
        typer.Option("--unnamed", help="Also of projections that the configuration does not name."),
    ] = False,
    dry_run: Annotated[bool, dry_run_option()] = False,
    yes: Annotated[bool, yes_option()] = False,
) -> None:
    """Remove from databases what esops has made there; what serves stays, as plain tables.

    esops uninstall --dry-run
    esops uninstall

    A view that readers use is replaced by the table of the version that serves, under the same
    name. Tables of older versions and the schema esops are dropped. Archives are never deleted.
    """
    from esops.actions import current
    from esops.config import load_config
    from esops.uninstall.leftover import UninstallOptions
    from esops.uninstall.run import plan

    output = current_output(context)
    config = load_config(output.settings.config)
    as_table = output.format("table", "json") == "table"
    found = plan(config, UninstallOptions(keep_older, unnamed))
    if as_table:
        for line in _lines(found, statements=dry_run):
            output.line(line)
    if not dry_run and not found.nothing:
        confirm(
            "Remove this? Nothing brings older versions and esops' records back.",
            yes=yes,
            what="uninstalling drops tables",
            hint="Add --yes, or --dry-run to see the statements only.",
        )
        current.in_all_archives(config)
        found.run(output.say, stop_on_signals().is_set)
    if not as_table:
        output.json({**found.as_dict(), "removed": not dry_run, "dry_run": dry_run})
    elif not dry_run and not found.nothing:
        output.line(
            "esops is gone from the databases above. To remove the program: pipx uninstall esops"
        )


def _lines(found: Uninstalling, *, statements: bool) -> list[str]:
    done: list[str] = []
    for each in found.databases:
        done += _of_database(each)
        done += [f"  {statement};" for statement in each.statements if statements]
    done += [f"stays: {each['what']} ({each['why']})" for each in found.stays]
    return done


def _of_database(each: Leftover) -> list[str]:
    where = f"database {each.database} ({', '.join(each.of)})"
    if each.nothing:
        return [f"{where}: nothing of esops is in it"]
    done = [f"{where}:"]
    for one in each.serving:
        version = f"v{one.version.version} of {one.version.projection}"
        done += [f"  {name} becomes a table: that of {version}" for name in one.views]
        done += [f"  {name} stays: it is the table of {version} already" for name in one.tables]
        done += [f"  carried over: {text}" for text in one.carried]
    for old in each.older:
        tables = ", ".join(".".join(table) for table in old.tables.values())
        done.append(f"  dropped: {tables} (v{old.version} of {old.projection}, {old.state})")
    done += [f"  stays: {text}" for text in each.kept]
    done.append(f"  dropped: the schema esops with {len(each.tables)} tables ({each.size:,} bytes)")
    done += [f"  files of a load that was killed, to be deleted: {path}" for path in each.spills]
    return done
