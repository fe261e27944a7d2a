"""`esops projection test`: whether a projection is deterministic, and idempotent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from esops.cli.app import command
from esops.cli.limits import LimitOptions
from esops.cli.option_groups import option_group
from esops.cli.options import ProjectionName, streams_option
from esops.cli.projection import opened, projection
from esops.cli.shared import archived_streams_named, stop_on_signals

if TYPE_CHECKING:
    from esops.check.trial import Tried
    from esops.check.trial_findings import Problem
    from esops.check.trial_plan import Wanted
    from esops.term import Output
    from esops.term.progress import ProgressLine

_SHOWN = 5
"""Columns and paths that differ, of the first row."""


@option_group(panel="Which events")
class TriedEvents:
    """The events that it is tried with."""

    events: Annotated[
        int,
        typer.Option(
            "--events", min=1, metavar="N", help="Try it with about N events, of whole streams."
        ),
    ] = 10_000
    streams: Annotated[str | None, streams_option("Try it with the events of these streams.")] = (
        None
    )
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            help="Draw the streams, the batches and the order by this number.",
        ),
    ] = 1

    def wanted(self) -> Wanted:
        """The same for the trial."""
        from esops.check.trial_plan import Wanted

        named = filter(None, map(str.strip, (self.streams or "").split(",")))
        return Wanted(self.events, tuple(named))


@option_group()
class TrialOptions:
    """Which trials are made, and what counts."""

    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            metavar="TRIAL",
            help="Leave out this trial (clock, hash, batches, restart, order, twice); can be "
            "repeated.",
        ),
    ] = None
    idempotent: Annotated[
        bool,
        typer.Option(
            "--idempotent",
            help="Count it as a finding where a batch that comes twice changes rows.",
        ),
    ] = False


@command(projection, "test")
def trial(
    context: typer.Context,
    name: ProjectionName,
    which: TriedEvents,
    trials: TrialOptions,
    limits: LimitOptions,
) -> int:
    """Try whether a projection is deterministic, and idempotent, in temporary tables.

    esops projection test cart_summary
    esops projection test cart_summary --events 50000 --seed 7
    esops projection test cart_summary --streams shopping_cart-2b2210d1 --skip order

    The same events are applied by another process, under another hash seed, in other batches, with
    restarts, in another order of the streams, and with each batch twice. Versions that serve are
    not touched, and no hook is run; what the code itself does outside of its tables happens.

    Exit code 1 when the code fails, or when the same events give other rows.
    """
    from esops.check.trial import TrialRequest, try_out

    output, config = opened(context)
    form = output.format("table", "json")
    request = TrialRequest(
        name,
        which.wanted(),
        which.seed,
        tuple(trials.skip or ()),
        trials.idempotent,
        output.settings.store,
        limits.limits(),
    )
    asked, progress = stop_on_signals(), _Progress(output)
    try:
        with archived_streams_named(config):
            found = try_out(
                config, request, stop=asked.is_set, say=output.say, progress=progress.update
            )
    finally:
        progress.close()
    if form == "json":
        output.json(found.as_dict())
    else:
        _show(output, found)
    return 1 if found.problems else 0


def _show(output: Output, found: Tried) -> None:
    answers: list[tuple[str, Any]] = [
        ("deterministic", found.deterministic),
        ("idempotent", found.idempotent),
    ]
    for each in found.problems:
        _problem(output, "Finding", each)
    for each in found.notes:
        _problem(output, "Note", each)
    said = ", ".join(
        f"{name}: {'not tried' if value is None else 'yes' if value else 'no'}"
        for name, value in answers
    )
    tried = f"{found.events:,} events, {found.rows:,} rows, trials: {', '.join(found.trials)}"
    output.line(f"{found.projection}: {said} ({tried or 'none'})")
    if found.ignored:
        output.line(f"not compared: {', '.join(found.ignored)} (verify.ignore)")


def _problem(output: Output, what: str, each: Problem) -> None:
    """What differs, where from, how, the probable cause, and what to do: a line each."""
    from esops.cli.step_text import in_words

    output.line(f"{what} ({each.kind}): {each.detail}.")
    at = ""
    if (event := each.event) is not None:
        at = f"event {event.stream} @{event.version} (position {event.position}, {event.type})"
    if each.key is not None:
        where = f"row {each.key} of {each.table}"
        output.line(f"  Where: {where}" + (f", from {at} on." if at else "."))
        # Not what it is at that event: there it may differ by something else.
        output.line(f"  At the end of all events: {in_words(each.differs[:_SHOWN])}.")
    elif at:
        output.line(f"  It is {at}.")
    if each.cause is not None:
        output.line(f"  Probable cause: {each.cause}.")
    if each.remedy is not None:
        output.line(f"  What to do: {each.remedy}.")
    output.line()


class _Progress:
    """One line for all trials: which is made, and how many are done. Trials have no common rate."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._line: ProgressLine | None = None

    def update(self, trial: str, done: int, total: int) -> None:
        self._line = self._line or self._output.progress("trials", 0, None)
        if trial:
            self._line.phase(f"{done + 1} of {total} ({trial})")

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
