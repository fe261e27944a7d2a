"""Write the tables of capabilities and parts in stores.md from the code.

Run `python docs/reference/capabilities.py`; a test holds the tables up to date.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields, replace
from pathlib import Path

from esops.stores import base, capabilities
from esops.stores.archive.store import ArchiveStore
from esops.stores.eventstoredb.store import EventStoreDBStore
from esops.stores.postgres.layouts.finding import LAYOUTS
from esops.stores.postgres.store import PostgresStore

PAGE = Path(__file__).with_name("stores.md")
BEGIN, END = "<!-- capabilities: written by capabilities.py -->", "<!-- end of capabilities -->"
NAMES = {"marten": "Marten", "emmett": "Emmett", "messagedb": "message-db"}
OF_LAYOUT: dict[str, dict[str, object]] = {
    "messagedb": {"first_version": 0, "uuid_events": True},
    "marten": {"uuid_events": True},
    "emmett": {"hidden_rows": True, "names_begin_again": True},
    "eventsourcing": {"keeps_ids": False},
    "custom": {"append": False, "checkpoints": False},
}
STORES = {
    **{
        NAMES.get(name, name): replace(PostgresStore.capabilities, **OF_LAYOUT.get(name, {}))
        for name in LAYOUTS
    },
    "EventStoreDB": EventStoreDBStore.capabilities,
    "archive": replace(ArchiveStore.capabilities, first_version=0, names_begin_again=True),
}
BY_VARIANT = {
    ("Marten", "tenants"): "where conjoined",
    ("Marten", "named_tenants"): "where conjoined",
    ("Emmett", "named_tenants"): "of several partitions",
    ("Marten", "uuid_streams"): "unless by text",
    ("eventsourcing", "uuid_streams"): "unless by text",
    ("Marten", "hidden_rows"): "with is_skipped",
    ("Marten", "names_begin_again"): "with archived partitions",
    ("archive", "first_version"): "as it was",
    ("Emmett", "position_parts"): "2, or 1 by position",
    ("archive", "position_parts"): "as it was",
}
ARCHIVING = {
    "Marten": "archive, delete; shortens with `until`; restores anywhere",
    "Emmett": "archive, delete; shortens with `until`; restores anywhere",
    "message-db": "delete; shortens; restores anywhere",
    "eventsourcing": "delete; shortens up to a snapshot; restores anywhere",
    "custom": "copies only",
    "EventStoreDB": "delete, tombstone, truncate; shortens; restores in place",
}
"""How streams can be removed, and where they can be restored as they were."""


def meanings() -> dict[str, str]:
    """What each field of Capabilities, and each part of a store, says of itself in the source."""
    (definition,) = ast.parse(inspect.getsource(capabilities.Capabilities)).body
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
    for name in ("archiving", "masking", "lengths", "search", "identity", "sql", "admin"):
        found[name] = inspect.getdoc(getattr(base.EventStore, name)) or ""
    return found


def table() -> str:
    """The table in Markdown."""
    lines = [f"| capability | {' | '.join(STORES)} | |", "|---|" + "---|" * (len(STORES) + 1)]
    said = meanings()
    for field in fields(capabilities.Capabilities):
        cells = []
        for name, able in STORES.items():
            value = getattr(able, field.name)
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
            cells.append(BY_VARIANT.get((name, field.name), shown))
        lines.append(f"| `{field.name}` | {' | '.join(cells)} | {said[field.name]} |")
    for part, cells in _parts().items():
        lines.append(f"| part `{part}` | {' | '.join(cells)} | {said[part]} |")
    return "\n".join(lines)


def _parts() -> dict[str, list[str]]:
    nodes, layouts = {"EventStoreDB"}, set(STORES) - {"EventStoreDB", "archive"}
    return {
        "archiving": [ARCHIVING.get(name, "no") for name in STORES],
        "masking": ["yes" if name in layouts else "no" for name in STORES],
        "lengths": ["yes"] * len(STORES),
        "search": ["yes"] * len(STORES),
        "identity": ["yes" if name in nodes else "no" for name in STORES],
        "sql": ["yes" if name in layouts else "no" for name in STORES],
        "admin": ["yes" if name in nodes else "no" for name in STORES],
    }


def written(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
