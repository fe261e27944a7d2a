"""One check of a store, from the first event or from where the last one had stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from esops.actions.action import RUNNING
from esops.errors import Unavailable
from esops.events import EventFilter, Position, RecordedEvent
from esops.schema.checking.history import HistoryCheck, SchemaCheckResult, SchemalessType
from esops.schema.checking.violations import (
    SAMPLES,
    EventCoordinates,
    ViolationGroup,
    Violations,
    coordinates_of,
)
from esops.schema.files import SchemaSet
from esops.schema.progress import KeptProgress, SchemaJob
from esops.schema.reading import EventSelection, Progress, SchemaReader
from esops.schema.selected import check_names
from esops.stores.base import EventStore
from esops.stores.counts import Tally
from esops.stores.parts import LateEvent
from esops.wording import count

JOB = SchemaJob("check", "--since-last --from-start", "--since-last")
MOST_LOOKS = 500
"""Events that broke a rule and are looked at at the beginning of a run: the first of each group,
then the second, and so on.
"""
KEPT_EVERY = timedelta(seconds=60)
"""How often a long run keeps how far it came."""
_FORM = 2
"""Of the document that is kept."""


class SchemaCheck:
    """Checks a selection of a store's events; with `kept`, from where the last run stopped."""

    def __init__(
        self,
        store: EventStore,
        schemas: SchemaSet,
        selection: EventSelection,
        progress: Progress = lambda *_: None,
        stop: Callable[[], bool] = lambda: False,
        kept: KeptProgress | None = None,
    ) -> None:
        """Nothing is read yet."""
        self._store, self._schemas, self._selection = store, schemas, selection
        self._progress, self._stop, self._kept = progress, stop, kept
        self._history = HistoryCheck(schemas)
        self._notes: list[str] = []
        self._late: list[LateEvent] = []
        self._erasures: list[str] = []
        self._read = 0
        self._stopped = False

    def run(self, *, from_start: bool = False) -> SchemaCheckResult:
        """Read, and say what was found. `from_start` forgets what was kept.

        Raises UsageError where the selection names nothing, AnotherLog where the store is not the
        one that was checked, Busy where another check was quicker, and what reading raises. A run
        that ends before its end keeps nothing half: the next one neither skips nor doubles events.
        """
        check_names(self._store, self._selection)
        since = None if self._kept is None else self._resume(self._kept, from_start)
        reader = SchemaReader(
            self._store, self._selection, self._progress, after=since, stop=self._stop
        )
        if not self._stopped:
            self._read_new(reader)
        return self._result(since, reader)

    def _read_new(self, reader: SchemaReader) -> None:
        last = time.monotonic()
        for events in reader.batches():
            # What was kept before this batch is complete up to the reader's position.
            if self._kept is not None and time.monotonic() - last > KEPT_EVERY.total_seconds():
                self._keep(self._kept, reader.position)
                last = time.monotonic()
            self._history.take(events)
        self._read += reader.events
        if self._kept is not None:
            self._keep(self._kept, reader.position)

    def _result(self, since: Position | None, reader: SchemaReader) -> SchemaCheckResult:
        found = self._history
        seen = found.events
        narrow = bool(self._selection.types or self._selection.category)
        return SchemaCheckResult(
            store=self._store.name,
            against=self._schemas.where,
            events=self._read,
            total=seen.total(),
            violations=found.violations.listed(),
            schemaless=[found.schemaless[each] for each in sorted(found.schemaless)],
            unused=[] if narrow else sorted(set(found.rules) - set(seen)),
            position=reader.position,
            since=since,
            notes=[*self._notes, *self._remarks()],
            short=reader.short,
            stopped=self._stopped or reader.stopped,
        )

    def _remarks(self) -> list[str]:
        """What a reader of the answer has to know of the schemas."""
        parts = [
            f"{each} has no schema: {part.where} counts as a part, since "
            f"{self._schemas.referring(part)} refers to it; "
            f'"x-event-type": "{each}" in it makes it the schema of the type too'
            for each in sorted(self._history.schemaless)
            if (part := self._schemas.part_named(each)) is not None
        ]
        return [*parts, *self._schemas.remarks]

    # -- from where the last run stopped

    def _resume(self, kept: KeptProgress, from_start: bool) -> Position | None:
        """Take over what the last run found, and read again what does not hold any more."""
        kept.prepare()
        memory = self._store.memory
        if memory is not None:
            memory.keep()  # so that it is known later what was passed as dead
            # Now, and not at the end: what comes late while this run reads may be behind it.
            self._late = memory.late()
        self._erasures = kept.erasures()
        if from_start:
            kept.forget()
            return None
        found = kept.read()
        if kept.note:
            self._notes.append(kept.note)
        if found is None or found.document.get("form") != _FORM:
            return None
        # One that is at work was not there as a whole when its name was kept.
        kept_names = {each for each in found.document["erasures"] if not each.endswith(RUNNING)}
        if not kept_names.issuperset(self._erasures):
            self._notes.append(
                "personal data was erased since the last check, so all events are read again"
            )
            return None
        known: Mapping[str, str] = found.document["schemas"]
        self._take_over(found.document)
        history = self._history
        now = {name: rules.fingerprint for name, rules in history.rules.items()}
        changed = {each for each in {*known, *now} if known.get(each) != now.get(each)}
        changed &= set(history.events)
        self._note(changed, "another schema than at the last check")
        moved = self._with_other_samples(changed)
        self._note(moved, "events that were changed, erased or archived since the last check")
        late = self._late_since(found.document["late"])
        self._note(late, "events that came late, at numbers which had been passed as dead")
        again = changed | moved | late
        other = self._with_other_events(again, found.position)
        self._note(other, "other events in the part of the log that was read than at that time")
        self._read_again(again | other, found.position)
        return found.position

    def _take_over(self, document: Mapping[str, Any]) -> None:
        history = self._history
        history.events.update(document["events"])
        history.numbers.update({name: int(each) for name, each in document["numbers"].items()})
        history.violations = Violations(map(ViolationGroup.of, document["violations"]))
        for each in document["schemaless"]:
            first = EventCoordinates(**each["first"])
            history.schemaless[each["type"]] = SchemalessType(each["type"], each["events"], first)

    def _with_other_samples(self, apart_from: Collection[str]) -> set[str]:
        """The types of which an event that broke a rule does not break it any more, or is gone."""
        groups = [g for g in self._history.violations.listed() if g.type not in apart_from]
        looks = [
            (group, group.samples[number])
            for number in range(SAMPLES)
            for group in groups
            if number < len(group.samples)
        ]
        other: set[str] = set()
        for group, sample in looks[:MOST_LOOKS]:
            if group.type not in other and not self._still_breaks(group, sample):
                other.add(group.type)
        firsts = [each for each in self._history.schemaless.values() if each.type not in apart_from]
        for each in firsts[:MOST_LOOKS]:
            event = self._event_at(each.first)
            if event is None or event.type != each.type:
                other.add(each.type)
        return other

    def _with_other_events(self, apart_from: Collection[str], until: Position | None) -> set[str]:
        """The types of which there are more or fewer events than were read, or others: restored
        from an archive, deleted, or given another type. None where the store cannot tell.
        """
        now = self._store.counts.tallies(self._selection.filter, until)
        if now is None:
            return set()
        history = self._history
        known = {
            name: Tally(events, history.numbers[name])
            for name, events in history.events.items()
            if events
        }
        different = {each for each in {*known, *now} if known.get(each) != now.get(each)}
        return different - set(apart_from)

    def _late_since(self, known: Collection[str]) -> set[str]:
        """The types of events that have come at positions which earlier checks had passed."""
        return {each.type for each in self._late if each.id not in known}

    def _still_breaks(self, group: ViolationGroup, sample: EventCoordinates) -> bool:
        event = self._event_at(sample)
        if event is None or event.type != group.type:
            return False
        broken = self._history.rules[group.type].broken(event.data)
        return self._history.violations.explains(group, broken)

    def _event_at(self, at: EventCoordinates) -> RecordedEvent | None:
        for event in self._store.read_stream(at.stream, at.version - 1):
            if event.version != at.version:
                break
            if event.tenant == at.tenant:  # others may have a stream of the same name
                return event
        # EventStoreDB has the events of a deleted stream in its log, until it is scavenged.
        every, position = EventFilter(archived=True), Position.parse(at.position)
        for batch in self._store.read_backwards(position, filter=every, limit=1):
            for event in batch.events:
                if coordinates_of(event) == at:
                    return event
        return None

    def _read_again(self, types: set[str], until: Position | None) -> None:
        """Read all earlier events of some types."""
        self._history.drop(types)
        if not types or until is None:
            return
        wanted = replace(self._selection.filter, types=tuple(sorted(types)))
        for batch in self._store.read_all(None, until, wanted):
            if self._stop():
                self._stopped = True
                return
            self._history.take(batch.events)
            self._read += len(batch.events)
            self._progress(self._read, None)

    def _note(self, types: Collection[str], why: str) -> None:
        if types:
            some = ", ".join(sorted(types)[:5]) + (", …" if len(types) > 5 else "")
            what = count(len(types), "event type has", "event types have")
            self._notes.append(f"{what} {why}; their history is read again: {some}")

    def _keep(self, kept: KeptProgress, position: Position | None) -> None:
        history = self._history
        document = {
            "form": _FORM,
            "late": [each.id for each in self._late],
            "erasures": self._erasures,
            "schemas": {name: rules.fingerprint for name, rules in history.rules.items()},
            "events": dict(history.events),
            "numbers": {name: str(each) for name, each in history.numbers.items()},
            "violations": [each.as_dict() for each in history.violations.listed()],
            "schemaless": [each.as_dict() for each in history.schemaless.values()],
        }
        try:
            kept.write(document, position)
        except Unavailable as error:
            raise type(error)(
                f"the check has read {count(self._read, 'event')}, and could not keep it: "
                f"{error.message}",
                hint=error.hint,
            ) from error
