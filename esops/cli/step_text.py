"""The steps of a row as a table, and what went wrong below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esops.check.changes import changes, shown
from esops.rebuild.verification.paths import MISSING
from esops.wording import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esops.check.changes import RowChange
    from esops.check.lanes import Applied, Fault
    from esops.check.steps import Step, Stepped
    from esops.term import Output

_ENDS = 20
"""How many steps a terminal shows from each end."""
_LONGEST = 60
"""Characters of a value in the table; JSON has all of them."""


def show(output: Output, found: Stepped) -> None:
    """Write all of it."""
    several = len({each.event.stream for each in found.steps}) > 1
    columns = [*(["stream"] if several else []), "version", "position", "type", "µs", "changed"]
    if found.python is not None:
        columns.append("other code")
    shown_steps, before = found.steps, found.left_out
    if output.data.is_terminal and len(found.steps) > 2 * _ENDS:
        before += len(found.steps) - 2 * _ENDS
        shown_steps = [*found.steps[:_ENDS], *found.steps[-_ENDS:]]
    rows = [_row(each, several=several, beside=found.python is not None) for each in shown_steps]
    output.line(f"{found.projection}, key {found.key}: {count(found.events, 'event')}")
    wrap = ["changed", "other code"]
    output.table("", columns, rows, drop=["µs", "position"], wrap=wrap)
    if before:
        output.line(f"{before:,} steps in the middle are not shown")
    for each in found.steps:
        _faults(output, each)
    _remarks(output, found)


def _row(step: Step, *, several: bool, beside: bool) -> list[Any]:
    event, done = step.event, step.applied
    row: list[Any] = [event.stream] if several else []
    row += [event.version, event.position, event.type, _took(done)]
    if step.skipped is not None:
        row.append(f"skipped, a dead letter: {step.skipped}")
    elif done is not None and done.fault is not None:
        row.append(f"raised {done.fault.reason}")
    else:
        row.append(_after(step))
    if beside:
        row.append(_other(step))
    return row


def _took(done: Applied | None) -> str | None:
    return None if done is None or done.microseconds is None else f"{done.microseconds:,.0f}"


def _after(step: Step) -> str:
    if step.after is None:
        return "no row" if step.before is None else "the row is gone"
    new = "a row: " if step.before is None else ""
    return new + (in_words(changes(step.before, step.after)) or "nothing")


def _other(step: Step) -> str:
    if step.other is None:
        return ""
    if step.other.fault is not None:
        return f"raised {step.other.fault.reason}"
    if not step.parted:
        return "same"
    if step.other.after is None:
        return "no row"
    return in_words(step.parted, new_only=True)


def in_words(found: Sequence[RowChange], *, new_only: bool = False) -> str:
    """What differs, on one line; `new_only`: without what it was before."""
    return ", ".join(_change(each, new_only=new_only) for each in found)


def _change(each: RowChange, *, new_only: bool) -> str:
    if each.after is MISSING:
        return f"{each.path} is gone"
    if each.before is MISSING or new_only:
        return f"{each.path} = {_value(each.after)}"
    return f"{each.path} {_value(each.before)} -> {_value(each.after)}"


def _value(value: Any) -> str:
    from esops.term import cell

    text = cell(shown(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _faults(output: Output, step: Step) -> None:
    for what, done in (("the code", step.applied), ("the other code", step.other)):
        if done is None or done.fault is None:
            continue
        event = step.event
        output.line()
        output.line(f"{what} fails on {event.stream} @{event.version} (position {event.position}):")
        _traceback(output, done.fault)


def _traceback(output: Output, fault: Fault) -> None:
    for line in fault.traceback or (fault.reason,):
        output.line(f"  {line}")


def _remarks(output: Output, found: Stepped) -> None:
    at = found.parts_at
    if at is not None:
        output.line(
            f"old and new code part at {at.stream} @{at.version} (position {at.position}, "
            f"{at.type})"
        )
    elif found.python is not None:
        output.line(f"{found.python} makes the same row of every event")
    if found.stopped:
        output.line("the projection would stop there: later events are not applied")
    served = found.served
    if served is not None and served.differs:
        output.warn(
            f"v{served.version} serves another row at position {served.position} than these events "
            f"make: {in_words(served.differs)}. If its code is the same: esops projection check "
            f"{found.projection}"
        )
    for note in found.notes:
        output.say(note)
