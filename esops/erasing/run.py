"""`esops erase`: find a person's data, mask it where it is, and prove that nothing is left.

First all is read: what belongs to the person, what would be masked, and where the same values are
that no rule masks. Then the archives are rewritten, and the events in the store are replaced in
small transactions. In the end all is read back, and again if the application wrote since.

Killed at any point, the command can be run again: what is masked already is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import structlog

from esops.config import Config
from esops.erasing import absent
from esops.erasing.archives import ArchivedRun, archives_of, runs_of
from esops.erasing.earlier import Earlier
from esops.erasing.fitting import fitting, masking_of
from esops.erasing.masker import Masker
from esops.erasing.read_models import ReadModels, RowsFound
from esops.erasing.rules import Person
from esops.erasing.spilled import remove_spills
from esops.erasing.sweep import Findings, Sweep
from esops.erasing.traces import MOST_KEPT, Place, Values
from esops.events import StreamKey
from esops.json_paths import JsonPath, parse_path
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.base import EventStore, settled
from esops.wording import count

log = structlog.get_logger("esops.erasing")

_MOST_PASSES = 5
"""After this many passes the application still writes such data."""


@dataclass(frozen=True)
class EraseRequest:
    """Whose data is to be erased."""

    streams: Sequence[str] = ()
    conditions: Sequence[tuple[JsonPath, str]] = ()
    rules: Sequence[str] = ()
    """Only these; without any, all rules of the store that fit."""
    reason: str = "personal data was erased"
    """What the new seals of archives say."""


@dataclass
class EraseOutcome:
    """What was found, or done. No value is in it."""

    store: str
    rules: Sequence[str]
    events: int = 0
    """Events of the store that were (or would be) changed."""
    archives: int = 0
    """Archived runs that were (or would be) rewritten."""
    archived_events: int = 0
    rows: int = 0
    """Rows of read models that still have such data."""
    values: int = 0
    """Places that have a value which only this erasure knows."""
    remaining: int = 0
    """Places where something is left; 0 where it is proven that there is none."""
    places: list[Place] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    planned: bool = True
    """Whether nothing was done yet."""

    @property
    def nothing_to_do(self) -> bool:
        """Whether there is nothing to be masked."""
        return not self.events and not self.archives

    def as_dict(self) -> dict[str, Any]:
        """The outcome under the documented field names."""
        return {
            "store": self.store,
            "rules": list(self.rules),
            "events": self.events,
            "archives": self.archives,
            "archived_events": self.archived_events,
            "rows": self.rows,
            "remaining": self.remaining,
            "places": [each._asdict() for each in self.places],
            "notes": self.notes,
        }

    def leave(self, found: Findings) -> None:
        """Take over where something is left."""
        self.remaining += found.left
        self.values += found.values
        self.places = [*self.places, *found.places][:MOST_KEPT]


class Erasure(AbstractContextManager["Erasure"]):
    """One erasure, from the plan to the proof. A context manager."""

    def __init__(
        self, config: Config, store: str | None, request: EraseRequest, stop: Callable[[], None]
    ) -> None:
        """Open the store. `stop` raises Stopped where the command has to end.

        Raises UsageError where no rule fits, and Refused where the store cannot change events.
        """
        self._config, self._request, self._stop = config, request, stop
        self.name, settings = config.store(store)
        self._settings = settings
        rules = fitting(config, self.name, request.streams, request.conditions, request.rules)
        self._person = Person(
            request.conditions,
            frozenset(request.streams),
            rules,
            tenant=settings.tenant if isinstance(settings, PostgresSettings) else None,
        )
        masks = [mask.text for rule in rules for _, mask in rule.masks if mask.kind == "text"]
        shared = {str(parse_path(path)) for rule in rules for path in rule.shared}
        self._values, self._kept = Values(masks, shared), Values(masks, shared)
        """What is masked, and what stays in events that nearly have what was asked for."""
        self._add_asked_values()
        self._store: EventStore = open_store(self.name, settings.without_archive)
        try:
            self._masking = masking = masking_of(self._store)
            self._masker = Masker(self._person, masking.documents, wrapped=masking.wrapped)
            self._sweep = Sweep(f"store {self.name}", self._masker, self._values)
            self._read_models = ReadModels(config, self.name)
            self.outcome = EraseOutcome(self.name, [each.name for each in rules])
            self._earlier = Earlier(
                self._read_models, self.name, request.streams, request.conditions
            )
            self._runs: list[ArchivedRun] = []
            self._touched = set[StreamKey]()
            self._planned = Findings()
            self._fold_notes: list[str] = []
        except BaseException:
            self._store.close()
            raise

    def _add_asked_values(self) -> None:
        """A value that was asked for is looked for even where no event has it any more, if it is
        one that is masked.
        """
        masked = {str(path) for rule in self._person.rules for path, _ in rule.masks}
        for path, value in self._request.conditions:
            if str(path) in masked:
                self._values.add({value: [str(path)]})

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self._store.close()

    # -- the plan

    def plan(self) -> EraseOutcome:
        """Read everything and say what would be done, and what would be left. Changes nothing.

        Raises Refused where the store's tables or rights forbid the change, Damaged.
        """
        outcome = self.outcome
        outcome.notes = self._masking.check(self._masker.columns)
        unsealed = self._find_runs()
        if self._person.looks_for_streams:
            self._sweep.note_streams(self._masking.rows(self._stop))
            for run in self._runs:
                run.note_streams(self._values, self._stop)
        # The values first, then the places where they are: the last event may have the first value.
        found = self._sweep.run(self._masking.rows(self._stop), search=False)
        archived = [run.look(self._values, self._stop, search=False) for run in self._runs]
        self._touched = {*found.streams, *(key for each in archived for key in each.streams)}
        outcome.events = found.events
        outcome.archives = sum(1 for each in archived if each.events)
        outcome.archived_events = sum(each.events for each in archived)
        outcome.leave(Findings(left=len(unsealed), places=unsealed))
        beside = self._leave(self._sweep.run(self._masking.rows(self._stop)))
        for run in self._runs:
            beside += self._leave(run.look(self._values, self._stop))
            if unnamed := run.unnamed():
                outcome.notes.append(
                    f"{len(unnamed)} files of {run.where} that do not count will be deleted"
                )
        if beside:
            outcome.notes.append(
                f"{count(beside, 'event has', 'events have')} what was asked for under a key or in "
                "a form that is written in another way, and nothing that the rules mask"
            )
        rows = self._look_beside(outcome)
        self._fold_notes = list(self._folded_again(rows))
        outcome.notes += self._fold_notes
        met = self._masker.met.union(*(run.met for run in self._runs))
        outcome.notes += absent.notes(self._person, met)
        self._leave_absent()
        self._planned = _left_of(outcome)
        outcome.leave(self._earlier.look())
        return outcome

    def _find_runs(self) -> list[Place]:
        """Find the archived runs of the store; the places of those that are not sealed."""
        self._runs, unsealed = runs_of(
            archives_of(self._config), self._store, self._settings, self._person, self._masking
        )
        return unsealed

    def _look_beside(self, outcome: EraseOutcome) -> RowsFound:
        """Copies in the store's database, and the rows of read models."""
        tables = sorted({table for rule in self._person.rules for table in rule.settings.tables})
        copies = Findings()
        for batch in self._masking.copies(tables) if self._values else ():
            self._stop()
            for each in batch:
                for path, of in self._values.in_document(each.json, own=False):
                    what = f"the value of {of}. {each.remedy}"
                    copies.leave_value(Place(f"table {each.table}", "a row", path, what))
        outcome.leave(copies)
        rows = self._read_models.look(self._values, self._stop)
        outcome.rows = rows.rows
        if not outcome.planned:
            outcome.leave(rows.findings)
        kept = self._read_models.look(self._kept, self._stop, noted=False).findings
        of = "they are of events that are left, see above"
        places = [each._replace(of=of) for each in kept.places]
        outcome.leave(Findings(left=kept.left, places=places))
        return rows

    def _folded_again(self, rows: RowsFound) -> Iterator[str]:
        """Take over the rows that would be left; what an operator should know of the others."""
        models, left = self._read_models, rows.findings
        # Those of a version that an earlier erasure has noted stay, whatever becomes of these.
        scanned = rows.scanned - models.noted() if rows.scanned else rows.scanned
        for key, follower in models.folds().items() if scanned else ():
            if key not in scanned:
                continue
            name, number = key
            if follower:
                yield (
                    f"{name} v{number} is kept fresh by {follower}, so its rows cannot be folded "
                    "again: stop that before you erase"
                )
                continue
            where = f"projection {name} v{number}"
            left.left -= rows.versions[key]
            left.places = [each for each in left.places if each.where != where]
            yield f"{count(rows.versions[key], 'row')} of {name} v{number} will be folded again"
        self.outcome.leave(left)

    def _leave_absent(self) -> None:
        person, name = self._person, self.name
        self.outcome.leave(absent.left(person, name))
        self.outcome.leave(absent.in_no_archive(person, self._masking, self._runs, name))

    def _leave(self, found: Findings) -> int:
        """Take over what a pass has found that looked for values; how many events nearly have what
        was asked for, and nothing that the rules mask.
        """
        self.outcome.leave(found)
        self._kept.add({value: of for value, of in found.kept.items() if value not in self._values})
        return found.beside

    # -- the erasure

    def run(self) -> EraseOutcome:
        """Mask everything, and prove by reading it back that nothing is left.

        Raises Busy where a process works on a policy whose runs have to be rewritten, Stopped,
        Refused, Damaged. It may be run again after any of these.
        """
        outcome = self.outcome
        outcome.planned = False
        outcome.notes = [each for each in outcome.notes if each not in self._fold_notes]
        models = self._read_models
        if not outcome.nothing_to_do:
            models.refuse_rebuilds()
            remove_spills(models.databases, self.name)
            if self._planned.values:
                self._earlier.note(self._request.reason, self._planned)
        marked, noted_before = models.recognised(self._store), models.noted()
        rows = models.look(self._values, self._stop)
        if not outcome.nothing_to_do:
            # Those rows may have a form of a value that nobody would find.
            folds = dict.fromkeys(models.folds(), len(self._touched))
            rows.versions = folds | rows.versions
            models.note(rows, outcome.rules)
        models.clear_own_tables(self._values)
        if self._person.looks_for_streams:
            # Others are found by the events that fulfil a condition, so those are the last.
            self._sweep.run(
                self._masking.rows(self._stop), self._masking.write, search=False, but_matched=True
            )
        self._rewrite_archives()
        self._mask_store(outcome)
        if outcome.events:
            models.renew_marks(self._store, marked)
        self._look_into_archives(outcome)
        if outcome.events or outcome.archives:
            late = models.wait_for_followers(self._store.head().position, self._stop)
            outcome.leave(Findings(left=len(late), places=late))
            self._refold(outcome, rows, noted_before)
        rows = self._look_beside(outcome)
        if not outcome.nothing_to_do:
            models.note(rows, outcome.rules)
        models.clear_own_tables(self._values)
        if not outcome.nothing_to_do:
            self._earlier.end(self._request.reason, _left_of(outcome))
        outcome.leave(self._earlier.look())
        self._leave_absent()
        log.info(
            "erased",
            store=self.name,
            rules=list(outcome.rules),
            events=outcome.events,
            archives=outcome.archives,
            rows=outcome.rows,
            remaining=outcome.remaining,
        )
        return outcome

    def _look_into_archives(self, outcome: EraseOutcome) -> None:
        """Again, since a policy may have run while events were masked."""
        unsealed = self._find_runs()
        outcome.leave(Findings(left=len(unsealed), places=unsealed))
        for run in self._runs:
            found = run.look(self._values, self._stop)
            for _ in range(found.events):
                found.leave(
                    Place(run.where, "an event", "", "it was archived before it was masked")
                )
            self._leave(found)

    def _refold(
        self, outcome: EraseOutcome, before: RowsFound, noted_before: set[tuple[str, int]]
    ) -> None:
        """Make the rows of the person's streams again, where the kind of projection allows it."""
        rows = self._read_models.look(self._values, self._stop)
        rows.versions = before.versions | rows.versions
        if not rows.versions:
            return
        reasons = self._read_models.refold(rows, self._touched)
        outcome.notes += [
            f"the rows of {name} v{number} were not folded again: {reason}"
            for (name, number), reason in reasons.items()
        ]
        still = self._read_models.look(self._values, self._stop)
        self._read_models.forget(rows, still, {*noted_before, *reasons})

    def _rewrite_archives(self) -> None:
        outcome = self.outcome
        outcome.archives = outcome.archived_events = 0
        outcome.remaining, outcome.values, outcome.places = 0, 0, []
        self._find_runs()
        found = [(run, run.look(self._values, self._stop, search=False)) for run in self._runs]
        # As in the store: others are found by the events that fulfil a condition.
        for run, before in sorted(found, key=lambda each: each[1].matched):
            if not before.events and not run.unnamed():
                continue
            with run.leased() as lease:
                run.delete_unnamed()
                now = run.look(self._values, self._stop, search=False)
                if not now.events:
                    continue
                run.rewrite(lease, self._request.reason, now.events, self._stop)
                outcome.archives += 1
                outcome.archived_events += now.events
                for problem in run.verify():
                    outcome.leave(Findings(left=1, places=[Place(run.where, problem, "", "")]))
                log.info("sealed again", run=run.run.name, events=now.events)

    def _mask_store(self, outcome: EraseOutcome) -> None:
        """Mask until a pass over all that was committed before it finds nothing more."""
        found = Findings()
        masked = 0
        for _ in range(_MOST_PASSES):
            self._masking.wait_for_writers(self._stop)
            _, unsettled = settled(self._store)
            if unsettled is not None:
                raise unsettled
            found = self._sweep.run(self._masking.rows(self._stop), self._masking.write)
            masked += found.events
            self._touched |= found.streams
            if not found.events:
                break
        else:
            store = f"store {self.name}"
            found.leave(
                Place(store, "its events", "", "the application still writes data of this person"),
                found.events,
            )
        outcome.events = max(outcome.events, masked)
        self._leave(found)


def _left_of(outcome: EraseOutcome) -> Findings:
    places = [each for each in outcome.places if not each.where.startswith("projection ")]
    return Findings(values=outcome.values, places=places)
