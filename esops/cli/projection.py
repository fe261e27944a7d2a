"""`esops projection`: the versions of read models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esops.cli.app import command, current_output, group
from esops.cli.limits import LimitOptions
from esops.cli.options import ProjectionName, dry_run_option, yes_option
from esops.cli.shared import confirm

if TYPE_CHECKING:
    from esops.config import Config
    from esops.running.control import ControlRequest
    from esops.term import Output

projection = group(
    "projection",
    "The versions of read models: show them, switch, roll back, retire.",
    "esops projection list",
    "esops projection show cart_summary",
)

_OVERVIEW = ["projection", "store", "kind", "active", "lag_events", "versions"]
_SHOWN = ["version", "state", "position", "lag_events", "rows", "tables", "updated_at"]
_HISTORY = ["version", "state", "position", "lag_events", "events", "rows", "updated_at"]


@command(projection, "list")
def list_(context: typer.Context) -> None:
    """List the projections of the configuration, and which version of each serves.

    esops projection list
    """
    from esops.cli.version_text import under_way
    from esops.rebuild.overview import overview

    output, config = opened(context)
    found = overview(config, output.settings.store)
    _rows(output, found, _OVERVIEW)
    if output.format("table", "json", "ndjson", "csv") == "table":
        for each in found:
            for line in under_way(each):
                output.line(line)


@command(projection)
def show(context: typer.Context, name: ProjectionName) -> None:
    """Show a projection's versions: which serves, how far each is, and who keeps it fresh.

    esops projection show cart_summary --output json
    """
    from esops.cli.version_text import notes, under_way, with_keeper, without_retired
    from esops.readmodel.renamed import in_words
    from esops.rebuild.overview import describe

    output, config = opened(context)
    found = describe(config, name, output.settings.store)
    if output.format("table", "json") == "json":
        output.json(found)
        return
    settings = config.projection(name)
    where = f"read as {', '.join(settings.tables)}" if settings.tables else "inside the store"
    output.line(f"{name}: {settings.kind} over store {found['store']}, {where}")
    if found["former_name"] is not None:
        output.line(in_words(found["former_name"], name))
        return
    shown = without_retired(found["versions"])
    if not shown:
        built = "It has never been built."
        if found["versions"]:
            built = f"All its versions are retired (esops projection versions {name})."
        output.line(f"{built} Build it with: esops rebuild {name} --blue-green")
    else:
        rows = [{**each, "tables": ", ".join(each["tables"].values())} for each in shown]
        _rows(output, with_keeper(rows), [*_SHOWN, "followed_by"])
    for line in (*notes(name, shown), *under_way(found)):
        output.line(line)


@command(projection, "versions")
def versions(context: typer.Context, name: ProjectionName) -> None:
    """List a projection's versions, including those that are retired.

    esops projection versions cart_summary
    """
    from esops.rebuild.overview import describe_versions

    output, config = opened(context)
    _rows(output, describe_versions(config, name, output.settings.store), _HISTORY)


@command(projection)
def pause(context: typer.Context, name: ProjectionName) -> int:
    """Pause the work on a projection after its next checkpoint: a rebuild, and `esops run`.

    While it is paused, readers see nothing new.

    Exit code 1 if nothing works on it now. Work that begins later is paused all the same.

    esops projection pause cart_summary
    """
    from esops.rebuild import steering

    _, config = opened(context)
    now, works = steering.pause(config, name)
    again = f"Resume it with: esops projection resume {name}"
    stale = "Readers see nothing new until you resume. " if works.serving is not None else ""
    text = (
        f"{name} pauses after its next checkpoint, within about a second: {works}. {stale}{again}"
        if works
        else f"no process works on {name} now; what begins later is paused at once. {again}"
    )
    return _say_asked(context, name, now, text, works=bool(works))


@command(projection)
def resume(context: typer.Context, name: ProjectionName) -> None:
    """Resume work that was paused.

    esops projection resume cart_summary
    """
    from esops.rebuild import steering

    _, config = opened(context)
    _say_asked(context, name, steering.resume(config, name), f"{name} is not paused any more")


@command(projection)
def throttle(
    context: typer.Context,
    name: ProjectionName,
    *,
    limits: LimitOptions,
    off: Annotated[
        bool,
        typer.Option(
            "--off",
            help="Remove all limits that this command has set; those of the running command stay.",
        ),
    ] = False,
) -> None:
    """Change the limits of work on a projection, while it runs: of a rebuild, and of `esops run`.

    esops projection throttle cart_summary --max-rate 5000
    esops projection throttle cart_summary --off
    esops projection throttle cart_summary

    The limits also apply to later work, until you remove them. Without an option it shows them.
    """
    from esops.cli.version_text import limits as in_words
    from esops.rebuild import steering

    all_limits = asdict(limits.limits())
    given = {key: value for key, value in all_limits.items() if value is not None}
    _, config = opened(context)
    # With --off, the limits that were not given are None, which removes them.
    now, works = steering.throttle(config, name, all_limits if off else given)
    text = f"{name} is not limited"
    if now.limits:
        what = f": {works}" if works else ""
        text = f"{name} is limited to {in_words(now.limits)}{what}"
    _say_asked(context, name, now, text)


@command(projection)
def postpone(context: typer.Context, name: ProjectionName) -> int:
    """Let a rebuild keep up without switching.

    Exit code 1 if no rebuild is unfinished. One that begins later does not switch all the same.

    esops projection postpone cart_summary
    """
    from esops.rebuild import steering

    _, config = opened(context)
    now, works = steering.postpone(config, name)
    switch = f"Switch with: esops projection switch-now {name}"
    text = (
        f"{name} keeps up and does not switch. {switch}"
        if works
        else f"no rebuild of {name} is unfinished; the next one keeps up and does not switch. "
        f"{switch}"
    )
    return _say_asked(context, name, now, text, works=works)


@command(projection, "switch-now")
def switch_now(context: typer.Context, name: ProjectionName) -> None:
    """Let a rebuild whose switch is postponed switch now, whatever its lag.

    esops projection switch-now cart_summary

    The switch itself brings green to blue's position, so readers never see older data.
    """
    from esops.rebuild import steering

    _, config = opened(context)
    now, works = steering.switch_now(config, name)
    text = (
        f"{name} switches as soon as it is verified"
        if works
        else f"the next rebuild of {name} is not postponed any more; none is unfinished now"
    )
    _say_asked(context, name, now, text)


@command(projection)
def recover(
    context: typer.Context,
    name: ProjectionName,
    *,
    accept_removed: Annotated[
        bool,
        typer.Option(
            "--accept-removed",
            help="Take events that are gone without a trace for deleted on purpose, not for lost.",
        ),
    ] = False,
    yes: Annotated[bool, yes_option()] = False,
    dry_run: Annotated[bool, dry_run_option("Show the plan; change nothing.")] = False,
) -> int:
    """Continue after the store was restored to an earlier time, or replaced.

    Says up to where both histories are the same. A version of which no later event was applied is
    set back to there. Any other is given up: it serves as it is, until you rebuild.

    esops projection recover cart_summary --dry-run
    esops projection recover cart_summary

    Exit code 1 when a version has to be rebuilt.
    """
    from esops.cli import recover_text
    from esops.rebuild.recovery import plan, recover

    output, config = opened(context)
    found = plan(config, name, output.settings.store, removed=accept_removed)
    if output.format("table", "json") == "json":
        output.json({**found.as_dict(), "dry_run": dry_run})
    else:
        recover_text.show(output, found)
    if found.needed and not dry_run:
        confirm(
            f"Change the checkpoints of {name} like this?",
            yes=yes,
            what="recovering changes checkpoints",
            hint="Add --yes, or --dry-run to see the plan only.",
        )
        recover(config, found)
    return 1 if found.commands else 0


def opened(context: typer.Context) -> tuple[Output, Config]:
    """The output of a command, and its configuration."""
    from esops.config import load_config

    output = current_output(context)
    return output, load_config(output.settings.config)


_DROP = [
    *("updated_at", "event_id", "at", "rows", "events", "kind", "versions", "followed_by"),
    *("position", "store", "stream_version", "type"),
]
"""Columns that a narrow terminal leaves out, the least important first."""
_WRAP = ["tables", "error"]


def _rows(output: Output, rows: Sequence[Mapping[str, Any]], columns: list[str]) -> None:
    output.records(rows, columns, drop=_DROP, wrap=_WRAP)


def _say_asked(
    context: typer.Context, name: str, now: ControlRequest, text: str, *, works: bool = True
) -> int:
    """Say what is asked for now; `works`: whether that makes a difference at this moment."""
    output = current_output(context)
    if output.format("table", "json") == "json":
        output.json({"projection": name, **now.as_dict()})
    elif works:
        output.line(text)
    else:
        output.warn(text)
    return 0 if works else 1
