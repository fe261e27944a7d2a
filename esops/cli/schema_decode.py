"""`esops schema decode`: whether code can read every event that was ever stored."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import command, current_output
from esops.cli.option_groups import Wording, option_group
from esops.cli.schema import schema
from esops.cli.schema_options import ProgressOptions, SelectedEvents
from esops.cli.shared import JobProgress, duration, stop_on_signals

if TYPE_CHECKING:
    from pathlib import Path

    from esops.schema.decode.request import DecodeRequest

_WHICH = "Which events"


@option_group(panel="The code")
class CodeOptions:
    """What decodes an event."""

    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="MODULE:FUNCTION",
            help="The function that decodes an event; looked for in the folder of esops.toml, too.",
        ),
    ] = None
    program: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="COMMAND",
            help="The program that decodes events, with its arguments; run without a shell, in "
            "the folder of esops.toml. See `esops docs decode-protocol`.",
        ),
    ] = None

    def words(self) -> tuple[str, ...]:
        """The program and its arguments. Raises UsageError."""
        from esops.errors import UsageError

        try:
            return tuple(shlex.split(self.program or ""))
        except ValueError as error:
            raise UsageError(f"--command: {error}: {self.program}") from None


@option_group(panel="Round trip")
class RoundTripOptions:
    """Whether what was decoded is encoded again, and what that may change."""

    round_trip: Annotated[
        bool,
        typer.Option(
            "--round-trip",
            help="Encode what was decoded, and say which fields are lost or changed.",
        ),
    ] = False
    encode: Annotated[
        str | None,
        typer.Option(
            "--encode",
            metavar="MODULE:FUNCTION",
            help="The function that encodes what --python returned; implies --round-trip.",
        ),
    ] = None
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="PATH",
            help="A path that the round trip may change, such as '$.items[*].note'; can be "
            "repeated.",
        ),
    ] = None
    same_moments: Annotated[
        bool,
        typer.Option(
            "--same-moments",
            help="Take two times for equal that are the same moment in another form.",
        ),
    ] = False


@option_group(panel="How")
class DecodeOptions:
    """How the code is run, and what is shown of the events."""

    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=1, max=256, help="Run the code in N processes."),
    ] = 1
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="D",
            help="How long one event may take; then the process is ended, and the event has "
            "failed.",
        ),
    ] = "30s"
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that was interrupted.")
    ] = False
    show_payload: Annotated[
        bool,
        typer.Option(
            "--show-payload",
            help="Show the payload of the smallest event of each group, and messages with the "
            "values in them.",
        ),
    ] = False


@command(schema)
def decode(
    context: typer.Context,
    code: CodeOptions,
    trip: RoundTripOptions,
    which: Annotated[SelectedEvents, Wording(panel=_WHICH)],
    *,
    shapes_only: Annotated[
        bool,
        typer.Option(
            "--shapes-only",
            help="Decode some events of every distinct shape, and not all.",
            rich_help_panel=_WHICH,
        ),
    ] = False,
    since: Annotated[
        ProgressOptions,
        Wording(
            panel=_WHICH,
            since_last="Only events since the last run in which the same code could read all.",
        ),
    ],
    options: DecodeOptions,
) -> int:
    """Decode every event with your own code: some of each distinct shape first, then all.

    esops schema decode --python shop.events:decode
    esops schema decode --python shop.events:decode --encode shop.events:encode --workers 4
    esops schema decode --command "node decode.js" --shapes-only
    esops schema decode --command "dotnet Shop.Decoder.dll" --round-trip --output json

    Failures are grouped by type, shape, exception and message, with the first events and the
    smallest one. Values of events do not stand in the result. What the code prints goes to stderr.

    Exit code 1 when the code fails on an event, or a round trip loses or changes a field.
    """
    from esops.cli import schema_decode_text as text
    from esops.config import load_config
    from esops.schema.decode.request import DecodeHooks
    from esops.schema.decode.run import decode as run
    from esops.stores.one_tenant import open_for

    output = current_output(context)
    form = output.format("table", "json")
    config = load_config(output.settings.config)
    name, settings = config.store(output.settings.store)
    request = _request(config.directory, code, trip, which, since, options, shapes_only=shapes_only)
    asked, progress = stop_on_signals(), JobProgress(output)
    hooks = DecodeHooks(asked.is_set, output.say, progress.update)
    try:
        with open_for(name, settings, which.tenant) as store:
            found = run(store, settings, request, hooks)
    finally:
        progress.close()
    if form == "json":
        output.json(found.as_dict())
    else:
        text.show(output, found)
    for error in filter(None, (found.short, found.unkept)):
        raise error
    return 1 if found.findings else 0


def _request(
    folder: Path,
    code: CodeOptions,
    trip: RoundTripOptions,
    which: SelectedEvents,
    since: ProgressOptions,
    options: DecodeOptions,
    *,
    shapes_only: bool,
) -> DecodeRequest:
    """What is asked for. Raises UsageError."""
    from esops.schema.decode.request import DecodeRequest

    request = DecodeRequest(
        folder,
        code.python,
        code.words(),
        trip.encode,
        round_trip=trip.round_trip,
        ignored=tuple(trip.ignore or ()),
        same_moments=trip.same_moments,
        selection=which.selection(),
        tenant=which.tenant,
        workers=options.workers,
        timeout=duration("--timeout", options.timeout).total_seconds(),
        shapes_only=shapes_only,
        resume=options.resume,
        since_last=since.since_last,
        from_start=since.from_start,
        show_payload=options.show_payload,
    )
    request.check()
    return request
