"""The steps of a row as one HTML page: forward and back by keyboard, slider and buttons."""

from __future__ import annotations

from pathlib import Path

from esops.check.steps import Stepped
from esops.page import page
from esops.term import result_file, to_json


def write_page(path: Path, found: Stepped) -> None:
    """Write the page. Raises UsageError if the file cannot be written."""
    result_file.write_page(path, step_page(found))


def step_page(found: Stepped) -> str:
    """The page as HTML."""
    document = found.as_dict()
    # Inside of a script element, what looks like its end would be its end.
    data = to_json(document).replace("<", "\\u003c")
    return page(
        "step.html.j2",
        f"{found.projection}, key {found.key}",
        {},
        found=document,
        data=data,
    )
