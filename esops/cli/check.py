"""`esops projection check`: does the read model still say what its events say?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import command, current_output
from esops.cli.limits import LimitOptions
from esops.cli.option_groups import option_group
from esops.cli.options import (
    LongestSession,
    ProjectionName,
    keys_from_option,
    keys_option,
    report_option,
    since_option,
    streams_option,
    yes_option,
)
from esops.cli.projection import projection
from esops.cli.shared import JobProgress, duration_if_given, is_interactive, stop_on_signals

if TYPE_CHECKING:
    from datetime import timedelta

    from esops.check.result import CheckResult
    from esops.check.run import CheckRequest
    from esops.running.throttle import Limits
    from esops.term import Output

_SHOWN = 10
"""Rows that differ of which a terminal shows the columns."""


@option_group(panel="What is checked")
class CheckedRows:
    """The rows that are checked, named in one of several ways."""

    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="N|P%|all",
            help="N keys, P percent of them, or all; default: all of up to 100,000 keys, 1% of "
            "more.",
        ),
    ] = None
    seed: Annotated[
        str | None,
        typer.Option("--seed", metavar="S", help="Draw the sample that had this seed."),
    ] = None
    keys: Annotated[str | None, keys_option("The rows with these keys.")] = None
    keys_from: Annotated[
        Path | None,
        keys_from_option('A key a line; of several columns as JSON: ["acme", "cart-1"].'),
    ] = None
    streams: Annotated[str | None, streams_option("The rows of these streams.")] = None
    since: Annotated[
        str | None, since_option("The rows with events of this time, such as 24h.")
    ] = None
    version: Annotated[
        int | None,
        typer.Option("--version", metavar="V", help="Another version than the one that serves."),
    ] = None

    def named_once(self) -> None:
        """Raises UsageError where they are named in more than one way."""
        from esops.errors import UsageError

        names = ("sample", "keys", "keys_from", "streams", "since")
        named = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        if len(named) > 1:
            raise UsageError(
                f"{' and '.join(named)} exclude each other",
                hint="Say in one way what is to be checked.",
            )

    def request(self, limits: Limits) -> CheckRequest:
        """The check of these rows. Raises UsageError."""
        from esops.check.run import CheckRequest
        from esops.cli.heal import selected

        named = None
        if not (self.keys is None and self.keys_from is None and self.streams is None):
            named = selected(self.keys, self.keys_from, self.streams)
        return CheckRequest(
            sample=self.sample,
            seed=self.seed,
            keys=[tuple(each) for each in named.keys] or None if named else None,
            streams=named.streams or None if named else None,
            since=duration_if_given("--since", self.since),
            version=self.version,
            limits=limits,
        )


@option_group()
class DifferenceOptions:
    """What becomes of the rows that differ."""

    heal: Annotated[
        bool, typer.Option("--heal", help="Make rows that differ right, after a question.")
    ] = False
    yes: Annotated[bool, yes_option("With --heal: do not ask.")] = False
    longest_session: LongestSession = None
    report: Annotated[Path | None, report_option("Write what differs as an HTML page.")] = None

    def longest(self) -> timedelta | None:
        """How long an instance may take; None where it was not given. Raises UsageError."""
        return duration_if_given("--longest-session", self.longest_session)


@command(projection, "check")
def check(
    context: typer.Context,
    name: ProjectionName,
    rows: CheckedRows,
    differing: DifferenceOptions,
    limits: LimitOptions,
) -> int:
    """Check whether rows are what their events make of them.

    esops projection check cart_summary
    esops projection check cart_summary --sample 1% --max-rate 20000
    esops projection check cart_summary --keys cart-17,cart-18
    esops projection check cart_summary --since 24h --report check.html

    Rows are made again from the events up to exactly the version's checkpoint, in temporary tables,
    and compared with those that serve, while the version is followed. A fold that is keyed by the
    stream reads the streams of the keys alone; any other kind reads the log once. No lock is taken,
    and no snapshot lasts longer than two seconds. A sample also looks at the rows again that
    earlier checks found wrong. Exit code 1 when rows differ, or a key that is named cannot be
    checked. With --quiet, nothing is written when all was checked and is right.
    """
    from esops.check.run import check as run
    from esops.config import load_config
    from esops.term.result_file import checked

    output = current_output(context)
    output.format("table", "json")
    _can_heal(rows, differing)
    longest, request = differing.longest(), rows.request(limits.limits())
    checked(differing.report, "--report")
    config = load_config(output.settings.config)
    stop, progress = stop_on_signals(), JobProgress(output)
    try:
        result = run(
            config, name, request, stop=stop.is_set, say=output.say, report=progress.update
        )
    finally:
        progress.close()
    if differing.report is not None:
        from esops.check.report import write_report

        write_report(differing.report, result)
    if differing.heal and result.found.differing:
        from esops.cli.heal import heal_found

        if not output.as_json:
            show(output, result)
        healed = heal_found(
            output, config, result, request.limits, longest, yes=differing.yes, stop=stop.is_set
        )
        if not output.as_json:
            return 0 if healed else 1
    right = _is_right(result, request)
    if output.as_json:
        output.json(result.as_dict())
    elif not (output.settings.quiet and right and not result.found.unknown):
        show(output, result)
    return 0 if right else 1


def _can_heal(rows: CheckedRows, differing: DifferenceOptions) -> None:
    """Raises UsageError where the options do not go together, or nobody can be asked."""
    from esops.errors import UsageError

    if differing.heal and rows.version is not None:
        raise UsageError("--heal is for the version that serves", hint="Leave out --version.")
    rows.named_once()
    if differing.heal and not differing.yes and not is_interactive():
        # Known now, and not only after all keys were checked.
        raise UsageError(
            "--heal writes to the table that serves, and needs a confirmation", hint="Add --yes."
        )


def _is_right(result: CheckResult, request: CheckRequest) -> bool:
    """Whether nothing is left that differs, and all is known that was asked for."""
    found = result.found
    if found.differing > result.healed:
        return False
    # Of a key that somebody names, "nobody knows" is no good news; nor is it of all keys.
    if request.named:
        return not (found.unknown or result.without_row)
    return bool(found.keys or not found.unknown)


def show(output: Output, result: CheckResult) -> None:
    """Say what was found, and what to do next."""
    from esops.check.text import lines

    for each in lines(result, _SHOWN):
        output.line(each)
