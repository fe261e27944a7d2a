"""A column that two tables have, and the texts of its values that a comparison compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from esops.postgres.types import TypedColumn
from esops.rebuild.verification.equality import Equality
from esops.rebuild.verification.paths import Steps, picked, without


@dataclass(frozen=True)
class Pair:
    """A column that both tables have, and how it is compared."""

    at: int
    """Its number among the columns that are compared, from which its names in SQL are made."""
    name: str
    blue: TypedColumn
    green: TypedColumn
    equality: Equality
    ignored: tuple[Steps, ...] = ()
    """Paths into a JSON column that are not compared."""
    expected: tuple[Steps, ...] = ()
    """Paths whose differences do not count."""
    may_differ: bool = False
    """Whether differences of the whole column do not count."""

    @property
    def is_json(self) -> bool:
        """Whether it is JSON on both sides."""
        return {self.blue.tree.name, self.green.tree.name} <= {"json", "jsonb"}

    @property
    def by_parts(self) -> bool:
        """Whether both are taken apart: where one has to be, the other is, too."""
        return any(self.equality.takes_apart(side.tree) for side in (self.blue, self.green))

    @property
    def is_quick(self) -> bool:
        """Whether `quick_text` is `text`, so that looking again would find the same."""
        blue, green = (
            self.quick_text(side, sql.SQL("v")) == self.text(side, sql.SQL("v"))
            for side in (self.blue, self.green)
        )
        return blue and green

    @property
    def comparable(self) -> bool:
        """Whether the server can compare the two as they are, through an index: they are of one
        type, whose operators it finds without a search path.
        """
        tree = self.blue.tree
        return self.blue == self.green and (tree.kind != "scalar" or tree.name != "")

    def text(self, side: TypedColumn, value: sql.Composable) -> sql.Composed:
        """The canonical text of a value, without what is ignored."""
        return self._without(side, value, self.ignored) or self.equality.text(
            side.tree, value, by_parts=self.by_parts
        )

    def quick_text(self, side: TypedColumn, value: sql.Composable) -> sql.Composed:
        """As `text`, but equal values may have different texts."""
        return self._without(side, value, self.ignored, quick=True) or self.equality.quick_text(
            side.tree, value, by_parts=self.by_parts
        )

    def counted_text(self, side: TypedColumn, value: sql.Composable) -> sql.Composed:
        """As `text`, without that whose differences do not count, too."""
        return self._without(side, value, (*self.ignored, *self.expected)) or self.text(side, value)

    def text_at(self, value: sql.Composable, steps: Steps) -> sql.Composed:
        """The canonical text of what is at a path."""
        return self.equality.as_jsonb(
            value, self.equality.of_jsonb(picked(_jsonb(self._cut(value)), steps)), sql.SQL("NULL")
        )

    def _cut(self, value: sql.Composable) -> sql.Composable:
        for steps in self.ignored:
            value = without(_jsonb(value), steps)
        return value

    def _without(
        self,
        side: TypedColumn,
        value: sql.Composable,
        paths: Sequence[Steps],
        *,
        quick: bool = False,
    ) -> sql.Composed | None:
        if not paths:
            return None
        rest: sql.Composable = _jsonb(value)
        for steps in paths:
            rest = without(rest, steps)
        made = (
            sql.SQL('(({})::text COLLATE "C")').format(rest)
            if quick
            else self.equality.of_jsonb(rest)
        )
        if side.tree.name == "jsonb":
            return made
        return self.equality.as_jsonb(value, made, sql.SQL("({})::text").format(value))


def _jsonb(value: sql.Composable) -> sql.Composable:
    return sql.SQL("({})::text::jsonb").format(value)
