"""`esops rebuild`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esops.cli.app import app, command, current_output
from esops.cli.limits import LimitOptions
from esops.cli.options import projection_names
from esops.cli.rebuild_options import (
    ActionOptions,
    LoadOptions,
    RowOptions,
    SwitchOptions,
    request_of,
)
from esops.cli.shared import duration, stop_on_signals
from esops.cli.snapshot_options import SnapshotOptions

if TYPE_CHECKING:
    from esops.check.healing import HealRequest
    from esops.config import Config
    from esops.rebuild.api import Outcome, RebuildRequest
    from esops.term import Output


@command(app)
def rebuild(
    context: typer.Context,
    projection: Annotated[
        list[str] | None,
        projection_names(
            "The projection. Needed if the configuration has several. Several are built from one "
            "read of the events."
        ),
    ] = None,
    *,
    action: ActionOptions,
    load: LoadOptions,
    switch: SwitchOptions,
    rows: RowOptions,
    snapshots: SnapshotOptions,
    limits: LimitOptions,
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
    if rows.given():
        from esops.cli.heal import heal_rows, only

        name = only(load_config(output.settings.config), projection or [], _given(context))
        asked = _rows(action, switch, rows, limits)
        return heal_rows(output, name, asked, dry_run=action.dry_run, yes=action.yes)
    request = request_of(output.settings.store, action, load, switch, snapshots, limits)
    config = load_config(output.settings.config)
    names, left = projection or [], 0
    if action.changed:
        from esops.cli.plan import projections_to_rebuild

        names, left = projections_to_rebuild(output, config, names, request)
        if not names:
            return left
    if action.dry_run:
        from esops.cli.rebuild_preview import show_plans, show_resumption

        show = show_plans if request.action == "begin" else show_resumption
        return show(output, config, names, request)
    return max(left, _carry_out(output, config, names, request, switch.report, yes=action.yes))


def _rows(
    action: ActionOptions, switch: SwitchOptions, rows: RowOptions, limits: LimitOptions
) -> HealRequest:
    """The rows to make right, and how. Raises UsageError."""
    from dataclasses import replace

    from esops.cli.heal import selected

    asked = selected(rows.keys, rows.keys_from, rows.streams, rows.from_check)
    asked = replace(asked, processor_stopped=switch.processor_stopped, limits=limits.limits())
    if action.longest_session is not None:
        longest = duration("--longest-session", action.longest_session)
        asked = replace(asked, longest_session=longest)
    return asked


def _given(context: typer.Context) -> set[str]:
    """The options that the command line has."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


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
