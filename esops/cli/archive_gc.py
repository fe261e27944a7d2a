"""`esops archive gc`: what killed runs left behind."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from esops.cli import archive_text as text
from esops.cli.app import command, current_output
from esops.cli.archive import ArchiveName, archive, catalog_of
from esops.cli.options import dry_run_option
from esops.cli.shared import duration


@command(archive)
def gc(
    context: typer.Context,
    *,
    archive: ArchiveName = None,
    dry_run: Annotated[bool, dry_run_option("List the files, and delete nothing.")] = False,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            metavar="D",
            help="Keep files that are younger than this: a run may still need them.",
        ),
    ] = "1h",
) -> None:
    """Delete the files that killed runs left behind.

    These are files that no manifest names. Sealed runs are never touched.

    esops archive gc --dry-run
    esops archive gc
    """
    from esops.archive.gc import collect

    output = current_output(context)
    age = duration("--older-than", older_than)
    found = collect(catalog_of(output, archive).repository, delete=not dry_run, older_than=age)
    if output.format("table", "json") == "json":
        output.json(asdict(found))
    else:
        text.garbage(output, found)
