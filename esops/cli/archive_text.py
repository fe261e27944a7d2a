"""What the commands of `esops archive` tell a person."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from esops.escaping import visible
from esops.moments import FarTime
from esops.wording import count

if TYPE_CHECKING:
    from esops.archive.context import ArchiveOutcome
    from esops.archive.gc import Garbage
    from esops.archive.planning import ArchivePlan, PlannedStream
    from esops.archive.restoration import RestoreResult
    from esops.archive.unfinished import UnfinishedPlan
    from esops.archive.verify import RunVerification
    from esops.stores.archive.views import UnreadableEvents
    from esops.term import Output

_ITEMS_SHOWN = 20
_SKIPPED_SHOWN = 5


def plan(output: Output, found: ArchivePlan) -> None:
    """What a run would select, what it would do, and the next command."""
    from rich.filesize import decimal

    if found.unfinished is not None:
        unfinished(output.line, found.policy, found.unfinished)
    size = f" ({decimal(found.bytes)} in the store)" if found.bytes is not None else ""
    output.line(
        f"Policy {found.policy} selects {count(found.streams, 'stream')} with "
        f"{count(found.events, 'event')} of store {found.store}{size}."
    )
    _left_out(output, found)
    if not found.streams:
        nothing = "nothing to do" if found.unfinished is None else "nothing more to do"
        output.line(f"There is {nothing}.")
        return
    if found.oldest is not None and found.newest is not None:
        output.line(
            f"The events are from {found.oldest:%Y-%m-%d %H:%M} to "
            f"{found.newest:%Y-%m-%d %H:%M} UTC."
        )
    output.line("The longest streams:")
    if found.part == "head":
        planned(output, found.longest, "  ")
    else:
        for each in found.longest:
            output.line(f"  {visible(each.name)}: {count(each.length, 'event')}")
    stay = "the last event stays" if found.stays == 1 else f"the last {found.stays:,} events stay"
    kept = f"; of each stream {stay}" if found.stays and "stays" not in found.what else ""
    output.line(
        f"A run exports the events to archive {found.archive}, reads all of them back, compares "
        f"them with the store, and then {found.what}{kept}."
    )
    if found.statements:
        output.line("It executes:")
    for statement in found.statements:
        output.line(f"    {statement}")
    if found.scavenge is not None:
        output.line("    POST /admin/scavenge, on each node of the cluster, the leader last")
        gone = found.scavenge
        least = "" if gone.complete else "at least "
        output.line(
            "A scavenge cannot be undone. It also removes what others truncated or deleted on its "
            f"node, here: {least}{count(gone.events, 'event')} of "
            f"{count(gone.streams, 'stream')} ({decimal(gone.bytes)})."
        )
    if found.again:
        output.line(found.again)
    _late(output, found)
    if found.application:
        output.line(
            "The application's own projections: a rebuild by the application reads what stays, so "
            "it drops the rows of streams that leave, and makes those of shortened ones without "
            f"their first events. Here that is about {_named(found.application)}."
        )
    if found.no_archive is None:
        then = ", when they have caught up" if found.late else ""
        output.line(f"Next{then}: esops archive run {found.policy}")


def _left_out(output: Output, found: ArchivePlan) -> None:
    """Which streams are not selected, and why a run would select none."""
    if found.age_unknown:
        output.line(
            f"{count(found.age_unknown, 'stream is', 'streams are')} left out, since nobody knows "
            "when the last event was recorded: its time is missing or infinity."
        )
    if found.appended_later:
        output.line(
            f"{count(found.appended_later, 'stream is', 'streams are')} left out: their "
            "events are old enough, but the store's list of streams says that something was "
            "appended later."
        )
    if found.too_young:
        output.line(
            f"{count(found.too_young, 'stream is', 'streams are')} left out, younger than the "
            "policy's never_younger_than."
        )
    if found.unloadable:
        output.line(
            f"{count(found.unloadable, 'stream is', 'streams are')} left out, since the library "
            "could not load what stays: there is no snapshot that stands for the events that go."
        )
    _named_streams(output, found.stuck, "and a run would exit with 1")
    _named_streams(output, found.waiting, "until a processor has moved on")
    if found.no_archive is not None:
        output.line(f"A run would do nothing now (exit code 6): {found.no_archive}.")
        output.line(
            "Is the disk mounted, and the prefix right? --new-archive begins a new archive."
        )


def _named_streams(output: Output, streams: Sequence[Mapping[str, str]], why: str) -> None:
    """Streams that are left out, each with the reason."""
    if streams:
        number = count(len(streams), "stream is", "streams are")
        output.line(f"{number} left out, {why}:")
    for each in streams[:_SKIPPED_SHOWN]:
        output.line(f"  {visible(each['stream'])}: {each['reason']}")
    if len(streams) > _SKIPPED_SHOWN:
        output.line(f"  and {len(streams) - _SKIPPED_SHOWN:,} more (--output json)")


def unfinished(line: Callable[[str], None], policy: str, found: UnfinishedPlan) -> None:
    """Which run is finished first, and what that does."""
    command = f"esops archive run {policy}"
    if not found.sealed:
        line(f"Run {found.run} is not finished: `{command}` selects and exports again.")
    else:
        begun = ", and has begun to remove them" if found.removes_already else ""
        line(
            f"Run {found.run} is not finished: it has sealed {count(found.events, 'event')} of "
            f"{count(found.streams, 'stream')}{begun}."
        )
        if found.refused is None:
            line(
                f"`{command}` finishes that run first: it compares them with the store, and then "
                f"{found.what}. What follows is for the run after it."
            )
            _named_late(line, found.late)
    if found.refused is not None:
        line(f"`{command}` would be refused now (exit code 6): {found.refused}.")
        line(found.hint or "")


def _late(output: Output, found: ArchivePlan) -> None:
    """Who makes a run refuse, and what to do."""
    if found.readers_unknown is not None:
        output.line(
            f"It is not known whether all readers have read the events: {found.readers_unknown}"
        )
    _named_late(output.line, found.late)


def _named_late(line: Callable[[str], None], late: Sequence[Mapping[str, str]]) -> None:
    from esops.archive.checkpoint_guard import quoted

    if not late:
        return
    line(
        "A run would be refused now (exit code 6) and remove nothing, because "
        f"{count(len(late), 'reader has', 'readers have')} not read all of the events:"
    )
    for each in late:
        line(f"  {each['reader']}: {each['where']} (--despite {quoted(each['despite'])})")
    line("Wait until they have caught up. --despite NAME ignores one of them.")


def planned(output: Output, streams: Iterable[PlannedStream], indent: str = "") -> None:
    """What each stream would lose and what would stay, one a line."""
    from rich.filesize import decimal

    for each in streams:
        size = f", {decimal(each.bytes)}" if each.bytes is not None else ""
        stays = count(each.stays, "event stays", "events stay")
        output.line(
            f"{indent}{visible(each.name)}: versions {each.first_version} to {each.last_version} "
            f"({count(each.length, 'event')}{size}); {stays}"
        )


def outcome(output: Output, outcome: ArchiveOutcome) -> None:
    """One line that says what was done, and more if there is something to look at."""
    from rich.filesize import decimal

    if outcome.state == "nothing":
        stuck = f"; {_stuck(outcome)}" if outcome.stuck else ""
        output.line(f"{outcome.policy}: nothing to archive in store {outcome.store}{stuck}")
        _not_removed(output, outcome)
        return
    archived = (
        f"{outcome.policy}: archived {count(outcome.events, 'event')} of "
        f"{count(outcome.streams, 'stream')} in run {outcome.run} "
        f"({count(outcome.files, 'file')}, {decimal(outcome.stored_bytes)})"
    )
    if outcome.state == "failed":
        output.line(f"{archived}; the verification failed, so nothing was removed")
        for problem in outcome.problems:
            output.line(f"  {problem}")
        output.say("Find the cause, and run the policy again: it starts a new run.")
        return
    removed = "nothing removed"
    if outcome.remove != "keep":
        removed = (
            f"{count(outcome.removed_events, 'event')} of {count(outcome.removed, 'stream')} "
            f"removed ({outcome.remove})"
        )
    kept = f", {count(outcome.left_alone, 'stream')} not removed" if outcome.left_alone else ""
    tried = ""
    if outcome.tried:
        tried = f", a restore tried with {outcome.tried:,} of them"
    stuck = f"; {_stuck(outcome)}" if outcome.stuck else ""
    output.line(f"{archived}, verified{tried}; {removed}{kept}{stuck}, in {outcome.seconds:.1f} s")
    _not_removed(output, outcome)


def _stuck(outcome: ArchiveOutcome) -> str:
    streams = count(outcome.stuck, "stream")
    return f"{streams} cannot leave until the database or its rights are changed"


def _not_removed(output: Output, outcome: ArchiveOutcome) -> None:
    # On stderr, so that cron's one line stays one line.
    for each in outcome.skipped[:_SKIPPED_SHOWN]:
        output.say(f"  not removed: {visible(each['stream'])}: {each['reason']}")
    more = max(outcome.left_alone, len(outcome.skipped)) - _SKIPPED_SHOWN
    if more > 0:
        where = "--output json" if outcome.run is None else f"esops archive show {outcome.run}"
        output.say(f"  and {more:,} more: {where}")


def run(output: Output, described: Mapping[str, Any]) -> None:
    """A run's fields, one a line; lists below their names."""
    for key, value in described.items():
        if not isinstance(value, list):
            text = value.isoformat() if isinstance(value, datetime | FarTime) else value
            output.line(f"{key}: {'-' if text is None else text}")
            continue
        output.line(f"{key}: {len(value)}")
        for each in value[:_ITEMS_SHOWN]:
            fields = (
                ", ".join(f"{name} {field}" for name, field in each.items())
                if isinstance(each, dict)
                else str(each)
            )
            output.line(f"  {visible(fields)}")
        if len(value) > _ITEMS_SHOWN:
            output.line(f"  and {len(value) - _ITEMS_SHOWN:,} more (--output json)")


def streams(output: Output, rows: Iterable[Mapping[str, Any]]) -> None:
    """A run's streams, one a line, as they are read."""
    for row in rows:
        output.line(
            f"{visible(row['stream'])}  {count(row['events'], 'event')}, versions "
            f"{row['first_version']} to {row['last_version']}"
        )


def verifications(output: Output, results: Sequence[RunVerification]) -> None:
    """One line for each run, and its problems below it."""
    if not results:
        # Silence would look like a verification that found everything in order.
        output.line("The archive has no sealed run yet.")
    for each in results:
        part = f" ({each.sampled})" if each.sampled else ""
        state = "ok" if each.ok else count(each.found, "problem")
        output.line(
            f"{each.run}: {state}; {count(each.files, 'file')}, {count(each.streams, 'stream')}, "
            f"{count(each.events, 'event')} read{part}{_compared(each)}"
        )
        for problem in each.problems:
            output.line(f"  {problem}")


def _compared(found: RunVerification) -> str:
    if found.compared is None:
        return ""
    if not found.compared:
        return "; the store gives none of them any more"
    return f"; {found.compared:,} of them are in the store, and were compared with it"


RENUMBER_NOTES = (
    "Note:",
    "  - The events get new positions after all others, in the order of their old ones. Versions,",
    "    ids, times and payloads stay.",
    "  - Who has read the store up to now sees these events again, as new ones: the application's",
    "    processors and consumers. What is not idempotent counts them twice: stop what must not",
    "    see them. Versions of esops' projections that have read them are not followed any more:",
    "    they stay as they are until you rebuild them.",
    "  - It is one transaction. esops waits for its end; a reader of the library's own that passes",
    "    numbers which are not there yet may pass these.",
)
"""What new positions mean for those who read the store."""


def application_note(names: Sequence[str]) -> str:
    """What a restore means for the application's own projections."""
    return (
        "The application's own projections do not read these events again, because they lie "
        "behind their positions. What one of them has dropped or made without these events stays "
        "so, and the next append does not repair it, until the application rebuilds it: "
        f"{_named(names)}"
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _ITEMS_SHOWN:,} more" if len(names) > _ITEMS_SHOWN else ""
    return ", ".join(map(visible, names[:_ITEMS_SHOWN])) + more


def restored(output: Output, result: RestoreResult) -> None:
    """What was written, what was already complete, and what was left out."""
    complete = (
        f"; {count(result.there, 'stream was', 'streams were')} already complete"
        if result.there
        else ""
    )
    marked = f", {result.revived:,} of which it had marked as archived" if result.revived else ""
    where = " at new positions" if result.renumbered and result.events else ""
    output.line(
        f"{result.run}: restored {count(result.streams, 'stream')} with "
        f"{count(result.events + result.revived, 'event')} into store "
        f"{result.store}{where}{marked}{complete}"
    )
    if result.of_other_tenants:
        output.line(
            f"{count(result.of_other_tenants, 'stream')} of other tenants left out: store "
            f"{result.store} reads one tenant alone"
        )
    if result.to_rebuild:
        output.line(
            "These had read the events, and are not followed until they are rebuilt: "
            f"{', '.join(result.to_rebuild)}"
        )
    if result.application:
        output.line(application_note(result.application))
    if result.restore_next:
        too = ", each with --renumber" if result.renumbered else ""
        output.line(
            f"More of these streams is in other runs. Restore next, in this order{too}: "
            f"{', '.join(result.restore_next)}"
        )
    if result.left_out:
        output.line(f"{count(result.left_out, 'stream was', 'streams were')} left out, each whole:")
        for each in result.skipped:
            output.line(f"  {each['stream']}: {each['reason']}")
        if result.left_out > len(result.skipped):
            output.line(f"  and {result.left_out - len(result.skipped):,} more")


def garbage(output: Output, found: Garbage) -> None:
    """The files, and how many were or would be deleted."""
    from rich.filesize import decimal

    for name in found.names:
        output.say(f"  {name}")
    verb = "deleted" if found.deleted else "would be deleted"
    kept = f"; {count(found.young, 'file')} kept that a run may still need" if found.young else ""
    output.line(f"{count(found.files, 'file')} ({decimal(found.bytes)}) {verb}{kept}")


def left_out(output: Output, found: UnreadableEvents) -> None:
    """Which events the views of a query lacked."""
    named = ", ".join(each.named for each in found.first)
    more = found.number - len(found.first)
    rest = f" and {count(more, 'other')}" if more else ""
    output.warn(
        f"{count(found.number, 'event is', 'events are')} left out, since DuckDB cannot read the "
        f"data or metadata as JSON: {visible(named)}{rest}"
    )
