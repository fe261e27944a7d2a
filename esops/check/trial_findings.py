"""What two runs of a projection make otherwise: the first key and event at which they part, and
what that is probably due to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from esops.check.changes import RowChange, changes, counted
from esops.check.trial_plan import Feed, Trial, with_beginning
from esops.check.trial_process import Ran
from esops.events import RecordedEvent

if TYPE_CHECKING:
    from esops.check.trial import Runs

_WATCHED = 20
"""Rows that differ of which the first event is looked for."""
_SHOWN = 5


class Advice(NamedTuple):
    """What is done otherwise in a trial, what makes code depend on it, and what to do then."""

    when: str
    cause: str
    remedy: str


ADVICE: dict[Trial, Advice] = {
    "clock": Advice(
        "when another process applies the same batches",
        "the code asks for the time, draws at random, or reads something that is no event (a file, "
        "the network, another table)",
        "take times and ids from the event, and read nothing else",
    ),
    "hash": Advice(
        "when a process applies them that hashes by another seed",
        "the code uses the order of a set, or hash()",
        "sort what comes from a set, and use hashlib in place of hash()",
    ),
    "batches": Advice(
        "when the batches have other sizes",
        "the code keeps something from event to event of a batch, or does something at its end",
        "keep all state in the row",
    ),
    "restart": Advice(
        "when new processes take over between batches",
        "the code keeps state in its process (a global, a default argument that changes, a cache) "
        "that is not in the table",
        "keep all state in the row",
    ),
    "order": Advice(
        "when the streams come in another order, though each keeps its own",
        "the row depends on events of other streams, or on rows of other keys",
        "if it is meant to depend on the order of the log, leave this trial out (--skip order); "
        "else write a row from the events of one stream only",
    ),
    "twice": Advice(
        "when each batch comes twice",
        "the code is not idempotent: it adds to what is in the row",
        "nothing where esops alone applies the events, each exactly once. Where the code sends "
        "messages, writes elsewhere, or runs under another processor, let the row keep the last "
        "event's version, and skip what it has seen",
    ),
}


@dataclass(frozen=True)
class Problem:
    """Something that was found."""

    kind: str
    """A trial, or `fails`."""
    key: str | None
    """Of the first row that differs, as JSON; None where the code failed."""
    detail: str
    event: RecordedEvent | None = None
    """At which the rows part, or on which the code fails; None where that was not found out."""
    table: str | None = None
    differs: Sequence[RowChange] = field(default_factory=tuple)
    """What the row is otherwise: `before` is that of the plain run."""
    cause: str | None = None
    """What is probably wrong."""
    remedy: str | None = None
    """What to do."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        event = self.event
        return {
            "kind": self.kind,
            "key": self.key,
            "detail": self.detail,
            "cause": self.cause,
            "remedy": self.remedy,
            "table": self.table,
            "event": None
            if event is None
            else {
                "stream": event.stream,
                "version": event.version,
                "position": str(event.position),
                "type": event.type,
            },
            "differs": [each.as_dict() for each in self.differs[:_SHOWN]],
        }


Found = dict[tuple[str, str], list[RowChange]]
"""What differs, by table and key."""


def first_difference(
    runs: Runs,
    trial: Trial,
    first: Ran,
    feed: Feed,
    ignore: Sequence[str],
    known: set[tuple[str, str]],
) -> tuple[Problem | None, set[tuple[str, str]]]:
    """Run a trial; returns what it finds, and the tables and paths that differ.

    `known`: tables and paths that differ from run to run anyway.
    """
    other, advice = runs.run(feed), ADVICE[trial]
    if other.failed is not None:
        wrong = runs.events[other.failed[1]]
        again = ", the second time that it comes" if other.again else ""
        detail = f"The code fails on an event {advice.when}{again}: {other.failed[2]}"
        failed = Problem(trial, None, detail, wrong, cause=advice.cause, remedy=advice.remedy)
        return failed, set()
    compare = _Comparison(first, ignore, known)
    found = compare.of(first.rows, other.rows)
    if not found:
        return None, set()
    paths = {(table, each.general) for (table, _), unlike in found.items() for each in unlike}
    watch = list(found)[:_WATCHED]
    if isinstance(feed.order, range) and trial != "batches":
        place, at = _parting(runs, feed, watch, compare)
    else:
        place, at = _by_halves(runs, first, feed, watch, compare)
    table, key = place
    rows = f"{len(found):,} of {sum(map(len, first.rows.values())):,} rows"
    event = None if at is None else runs.events[at]
    detail = f"{rows} are different {advice.when}"
    problem = Problem(trial, key, detail, event, table, found[place], advice.cause, advice.remedy)
    return problem, paths


class _Comparison:
    """How rows are compared: by column and path, without those that are not to count."""

    def __init__(self, first: Ran, ignore: Sequence[str], known: set[tuple[str, str]]) -> None:
        self._numbered, self._ignore, self._known = first.numbered, ignore, known

    def of(self, one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> Found:
        """What differs, in the order of the rows of the first."""
        found: Found = {}
        for table, rows in one.items():
            beside = other[table]
            for key in (*rows, *(key for key in beside if key not in rows)):
                unlike = self.row(table, rows.get(key), beside.get(key))
                if unlike:
                    found[table, key] = unlike
        return found

    def row(self, table: str, one: Any, other: Any) -> list[RowChange]:
        """What differs of a row."""
        if one == other:
            return []
        if one is None or other is None:
            return changes(one, other)
        unlike = counted(changes(one, other), [*self._ignore, *self._numbered.get(table, ())])
        return [each for each in unlike if (table, each.general) not in self._known]


def _parting(
    runs: Runs, feed: Feed, watch: Sequence[tuple[str, str]], compare: _Comparison
) -> tuple[tuple[str, str], int | None]:
    """The row that differs first, and the event after which it does; None for an event that cannot
    be found.
    """
    sizes = [size for part in feed.parts for size in part]
    if runs.by_statements:
        return watch[0], None
    usual = Feed(feed.order, [sizes])
    batch, place = _first_batch(runs, usual, feed, watch, compare)
    if batch is None:
        return watch[0], None
    # The same again, with single events in the batch after which they differ.
    begin = sum(sizes[:batch])
    singles = [1] * sizes[batch]
    usual = Feed(feed.order[: begin + len(singles)], [[*sizes[:batch], *singles]])
    parts, left = list[list[int]](), batch
    for part in feed.parts:
        if len(part) > left:
            parts.append([*part[:left], *singles])
            break
        parts.append([*part])
        left -= len(part)
    fine = replace(feed, order=usual.order, parts=parts)
    single, exact = _first_batch(runs, usual, fine, watch, compare)
    if single is None or single < batch:
        return place, None
    return exact, feed.order[begin + single - batch]


def _first_batch(
    runs: Runs, usual: Feed, feed: Feed, watch: Sequence[tuple[str, str]], compare: _Comparison
) -> tuple[int | None, tuple[str, str]]:
    """The first batch after which a row that is watched differs, and which row."""
    one, other = runs.run(usual, watch), runs.run(feed, watch)
    for number, (here, there) in enumerate(zip(one.watched, other.watched, strict=False)):
        for place in watch:
            if compare.row(place[0], here[place], there[place]):
                return number, place
    return None, watch[0]


def _by_halves(
    runs: Runs,
    first: Ran,
    feed: Feed,
    watch: Sequence[tuple[str, str]],
    compare: _Comparison,
) -> tuple[tuple[str, str], int]:
    """A row that differs, and the event that makes it do so when it comes as in this run, with
    those before it, and all later ones as usual: in another order or other batches, a row is not
    the same in between.
    """
    sizes = [size for part in feed.parts for size in part]
    ordered = isinstance(feed.order, range)
    low, high, place = 0, len(sizes) if ordered else len(feed.order), watch[0]
    while high - low > 1:
        middle = (low + high) // 2
        other = runs.run(with_beginning(feed, middle))
        differs = [
            (table, key)
            for table, key in watch
            if other.failed is not None
            or compare.row(table, first.rows[table].get(key), other.rows[table].get(key))
        ]
        if differs:
            high, place = middle, differs[0]
        else:
            low = middle
    return place, feed.order[(sum(sizes[:high]) if ordered else high) - 1]
