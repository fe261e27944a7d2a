"""`esops archive`: move old streams out of the hot store, into an archive that is verified before
anything is removed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import typer

from esops.cli import archive_text as text
from esops.cli.app import command, current_output, group
from esops.cli.completion import (
    complete_archive,
    complete_policy,
    complete_run,
    complete_run_stream,
    complete_store,
)
from esops.cli.shared import JobProgress, confirm, duration, stop_on_signals

if TYPE_CHECKING:
    from esops.archive_format.runs import Catalog
    from esops.settings import Removal
    from esops.term import Output

archive = group(
    "archive",
    "Move old streams out of the hot store into an archive; verify, query and restore them.",
    "esops archive plan old-carts",
    "esops archive run old-carts",
)

_POLICY = typer.Argument(
    ...,
    help="The policy: its name in [archives.NAME.policies].",
    autocompletion=complete_policy,
)
_ARCHIVE = typer.Option(
    None,
    "--archive",
    metavar="NAME",
    help="The archive. Needed if the configuration has several.",
    autocompletion=complete_archive,
)
_REMOVE = typer.Option(
    None,
    "--remove",
    metavar="HOW",
    help="What happens to the streams in the store: keep, delete, archive, truncate or tombstone. "
    "Default: as the policy says.",
)
_DESPITE = typer.Option(
    [],
    "--despite",
    metavar="NAME",
    help="Remove events although the projection or processor of this name has not read them "
    "yet; repeatable.",
)
_RUN = typer.Argument(
    ..., help="The run's id, as `esops archive list` shows it.", autocompletion=complete_run
)


@command(archive)
def plan(
    context: typer.Context,
    policy: str = _POLICY,
    remove: str | None = _REMOVE,
    despite: list[str] = _DESPITE,
    streams: bool = typer.Option(
        False,
        "--streams",
        help="List each stream with what it would lose and what would stay, one a line.",
    ),
) -> None:
    """Show what a run would do, and change nothing.

    The plan has the number of streams and events, their size, and each statement that would remove
    them.

    esops archive plan old-carts
    esops archive plan old-carts --streams
    """
    from esops.archive.planning import STREAM_COLUMNS, planned_streams
    from esops.archive.planning import plan as make_plan
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    if streams:
        planned = planned_streams(
            config,
            policy,
            _removal(remove),
            lambda found: text.unfinished(output.say, policy, found),
        )
        # A policy may select millions of streams: a table would need all of them in memory.
        if output.format("table", "json", "ndjson", "csv") == "table":
            text.planned(output, planned)
        else:
            output.records((each.as_row() for each in planned), STREAM_COLUMNS)
        return
    found = make_plan(config, policy, _removal(remove), despite)
    if output.format("table", "json") == "json":
        output.json(found.as_dict())
    else:
        text.plan(output, found)


@command(archive)
def run(
    context: typer.Context,
    policy: str = _POLICY,
    remove: str | None = _REMOVE,
    despite: list[str] = _DESPITE,
    despite_checkpoints: bool = typer.Option(
        False,
        "--despite-checkpoints",
        help="Remove events without asking any projection or processor how far it has read.",
    ),
    prove: bool = typer.Option(
        False,
        "--prove",
        help="Before anything is removed, try a restore of all events in temporary tables, not of "
        "a sample.",
    ),
    start_again: bool = typer.Option(
        False,
        "--start-again",
        help="Give an unfinished run up as failed instead of resuming it, for example because the "
        "store was restored to an earlier time since.",
    ),
    new_archive: bool = typer.Option(
        False,
        "--new-archive",
        help="Begin an archive where there is none, although the store shows that events were "
        "archived before.",
    ),
    max_duration: str | None = typer.Option(
        None,
        "--max-duration",
        metavar="D",
        help="Stop after this time, such as 2h. The next run resumes.",
    ),
) -> int:
    """Archive the streams that a policy selects, verify the archive, and then remove them.

    If the policy has an unfinished run, it is resumed, and removes what was selected when it began.
    You can kill a run at any moment.

    Exit code 1 if the verification found a problem: then nothing is removed. Also if a stream may
    not be read, or cannot be removed until the database is changed, as where rows elsewhere refer
    to its events: it is archived once, and named by each run. Exit code 6 if a
    projection or processor has not read the events yet, or if they would not come back from the
    archive as they are: then nothing is removed either. Also if the policy was edited to take less
    than its unfinished run would remove.

    esops archive run old-carts
    esops archive run old-carts --remove keep
    """
    from esops.archive.run import run as run_policy
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    limit = duration("--max-duration", max_duration) if max_duration is not None else None
    progress = JobProgress(output)
    try:
        outcome = run_policy(
            config,
            policy,
            removal=_removal(remove),
            despite_checkpoints=despite_checkpoints,
            despite=despite,
            prove=prove,
            start_again=start_again,
            new_archive=new_archive,
            max_duration=limit,
            stop=stop_on_signals().is_set,
            progress=progress.update,
        )
    finally:
        progress.close()
    if output.format("table", "json") == "json":
        output.json(outcome.as_dict())
    else:
        text.outcome(output, outcome)
    return 1 if outcome.state == "failed" or outcome.stuck else 0


@command(archive, "list")
def list_(context: typer.Context, archive: str | None = _ARCHIVE) -> None:
    """List the runs of an archive, the newest last.

    esops archive list
    """
    from esops.archive_format.summaries import summaries

    output = current_output(context)
    output.records(
        summaries(_catalog(output, archive)),
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
    run: str = _RUN,
    archive: str | None = _ARCHIVE,
    streams: bool = typer.Option(False, "--streams", help="List the run's streams, one a line."),
) -> None:
    """Show a run: what was asked for, what it holds, and what was removed.

    esops archive show 20260301T020000Z-old-carts-1f2e3d
    esops archive show 20260301T020000Z-old-carts-1f2e3d --streams
    """
    from esops.archive.catalog_view import STREAM_COLUMNS, described, stream_rows

    output = current_output(context)
    found = _catalog(output, archive).run(run)
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


@command(archive)
def verify(
    context: typer.Context,
    run: str | None = typer.Argument(
        None, help="The run's id. Default: all sealed runs.", autocompletion=complete_run
    ),
    archive: str | None = _ARCHIVE,
    against_store: bool = typer.Option(
        False,
        "--against-store",
        help="Also compare every event that is still in the store with it.",
    ),
    sample: str | None = typer.Option(
        None, "--sample", metavar="PART", help="Read only this part of the event files, like 10%."
    ),
) -> int:
    """Read archived runs back and compare them with what was sealed.

    Every file is read, its hash is checked, and every event is decoded and counted.

    Exit code 1 if there is a problem.

    esops archive verify
    esops archive verify 20260301T020000Z-old-carts-1f2e3d --against-store
    """
    from esops.archive.catalog_view import verify_runs
    from esops.archive.verify import combined, parse_sample
    from esops.config import load_config
    from esops.errors import UsageError

    output = current_output(context)
    if sample is not None and against_store:
        raise UsageError(
            "--sample and --against-store cannot be used together",
            hint="Leave one of them out: a sample of files is not compared with the store.",
        )
    progress = JobProgress(output)
    try:
        results = list(
            verify_runs(
                load_config(output.settings.config),
                _catalog(output, archive),
                run,
                against_store=against_store,
                sample=parse_sample(sample) if sample is not None else 1.0,
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


@command(archive)
def restore(
    context: typer.Context,
    run: str = _RUN,
    streams: list[str] | None = typer.Argument(
        None,
        help="The streams to restore. Default: all streams of the run.",
        autocompletion=complete_run_stream,
    ),
    into: str | None = typer.Option(
        None,
        "--into",
        metavar="STORE",
        help="The store to restore into. Default: the store that the streams came from.",
        autocompletion=complete_store,
    ),
    renumber: bool = typer.Option(
        False,
        "--renumber",
        help="Give the events new positions, where others have theirs.",
    ),
    skip_conflicts: bool = typer.Option(
        False,
        "--skip-conflicts",
        help="Leave out streams in whose place the store has others.",
    ),
    archive: str | None = _ARCHIVE,
    yes: bool = typer.Option(False, "-y", "--yes", help="Do not ask for confirmation."),
) -> int:
    """Restore streams with the same ids, versions, positions, times and payloads.

    Nothing in the store is overwritten.

    esops archive restore 20260301T020000Z-old-carts-1f2e3d cart-4711
    """
    from esops.archive.log_runs import Homes
    from esops.archive.restore import RestoreOptions, restore_run
    from esops.config import load_config
    from esops.wording import count

    output = current_output(context)
    config = load_config(output.settings.config)
    found = _catalog(output, archive).run(run)
    manifest = found.manifest()
    target = into or output.settings.store or Homes(config).of(found, manifest)
    target = config.store(target)[0]
    number = len(streams) if streams else manifest.streams
    question = f"Restore {count(number, 'stream')} of run {run} into store {target}?"
    if renumber:
        for line in text.RENUMBER_NOTES:
            output.say(line)
    confirm(question, yes=yes, what=f"a restore writes events into store {target}")
    progress = JobProgress(output)
    try:
        result = restore_run(
            config,
            found,
            target,
            streams or (),
            RestoreOptions(renumber, skip_conflicts),
            stop=stop_on_signals().is_set,
            progress=lambda done, total: progress.update("streams restored", done, total),
        )
    finally:
        progress.close()
    if output.format("table", "json") == "json":
        output.json(asdict(result))
    else:
        text.restored(output, result)
    return int(bool(result.left_out or result.restore_next))


@command(archive)
def query(
    context: typer.Context,
    statement: str = typer.Argument(..., help="SQL over the views `events` and `streams`."),
    runs: list[str] | None = typer.Option(
        None,
        "--run",
        metavar="RUN",
        help="Only these runs; can be repeated. Default: all.",
        autocompletion=complete_run,
    ),
    skip_unreadable: bool = typer.Option(
        False,
        "--skip-unreadable",
        help="Leave out the events that cannot be read as JSON, and exit with 1 if there are any.",
    ),
    archive: str | None = _ARCHIVE,
) -> int:
    r"""Run SQL over an archive, without restoring anything.

    The dialect is DuckDB's, with its JSON functions.

    esops archive query "SELECT type, count(*) FROM events GROUP BY type ORDER BY 2 DESC"
    esops archive query "SELECT stream, data->>'ProductId' FROM events WHERE category = 'cart'" \
    --output csv
    esops archive query "SELECT * FROM events WHERE type = 'order_placed'" -o orders.parquet

    A file whose name ends with .parquet is written as Parquet.
    """
    from esops.archive.query import answered, write_parquet
    from esops.wording import count

    output = current_output(context)
    catalog = _catalog(output, archive)
    form = output.format("table", "json", "ndjson", "csv")
    file = output.settings.output_file
    if file is not None and file.suffix == ".parquet":
        output.write_file_myself()
        rows, left_out = write_parquet(
            catalog, statement, file, runs or (), skip_unreadable=skip_unreadable
        )
        output.say(f"{count(rows, 'row')} written to {file}")
    else:
        as_json = form in ("json", "ndjson")
        with answered(
            catalog, statement, runs or (), as_json=as_json, skip_unreadable=skip_unreadable
        ) as answer:
            left_out, names = answer.left_out, answer.columns
            if form == "table":
                output.table("", names, answer.rows)
            else:
                output.records((dict(zip(names, row, strict=True)) for row in answer.rows), names)
    if left_out.number:
        text.left_out(output, left_out)
    return int(left_out.number > 0)


@command(archive)
def gc(
    context: typer.Context,
    archive: str | None = _ARCHIVE,
    dry_run: bool = typer.Option(
        False, "-n", "--dry-run", help="List the files, and delete nothing."
    ),
    older_than: str = typer.Option(
        "1h",
        "--older-than",
        metavar="D",
        help="Keep files that are younger than this: a run may still need them.",
    ),
) -> None:
    """Delete the files that killed runs left behind.

    These are files that no manifest names. Sealed runs are never touched.

    esops archive gc --dry-run
    esops archive gc
    """
    from esops.archive.gc import collect

    output = current_output(context)
    age = duration("--older-than", older_than)
    found = collect(_catalog(output, archive).repository, delete=not dry_run, older_than=age)
    if output.format("table", "json") == "json":
        output.json(asdict(found))
    else:
        text.garbage(output, found)


def _catalog(output: Output, name: str | None) -> Catalog:
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog
    from esops.config import load_config

    config = load_config(output.settings.config)
    return Catalog(Repository(config.archive(name)[1]))


def _removal(remove: str | None) -> Removal | None:
    from typing import get_args

    from esops.errors import UsageError, nearest
    from esops.settings import Removal

    removals = get_args(Removal)
    if remove is not None and remove not in removals:
        raise UsageError(f"--remove cannot be {remove!r}", hint=nearest(remove, removals))
    return cast("Removal | None", remove)
