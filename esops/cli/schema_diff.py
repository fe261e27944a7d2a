"""`esops schema diff` and `esops schema compat`: what changed between two sets of schemas, and who
can still read what.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import command, current_output
from esops.cli.option_groups import option_group
from esops.cli.options import types_option
from esops.cli.schema import schema
from esops.cli.shared import JobProgress, stop_on_signals

if TYPE_CHECKING:
    from esops.errors import EsopsError
    from esops.schema.compatibility import CompareRequest, Comparisons
    from esops.schema.files import SchemaSet
    from esops.term import Output

_SIDE = "a directory, git:REV:PATH or store:NAME"
Old = Annotated[
    str, typer.Argument(metavar="OLD", help=f"The old schemas: {_SIDE}.", show_default=False)
]
New = Annotated[
    str, typer.Argument(metavar="NEW", help=f"The new schemas: {_SIDE}.", show_default=False)
]


class Mode(StrEnum):
    """Who has to be able to read whose events."""

    backward = "backward"
    forward = "forward"
    full = "full"


AskedMode = Annotated[
    Mode,
    typer.Option(
        "--mode",
        help="backward: new code reads old events; forward: old code reads new events; full: both.",
    ),
]


@option_group()
class ComparedTypes:
    """Which types are compared, and what is taken for granted of them."""

    types: Annotated[
        list[str] | None, types_option("Compare only this event type. May be repeated.")
    ] = None
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Assume that open objects hold any members, and that readers know every type.",
        ),
    ] = False

    def request(self, old: list[str], new: str, mode: Mode) -> CompareRequest:
        """The comparison of these types."""
        from esops.schema.compatibility import CompareRequest

        return CompareRequest(old, new, mode.value, tuple(self.types or ()), self.strict)


@command(schema)
def diff(
    context: typer.Context,
    old: Old,
    new: New,
    mode: AskedMode = Mode.backward,
    *,
    which: ComparedTypes,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit with 1 if there is any change, as git diff does."),
    ] = False,
) -> int:
    """Name each change between two sets of schemas, what it breaks, and what to do.

    Exit code 1 if code can no longer read what --mode says, or if it cannot be proven that it can.

    esops schema diff git:main:schemas schemas
    esops schema diff store:shop schemas
    esops schema diff git:v1.4:schemas git:v1.5:schemas --output json | jq .changes
    """
    from esops.cli import schema_diff_text as text
    from esops.schema.compatibility import compare

    output = current_output(context)
    form = output.format("table", "json", "csv", "ndjson")
    request = which.request([old], new, mode)
    stores = _Stores(output, which.types)
    found = compare(request, stores)
    _print(output, found, form)
    if form == "table":
        text.changes(output, found)
        text.last_line(output, found)
    stores.check()
    return int(not found.compatible or (exit_code and bool(found.changes)))


@command(schema)
def compat(
    context: typer.Context,
    old: Old,
    new: New,
    mode: AskedMode = Mode.backward,
    *,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="OLD", help="Check against this too. May be repeated."),
    ] = None,
    which: ComparedTypes,
) -> int:
    """Check whether code can read the events of other versions.

    It shows only what breaks. OLD may be a range of revisions: each is checked then.

    Exit code 1 if something breaks, or if it cannot be proven that nothing does.

    esops schema compat git:main:schemas schemas --mode backward
    esops schema compat git:v1.0..v3.0:schemas schemas --mode full
    esops schema compat old-schemas schemas --also older-schemas --output json
    """
    from esops.cli import schema_diff_text as text
    from esops.schema.compatibility import compare

    output = current_output(context)
    form = output.format("table", "json", "csv", "ndjson")
    request = which.request([old, *(also or ())], new, mode)
    stores = _Stores(output, which.types)
    found = compare(request, stores)
    _print(output, found, form)
    if form == "table":
        text.breaks(output, found)
        text.last_line(output, found)
    stores.check()
    return int(not found.compatible)


def _print(output: Output, found: Comparisons, form: str) -> None:
    if form == "json":
        output.json(found.as_dict())
    elif form == "csv":
        from esops.schema.compatibility import COLUMNS

        output.csv(found.change_rows(), COLUMNS)
    elif form == "ndjson":
        output.ndjson(found.change_rows())


class _Stores:
    """Infers the schemas of stores, and remembers what is not in them."""

    def __init__(self, output: Output, types: list[str] | None) -> None:
        self.output, self.types = output, tuple(types or ())
        self.short: list[EsopsError] = []

    def __call__(self, name: str) -> SchemaSet:
        """The schemas of one. Raises UsageError where it is not in esops.toml."""
        from esops.config import load_config
        from esops.schema.observed import observe
        from esops.stores.one_tenant import open_for

        output = self.output
        name, settings = load_config(output.settings.config).store(name)
        line, stop = JobProgress(output), stop_on_signals()
        with open_for(name, settings, None) as store:
            try:
                found = observe(
                    store,
                    self.types,
                    lambda done, total: line.update("events", done, total),
                    stop.is_set,
                )
            finally:
                line.close()
        if found.unnamed:
            output.warn(f"{found.unnamed:,} events without a type are not compared")
        if found.short is not None:
            self.short.append(found.short)
        return found.schemas

    def check(self) -> None:
        """Raise the error of events that could not be read, once what was found is shown."""
        if self.short:
            raise self.short[0]
