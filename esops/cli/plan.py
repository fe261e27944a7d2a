"""`esops plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.options import projection_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from esops.config import Config
    from esops.rebuild.projection_change import ProjectionChange
    from esops.rebuild.request import RebuildRequest
    from esops.term import Output


@command(app)
def plan(
    context: typer.Context,
    projections: Annotated[
        list[str] | None, projection_names("The projections. Default: all.")
    ] = None,
) -> int:
    """Show which projections differ from the version that serves, and what that takes.

    esops plan
    esops plan --output json
    esops rebuild --changed --blue-green

    Code, DDL, filters and settings are held against the version that serves. Nothing is changed.
    `esops rebuild --changed` does what it shows.

    Exit code 1 when something has to be done, or is not known; 2 when code cannot be loaded.
    """
    from esops.config import load_config
    from esops.rebuild.changed import look
    from esops.rebuild.projection_change import in_a_line

    output = current_output(context)
    form = output.format("table", "json")
    config = load_config(output.settings.config)
    found = look(config, projections or [], output.settings.store)
    if form == "json":
        output.json({"projections": [each.as_dict() for each in found]})
    else:
        for each in found:
            for line in lines(each):
                output.line(line)
        output.line(in_a_line(found))
    errors = [each.error.exit_code for each in found if each.error is not None]
    return max(errors, default=int(not all(each.settled for each in found)))


def projections_to_rebuild(
    output: Output, config: Config, names: Sequence[str], request: RebuildRequest
) -> tuple[list[str], int]:
    """What `esops rebuild --changed` rebuilds, and its exit code where all of that goes well: 1
    where something is left to be done that no rebuild does.

    Raises UsageError for options that do not go with it, and the error of a projection of which
    nobody knows what has changed.
    """
    from esops.errors import UsageError
    from esops.rebuild.changed import look
    from esops.rebuild.projection_change import in_a_line, to_rebuild

    if request.in_place or request.action != "begin":
        raise UsageError(
            "--changed begins blue-green rebuilds, and nothing else",
            hint="Add --blue-green. What is unfinished is resumed or aborted by its name.",
        )
    found = look(config, names, request.store)
    rebuilt = to_rebuild(found)
    left = [each for each in found if each.needs != "rebuild" and not each.settled]
    output.say(in_a_line(found))
    for change in left:
        for line in lines(change):
            output.warn(line.strip())
    if not rebuilt:
        if output.as_json:
            output.json({"rebuilds": []})
        else:
            output.line("nothing was rebuilt: no projection needs it")
    return rebuilt, int(bool(left))


def lines(change: ProjectionChange) -> Iterator[str]:
    """A projection, for a person."""
    name = change.projection + ("" if change.version is None else f" v{change.version}")
    if change.error is not None:
        hint = f" ({change.error.hint})" if change.error.hint else ""
        yield f"{name}: not known: {change.error.message}{hint}"
        return
    yield f"{name}: {_needs(change)}"
    for what, detail in change.changed.items():
        yield f"  {what}: {detail}" if detail else f"  {what}"
    for what, why in change.wrong.items():
        yield f"  {what}: {why}"
    for what, why in change.unknown.items():
        yield f"  not known of {what}: {why}"
    for each in change.statements:
        yield f"  {each};"
    for each in change.notes:
        yield f"  note: {each}"


def _needs(change: ProjectionChange) -> str:
    from esops.term import duration
    from esops.wording import count, size

    if change.needs == "switch":
        to = f"v{change.waiting} is built and waits for its switch"
        return f"{to}: esops projection switch {change.projection} --to {change.waiting}"
    if change.wrong:
        return "what serves is wrong"
    if change.needs == "look":
        return "has changed, and a rebuild would fail"
    if change.needs == "nothing":
        if change.changed:
            return "needs no rebuild"
        return "nothing has changed" if not change.unknown else "nothing known has changed"
    about = [count(change.events, "event")] if change.events is not None else []
    about += [] if change.seconds is None else [f"{duration(change.seconds)} by the last rebuild"]
    about += [] if not change.bytes else [f"{size(change.bytes)} beside what serves"]
    costs = f" (about {', '.join(about)})" if about else ""
    if change.only_indexes:
        return f"needs only a new index, by the statement below, or a rebuild{costs}"
    return f"needs a rebuild{costs}"
