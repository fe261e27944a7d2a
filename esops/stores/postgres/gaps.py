"""A range of missing numbers, and how it is named beside the sessions that hold a head back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from esops.stores.base import Holder


@dataclass(slots=True)
class Gap:
    """A range of missing numbers, whether an event follows, and since when that is known."""

    first: int
    last: int
    follows: bool
    since: float

    def as_holder(self, drawn: float | None) -> Holder:
        """What an operator reads; `drawn`: when it had been drawn, in seconds since 1970."""
        since = datetime.now(UTC) - timedelta(seconds=time.monotonic() - self.since)
        if drawn is not None:
            since = min(since, datetime.fromtimestamp(drawn, UTC))
        name = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return Holder(
            f"missing number {name}",
            "it may have been reserved and not written yet",
            since,
            "Wait: a number that is not written is passed when it is old enough and nobody can "
            "hold it any more. The sessions that may are named beside it.",
        )


def each_once(holders: Sequence[Holder]) -> list[Holder]:
    """Each session once, for one may hold numbers in advance and be writing as well."""
    first: dict[object, Holder] = {}
    for each in holders:
        first.setdefault(each.who if each.who.startswith("session ") else each, each)
    return list(first.values())
