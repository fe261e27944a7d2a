"""`esops archive list`, `show` and `verify`: the runs of an archive, and whether they are whole."""

from __future__ import annotations

from typing import Annotated

import typer

from esops.cli import archive_text as text
from esops.cli.app import command, current_output
from esops.cli.archive import ArchiveName, RunName, archive, catalog_of
from esops.cli.completion import complete_run
from esops.cli.option_groups import option_group
from esops.cli.shared import JobProgress


@command(archive, "list")
def list_(context: typer.Context, archive: ArchiveName = None) -> None:
    """List the runs of an archive, the newest last.

    esops archive list
    """
    from esops.archive_format.summaries import summaries

    output = current_output(context)
    output.records(
        summaries(catalog_of(output, archive)),
        [
            "run",
            "policy",
            "store",
            "state",
            "streams",
            "events",
            "remove",
            "removed_events",
            "stored_bytes",
            "sealed_at",
        ],
        drop=["stored_bytes", "sealed_at", "store", "streams", "policy", "events"],
    )


@command(archive)
def show(
    context: typer.Context,
    run: RunName,
    *,
    archive: ArchiveName = None,
    streams: Annotated[
        bool, typer.Option("--streams", help="List the run's streams, one a line.")
    ] = False,
) -> None:
    """Show a run: what was asked for, what it holds, and what was removed.

    esops archive show 20260301T020000Z-old-carts-1f2e3d
    esops archive show 20260301T020000Z-old-carts-1f2e3d --streams
    """
    from esops.archive.catalog_view import STREAM_COLUMNS, described, stream_rows

    output = current_output(context)
    found = catalog_of(output, archive).run(run)
    if streams:
        form = output.format("table", "json", "ndjson", "csv")
        if form == "table":
            # A run may have millions of streams: a table would need all of them in memory.
            text.streams(output, stream_rows(found))
        else:
            output.records(stream_rows(found), STREAM_COLUMNS)
        return
    if output.format("table", "json") == "json":
        output.json(described(found))
    else:
        text.run(output, described(found))


@option_group()
class VerifyOptions:
    """How much is read, and what it is compared with."""

    against_store: Annotated[
        bool,
        typer.Option(
            "--against-store",
            help="Also compare every event that is still in the store with it.",
        ),
    ] = False
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample", metavar="PART", help="Read only this part of the event files, like 10%."
        ),
    ] = None

    def part(self) -> float:
        """The part of the files that is read, up to 1. Raises UsageError."""
        from esops.archive.verify import parse_sample
        from esops.errors import UsageError

        if self.sample is None:
            return 1.0
        if self.against_store:
            raise UsageError(
                "--sample and --against-store cannot be used together",
                hint="Leave one of them out: a sample of files is not compared with the store.",
            )
        return parse_sample(self.sample)


@command(archive)
def verify(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(help="The run's id. Default: all sealed runs.", autocompletion=complete_run),
    ] = None,
    archive: ArchiveName = None,
    *,
    how: VerifyOptions,
) -> int:
    """Read archived runs back and compare them with what was sealed.

    Every file is read, its hash is checked, and every event is decoded and counted.

    Exit code 1 if there is a problem.

    esops archive verify
    esops archive verify 20260301T020000Z-old-carts-1f2e3d --against-store
    """
    from esops.archive.catalog_view import verify_runs
    from esops.archive.verify import combined
    from esops.config import load_config

    output = current_output(context)
    part = how.part()
    progress = JobProgress(output)
    try:
        results = list(
            verify_runs(
                load_config(output.settings.config),
                catalog_of(output, archive),
                run,
                against_store=how.against_store,
                sample=part,
                progress=progress.update,
            )
        )
    finally:
        progress.close()
    if output.format("table", "json") == "json":
        output.json(results[0].as_dict() if len(results) == 1 else combined(results))
    else:
        text.verifications(output, results)
    return 0 if all(each.ok for each in results) else 1
