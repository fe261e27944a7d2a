"""A rebuild's plan: the statements word for word, what they cost, and what to know before.

`planning.py` finds it out; here is what it consists of and how it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from esops.events import Position
from esops.postgres.connection import qualified
from esops.postgres.held import LOCK_TIMEOUT
from esops.readmodel import migrations
from esops.readmodel.after_load import AfterLoad
from esops.readmodel.composition import Composition
from esops.readmodel.names import physical_tables
from esops.readmodel.registry import Version
from esops.rebuild.load.measuring import Workers
from esops.rebuild.target import Target
from esops.rebuild.verification.result import Method
from esops.wording import about, size

if TYPE_CHECKING:
    from esops.rebuild.request import AnyPlan


@dataclass(frozen=True)
class RebuildPlan:
    """What a blue-green rebuild will do.

    `source` is the version that serves; with `adopt` it is a table that esops does not know yet and
    that becomes version 1 at the switch.
    """

    target: Target
    source: Version | None
    adopt: bool
    to_version: int
    create: Sequence[str]
    after_load: Sequence[AfterLoad]
    drop_now: Sequence[str]
    switch: Sequence[str]
    keys: Mapping[str, tuple[str, ...]]
    """Of each table, by its physical name."""
    compare: Method
    events: int
    events_range: tuple[int, int]
    """How many these are at least and at most."""
    counted: bool
    """Whether `events` is a count; otherwise it is an estimate."""
    head: Position | None
    blue_bytes: int
    installs: Sequence[str]
    """The statements that first create or upgrade esops' own tables."""
    workers: Workers | None = None
    """How many processes load, where that was measured."""
    explained: Sequence[str] = ()
    """Kind sql: the statement, and the server's plan for it."""
    notes: Sequence[str] = field(default_factory=list)
    serving_has: Mapping[str, Composition] = field(default_factory=dict)
    """What the tables have, by name, that green is made like."""

    def lines(self, *, statements: bool = True) -> list[str]:
        """The plan for a person: with every statement, or only the summary."""
        events = (
            f"{about(self.events, self.events_range, counted=self.counted)} up to position "
            f"{self.head}"
            if self.head is not None
            else "no event yet"
        )
        lines = [
            (
                f"Plan: rebuild {self.target.name} blue-green, as v{self.to_version} "
                f"({self._serving()})"
            ),
            f"  store {self.target.store_name}: {events}",
            f"  green: {', '.join('.'.join(table) for table in self.tables.values())}",
            *self._room(),
            f"  verification: {self.compare}",
            *([] if self.workers is None else [f"  workers: {self.workers}"]),
        ]
        if statements:
            lines += ["", "Statements:", *self._statement_lines()]
        if self.notes:
            lines += ["", "Note:", *(f"  - {note}" for note in self.notes)]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The plan for a program, under the documented field names."""
        return {
            "projection": self.target.name,
            "from_version": self.source.version if self.source else None,
            "to_version": self.to_version,
            "events": self.events,
            "events_range": list(self.events_range),
            "position": None if self.head is None else str(self.head),
            "compare": self.compare,
            "workers": None if self.workers is None else self.workers.number,
            "workers_reason": None if self.workers is None else self.workers.why,
            "statements": [
                *self.create,
                *self.drop_now,
                *(each.statement for each in self.after_load),
                *self.switch,
            ],
            "notes": list(self.notes),
        }

    def version(self) -> Version:
        """The version that will be built, as the registry keeps it."""
        after_load = tuple(
            {
                "what": each.what,
                "statement": each.statement,
                "primary": each.primary,
                "table": each.table,
                "describes": each.describes,
                "by_ddl": each.by_ddl,
                "key": list(self.keys[each.table]) if each.primary else [],
            }
            for each in self.after_load
        )
        return Version(
            projection=self.target.name,
            version=self.to_version,
            state="building",
            store=self.target.store_name,
            position=None,
            events=0,
            rows=0,
            tables=self.tables,
            fingerprint=self.target.code.fingerprint,
            after_load=after_load,
        )

    @property
    def measured(self) -> dict[str, Any]:
        """Options that were found out, for the journal."""
        if self.workers is None:
            return {}
        return {"workers": self.workers.number, "measured": self.workers.number > 1}

    @property
    def tables(self) -> dict[str, tuple[str, str]]:
        """Green's tables, by the names that readers use."""
        return physical_tables(self.target.names, self.to_version)

    def _serving(self) -> str:
        if self.adopt:
            names = " and ".join(map(str, self.target.names))
            return f"{names}, which the application reads now, will become v1 at the switch"
        return "nothing serves yet" if self.source is None else f"v{self.source.version} serves now"

    def _room(self) -> list[str]:
        lines = []
        if self.source is not None:
            lines.append(f"  disk: blue uses {size(self.blue_bytes)}; green will use about as much")
        settings = self.target.settings
        if settings.kind == "fold":
            files = (
                f"events are sorted into files in {settings.spill_directory} (at most "
                f"{size(settings.spill_limit)})"
                if settings.spill_limit
                else "rows are written and read again"
            )
            lines.append(
                f"  memory: {size(settings.cache)} of rows; where more are needed, {files}"
            )
        return lines

    def _statement_lines(self) -> list[str]:
        lines = migrations.plan_lines(self.installs)
        milliseconds = int(LOCK_TIMEOUT.total_seconds() * 1000)
        return [
            *lines,
            "  -- create green",
            *(f"  {each.strip().removesuffix(';')};" for each in (*self.create, *self.drop_now)),
            (
                f"  -- load{'' if self.explained else ' by COPY and INSERT … ON CONFLICT'}; each "
                "transaction also moves the checkpoint in esops.versions"
            ),
            *(f"  {line}" for line in self.explained),
            "  -- after the load",
            *(f"  {each.statement};" for each in self.after_load),
            *(f"  ANALYZE {qualified(*table).as_string(None)};" for table in self.tables.values()),
            f"  -- switch, in one transaction with lock_timeout {milliseconds} ms",
            *(f"  {each};" for each in self.switch),
        ]


def without_repetition(plans: Sequence[AnyPlan], address: Callable[[str], str]) -> list[AnyPlan]:
    """The plans of one command, with the statements for esops' own tables only in the first of
    those of one read model; `address` gives a projection's.
    """
    seen: set[str] = set()
    found: list[AnyPlan] = []
    for plan in plans:
        if isinstance(plan, RebuildPlan):
            where = address(plan.target.name)
            found.append(replace(plan, installs=()) if where in seen else plan)
            seen.add(where)
        else:
            found.append(plan)
    return found
