"""Write the table of capabilities in stores.md from the code.

Run `python docs/reference/capabilities.py`; a test holds the table up to date.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields, replace
from pathlib import Path

from esops.stores import base
from esops.stores.archive.store import ArchiveStore
from esops.stores.eventstoredb import EventStoreDBStore
from esops.stores.postgres import PostgresStore
from esops.stores.postgres.layouts import LAYOUTS

PAGE = Path(__file__).with_name("stores.md")
BEGIN, END = "<!-- capabilities: written by capabilities.py -->", "<!-- end of capabilities -->"
NAMES = {"marten": "Marten", "emmett": "Emmett", "messagedb": "message-db"}
BACK = {"restores": "anywhere"}
OF_LAYOUT: dict[str, dict[str, object]] = {
    "marten": {"removals": ("archive", "delete"), **BACK},
    "emmett": {"removals": ("archive", "delete"), **BACK},
    "messagedb": {"first_version": 0, "removals": ("delete",), **BACK},
    "eventsourcing": {"removals": ("delete",), **BACK},
    "custom": {"append": False, "checkpoints": False},
}
STORES = {
    **{
        NAMES.get(name, name): replace(PostgresStore.capabilities, **OF_LAYOUT.get(name, {}))
        for name in LAYOUTS
    },
    "EventStoreDB": EventStoreDBStore.capabilities,
    "archive": replace(ArchiveStore.capabilities, first_version=0),
}
BY_VARIANT = {("Marten", "tenants"): "where conjoined", ("archive", "first_version"): "as it was"}


def meanings() -> dict[str, str]:
    """What each field of Capabilities says of itself in the source."""
    (definition,) = ast.parse(inspect.getsource(base.Capabilities)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def table() -> str:
    """The table in Markdown."""
    lines = [f"| capability | {' | '.join(STORES)} | |", "|---|" + "---|" * (len(STORES) + 1)]
    told = meanings()
    for field in fields(base.Capabilities):
        cells = []
        for name, capabilities in STORES.items():
            value = getattr(capabilities, field.name)
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
            if value in ((), ""):
                shown = "no"
            elif isinstance(value, tuple):
                shown = ", ".join(value)
            cells.append(BY_VARIANT.get((name, field.name), shown))
        lines.append(f"| `{field.name}` | {' | '.join(cells)} | {told[field.name]} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
