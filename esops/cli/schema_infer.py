"""`esops schema infer`: JSON Schema for each event type and shape, from the events themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import command, current_output
from esops.cli.option_groups import Wording, option_group
from esops.cli.schema import schema
from esops.cli.schema_options import SelectedEvents
from esops.cli.shared import JobProgress, stop_on_signals

if TYPE_CHECKING:
    from esops.schema.inferring.job import InferenceResult
    from esops.term import Output

_SHOWN = 40
"""Lines of a table; --output json has all."""


@option_group()
class InferOptions:
    """What stands in the files, and which are replaced."""

    strict: Annotated[
        bool,
        typer.Option("--strict", help="Make rules of the ranges and lengths that were found."),
    ] = False
    no_values: Annotated[
        bool,
        typer.Option(
            "--no-values",
            help="Write no value of an event into a file: no enums, no ranges.",
        ),
    ] = False
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove the files of shapes that no event has any more."),
    ] = False
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also replace files that were edited, and add to types with others.",
        ),
    ] = False


@command(schema)
def infer(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Option("-o", "--directory", metavar="DIR", help="Where the files are written."),
    ] = Path("schemas"),
    *,
    which: Annotated[
        SelectedEvents,
        Wording(
            category="Look only at events of this category.",
            types="Look only at events of this type; can be repeated.",
        ),
    ],
    options: InferOptions,
) -> int:
    """Write a JSON Schema for each event type and shape, from all of its events.

    esops schema infer -o schemas/
    esops schema infer -o schemas/ --type order_placed --strict

    The files are made to live in git: a second run writes the same ones, and only what differs.
    A file that somebody has edited, and a type that has a file of its own, are left as they are.
    What may be personal data is marked (x-personal-data) and listed. Exit code 1 when a file that
    was edited differs from what was found.
    """
    from esops.config import load_config
    from esops.schema.inferring.job import InferenceRequest, infer_schemas
    from esops.stores.one_tenant import open_for

    output = current_output(context)
    output.format("table", "json")
    name, settings = load_config(output.settings.config).store(output.settings.store)
    request = InferenceRequest(
        which.selection(),
        whole=which.tenant is None,
        strict=options.strict,
        values=not options.no_values,
        prune=options.prune,
        force=options.force,
    )
    line, stop = JobProgress(output), stop_on_signals()
    with open_for(name, settings, which.tenant) as store:
        try:
            found = infer_schemas(
                store, folder, request,
                lambda done, total: line.update("events", done, total), stop.is_set,
            )  # fmt: skip
        finally:
            line.close()
    if output.format("table", "json") == "json":
        output.json(found.as_dict())
    else:
        _show(output, found)
    if found.short is not None:
        raise found.short
    return 1 if found.in_state("edited") else 0


def _show(output: Output, found: InferenceResult) -> None:
    from esops.wording import count

    if found.types:
        rows = [
            (each.type or "(no name)", each.events, len(each.shapes), each.folder)
            for each in sorted(found.types, key=lambda each: -each.events)[:_SHOWN]
        ]
        output.table("Event types", ["type", "events", "shapes", "files"], rows)
        if len(found.types) > _SHOWN:
            output.say(f"{len(found.types) - _SHOWN} more: --output json has all", "dim")
    _suspects(output, found)
    for known in found.types:
        if not known.type:
            events = count(known.events, "event has", "events have")
            output.warn(f"{events} a type without a name: no file can be for it")
    for type_, file in sorted(found.by_hand.items()):
        output.say(f"{type_} has a schema of its own, {file}: nothing is written for it")
    for each in found.in_state("absent"):
        output.warn(f"no event has the shape of {each.path} any more; --prune removes the file")
    for each in found.in_state("edited"):
        output.warn(f"{each.path} was edited, and differs from the events; --force replaces it")
    states = [
        count(len(found.in_state(state)), "file") + f" {state}"
        for state in ("written", "unchanged", "removed")
        if found.in_state(state)
    ]
    output.line(f"{count(found.events, 'event')} read: {', '.join(states) or 'nothing written'}")


def _suspects(output: Output, found: InferenceResult) -> None:
    by_path: dict[tuple[str, str, str], set[str]] = {}
    for (type_, path), each in found.suspects.items():
        by_path.setdefault((path, each.kind, each.by), set()).add(type_)
    if not by_path:
        return
    rows = [(*key, len(types), min(types)) for key, types in sorted(by_path.items())]
    columns = ["path", "kind", "found by", "types", "example type"]
    title = "What may be personal data (x-personal-data)"
    output.table(title, columns, rows[:_SHOWN], apart=bool(found.types))
    if len(rows) > _SHOWN:
        output.say(f"{len(rows) - _SHOWN} more: --output json has all", "dim")
