"""What a check found, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from esops.check.result import CheckResult
from esops.term import to_json
from esops.wording import count


def lines(result: CheckResult, shown: int) -> Iterator[str]:
    """What was found, the first rows that differ, and last what happened and what to do next."""
    found = result.found
    name = result.projection if result.version is None else f"{result.projection} v{result.version}"
    at = "" if result.position is None else f" at position {result.position}"
    for text in result.notes:
        yield f"note: {text}"
    for sample in found.samples[:shown]:
        yield from _row(sample)
    if found.differing > shown:
        yield f"… and {count(found.differing - shown, 'other row')}"
    for column, rows in sorted(found.columns.items(), key=lambda each: -each[1]):
        yield f"column {column}: differs in {count(rows, 'row')}"
    if found.missing:
        yield f"{count(found.missing, 'row')} missing: the events make them, and they are not there"
    if found.surplus:
        yield f"{count(found.surplus, 'row')} surplus: the events make no such row"
    if found.unknown:
        key, reason = next(iter(found.unchecked.items()))
        yield (
            f"{count(found.unknown, 'key')} could not be checked, such as {_text(key)}: {reason}"
        )
    if result.finds_in_words is not None:
        yield f"{result.finds_in_words} (seed {result.asked.get('seed')})"
    of = f" of about {result.of:,}" if result.sampled and result.of else ""
    number = "" if result.check is None else f"check {result.check}: "
    what = f"{number}{count(found.keys, 'key')}{of} of {name} checked{at}"
    if not found.keys:
        yield f"{what}: there was nothing to compare, which says nothing of the read model"
    elif not found.differing:
        rest = f", and {count(found.unknown, 'key')} not checked" if found.unknown else ""
        yield f"{what}: every row is what its events make of it{rest}"
    else:
        differ = "differs" if found.differing == 1 else "differ"
        yield f"{what}: {count(found.differing, 'row')} {differ}. {next_step(result)}"


def next_step(result: CheckResult) -> str:
    """What to do about rows that differ."""
    name = result.projection
    if result.version is None or result.check is None:
        return "The application makes these rows: see what it missed"
    return f"Make them right: esops rebuild {name} --from-check {result.check}"


def _row(sample: Mapping[str, Any]) -> Iterator[str]:
    served, folded = sample["served"], sample["folded"]
    table = f"{sample['table']} " if "table" in sample else ""
    head = f"{table}{_text(sample['key'])}"
    if served is None:
        what = "missing"
    elif folded is None:
        what = "surplus"
    else:
        names = list({**served, **folded})
        what = ", ".join(
            f"{name} is {to_json(served.get(name))}, should be {to_json(folded.get(name))}"
            for name in names
        )
    since = sample.get("from_version")
    yield f"{head}: {what}" + ("" if since is None else f" (from version {since} of its stream)")


def _text(key: Any) -> str:
    if isinstance(key, tuple):
        return "/".join(key)
    return key if isinstance(key, str) else to_json(key)
