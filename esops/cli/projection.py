"""`esops projection`: the versions of read models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import command, current_output, group
from esops.cli.limits import MAX_LAG_BYTES, MAX_LOAD, MAX_RATE, NICE
from esops.cli.shared import complete_projection, is_interactive

if TYPE_CHECKING:
    from esops.config import Config
    from esops.rebuild.lifecycle import Switched
    from esops.term import Output

projection = group(
    "projection",
    "The versions of read models: show them, switch, roll back, retire.",
    "esops projection list",
    "esops projection show cart_summary",
)

_NAME = typer.Argument(..., help="The projection.", autocompletion=complete_projection)
_STALE = typer.Option(
    False, "--allow-stale", help="Serve the version even if it is behind what serves now."
)
_DRY = typer.Option(False, "-n", "--dry-run", help="Print the statements and change nothing.")


@command(projection, "list")
def list_(context: typer.Context) -> None:
    """List the projections of the configuration and the version that serves of each.

    esops projection list
    """
    from esops.config import load_config
    from esops.rebuild import lifecycle as versions

    output = current_output(context)
    config = load_config(output.settings.config)
    rows = []
    for name, settings in config.projections.items():
        shown = versions.described(config, name, output.settings.store)
        active = next((each for each in shown if each["state"] == "active"), None)
        rows.append(
            {
                "projection": name,
                "store": settings.store or config.store(output.settings.store or settings.store)[0],
                "kind": settings.kind,
                "active": active["version"] if active else None,
                "lag_events": active["lag_events"] if active else None,
                "versions": len(
                    [each for each in shown if each["state"] in {"active", "standby", "building"}]
                ),
            }
        )
    _rows(output, rows, ["projection", "store", "kind", "active", "lag_events", "versions"])


@command(projection)
def show(context: typer.Context, name: str = _NAME) -> None:
    """Show a projection's versions: which serves, how far each is, and who keeps it fresh.

    esops projection show cart_summary --output json
    """
    from esops.config import load_config
    from esops.rebuild import lifecycle as versions

    output = current_output(context)
    config = load_config(output.settings.config)
    settings = config.projection(name)
    found = versions.described(config, name, output.settings.store)
    if output.format("table", "json") == "json":
        output.json(
            {
                "projection": name,
                "store": config.store(output.settings.store or settings.store)[0],
                "kind": settings.kind,
                "active": next(
                    (each["version"] for each in found if each["state"] == "active"), None
                ),
                "versions": found,
            }
        )
        return
    where = f"read as {', '.join(settings.tables)}" if settings.tables else "inside the store"
    output.line(
        f"{name}: {settings.kind} over store "
        f"{config.store(output.settings.store or settings.store)[0]}, {where}"
    )
    if not found:
        output.line(f"It was never built. Build it with: esops rebuild {name} --blue-green")
        return
    shown = [{**each, "tables": ", ".join(each["tables"].values())} for each in found]
    _rows(
        output,
        shown,
        [
            "version",
            "state",
            "position",
            "lag_events",
            "rows",
            "tables",
            "updated_at",
            "followed_by",
        ],
    )


@command(projection, "versions")
def versions_(context: typer.Context, name: str = _NAME) -> None:
    """List a projection's versions, the retired ones too.

    esops projection versions cart_summary
    """
    from esops.config import load_config
    from esops.rebuild import lifecycle as versions

    output = current_output(context)
    config = load_config(output.settings.config)
    found = versions.described(config, name, output.settings.store)
    _rows(
        output,
        found,
        ["version", "state", "position", "lag_events", "events", "rows", "updated_at"],
    )


@command(projection)
def switch(
    context: typer.Context,
    name: str = _NAME,
    to: int | None = typer.Option(
        None, "--to", metavar="V", help="Which version; left out: the newest that stands by."
    ),
    allow_stale: bool = _STALE,
    dry_run: bool = _DRY,
) -> None:
    """Point the name that the application reads at another version, in one transaction.

    esops projection switch cart_summary --to 3
    """
    from esops.config import load_config
    from esops.rebuild import lifecycle as versions

    output = current_output(context)
    config = load_config(output.settings.config)
    if config.projection(name).kind == "server":
        _move(output, config, name, to, back=False, dry_run=dry_run)
    else:
        _tell(
            output,
            versions.switch_to(config, name, to, allow_stale=allow_stale, dry_run=dry_run),
            dry_run,
        )


@command(projection)
def rollback(
    context: typer.Context, name: str = _NAME, allow_stale: bool = _STALE, dry_run: bool = _DRY
) -> None:
    """Go back to the version that served before; it is brought up to date first.

    esops projection rollback cart_summary
    """
    from esops.config import load_config
    from esops.rebuild import lifecycle as versions

    output = current_output(context)
    config = load_config(output.settings.config)
    if config.projection(name).kind == "server":
        _move(output, config, name, None, back=True, dry_run=dry_run)
    else:
        _tell(
            output,
            versions.roll_back(config, name, allow_stale=allow_stale, dry_run=dry_run),
            dry_run,
        )


@command(projection)
def retire(
    context: typer.Context,
    name: str = _NAME,
    version: int | None = typer.Argument(None, help="Which version; left out: all that stand by."),
    yes: bool = typer.Option(False, "-y", "--yes", help="Do not ask before tables are dropped."),
    dry_run: bool = _DRY,
) -> None:
    """Drop the tables of versions that no longer serve.

    esops projection retire cart_summary
    """
    from esops.config import load_config
    from esops.rebuild import lifecycle as versions

    output = current_output(context)
    config = load_config(output.settings.config)
    if config.projection(name).kind == "server":
        from esops.rebuild.variants.server import versions as in_server

        standing = in_server.retirable(config, name, version)
        what = ", ".join(f"projection {each.name}" for each in standing)
        numbers = [each.version for each in standing]

        def do() -> list[str]:
            return in_server.retire(config, name, standing)

        verb, past = "delete", "deleted"
    else:
        found = versions.retirable(config, name, version)
        what = ", ".join(".".join(table) for each in found for table in each.tables.values())
        numbers = [each.version for each in found]

        def do() -> list[str]:
            return versions.retire(config, found)

        verb, past = "drop", "dropped"
    if dry_run:
        output.line(f"would {verb} {what}")
        return
    if is_interactive() and not yes:
        typer.confirm(f"{verb.capitalize()} {what}?", abort=True, err=True)
    statements = do()
    if output.as_json:
        output.json({"projection": name, "retired": numbers, "statements": statements})
    else:
        output.line(f"{name}: retired {', '.join(f'v{each}' for each in numbers)}; {past} {what}")


@command(projection)
def pause(context: typer.Context, name: str = _NAME) -> None:
    """Let the work on a projection wait after its next checkpoint: a rebuild, and what `esops run`
    does for it.

    esops projection pause cart_summary
    """
    _wish(
        context,
        name,
        "waits, within a second; go on with: esops projection resume {name}",
        paused=True,
    )


@command(projection)
def resume(context: typer.Context, name: str = _NAME) -> None:
    """Let work that was paused go on.

    esops projection resume cart_summary
    """
    _wish(context, name, "goes on", paused=False)


@command(projection)
def throttle(
    context: typer.Context,
    name: str = _NAME,
    max_rate: float | None = MAX_RATE,
    max_load: int | None = MAX_LOAD,
    max_lag_bytes: int | None = MAX_LAG_BYTES,
    nice: float | None = NICE,
    off: bool = typer.Option(
        False,
        "--off",
        help="Take back all that was asked for here; what the command began with holds.",
    ),
) -> None:
    """Change what work on a projection may take, while it runs.

    esops projection throttle cart_summary --max-rate 5000
    esops projection throttle cart_summary --off

    It stays so for later work, too, until it is taken back.
    """
    from esops.errors import UsageError

    limits = {
        "max_rate": max_rate,
        "max_load": max_load,
        "max_lag_bytes": max_lag_bytes,
        "nice": nice,
    }
    given = {key: value for key, value in limits.items() if value is not None}
    if not given and not off:
        raise UsageError(
            "say what to limit", hint="esops projection throttle NAME --max-rate 5000, or --off."
        )
    _wish(
        context,
        name,
        "is limited to {limits}" if given else "is not limited any more",
        limits=limits if off else given,
    )


@command(projection)
def postpone(context: typer.Context, name: str = _NAME) -> None:
    """Let a rebuild keep up and wait with its switch.

    esops projection postpone cart_summary
    """
    _wish(
        context,
        name,
        "waits with its switch for: esops projection switch-now {name}",
        postponed=True,
        switch_now=False,
    )


@command(projection, "switch-now")
def switch_now(context: typer.Context, name: str = _NAME) -> None:
    """Let a rebuild that waits with its switch go on to it, whatever its lag: the switch itself
    brings green up to blue.

    esops projection switch-now cart_summary
    """
    _wish(context, name, "switches as soon as it is verified", postponed=False, switch_now=True)


def _wish(context: typer.Context, name: str, told: str, **changed: Any) -> None:
    from esops.config import load_config
    from esops.errors import UsageError
    from esops.postgres.connection import connect, translated
    from esops.running.throttle import request

    output = current_output(context)
    config = load_config(output.settings.config)
    if config.projection(name).kind == "server":
        raise UsageError(
            f"{name} runs inside its store: there is nothing of it to be paused or limited here"
        )
    with translated(), connect(config.readmodel_of(name).dsn, f"control {name}") as connection:
        now = request(connection, name, **changed)
    if output.format("table", "json") == "json":
        output.json(
            {
                "projection": name,
                "paused": now.paused,
                "postponed": now.postponed,
                "switch_now": now.switch_now,
                "limits": dict(now.limits),
            }
        )
        return
    limits = ", ".join(f"{key.replace('_', '-')} {value:g}" for key, value in now.limits.items())
    output.line(f"{name} {told.format(name=name, limits=limits)}")


@command(projection, "dead-letters")
def dead_letters(context: typer.Context, name: str = _NAME) -> None:
    """List the events that a projection could not project and passed (on_error = "dead-letter").

    esops projection dead-letters cart_summary
    """
    from esops.config import load_config
    from esops.readmodel.dead_letters import list_dead_letters

    output = current_output(context)
    config = load_config(output.settings.config)
    columns = ["version", "position", "event_id", "stream", "stream_version", "type", "at", "error"]
    _rows(output, list_dead_letters(config, name), columns)


def _rows(output: Output, rows: Sequence[Mapping[str, Any]], columns: list[str]) -> None:
    match output.format("table", "json", "ndjson", "csv"):
        case "json":
            output.json(rows)
        case "ndjson":
            output.ndjson(rows)
        case "csv":
            output.csv(rows, columns)
        case _:
            output.table("", columns, [[row[column] for column in columns] for row in rows])


def _move(
    output: Output, config: Config, name: str, to: int | None, *, back: bool, dry_run: bool
) -> None:
    from esops.rebuild.variants.server import versions

    old, new, run = versions.move(config, name, to, back=back, dry_run=dry_run, say=output.say)
    if output.as_json:
        told = {
            "from_version": old.version,
            "to_version": new.version,
            "position": None,
            "statements": run,
            "dry_run": dry_run,
        }
        output.json({"projection": name, **told})
    elif dry_run:
        output.line(f"would hand over from {old.name} to {new.name} by running: {run[0]}")
    else:
        output.line(
            f"{name} serves v{new.version} now, by {new.name}; {old.name} runs on beside it."
        )


def _tell(output: Output, done: Switched, dry_run: bool) -> None:
    if output.as_json:
        output.json(
            {
                "projection": done.projection,
                "from_version": done.from_version,
                "to_version": done.to_version,
                "position": None if done.position is None else str(done.position),
                "statements": list(done.statements),
                "dry_run": dry_run,
            }
        )
        return
    for statement in done.statements if dry_run else ():
        output.line(f"{statement};")
    if not dry_run:
        output.line(
            f"{done.projection} serves v{done.to_version} now, at position {done.position}; "
            f"v{done.from_version} stands by."
        )
