"""`esops rebuild --report`: what differs between blue and green, as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esops.page import page
from esops.rebuild.outcome import Outcome
from esops.term import to_json
from esops.term.result_file import write_page


def write_report(path: Path, outcome: Outcome) -> None:
    """Write the page. Raises UsageError if the file cannot be written."""
    found = outcome.verification or {}
    samples = [_side_by_side(each) for each in found.get("samples", ())]
    text = page(
        "differences.html.j2",
        f"Rebuild {outcome.rebuild} of {outcome.projection}",
        {},
        outcome=outcome,
        found=found,
        samples=samples,
    )
    write_page(path, text)


def _side_by_side(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A differing row: its key, and each column with both values."""
    blue, green = sample.get("blue"), sample.get("green")
    names = list({**(blue or {}), **(green or {})})
    return {
        "table": sample.get("table"),
        "key": to_json(sample["key"]),
        "only": "blue" if green is None else "green" if blue is None else None,
        "columns": [(name, _text(blue, name), _text(green, name)) for name in names],
    }


def _text(row: Mapping[str, Any] | None, name: str) -> str:
    return "" if row is None or name not in row else to_json(row[name])
