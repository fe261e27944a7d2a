"""`esops schema decode`: whether code can read every event that was ever stored."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import typer

from esops.cli.app import command, current_output
from esops.cli.schema import schema
from esops.cli.shared import TENANT, JobProgress, duration, stop_on_signals

if TYPE_CHECKING:
    from esops.schema.decode.groups import DecodeFailures, EventSample, RoundTripDifferences
    from esops.schema.decode.request import DecodeReport
    from esops.term import Output

_CODE = "The code"
_WHICH = "Which events"
_HOW = "How"
_ROUND = "Round trip"


@command(schema)
def decode(
    context: typer.Context,
    python: str | None = typer.Option(
        None,
        "--python",
        metavar="MODULE:FUNCTION",
        help="The function that decodes an event; looked for in the folder of esops.toml, too.",
        rich_help_panel=_CODE,
    ),
    program: str | None = typer.Option(
        None,
        "--command",
        metavar="COMMAND",
        help="The program that decodes events, with its arguments; run without a shell, in the "
        "folder of esops.toml. See `esops docs decode-protocol`.",
        rich_help_panel=_CODE,
    ),
    round_trip: bool = typer.Option(
        False,
        "--round-trip",
        help="Encode what was decoded, and say which fields are lost or changed.",
        rich_help_panel=_ROUND,
    ),
    encode: str | None = typer.Option(
        None,
        "--encode",
        metavar="MODULE:FUNCTION",
        help="The function that encodes what --python returned; implies --round-trip.",
        rich_help_panel=_ROUND,
    ),
    ignore: list[str] | None = typer.Option(
        None,
        "--ignore",
        metavar="PATH",
        help="A path that the round trip may change, such as '$.items[*].note'; can be repeated.",
        rich_help_panel=_ROUND,
    ),
    same_moments: bool = typer.Option(
        False,
        "--same-moments",
        help="Take two times for equal that are the same moment in another form.",
        rich_help_panel=_ROUND,
    ),
    category: str | None = typer.Option(
        None,
        "--category",
        metavar="C",
        help="Only streams of this category.",
        rich_help_panel=_WHICH,
    ),
    type_: list[str] | None = typer.Option(
        None,
        "--type",
        metavar="T",
        help="Only events of this type; can be repeated.",
        rich_help_panel=_WHICH,
    ),
    tenant: str | None = TENANT,
    shapes_only: bool = typer.Option(
        False,
        "--shapes-only",
        help="Decode some events of every distinct shape, and not all.",
        rich_help_panel=_WHICH,
    ),
    since_last: bool = typer.Option(
        False,
        "--since-last",
        help="Only events since the last run in which the same code could read all.",
        rich_help_panel=_WHICH,
    ),
    from_start: bool = typer.Option(
        False,
        "--from-start",
        help="With --since-last: forget what was kept, and read all events.",
        rich_help_panel=_WHICH,
    ),
    workers: int = typer.Option(
        1,
        "--workers",
        metavar="N",
        min=1,
        max=256,
        help="Run the code in N processes.",
        rich_help_panel=_HOW,
    ),
    timeout: str = typer.Option(
        "30s",
        "--timeout",
        metavar="D",
        help="How long one event may take; then the process is ended, and the event has failed.",
        rich_help_panel=_HOW,
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="Continue the run that was interrupted.",
        rich_help_panel=_HOW,
    ),
    show_payload: bool = typer.Option(
        False,
        "--show-payload",
        help="Show the payload of the smallest event of each group, and messages with the values "
        "in them.",
        rich_help_panel=_HOW,
    ),
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
    from esops.config import load_config
    from esops.schema.decode.request import DecodeHooks, DecodeRequest
    from esops.schema.decode.run import decode as run
    from esops.schema.reading import EventSelection
    from esops.stores.one_tenant import open_for

    output = current_output(context)
    form = output.format("table", "json")
    config = load_config(output.settings.config)
    name, settings = config.store(output.settings.store)
    request = DecodeRequest(
        config.directory,
        python,
        tuple(_words(program)),
        encode,
        round_trip=round_trip,
        ignored=tuple(ignore or ()),
        same_moments=same_moments,
        selection=EventSelection(category, tuple(type_ or ())),
        tenant=tenant,
        workers=workers,
        timeout=duration("--timeout", timeout).total_seconds(),
        shapes_only=shapes_only,
        resume=resume,
        since_last=since_last,
        from_start=from_start,
        show_payload=show_payload,
    )
    request.check()
    asked, progress = stop_on_signals(), JobProgress(output)
    hooks = DecodeHooks(asked.is_set, output.say, progress.update)
    try:
        with open_for(name, settings, tenant) as store:
            found = run(store, settings, request, hooks)
    finally:
        progress.close()
    if form == "json":
        output.json(found.as_dict())
    else:
        _show(output, found)
    for error in filter(None, (found.short, found.unkept)):
        raise error
    return 1 if found.findings else 0


def _words(program: str | None) -> list[str]:
    from esops.errors import UsageError

    try:
        return shlex.split(program or "")
    except ValueError as error:
        raise UsageError(f"--command: {error}: {program}") from None


def _show(output: Output, found: DecodeReport) -> None:
    failures, differences = found.groups.listed()
    for failure in failures:
        _failure(output, failure)
    for difference in differences:
        _difference(output, difference)
    for note in found.notes:
        output.line(f"Note: {note}.")
    output.line(_closing(found))


def _failure(output: Output, each: DecodeFailures) -> None:
    from esops.wording import count

    how = "failed" if each.step == "decode" else "decoded, and failed when encoded"
    output.line(f"{each.type} (shape {each.shape}): {count(each.events, 'event')} {how}.")
    message = each.message if each.full_message is None else each.full_message
    output.line(f"  {each.error}: {message}" if message else f"  {each.error}")
    if each.where:
        output.line(f"  Raised in {each.where}.")
    if each.not_tried:
        output.line(
            f"  {each.not_tried:,} more of this shape were not tried, since such events ended the "
            "code's process."
        )
    _samples(output, each)


def _difference(output: Output, each: RoundTripDifferences) -> None:
    from esops.wording import count

    match each.kind:
        case "lost":
            what = f"{each.path} ({each.stored}) is lost"
        case "added":
            what = f"{each.path} ({each.encoded}) is added, which is no finding"
        case _ if each.stored == each.encoded:
            what = f"{each.path} ({each.stored}) has another value"
        case _:
            what = f"{each.path} becomes {each.encoded}, and was {each.stored}"
    output.line(f"{each.type}: {what}, in {count(each.events, 'event')}.")
    _samples(output, each)


def _samples(output: Output, each: DecodeFailures | RoundTripDifferences) -> None:
    from esops.term import to_json

    places = ", ".join(f"{_place(one)} ({one.position})" for one in each.samples)
    output.line(f"  First: {places}.")
    small = each.smallest
    if small is not None:
        output.line(f"  Smallest: {_place(small)}, {small.bytes:,} bytes.")
        if small.payload is not None:
            output.line(f"  {to_json(small.payload)}")
    output.line()


def _place(one: EventSample) -> str:
    return f"{one.tenant + '/' if one.tenant else ''}{one.stream} @{one.version}"


def _closing(found: DecodeReport) -> str:
    from esops.wording import count

    groups = found.groups
    what = f"{count(found.events, 'event')} of {count(found.shapes, 'distinct shape')}"
    if not found.all_events and not found.more_shapes:
        what = f"{count(found.events, 'event')} of all {count(found.shapes, 'distinct shape')}"
    if not found.events:
        what = "no events" if found.since is None else "no new events"
    parts = []
    if groups.failed:
        parts.append(f"{groups.failed:,} failed")
    if groups.not_tried:
        parts.append(f"{groups.not_tried:,} were not tried")
    if groups.differing:
        parts.append(f"{groups.differing:,} lose or change fields in a round trip")
    if not parts:
        parts.append("all decoded" if found.events else "nothing was decoded")
        if found.round_trip and found.events:
            parts.append("nothing is lost or changed when they are encoded")
    answer = "; ".join(parts)
    if groups.left_out:
        answer += f" ({groups.left_out:,} of these are in no group: there are too many groups)"
    if groups.adding:
        answer += f" ({count(groups.adding, 'event')} would get more fields)"
    since = "" if found.since is None else f" after position {found.since}"
    return f"{found.store}: {what}{since}: {answer}."
