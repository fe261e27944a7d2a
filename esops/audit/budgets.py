"""Budgets of categories, and the streams that break them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from esops.errors import UsageError, nearest
from esops.events import EventFilter, StreamInfo
from esops.moments import between
from esops.settings import AuditSettings, BudgetSettings
from esops.stores.base import EventStore, require

MOST = 1_000
"""Breaches that are listed; all of them are counted."""
NO_BUDGET = BudgetSettings()
_IF_ANOTHERS = ' If it is for another store, give the budget its name: store = "…".'


@dataclass(frozen=True)
class BudgetBreach:
    """A stream that breaks its category's budget: `value` is above `limit`."""

    stream: str
    category: str | None
    rule: str
    limit: float
    value: float
    tenant: str = ""
    """The stream's tenant; empty where the store has none."""

    def as_dict(self) -> dict[str, Any]:
        """The breach under the documented field names."""
        found = dict(vars(self))
        return found if self.tenant else {k: v for k, v in found.items() if k != "tenant"}


class Budgets:
    """The budgets of [audit.budgets], and the streams that break them."""

    def __init__(self, settings: AuditSettings, store: str) -> None:
        """The budgets for a store. Raises UsageError for one that cannot be checked."""
        self._by_pattern: Mapping[str, BudgetSettings] = {
            pattern: budget
            for pattern, budget in settings.budgets.items()
            if budget.store in (None, store)
        }
        self._closed_by = settings.closed_by
        if self._sets("open_for") and not settings.closed_by:
            raise UsageError(
                "audit.budgets: `open_for` needs to know which event types close a stream",
                hint='List them in esops.toml: audit.closed_by = ["…"].',
            )

    def budget_for(self, category: str | None) -> BudgetSettings:
        """The budget under a category's own name, else under the longest pattern that fits."""
        name = category or ""
        if name in self._by_pattern:
            return self._by_pattern[name]
        fitting = [pattern for pattern in self._by_pattern if fnmatchcase(name, pattern)]
        return self._by_pattern[max(fitting, key=len)] if fitting else NO_BUDGET

    @property
    def patterns(self) -> Sequence[str]:
        """The categories, and patterns of such, that have a budget."""
        return list(self._by_pattern)

    def unmatched(self, store: EventStore, categories: Iterable[str | None]) -> list[str]:
        """A sentence for each budget that fits none of a store's categories.

        Raises UsageError where no budget fits any.
        """
        known = sorted(each for each in categories if each)
        found = []
        for pattern in self._by_pattern:
            if any(name == pattern or fnmatchcase(name, pattern) for name in [*known, ""]):
                continue
            # All of its streams may be archived, which is no mistake.
            if store.names.any_passes(EventFilter(category=pattern, archived=True)):
                continue
            other = "" if self._by_pattern[pattern].store else _IF_ANOTHERS
            found.append(
                f"the budget of {pattern!r} fits no category of store {store.name}. "
                f"{nearest(pattern, known)}{other}"
            )
        if found and len(found) == len(self._by_pattern):
            text, _, hint = found[0].partition(". ")
            raise UsageError(f"audit.budgets: {text}", hint=hint)
        return found

    def _sets(self, what: str) -> bool:
        return any(getattr(budget, what) is not None for budget in self._by_pattern.values())

    @property
    def expensive(self) -> bool:
        """Whether checking has to read every event, for the bytes of streams or for open ones."""
        return self._sets("bytes") or self._sets("open_for")

    def count_too_long(self, over: Mapping[str | None, Callable[[int], int]]) -> int:
        """How many streams are longer than their budget allows.

        `over`: for each category, a function that counts its streams above a length.
        """
        limits = ((count, self.budget_for(category).length) for category, count in over.items())
        return sum(count(limit) for count, limit in limits if limit is not None)

    def length_breaches(
        self,
        store: EventStore,
        over: Mapping[str | None, Callable[[int], int]],
        filter: EventFilter,
        fewer: Callable[[int], None] = lambda _: None,
    ) -> Iterator[BudgetBreach]:
        """The streams that are too long, at most MOST of each category, the longest first.

        `fewer` is called with the number of streams that were counted and are shorter by now: the
        library's list has the greatest length of a stream that was shortened since.
        """
        for category, count in over.items():
            limit = self.budget_for(category).length
            if limit is None or not count(limit):
                continue
            one_category = EventFilter(
                category=category or filter.category, archived=filter.archived
            )
            # A store can be asked for a category by name. Streams without one are picked from all
            # streams, so that more of these are read.
            number = MOST if category else 10 * MOST
            lengths = require(store, store.lengths, "lengths")
            longest = lengths.longest(number, one_category, over=limit)
            if category:
                fewer(max(0, min(number, count(limit)) - len(longest)))
            for info in longest:
                if info.category == category:
                    yield BudgetBreach(
                        info.name, category, "length", limit, info.length, info.tenant
                    )

    def other_breaches(
        self, store: EventStore, filter: EventFilter, window: timedelta
    ) -> Iterator[BudgetBreach]:
        """Breaches of all budgets except length; growth is measured over the window."""
        if self._sets("growth_per_day"):
            yield from self._growth_breaches(store, filter, window)
        if self.expensive:
            yield from self._size_and_age_breaches(store, filter)

    def _growth_breaches(
        self, store: EventStore, filter: EventFilter, window: timedelta
    ) -> Iterator[BudgetBreach]:
        # The store is asked once, with the smallest limit of all; each stream is then judged by its
        # own.
        days = window / timedelta(days=1)
        limits = [
            budget.growth_per_day
            for budget in self._by_pattern.values()
            if budget.growth_per_day is not None
        ]
        for info, recent in require(store, store.lengths, "lengths").grown(
            datetime.now(UTC) - window, int(min(limits) * days), filter
        ):
            limit = self.budget_for(info.category).growth_per_day
            if limit is not None and recent > limit * days:
                yield BudgetBreach(
                    info.name,
                    info.category,
                    "growth_per_day",
                    limit,
                    round(recent / days, 2),
                    info.tenant,
                )

    def _size_and_age_breaches(
        self, store: EventStore, filter: EventFilter
    ) -> Iterator[BudgetBreach]:
        now = datetime.now(UTC)
        for info in store.streams(filter, closed_by=self._closed_by, measured=True):
            yield from self._breaches_of(info, now)

    def _breaches_of(self, info: StreamInfo, now: datetime) -> Iterable[BudgetBreach]:
        budget = self.budget_for(info.category)
        if budget.bytes is not None and info.bytes is not None and info.bytes > budget.bytes:
            yield BudgetBreach(
                info.name, info.category, "bytes", budget.bytes, info.bytes, info.tenant
            )
        # `closed` is None where it is not known, which is not the same as open.
        open_for = between(info.first_at, now)
        if budget.open_for is not None and info.closed is False and open_for is not None:
            age = open_for.total_seconds()
            if age > budget.open_for.total_seconds():
                yield BudgetBreach(
                    info.name,
                    info.category,
                    "open_for",
                    budget.open_for.total_seconds(),
                    round(age),
                    info.tenant,
                )
