"""`esops projection check --report`: what differs, as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esops.check.result import CheckResult
from esops.check.text import next_step
from esops.page import page
from esops.term import to_json
from esops.term.result_file import write_page


def write_report(path: Path, result: CheckResult) -> None:
    """Write the page. Raises UsageError if the file cannot be written."""
    text = page(
        "check.html.j2",
        f"Check of {result.projection}",
        {},
        result=result,
        found=result.found,
        samples=[_side_by_side(each) for each in result.found.samples],
        unchecked=[("/".join(key), why) for key, why in result.found.unchecked.items()],
        next_step=next_step(result) if result.found.differing else "",
    )
    write_page(path, text)


def _side_by_side(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A differing row: its key, and each column with both values."""
    served, folded = sample["served"], sample["folded"]
    names = list({**(served or {}), **(folded or {})})
    key = sample["key"]
    return {
        "table": sample.get("table"),
        "key": key if isinstance(key, str) else to_json(key),
        "from_version": sample["from_version"],
        "columns": [(name, _text(served, name), _text(folded, name)) for name in names],
    }


def _text(row: Mapping[str, Any] | None, name: str) -> str:
    return "" if row is None or name not in row else to_json(row[name])
