"""What `esops schema decode` writes for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esops.schema.decode.groups import DecodeFailures, EventSample, RoundTripDifferences
    from esops.schema.decode.request import DecodeReport
    from esops.term import Output


def show(output: Output, found: DecodeReport) -> None:
    """Each group of failures and of differences, then how it ended."""
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
