"""`[audit]` and `[trace]`: how to judge events, and where they say what caused them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from esops.settings.base import Duration, Settings


class BudgetSettings(Settings):
    """`[audit.budgets]`: limits for the streams of a category; a number alone is a length."""

    length: int | None = Field(default=None, ge=1)
    """Events in a stream."""
    growth_per_day: float | None = Field(default=None, gt=0)
    """Events a day in a stream, over the days that the audit covers."""
    bytes: int | None = Field(default=None, ge=1)
    """Stored bytes of the events of a stream."""
    store: str | None = None
    """The only store that the budget is for. Default: each that is audited."""
    open_for: Duration | None = None
    """The greatest age of a stream that no event of `closed_by` has closed."""


def _budget(value: object) -> object:
    return {"length": value} if isinstance(value, int) and not isinstance(value, bool) else value


Budget = Annotated[BudgetSettings, BeforeValidator(_budget)]


class AuditSettings(Settings):
    """`[audit]`: budgets by category, what closes a stream, and which modelling rules are used."""

    budgets: Mapping[str, Budget] = {}
    """By category; `*` stands for anything. The most specific pattern that matches counts."""
    closed_by: tuple[str, ...] = ()
    """Types of events that end a stream's life."""
    rules: Mapping[str, bool | float] = {}
    """Rules of `audit modelling` by name: false switches a rule off, a number is its threshold."""


class TraceSettings(Settings):
    """`[trace]`: where events keep correlation and cause, if not under the conventional keys."""

    correlation: tuple[str, ...] = ()
    """Keys in the metadata that hold a correlation id."""
    causation: tuple[str, ...] = ()
    """Keys in the metadata that hold the id of the causing event."""
    scan_limit: int = Field(default=1_000_000, ge=0)
    """The most events that are scanned without `--scan`, where there is no index."""
