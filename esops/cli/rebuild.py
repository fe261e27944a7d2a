"""`esops rebuild`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from esops.cli.app import app, command, current_output
from esops.cli.completion import complete_projection
from esops.cli.limits import (
    CHANGED,
    DESPITE_SNAPSHOTS,
    LONGEST_SESSION,
    MAX_LAG_BYTES,
    MAX_LOAD,
    MAX_RATE,
    NICE,
    SNAPSHOT_WAIT,
)
from esops.cli.shared import duration, stop_on_signals

if TYPE_CHECKING:
    from esops.config import Config
    from esops.rebuild.api import Action, Outcome, RebuildRequest
    from esops.term import Output

_LOAD = "Loading"
_VERIFY = "Verification and switch"
_ROWS = "Only some rows"


@command(app)
def rebuild(
    context: typer.Context,
    projection: list[str] | None = typer.Argument(
        None,
        help="The projection. Needed if the configuration has several. Several are built from one "
        "read of the events.",
        autocompletion=complete_projection,
    ),
    blue_green: bool = typer.Option(
        False, "--blue-green", help="Build beside the version that serves, verify, and switch."
    ),
    changed: bool = CHANGED,
    dry_run: bool = typer.Option(
        False, "-n", "--dry-run", help="Print the plan, with every statement, and change nothing."
    ),
    resume: bool = typer.Option(False, "--resume", help="Continue an unfinished rebuild."),
    accept_code: bool = typer.Option(
        False,
        "--accept-code",
        help="With --resume: continue with changed code; the rows so far stay as the old code made "
        "them.",
    ),
    abort: bool = typer.Option(
        False, "--abort", help="End an unfinished rebuild and drop what it built."
    ),
    yes: bool = typer.Option(
        False,
        "-y",
        "--yes",
        help="Do not ask before tables are dropped (--abort) or emptied (in place).",
    ),
    batch_size: int | None = typer.Option(
        None,
        "--batch-size",
        min=1,
        metavar="N",
        help="Commit after at most N events. Default: decided by time and memory.",
        rich_help_panel=_LOAD,
    ),
    workers: str | None = typer.Option(
        None,
        "--workers",
        metavar="N|auto",
        help="Load with N processes (only folds that are keyed by the stream). auto: as many as "
        "are worth it, by a short measurement. Default: auto above a million events, else 1.",
        rich_help_panel=_LOAD,
    ),
    engine: str | None = typer.Option(
        None,
        "--engine",
        metavar="dask://HOST:PORT|local",
        help="Load on the workers of a Dask cluster (needs esops[dask]).",
        rich_help_panel=_LOAD,
    ),
    ranges: int | None = typer.Option(
        None,
        "--ranges",
        min=1,
        metavar="N",
        help="In place: replace the rows in N ranges of keys, and empty nothing (only folds that "
        "are keyed by the stream).",
        rich_help_panel=_LOAD,
    ),
    compare: str | None = typer.Option(
        None,
        "--compare",
        metavar="METHOD",
        help="exact, columns (only those that both have), sample, counts or none. Default: exact "
        "if the columns allow it.",
        rich_help_panel=_VERIFY,
    ),
    max_diff: str | None = typer.Option(
        None,
        "--max-diff",
        metavar="N|P%",
        help="Switch although up to N rows, or P percent of them, differ. Default: 0.",
        rich_help_panel=_VERIFY,
    ),
    max_dead_letters: str | None = typer.Option(
        None,
        "--max-dead-letters",
        metavar="N|P%",
        help="Switch although up to N events, or P percent of them, became dead letters. "
        "Default: 0.",
        rich_help_panel=_VERIFY,
    ),
    report: Path | None = typer.Option(
        None,
        "--report",
        metavar="FILE.html",
        help="Also write the differences as a page.",
        rich_help_panel=_VERIFY,
    ),
    switch_lag: int | None = typer.Option(
        None,
        "--switch-lag",
        min=0,
        metavar="N",
        help="Switch when green is at most N events behind. Default: 100.",
        rich_help_panel=_VERIFY,
    ),
    no_switch: bool = typer.Option(
        False,
        "--no-switch",
        help="Build and verify; leave the switch to `projection switch`.",
        rich_help_panel=_VERIFY,
    ),
    postpone: bool = typer.Option(
        False,
        "--postpone",
        help="Keep up, and switch only after `projection switch-now`.",
        rich_help_panel=_VERIFY,
    ),
    test_only: bool = typer.Option(
        False,
        "--test-only",
        help="Build and verify, then drop green again: everything but the switch.",
        rich_help_panel=_VERIFY,
    ),
    keep_blue: bool = typer.Option(
        False,
        "--keep-blue",
        help="Keep blue until `projection retire` (the default).",
        rich_help_panel=_VERIFY,
    ),
    retire_after: str | None = typer.Option(
        None,
        "--retire-after",
        metavar="D",
        help="Let `esops run` drop blue this long after the switch, for example 7d.",
        rich_help_panel=_VERIFY,
    ),
    without_archived: bool = typer.Option(
        False,
        "--without-archived",
        help="Rebuild without the events that were archived and removed.",
        rich_help_panel=_VERIFY,
    ),
    accept_fewer: bool = typer.Option(
        False,
        "--accept-fewer",
        help="Accept far fewer events than before, or none, or no row.",
        rich_help_panel=_VERIFY,
    ),
    accept_shortened: bool = typer.Option(
        False,
        "--accept-shortened",
        help="Rebuild though streams have lost their first events (compacted, truncated).",
        rich_help_panel=_VERIFY,
    ),
    processor_stopped: bool = typer.Option(
        False,
        "--processor-stopped",
        help="Hand over to the application's projector though its row does not say that it has "
        "stopped: no process of it is left.",
        rich_help_panel=_VERIFY,
    ),
    keys: str | None = typer.Option(
        None,
        "--keys",
        metavar="K,…",
        help="Make only the rows of these keys right, in the version that serves.",
        rich_help_panel=_ROWS,
    ),
    keys_from: Path | None = typer.Option(
        None,
        "--keys-from",
        metavar="FILE",
        help="The same for the keys in a file, one a line; - is standard input.",
        rich_help_panel=_ROWS,
    ),
    streams: str | None = typer.Option(
        None,
        "--streams",
        metavar="S,…",
        help="The same for the rows of these streams.",
        rich_help_panel=_ROWS,
    ),
    from_check: int | None = typer.Option(
        None,
        "--from-check",
        metavar="RUN",
        help="The same for the rows that this `projection check` found wrong.",
        rich_help_panel=_ROWS,
    ),
    longest_session: str | None = LONGEST_SESSION,
    snapshot_wait: str | None = SNAPSHOT_WAIT,
    despite_snapshots: bool = DESPITE_SNAPSHOTS,
    max_rate: float | None = MAX_RATE,
    max_load: int | None = MAX_LOAD,
    max_lag_bytes: int | None = MAX_LAG_BYTES,
    nice: float | None = NICE,
) -> int:
    """Rebuild a read model beside the one that serves, verify it, and switch in one transaction.

    esops rebuild cart_summary --blue-green --dry-run
    esops rebuild cart_summary --blue-green
    esops projection rollback cart_summary
    esops rebuild cart_summary customer_totals --blue-green
    esops rebuild --changed --blue-green

    You can kill it at any moment and continue it with --resume. Until the switch, readers see no
    change.
    Without --blue-green, the tables that serve are emptied and filled again. Readers see that; it
    is for read models that are too large to exist twice.
    With --keys or --streams, only the rows of these are made right, while everything runs.
    """
    from esops.config import load_config

    output = current_output(context)
    output.format("table", "json")
    if any(each is not None for each in (keys, keys_from, streams, from_check)):
        from dataclasses import replace

        from esops.cli.heal import heal_rows, only, selected

        given = {name for name in context.params if _is_given(context, name)}
        name = only(load_config(output.settings.config), projection or [], given)
        rows = selected(keys, keys_from, streams, from_check)
        limits = (max_rate, max_load, max_lag_bytes, nice)
        rows = replace(rows, processor_stopped=processor_stopped)
        if longest_session is not None:
            longest = duration("--longest-session", longest_session)
            rows = replace(rows, longest_session=longest)
        return heal_rows(output, name, rows, limits, dry_run=dry_run, yes=yes)
    if longest_session is not None:
        from esops.errors import UsageError

        raise UsageError(
            "--longest-session is for single rows", hint="Name them: --keys, or --streams."
        )
    from esops.rebuild.api import RebuildRequest

    request = RebuildRequest(
        action=_action(resume=resume, abort=abort),
        in_place=not blue_green,
        store=output.settings.store,
        # None, here and below: not given, so that a resumed rebuild keeps what it began with.
        switch=False if no_switch else None,
        switch_lag=switch_lag,
        compare=compare,
        max_diff=max_diff,
        max_dead_letters=max_dead_letters,
        batch_size=batch_size,
        workers=_workers(workers),
        engine=engine,
        ranges=ranges,
        max_rate=max_rate,
        max_load=max_load,
        max_lag_bytes=max_lag_bytes,
        nice=nice,
        postpone=postpone or None,
        test_only=test_only or None,
        without_archived=without_archived or None,
        accept_fewer=accept_fewer or None,
        accept_shortened=accept_shortened or None,
        accept_code=accept_code or None,
        processor_stopped=processor_stopped or None,
        snapshot_wait=None if snapshot_wait is None else duration("--snapshot-wait", snapshot_wait),
        despite_snapshots=despite_snapshots or None,
        keep_blue=keep_blue,
        retire_after=None if retire_after is None else duration("--retire-after", retire_after),
    )
    config = load_config(output.settings.config)
    names, left = projection or [], 0
    if changed:
        from esops.cli.plan import projections_to_rebuild

        names, left = projections_to_rebuild(output, config, names, request)
        if not names:
            return left
    if dry_run and request.action != "begin":
        return _show_preview(output, config, names, request)
    if dry_run:
        return _show_plans(output, config, names, request)
    return max(left, _carry_out(output, config, names, request, report, yes=yes))


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _workers(text: str | None) -> int | Literal["auto"] | None:
    from esops.errors import UsageError

    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"--workers {text} is no number of processes",
            hint="Write a number from 1 on, or auto.",
        )
    return int(text)


def _action(*, resume: bool, abort: bool) -> Action:
    from esops.errors import UsageError

    if resume and abort:
        raise UsageError("--resume and --abort cannot be used together")
    return "resume" if resume else "abort" if abort else "begin"


def _show_plans(
    output: Output, config: Config, names: Sequence[str], request: RebuildRequest
) -> int:
    from esops.rebuild.api import plan
    from esops.rebuild.plan import without_repetition

    plans = plan(config, names, request)
    if output.as_json:
        documents = [each.as_dict() for each in plans]
        output.json(documents[0] if len(documents) == 1 else {"rebuilds": documents})
        return 0
    for each in without_repetition(plans, lambda name: config.readmodel_of(name).dsn):
        for line in each.lines():
            output.line(line)
    output.line("\nNothing was changed (--dry-run).")
    return 0


def _show_preview(
    output: Output, config: Config, names: Sequence[str], request: RebuildRequest
) -> int:
    from esops.rebuild import steering

    action: Literal["resume", "abort"] = "abort" if request.action == "abort" else "resume"
    found = [steering.preview(config, name, action) for name in names or list(config.projections)]
    if output.as_json:
        output.json(found[0] if len(found) == 1 else {"rebuilds": found})
        return 0
    for each in found:
        about = f"rebuild {each['rebuild']} of {each['projection']}"
        if not each["possible"]:
            output.line(f"would refuse: {about} changes its tables in place and cannot be undone")
        elif action == "resume":
            at = f", at position {each['position']}" if each["position"] else ""
            output.line(f"would resume {about}, from state {each['state']}{at}")
            if each["reason"]:
                output.line(f"it is paused: {each['reason']}")
            if each["max_diff"] and request.max_diff is None:
                output.line(
                    "it would compare again, and stop again if as many rows differ, unless you "
                    f"add --max-diff {each['max_diff']}"
                )
            if each["code_changed"]:
                output.line(_about_code(each, accepted=bool(request.accept_code)))
        else:
            output.line(f"would end {about}, and drop {', '.join(each['drops']) or 'nothing'}")
    output.line("\nNothing was changed (--dry-run).")
    return 0


def _about_code(preview: Mapping[str, Any], *, accepted: bool) -> str:
    from esops.rebuild.outcome import rows_of_old_code

    old = rows_of_old_code(preview["position"])
    if accepted:
        return f"the code has changed: {old} (--accept-code)"
    if preview["begins_again"]:
        return f"the code has changed: it begins again. With --accept-code, {old}"
    return f"would refuse: the code has changed. With --accept-code, {old}"


def _carry_out(
    output: Output,
    config: Config,
    names: Sequence[str],
    request: RebuildRequest,
    report: Path | None,
    *,
    yes: bool,
) -> int:
    from esops.cli.rebuild_operator import TerminalOperator
    from esops.errors import UsageError
    from esops.rebuild.api import RebuildsFailed
    from esops.rebuild.api import rebuild as run
    from esops.term.result_file import checked

    # One page cannot hold several comparisons, and the last would overwrite the others.
    if report is not None and len(names) > 1:
        raise UsageError("--report works for one projection only")
    checked(report, "--report")
    operator = TerminalOperator(output, names or list(config.projections), yes=yes)
    stop = stop_on_signals()
    try:
        outcomes = run(config, names, request, operator=operator, stop=stop.is_set)
    # Those that finished are shown before the error, which gives the exit code.
    except RebuildsFailed as failed:
        operator.close()
        _show_outcomes(output, config, failed.outcomes, several=True)
        for name, error in failed.errors.items():
            hint = f" ({error.hint})" if error.hint else ""
            output.say(f"{name}: {error.message}{hint}")
        raise
    finally:
        operator.close()
    for outcome in outcomes:
        _write_report(output, outcome, report)
    _show_outcomes(output, config, outcomes, several=len(names) > 1)
    # What differed was not switched, or events are missing: a finding, not an error.
    return 1 if any(each.findings or each.dead_letters for each in outcomes) else 0


def _show_outcomes(
    output: Output, config: Config, outcomes: Sequence[Outcome], *, several: bool
) -> None:
    from esops.cli.rebuild_summary import summary

    if output.as_json:
        documents: list[Any] = [each.as_dict() for each in outcomes]
        output.json({"rebuilds": documents} if several else documents[0])
        return
    for each in outcomes:
        for line in summary(each, config.projection(each.projection)):
            output.line(line)


def _write_report(output: Output, outcome: Outcome, path: Path | None) -> None:
    from esops.rebuild.verification.report import write_report

    # An aborted rebuild, or one without blue, has compared nothing.
    if path is None or outcome.verification is None:
        return
    write_report(path, outcome)
    output.say(f"written: {path}")
