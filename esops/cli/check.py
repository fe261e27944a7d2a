"""`esops projection check`: does the read model still say what its events say?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import command, current_output
from esops.cli.completion import complete_projection
from esops.cli.limits import LONGEST_SESSION, MAX_LAG_BYTES, MAX_LOAD, MAX_RATE, NICE
from esops.cli.projection import projection
from esops.cli.shared import JobProgress, duration, is_interactive, stop_on_signals

if TYPE_CHECKING:
    from esops.check.result import CheckResult
    from esops.term import Output

_WHAT = "What is checked"
_SHOWN = 10
"""Rows that differ of which a terminal shows the columns."""


@command(projection, "check")
def check(
    context: typer.Context,
    name: str = typer.Argument(..., help="The projection.", autocompletion=complete_projection),
    sample: str | None = typer.Option(
        None,
        "--sample",
        metavar="N|P%|all",
        help="N keys, P percent of them, or all; default: all of up to 100,000 keys, 1% of more.",
        rich_help_panel=_WHAT,
    ),
    seed: str | None = typer.Option(
        None,
        "--seed",
        metavar="S",
        help="Draw the sample that had this seed.",
        rich_help_panel=_WHAT,
    ),
    keys: str | None = typer.Option(
        None, "--keys", metavar="K,…", help="The rows with these keys.", rich_help_panel=_WHAT
    ),
    keys_from: Path | None = typer.Option(
        None,
        "--keys-from",
        metavar="FILE",
        help='A key a line; of several columns as JSON: ["acme", "cart-1"].',
        rich_help_panel=_WHAT,
    ),
    streams: str | None = typer.Option(
        None, "--streams", metavar="S,…", help="The rows of these streams.", rich_help_panel=_WHAT
    ),
    since: str | None = typer.Option(
        None,
        "--since",
        metavar="D",
        help="The rows with events of this time, such as 24h.",
        rich_help_panel=_WHAT,
    ),
    version: int | None = typer.Option(
        None,
        "--version",
        metavar="V",
        help="Another version than the one that serves.",
        rich_help_panel=_WHAT,
    ),
    heal: bool = typer.Option(
        False, "--heal", help="Make rows that differ right, after a question."
    ),
    yes: bool = typer.Option(False, "-y", "--yes", help="With --heal: do not ask."),
    longest_session: str | None = LONGEST_SESSION,
    report: Path | None = typer.Option(
        None, "--report", metavar="FILE.html", help="Write what differs as an HTML page."
    ),
    max_rate: int | None = MAX_RATE,
    max_load: int | None = MAX_LOAD,
    max_lag_bytes: int | None = MAX_LAG_BYTES,
    nice: float | None = NICE,
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
    checked. With --quiet, nothing is written when all is right.
    """
    from esops.check.run import CheckRequest
    from esops.check.run import check as run
    from esops.cli.heal import selected
    from esops.config import load_config
    from esops.errors import UsageError
    from esops.running.throttle import Limits
    from esops.term.result_file import checked

    output = current_output(context)
    output.format("table", "json")
    if heal and version is not None:
        raise UsageError("--heal is for the version that serves", hint="Leave out --version.")
    _only_one(sample=sample, keys=keys, keys_from=keys_from, streams=streams, since=since)
    if heal and not yes and not is_interactive():
        # Known now, and not only after all keys were checked.
        raise UsageError(
            "--heal writes to the table that serves, and needs a confirmation", hint="Add --yes."
        )
    longest = None
    if longest_session is not None:
        longest = duration("--longest-session", longest_session)
    named = None
    if not (keys is None and keys_from is None and streams is None):
        named = selected(keys, keys_from, streams)
    request = CheckRequest(
        sample=sample,
        seed=seed,
        keys=[tuple(each) for each in named.keys] or None if named else None,
        streams=named.streams or None if named else None,
        since=None if since is None else duration("--since", since),
        version=version,
        limits=Limits(max_rate, max_load, max_lag_bytes, nice),
    )
    checked(report, "--report")
    config = load_config(output.settings.config)
    stop, progress = stop_on_signals(), JobProgress(output)
    try:
        result = run(
            config, name, request, stop=stop.is_set, say=output.say, report=progress.update
        )
    finally:
        progress.close()
    if report is not None:
        _write(report, result)
    if heal and result.found.differing:
        if not output.as_json:
            show(output, result)
        from esops.cli.heal import heal_found

        healed = heal_found(
            output, config, result, request.limits, longest, yes=yes, stop=stop.is_set
        )
        if not output.as_json:
            return 0 if healed else 1
    found = result.found
    right = found.differing <= result.healed and (
        # Of a key that somebody names, "nobody knows" is no good news; nor is it of all keys.
        not (found.unknown or result.without_row)
        if request.named
        else found.keys or not found.unknown
    )
    if output.as_json:
        output.json(result.as_dict())
    elif not (output.settings.quiet and right):
        show(output, result)
    return 0 if right else 1


def show(output: Output, result: CheckResult) -> None:
    """Say what was found, and what to do next."""
    from esops.check.text import lines

    for each in lines(result, _SHOWN):
        output.line(each)


def _write(path: Path, result: CheckResult) -> None:
    from esops.check.report import write_report

    write_report(path, result)


def _only_one(**given: Any) -> None:
    from esops.errors import UsageError

    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(
            f"{' and '.join(named)} exclude each other",
            hint="Say in one way what is to be checked.",
        )
