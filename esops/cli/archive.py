"""`esops archive`: old streams out of the hot store, into an archive that is proven before anything
is removed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import typer

from esops.cli.app import command, current_output, group
from esops.cli.shared import Shown, complete_policy, duration, is_interactive, stop_on_signals
from esops.wording import count

if TYPE_CHECKING:
    from esops.archive.run import ArchiveOutcome
    from esops.archive_format.runs import Catalog
    from esops.config import Config
    from esops.settings import Removal
    from esops.term import Output

archive = group(
    "archive",
    "Move old streams out of the hot store into an archive; verify, query and restore them.",
    "esops archive plan old-carts",
    "esops archive run old-carts",
)

_POLICY = typer.Argument(
    ..., help="The policy, of [archives.NAME.policies].", autocompletion=complete_policy
)
_ARCHIVE = typer.Option(
    None, "--archive", metavar="NAME", help="The archive, where the configuration has several."
)
_REMOVE = typer.Option(
    None,
    "--remove",
    metavar="HOW",
    help="keep, delete, archive, truncate or tombstone; left out: as the policy says.",
)


@command(archive)
def plan(context: typer.Context, policy: str = _POLICY, remove: str | None = _REMOVE) -> None:
    """Show what a run would do: which streams, how many events, and each statement that would
    remove them. Touches nothing.

    esops archive plan old-carts
    """
    from rich.filesize import decimal

    from esops.archive.run import plan as make_plan
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    found = make_plan(config, policy, _removal(remove))
    if output.format("table", "json") == "json":
        output.json(found.as_dict())
        return
    size = f", {decimal(found.bytes)} in the store" if found.bytes is not None else ""
    output.line(
        f"Policy {policy} of archive {found.archive}: {found.streams:,} streams, {found.events:,} "
        f"events of {found.store}{size}"
    )
    if found.oldest is not None and found.newest is not None:
        output.line(f"  from {found.oldest:%Y-%m-%d %H:%M} to {found.newest:%Y-%m-%d %H:%M} UTC")
    for each in found.longest:
        output.line(f"  {each.name}: {each.length:,} events")
    stays = f"; the last {found.stays} of each stream stay" if found.stays else ""
    output.line(
        "A run exports them, reads all of it back, compares it with the store, and then "
        f"{found.what}{stays}"
    )
    for statement in found.statements:
        output.line(f"    {statement}")
    output.line(f"Next: esops archive run {policy}" if found.streams else "There is nothing to do.")


@command(archive)
def run(
    context: typer.Context,
    policy: str = _POLICY,
    remove: str | None = _REMOVE,
    despite_checkpoints: bool = typer.Option(
        False,
        "--despite-checkpoints",
        help="Remove although projections have not passed these events.",
    ),
    max_duration: str | None = typer.Option(
        None, "--max-duration", metavar="D", help="Stop after so long, like 2h; run again to go on."
    ),
) -> int:
    """Archive what a policy selects, prove that it is there, and then remove it; or go on with the
    policy's unfinished run.

    esops archive run old-carts --quiet

    Exits with 1 where the verification found something, and then removes nothing; with 6 where
    projections have not passed the events.
    """
    from esops.archive.run import run as run_policy
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    limit = duration("--max-duration", max_duration) if max_duration is not None else None
    shown = Shown(output)
    try:
        outcome = run_policy(
            config,
            policy,
            removal=_removal(remove),
            despite_checkpoints=despite_checkpoints,
            max_duration=limit,
            stop=stop_on_signals().is_set,
            progress=shown.update,
        )
    finally:
        shown.close()
    if output.format("table", "json") == "json":
        output.json(outcome.as_dict())
    else:
        _tell(output, outcome)
    return 1 if outcome.state == "failed" else 0


def _tell(output: Output, outcome: ArchiveOutcome) -> None:
    """One line of what was done, and more where there is something to look at."""
    from rich.filesize import decimal

    if outcome.state == "nothing":
        output.line(f"{outcome.policy}: nothing to archive in store {outcome.store}")
        return
    archived = (
        f"{outcome.policy}: {outcome.events:,} events of {outcome.streams:,} streams archived in "
        f"run {outcome.run} "
        f"({outcome.files} files, {decimal(outcome.stored_bytes)})"
    )
    if outcome.state == "failed":
        output.line(f"{archived}, and the verification failed; nothing was removed")
        for problem in outcome.problems:
            output.line(f"  {problem}")
        return
    removed = "nothing removed"
    if outcome.remove != "keep":
        removed = (
            f"{outcome.removed_events:,} events of {outcome.removed:,} streams removed "
            f"({outcome.remove})"
        )
    alone = f", {outcome.left_alone:,} streams left alone" if outcome.left_alone else ""
    output.line(f"{archived}, verified; {removed}{alone}, in {outcome.seconds:.1f} s")
    for each in outcome.skipped[:5]:
        output.say(f"  left alone: {each['stream']}: {each['reason']}")


@command(archive, "list")
def list_(context: typer.Context, archive: str | None = _ARCHIVE) -> None:
    """List the runs of an archive, the newest last.

    esops archive list
    """
    from esops.archive.catalog_view import runs

    output = current_output(context)
    rows = list(runs(_catalog(output, archive)))
    if output.format("table", "json", "csv") == "json":
        output.json(rows)
        return
    columns = ["run", "policy", "store", "state", "streams", "events", "stored_bytes", "sealed_at"]
    if output.format("table", "json", "csv") == "csv":
        output.csv(rows, columns)
    else:
        output.table("runs", columns, [[row.get(column) for column in columns] for row in rows])


@command(archive)
def show(
    context: typer.Context,
    run: str = typer.Argument(..., help="The run."),
    archive: str | None = _ARCHIVE,
    streams: bool = typer.Option(False, "--streams", help="List its streams, one a line."),
) -> None:
    """Show a run: what was asked for, what is in it, and what was removed and left alone.

    esops archive show 20260301T020000Z-old-carts-1f2e3d --streams
    """
    from esops.archive.catalog_view import described, stream_rows

    output = current_output(context)
    found = _catalog(output, archive).run(run)
    if streams:
        rows = stream_rows(found)
        form = output.format("table", "json", "ndjson", "csv")
        if form == "json":
            output.json(list(rows))
        elif form == "ndjson":
            for row in rows:
                output.ndjson([row])
        elif form == "csv":
            output.csv(
                rows,
                [
                    "stream",
                    "tenant",
                    "events",
                    "first_version",
                    "last_version",
                    "first_at",
                    "last_at",
                    "bytes",
                    "sha256",
                ],
            )
        else:
            for row in rows:
                output.line(
                    f"{row['stream']}  {row['events']:,} events, versions {row['first_version']} "
                    f"to {row['last_version']}"
                )
        return
    result = described(found)
    if output.format("table", "json") == "json":
        output.json(result)
        return
    for key, value in result.items():
        if isinstance(value, list):
            output.line(f"{key}: {len(value)}")
            for each in value[:20]:
                output.line(
                    "  "
                    + (
                        ", ".join(f"{name} {of}" for name, of in each.items())
                        if isinstance(each, dict)
                        else str(each)
                    )
                )
        else:
            output.line(f"{key}: {value}")


@command(archive)
def verify(
    context: typer.Context,
    run: str | None = typer.Argument(None, help="The run; left out: all that are sealed."),
    archive: str | None = _ARCHIVE,
    against_store: bool = typer.Option(
        False,
        "--against-store",
        help="Compare each event with the store, too, where it is still there.",
    ),
    sample: str | None = typer.Option(
        None, "--sample", metavar="PART", help="Read only a part of the files of events, like 10%."
    ),
) -> int:
    """Read archives back, hash and decode all of it, and compare it with what was sealed.

    Exits with 1 where something is wrong.

    esops archive verify
    esops archive verify 20260301T020000Z-old-carts-1f2e3d --against-store
    """
    from esops.archive.catalog_view import verified
    from esops.archive.verify import combined, parse_sample
    from esops.config import load_config
    from esops.errors import UsageError

    output = current_output(context)
    if sample is not None and against_store:
        raise UsageError(
            "--sample reads some files alone, and cannot be compared with the store",
            hint="Leave one of both out.",
        )
    part = parse_sample(sample) if sample is not None else 1.0
    config = load_config(output.settings.config)
    shown = Shown(output)
    try:
        results = list(
            verified(config, _catalog(output, archive), run, against_store, part, shown.update)
        )
    finally:
        shown.close()
    if output.format("table", "json") == "json":
        output.json(results[0].as_dict() if len(results) == 1 else combined(results))
    else:
        for each in results:
            part_of = f" ({each.sampled})" if each.sampled else ""
            state = "ok" if each.ok else f"{each.found:,} problems"
            output.line(
                f"{each.run}: {state}; {each.files} files, {each.streams:,} streams, "
                f"{each.events:,} events read{part_of}"
            )
            for problem in each.problems:
                output.line(f"  {problem}")
        if not results:
            output.line("There is no sealed run.")
    return 0 if all(each.ok for each in results) else 1


@command(archive)
def restore(
    context: typer.Context,
    run: str = typer.Argument(..., help="The run."),
    streams: list[str] | None = typer.Argument(
        None, help="Which streams; left out: all of the run."
    ),
    into: str | None = typer.Option(
        None,
        "--into",
        metavar="STORE",
        help="Another store; left out: the one that they came from.",
    ),
    archive: str | None = _ARCHIVE,
    yes: bool = typer.Option(False, "-y", "--yes", help="Do not ask."),
) -> None:
    """Bring streams back: the same ids, versions, positions, times and payloads.

    Writes over nothing.

    esops archive restore 20260301T020000Z-old-carts-1f2e3d cart-4711
    """
    from esops.archive.restore import restore as restore_run
    from esops.config import load_config
    from esops.errors import Stopped
    from esops.stores import open_store

    output = current_output(context)
    config = load_config(output.settings.config)
    found = _catalog(output, archive).run(run)
    manifest = found.manifest()
    name, settings = config.store(into or output.settings.store or manifest.store)
    what = f"{len(streams)} streams" if streams else f"all {manifest.streams:,} streams"
    if (
        not yes
        and is_interactive()
        and not typer.confirm(f"Restore {what} of {run} into store {name}?", err=True)
    ):
        raise Stopped("nothing was restored")
    stop = stop_on_signals()

    def check_stop() -> None:
        if stop.is_set():
            raise Stopped("interrupted", hint="Restore again: what is there already is left.")

    shown = Shown(output)
    try:
        with open_store(name, settings.alone) as store:
            result = restore_run(
                found,
                manifest,
                store,
                streams or (),
                check_stop=check_stop,
                progress=lambda done, total: shown.update("streams restored", done, total),
            )
    finally:
        shown.close()
    if output.format("table", "json") == "json":
        output.json(asdict(result))
    else:
        there = (
            f"; {result.there:,} streams were there as they are in the archive"
            if result.there
            else ""
        )
        output.line(
            f"{run}: {result.streams:,} streams restored into {name}, {result.events:,} events "
            f"written{there}"
        )


@command(archive, renamed={"--to": "--output-file"})
def query(
    context: typer.Context,
    statement: str = typer.Argument(..., help="SQL over the views `events` and `streams`."),
    runs: list[str] | None = typer.Option(
        None, "--run", metavar="RUN", help="Of these runs alone; may be given several times."
    ),
    archive: str | None = _ARCHIVE,
) -> None:
    r"""Run SQL over an archive, without restoring anything.

    DuckDB's dialect, with its JSON functions.

    esops archive query "SELECT type, count(*) FROM events GROUP BY type ORDER BY 2 DESC"
    esops archive query "SELECT stream, data->>'ProductId' FROM events WHERE category = 'cart'" \
    --output csv
    esops archive query "SELECT * FROM events" --output-file events.parquet

    A file whose name ends with .parquet is written as Parquet.
    """
    from esops.archive.query import answered, write_parquet

    output = current_output(context)
    form = output.format("table", "json", "ndjson", "csv")
    catalog = _catalog(output, archive)
    file = output.settings.output_file
    if file is not None and file.suffix == ".parquet":
        output.write_file_myself()
        rows_written = write_parquet(catalog, statement, file, runs or ())
        output.line(f"{count(rows_written, 'row')} written to {file}")
        return
    with answered(catalog, statement, runs or (), as_json=form in ("json", "ndjson")) as (
        names,
        rows,
    ):
        if form == "table":
            output.table("", names, rows)
        elif form == "csv":
            output.csv((dict(zip(names, row, strict=True)) for row in rows), names)
        elif form == "ndjson":
            for row in rows:
                output.ndjson([dict(zip(names, row, strict=True))])
        else:
            output.json([dict(zip(names, row, strict=True)) for row in rows])


@command(archive)
def gc(
    context: typer.Context,
    archive: str | None = _ARCHIVE,
    dry_run: bool = typer.Option(
        False, "-n", "--dry-run", help="Say what would go, and delete nothing."
    ),
    older_than: str = typer.Option(
        "1h", "--older-than", metavar="D", help="Leave files that are younger: a run may need them."
    ),
) -> None:
    """Delete what killed runs left behind: files that no manifest names.

    Sealed runs are never touched.

    esops archive gc --dry-run
    """
    from rich.filesize import decimal

    from esops.archive.gc import collect
    from esops.errors import UsageError
    from esops.settings import parse_duration

    output = current_output(context)
    try:
        age = parse_duration(older_than)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}") from None
    result = collect(_catalog(output, archive).repository, delete=not dry_run, older_than=age)
    if output.format("table", "json") == "json":
        output.json(asdict(result))
        return
    for name in result.names:
        output.say(f"  {name}")
    verb = "deleted" if result.deleted else "would be deleted"
    output.line(
        f"{result.files:,} files ({decimal(result.bytes)}) {verb}; "
        f"{result.young:,} younger ones left"
    )


# -- shared by these


def _catalog(output: Output, name: str | None) -> Catalog:
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog
    from esops.config import load_config

    config: Config = load_config(output.settings.config)
    return Catalog(Repository(config.archive(name)[1]))


def _removal(remove: str | None) -> Removal | None:
    from typing import get_args

    from esops.errors import UsageError, nearest
    from esops.settings import Removal

    ways = get_args(Removal)
    if remove is not None and remove not in ways:
        raise UsageError(f"--remove {remove}: there is no such way", hint=nearest(remove, ways))
    return cast("Removal | None", remove)
