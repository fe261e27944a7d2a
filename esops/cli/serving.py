"""`esops projection switch`, `rollback` and `retire`: which version serves, which is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esops.cli.app import command
from esops.cli.option_groups import option_group
from esops.cli.options import (
    ProjectionName,
    accept_code_option,
    dry_run_option,
    longest_session_option,
    max_dead_letters_option,
    yes_option,
)
from esops.cli.projection import opened, projection
from esops.cli.shared import confirm, duration
from esops.cli.snapshot_options import SnapshotOptions
from esops.wording import count

if TYPE_CHECKING:
    from esops.config import Config
    from esops.rebuild.going_back import WentBack
    from esops.rebuild.healing import Finished
    from esops.rebuild.switched import Switched
    from esops.term import Output


@option_group()
class AcceptOptions:
    """What a version may be like that is served."""

    allow_stale: Annotated[
        bool,
        typer.Option(
            "--allow-stale",
            help="Serve the version even if it is behind the one that serves now.",
        ),
    ] = False
    accept_code: Annotated[
        bool,
        accept_code_option(
            "Serve the version although other code than it was built by has advanced it."
        ),
    ] = False


@command(projection)
def switch(
    context: typer.Context,
    name: ProjectionName,
    *,
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="V", help="The version. Default: the newest that stands by."),
    ] = None,
    accept: AcceptOptions,
    max_dead_letters: Annotated[
        str, max_dead_letters_option("Serve it without up to N, or P%, events.")
    ] = "0",
    snapshots: SnapshotOptions,
    dry_run: Annotated[bool, dry_run_option()] = False,
) -> None:
    """Point the name that the application reads at another version, in one transaction.

    esops projection switch cart_summary --to 3
    """
    from esops.rebuild.lifecycle import switch_to
    from esops.rebuild.switched import Accepted

    output, config = opened(context)
    accepted = Accepted(accept.allow_stale, accept.accept_code, max_dead_letters)
    options: dict[str, Any] = {"accepted": accepted, "dry_run": dry_run, "say": output.say}
    options["patience"] = snapshots.patience()
    options["stop"] = _stop(config, name)
    done = switch_to(config, name, to, **options)
    _show_switched(output, done, dry_run=dry_run)


@command(projection)
def rollback(
    context: typer.Context,
    name: ProjectionName,
    accept: AcceptOptions,
    snapshots: SnapshotOptions,
    *,
    dry_run: Annotated[bool, dry_run_option()] = False,
) -> None:
    """Go back to the version that served before; it is brought up to date first.

    esops projection rollback cart_summary

    A second rollback is refused: it would go forward again, which `projection switch --to` does.
    """
    from esops.rebuild.lifecycle import roll_back
    from esops.rebuild.switched import Accepted

    output, config = opened(context)
    accepted = Accepted(accept.allow_stale, accept.accept_code)
    options: dict[str, Any] = {"accepted": accepted, "dry_run": dry_run, "say": output.say}
    options["patience"] = snapshots.patience()
    options["stop"] = _stop(config, name)
    done = roll_back(config, name, **options)
    _show_switched(output, done, dry_run=dry_run)


@command(projection)
def retire(
    context: typer.Context,
    name: ProjectionName,
    version: Annotated[
        int | None, typer.Argument(help="The version. Default: all that stand by.")
    ] = None,
    *,
    yes: Annotated[bool, yes_option("Do not ask before tables are dropped.")] = False,
    dry_run: Annotated[bool, dry_run_option()] = False,
) -> None:
    """Drop the tables of versions that no longer serve.

    esops projection retire cart_summary
    """
    from esops.rebuild.lifecycle import retirable

    output, config = opened(context)
    found = retirable(config, name, version)
    what = ", ".join(found.what)
    verb, past = ("delete", "deleted") if found.in_store else ("drop", "dropped")
    if dry_run:
        output.line(f"would {verb} {what}")
        return
    confirm(f"{verb.capitalize()} {what}?", yes=yes, what=f"this would {verb} {what}")
    statements = found.run()
    if output.as_json:
        output.json({"projection": name, "retired": list(found.versions), "statements": statements})
    else:
        numbers = ", ".join(f"v{each}" for each in found.versions)
        output.line(f"{name}: retired {numbers}; {past} {what}")


def _stop(config: Config, name: str) -> Callable[[], bool]:
    """Where it may take a while, a first Ctrl-C ends it in order."""
    from esops.cli.shared import stop_on_signals

    return stop_on_signals().is_set if config.projection(name).live == "inline" else lambda: False


def _show_switched(output: Output, done: Switched, *, dry_run: bool) -> None:
    name, new = done.projection, done.to_version
    if output.as_json:
        output.json({**done.as_dict(), "dry_run": dry_run})
    # Inside a store there are no statements: what switches is the user's program.
    elif done.inside is not None and dry_run:
        output.line(
            f"would move the readers from {done.inside[0]} to {done.inside[1]} by running: "
            f"{done.statements[0]}"
        )
    elif dry_run:
        for statement in done.statements:
            output.line(f"{statement};")
        for note in done.notes:
            output.say(note)
    elif done.inside is not None:
        old = done.inside[0]
        output.line(f"{name} serves v{new} now, as {done.inside[1]}; {old} keeps running")
    else:
        at = f", at position {done.position}" if done.position is not None else ""
        output.line(f"{name} serves v{new} now{at}; v{done.from_version} stands by")
        if done.went_back is not None:
            for line in _went_back(done, done.went_back):
                output.line(line)


def _went_back(done: Switched, how: WentBack) -> list[str]:
    """What comes after a switch back of a table that the application writes."""
    from esops.cli.rebuild_summary import locked

    name, old = done.projection, done.from_version
    return [
        f"v{done.to_version} got {count(how.events, 'event')} that it lacked.",
        *locked(how.lock.as_dict()),
        (
            f"Instances with the code of v{old} write rows by that logic until they have ended. "
            f"After that: esops projection finish {name}"
        ),
    ]


@command(projection)
def finish(
    context: typer.Context,
    name: ProjectionName,
    *,
    longest_session: Annotated[
        str | None,
        longest_session_option(
            "How long an instance may take from loading a row to writing it. Default: 30s."
        ),
    ] = None,
    accept_unchecked: Annotated[
        bool,
        typer.Option(
            "--accept-unchecked",
            help="Take rows that cannot be checked for right: you have looked at them.",
        ),
    ] = False,
    yes: Annotated[bool, yes_option()] = False,
) -> int:
    """Make the rows right that old code wrote after a switch with live = "inline".

    Run it when the last instance with the old code has ended; after a rollback, with the new code.
    Each row is compared with the events of its stream, while the application writes. Only rows that
    are wrong are locked, a few at a time.

    esops projection finish cart_summary --longest-session 60s

    Exit code 1 when rows could not be checked, since events of their streams are gone or archived.
    """
    from esops.cli.shared import stop_on_signals
    from esops.rebuild import healing

    output, config = opened(context)
    confirm(
        f"Has the last instance of the application ended whose code of {name} is another one than "
        "esops.toml names?",
        yes=yes,
        what="finishing needs the word that no old code writes any more",
    )
    longest = healing.LONGEST_SESSION
    if longest_session is not None:
        longest = duration("--longest-session", longest_session)
    stop = stop_on_signals()
    done = healing.finish(
        config,
        name,
        longest_session=longest,
        accept_unchecked=accept_unchecked,
        stop=stop.is_set,
        say=output.say,
    )
    if output.format("table", "json") == "json":
        output.json(done.as_dict())
    else:
        for line in finished(done, accept_unchecked):
            output.line(line)
    return 1 if done.unchecked and not accept_unchecked else 0


def finished(done: Finished, accepted: bool) -> list[str]:
    """What became of the rows. `accepted`: those that could not be checked count as right."""
    name = done.projection
    lines = [
        (
            f"{count(done.healed, 'row')} of {name} v{done.version} made right, of "
            f"{count(done.streams, 'stream')}, in {count(done.passes, 'pass', 'passes')}."
        )
    ]
    if done.unchecked:
        some = ", ".join(each.stream for each in done.unchecked[:5])
        lines.append(
            f"{count(len(done.unchecked), 'row')} could not be checked, since events of the stream "
            f"are gone or archived: {some}{', …' if len(done.unchecked) > 5 else ''}."
        )
        if not accepted:
            lines.append(
                "Look at them. If they are right: the same command with --accept-unchecked. If all "
                "rows may be as today's events make them: "
                f"esops rebuild {name} --blue-green --max-diff {len(done.unchecked)}"
            )
    return lines
