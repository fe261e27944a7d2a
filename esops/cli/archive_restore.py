"""`esops archive restore`: streams from an archive back into a store."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli import archive_text as text
from esops.cli.app import command, current_output
from esops.cli.archive import ArchiveName, RunName, archive, catalog_of
from esops.cli.completion import complete_run_stream, complete_store
from esops.cli.option_groups import option_group
from esops.cli.options import yes_option
from esops.cli.shared import JobProgress, confirm, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esops.archive.restoration import RestoreResult
    from esops.archive_format.runs import Run
    from esops.config import Config
    from esops.term import Output


@option_group()
class RestoreTarget:
    """Where the streams go, and what becomes of those whose place is taken."""

    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            metavar="STORE",
            help="The store to restore into. Default: the store that the streams came from.",
            autocompletion=complete_store,
        ),
    ] = None
    renumber: Annotated[
        bool,
        typer.Option("--renumber", help="Give the events new positions, where others have theirs."),
    ] = False
    skip_conflicts: Annotated[
        bool,
        typer.Option(
            "--skip-conflicts",
            help="Leave out streams in whose place the store has others.",
        ),
    ] = False


@command(archive)
def restore(
    context: typer.Context,
    run: RunName,
    streams: Annotated[
        list[str] | None,
        typer.Argument(
            help="The streams to restore. Default: all streams of the run.",
            autocompletion=complete_run_stream,
        ),
    ] = None,
    *,
    options: RestoreTarget,
    archive: ArchiveName = None,
    yes: Annotated[bool, yes_option()] = False,
) -> int:
    """Restore streams with the same ids, versions, positions, times and payloads.

    Nothing in the store is overwritten.

    esops archive restore 20260301T020000Z-old-carts-1f2e3d cart-4711
    """
    from esops.archive.log_runs import Homes
    from esops.config import load_config
    from esops.wording import count

    output = current_output(context)
    config = load_config(output.settings.config)
    found = catalog_of(output, archive).run(run)
    manifest = found.manifest()
    target = options.into or output.settings.store or Homes(config).of(found, manifest)
    target = config.store(target)[0]
    number = len(streams) if streams else manifest.streams
    question = f"Restore {count(number, 'stream')} of run {run} into store {target}?"
    if options.renumber:
        for line in text.RENUMBER_NOTES:
            output.say(line)
    confirm(question, yes=yes, what=f"a restore writes events into store {target}")
    result = _restored(output, config, found, target, streams or (), options)
    if output.format("table", "json") == "json":
        output.json(asdict(result))
    else:
        text.restored(output, result)
    return int(bool(result.left_out or result.restore_next))


def _restored(
    output: Output,
    config: Config,
    run: Run,
    target: str,
    streams: Sequence[str],
    options: RestoreTarget,
) -> RestoreResult:
    """Restore them, with a progress line."""
    from esops.archive.restoration import RestoreOptions
    from esops.archive.restore import restore_run

    progress = JobProgress(output)
    try:
        return restore_run(
            config,
            run,
            target,
            streams,
            RestoreOptions(options.renumber, options.skip_conflicts),
            stop=stop_on_signals().is_set,
            progress=lambda done, total: progress.update("streams restored", done, total),
        )
    finally:
        progress.close()
