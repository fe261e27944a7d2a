"""`esops rebuild`."""

from __future__ import annotations

from pathlib import Path

import typer

from esops.cli.app import app, command, current_output
from esops.cli.limits import MAX_LAG_BYTES, MAX_LOAD, MAX_RATE, NICE
from esops.cli.shared import complete_projection, duration

_HOW = "How it goes about it"


@command(app)
def rebuild(
    context: typer.Context,
    projection: list[str] | None = typer.Argument(
        None,
        help="The projection; may be left out where there is one. Several are built from one read "
        "of the events.",
        autocompletion=complete_projection,
    ),
    blue_green: bool = typer.Option(
        False, "--blue-green", help="Build beside the version that serves, verify, switch."
    ),
    dry_run: bool = typer.Option(
        False, "-n", "--dry-run", help="Print the plan, with every statement, and change nothing."
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with an unfinished rebuild."),
    abort: bool = typer.Option(
        False, "--abort", help="Give an unfinished rebuild up and drop what it built."
    ),
    yes: bool = typer.Option(
        False,
        "-y",
        "--yes",
        help="Do not ask before a table is dropped (--abort) or emptied (in place).",
    ),
    no_switch: bool = typer.Option(
        False,
        "--no-switch",
        help="Build and verify, and leave the switch to `projection switch`.",
        rich_help_panel=_HOW,
    ),
    switch_lag: int | None = typer.Option(
        None,
        "--switch-lag",
        min=0,
        metavar="N",
        help="Switch when at most N events behind (100).",
        rich_help_panel=_HOW,
    ),
    compare: str | None = typer.Option(
        None,
        "--compare",
        metavar="HOW",
        help="exact, columns (those that both have), sample, counts or none; exact where the "
        "columns allow it.",
        rich_help_panel=_HOW,
    ),
    max_diff: str | None = typer.Option(
        None,
        "--max-diff",
        metavar="N|P%",
        help="Switch although so many rows differ (0).",
        rich_help_panel=_HOW,
    ),
    batch_size: int | None = typer.Option(
        None,
        "--batch-size",
        min=1,
        metavar="N",
        help="At most N events a checkpoint; left out: by time and memory.",
        rich_help_panel=_HOW,
    ),
    workers: int | None = typer.Option(
        None,
        "--workers",
        min=1,
        metavar="N",
        help="Load by N processes (folds keyed by the stream).",
        rich_help_panel=_HOW,
    ),
    engine: str | None = typer.Option(
        None,
        "--engine",
        metavar="dask://HOST:PORT|local",
        help="Load by the workers of a Dask cluster (extra esops[dask]).",
        rich_help_panel=_HOW,
    ),
    max_rate: float | None = MAX_RATE,
    max_load: int | None = MAX_LOAD,
    max_lag_bytes: int | None = MAX_LAG_BYTES,
    nice: float | None = NICE,
    postpone: bool = typer.Option(
        False,
        "--postpone",
        help="Keep up and wait with the switch for `projection switch-now`.",
        rich_help_panel=_HOW,
    ),
    ranges: int | None = typer.Option(
        None,
        "--ranges",
        min=1,
        metavar="N",
        help="In place: replace the rows in N parts, and empty nothing (folds keyed by the "
        "stream).",
        rich_help_panel=_HOW,
    ),
    test_only: bool = typer.Option(
        False,
        "--test-only",
        help="Build and verify, and drop green again: everything but the switch.",
        rich_help_panel=_HOW,
    ),
    keep_blue: bool = typer.Option(
        False,
        "--keep-blue",
        help="Keep blue until `projection retire`; so it is if nothing is said.",
        rich_help_panel=_HOW,
    ),
    report: Path | None = typer.Option(
        None,
        "--report",
        metavar="FILE.html",
        help="Write what differs as a page, too.",
        rich_help_panel=_HOW,
    ),
    retire_after: str | None = typer.Option(
        None,
        "--retire-after",
        metavar="D",
        help="Let `esops run` drop blue so long after the switch.",
        rich_help_panel=_HOW,
    ),
) -> int:
    """Rebuild a read model beside the one that serves, verify it, and switch in one transaction.

    esops rebuild cart_summary --blue-green --dry-run
    esops rebuild cart_summary --blue-green
    esops projection rollback cart_summary
    esops rebuild cart_summary customer_totals --blue-green

    It can be killed at any moment and gone on with by --resume. Until the switch nothing that
    readers see is touched.
    Without --blue-green the tables that serve are emptied and filled again, for read models too
    large to be there twice: readers see it.
    """
    from esops.config import load_config
    from esops.errors import UsageError

    output = current_output(context)
    output.format("table", "json")
    config = load_config(output.settings.config)
    if not blue_green and (
        no_switch
        or postpone
        or test_only
        or keep_blue
        or retire_after
        or max_diff
        or compare
        or workers
        or engine
    ):
        raise UsageError(
            "a rebuild in place has nothing to compare or to switch", hint="Add --blue-green."
        )
    if ranges is not None and blue_green:
        raise UsageError("--ranges is for a rebuild in place", hint="Leave --blue-green out.")
    if resume + abort + dry_run > 1:
        raise UsageError("--resume, --abort and --dry-run exclude each other")
    if test_only + no_switch + postpone > 1 or (keep_blue and retire_after):
        raise UsageError(
            "--test-only, --no-switch and --postpone exclude each other, and so do --keep-blue and "
            "--retire-after"
        )
    names = projection or [_only(list(config.projections), str(config.path))]
    given = {
        "switch_lag": switch_lag,
        "compare": compare,
        "max_diff": max_diff,
        "batch_size": batch_size,
        "workers": workers,
        "engine": engine,
        "ranges": ranges,
        "max_rate": max_rate,
        "max_load": max_load,
        "max_lag_bytes": max_lag_bytes,
        "nice": nice,
        "switch": False if no_switch else None,
        "postpone": postpone or None,
        "test_only": test_only or None,
        "retire_after": None
        if retire_after is None
        else duration("--retire-after", retire_after).total_seconds(),
    }
    from esops.cli.rebuild_jobs import Asked, Job, Jobs

    asked = Asked(
        {key: value for key, value in given.items() if value is not None},
        dry_run=dry_run,
        resume=resume,
        abort=abort,
        yes=yes,
        blue_green=blue_green,
        report=report,
    )
    return (
        Job(output, config, names[0], asked)
        if len(names) == 1
        else Jobs(output, config, names, asked)
    ).run()


def _only(names: list[str], path: str) -> str:
    from esops.errors import UsageError

    if len(names) != 1:
        raise UsageError(
            f"{path}: which projection?", hint="There is: " + (", ".join(names) or "none") + "."
        )
    return names[0]
