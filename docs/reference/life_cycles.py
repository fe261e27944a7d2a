"""Write the table of inline, async and live projections in life-cycles.md from the code.

Run `python docs/reference/life_cycles.py`; a test holds the table up to date, and another asks
esops itself, on a database of each library, for what the table says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.stores.eventstoredb.store import EventStoreDBStore
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.custom import CustomTable
from esops.stores.postgres.layouts.emmett.tables import Emmett
from esops.stores.postgres.layouts.eventsourcing import Eventsourcing
from esops.stores.postgres.layouts.marten.tables import Marten
from esops.stores.postgres.layouts.messagedb import MessageDb
from esops.stores.postgres.store import PostgresStore

PAGE = Path(__file__).with_name("life-cycles.md")
BEGIN, END = "<!-- life cycles: written by life_cycles.py -->", "<!-- end of life cycles -->"
LIBRARIES: dict[str, type[Layout] | None] = {
    "Marten": Marten,
    "Emmett": Emmett,
    "message-db": MessageDb,
    "eventsourcing": Eventsourcing,
    "a table of your own": CustomTable,
    "EventStoreDB": None,
}
"""By its layout; None where the store is no Postgres database."""
_OF_KIND = {
    "fold": {"python": "m:f"},
    "handlers": {"python": "m:f"},
    "sql": {"statement": "s.sql"},
    "process": {"command": ["p"]},
}


@dataclass(frozen=True)
class Answers:
    """What the code says of one library's store."""

    inline: bool
    """Whether a table can be written in one transaction with the events."""
    knows_inline: bool
    """Whether it is known by the library's own tables which tables each append writes."""
    knows_async: bool
    """Whether it is known by the library's own tables which tables a processor makes."""
    reads_checkpoints: bool
    """Whether it is known how far a processor of the application's is."""
    sets_checkpoints: bool
    """Whether a switch can set the checkpoint of such a processor."""
    inside: bool
    """Whether projections run inside the store."""


def answers(layout: type[Layout] | None) -> Answers:
    """What the code says, by what a layout or a store has of its own."""
    if layout is None:
        able = EventStoreDBStore
        has_inline = able.inline is not EventStore.inline
        return Answers(has_inline, False, False, able.capabilities.checkpoints, False, True)
    own = {
        name: getattr(layout, name) is not getattr(Layout, name)
        for name in ("inline_tables", "kept_tables", "checkpoints", "set_checkpoint")
    }
    return Answers(
        inline=PostgresStore.inline is not EventStore.inline,
        knows_inline=own["inline_tables"],
        knows_async=own["kept_tables"],
        reads_checkpoints=own["checkpoints"],
        sets_checkpoints=own["set_checkpoint"],
        inside=False,
    )


def kinds(live: str) -> list[str]:
    """The kinds of projection that may have this key."""
    found = []
    for kind, more in _OF_KIND.items():
        values = {"kind": kind, "tables": ["t"], "live": live, "switch": "rename", **more}
        try:
            ProjectionSettings.model_validate(values)
        except ValidationError:
            continue
        found.append(kind)
    return found


def row(library: str, cycle: str) -> list[str]:
    """The cells of one library and life cycle."""
    said = answers(LIBRARIES[library])
    if cycle == "live":
        return ["—", "nothing to rebuild", "—", "—", "—", "—"]
    if cycle == "inline":
        if not said.inline:
            return ["cannot be: it shares no transaction with a database", *["—"] * 5]
        only = " or ".join(f"a {kind}" for kind in kinds("inline"))
        return [
            "by itself" if said.knows_inline else 'by `live = "inline"`',
            f"yes, {only}, under a short lock",
            "yes",
            "yes, `--test-only`",
            "yes; heals while appends go ahead",
            "no: it has no checkpoint",
        ]
    by_itself = "by itself" if said.knows_async else 'by `live = "app"`'
    if said.sets_checkpoints:
        hand_over = f"yes, and hands over ({', '.join(kinds('app'))})"
    else:
        hand_over = "builds it with `--no-switch`, and cannot hand over; `esops run` can take over"
    if said.inside:
        hand_over += '; inside the node: `kind = "server"`'
    reads = said.reads_checkpoints
    if not said.inline:
        check = "no: rows and position are in two databases"
    elif not reads:
        check = "no: nothing tells its position"
    else:
        check = "yes; prints the statements, runs them when the processor has stopped"
    return [
        by_itself,
        hand_over,
        "by another rebuild",
        "yes, `--no-switch` or `--test-only`" if said.sets_checkpoints else "yes, `--no-switch`",
        check,
        "yes" if reads else "no: nothing tells its position",
    ]


def table() -> str:
    """The table in Markdown."""
    heads = "library|projection|esops knows it|rebuild|roll back|verify only|check and heal"
    lines = [
        f"| {heads.replace('|', ' | ')} | `external` |",
        "|---" * 8 + "|",
        *(
            f"| {library} | {cycle} | {' | '.join(row(library, cycle))} |"
            for library in LIBRARIES
            for cycle in ("inline", "async", "live")
        ),
    ]
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
