"""What was asked for and is nowhere: a name, a value or a path may be written in another way."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from esops.erasing.archives import ArchivedRun
from esops.erasing.rules import Person
from esops.erasing.sweep import Findings
from esops.erasing.traces import Place
from esops.json_paths import JsonPath
from esops.stores.masking import Masking
from esops.wording import count


def left(person: Person, store: str) -> Findings:
    """The streams and values that no event has: nothing of them was masked, so nothing is proven.

    Not a value whose place a rule masks: it was found by its former events, or is nowhere.
    """
    findings = Findings()
    for name in sorted(person.streams_asked - person.seen):
        why = "it is neither in the store nor in its archives"
        findings.leave(Place(f"store {store}", f"stream {name}", "", why))
    masked = {path for rule in person.rules for path, _ in rule.masks}
    for number, (path, value) in enumerate(person.conditions, 1):
        if (path, value) not in person.met and path not in masked:
            of = f"condition {number}" if len(person.conditions) > 1 else "what was asked for"
            why = "no event in the store or its archives has this value there: is it written so?"
            findings.leave(Place(f"store {store}", of, str(path), why))
    return findings


def in_no_archive(
    person: Person, masking: Masking, runs: Iterable[ArchivedRun], store: str
) -> Findings:
    """Streams that were archived, and are in no archive of the configuration: nobody knows whose
    events these are.
    """
    findings = Findings()
    names = {each.stream for each in masking.emptied() if person.tenant in (None, "", each.tenant)}
    for run in runs if names else ():
        names -= {digest.stream for digest, _ in run.run.streams(run.manifest)}
    if names:
        what = f"{count(len(names), 'archived stream')} without events"
        why = "no archive in esops.toml has them. Name that archive, and run this again"
        findings.leave(Place(f"store {store}", what, "", why))
    return findings


def notes(person: Person, led: Collection[JsonPath]) -> list[str]:
    """What an operator should know of paths. `led` are the masks' paths that led to something."""
    masked = {path for rule in person.rules for path, _ in rule.masks}
    gone = {path for path, value in person.conditions if (path, value) not in person.met}
    found = [
        f"no event has what was asked for at {path} (any more), where a rule masks it"
        for path in sorted(gone & masked, key=str)
    ]
    if not (person.met or person.seen):
        return found
    return found + [
        f"{path} of rule {rule.name} leads nowhere in any of these events"
        for rule in person.rules
        for path, _ in rule.masks
        if path not in led
    ]
