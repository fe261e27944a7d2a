"""Reading up to what was committed: the settled head and who holds it back, waiting for it to
settle, and the error where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from esops.errors import Stopped
from esops.events import Position

if TYPE_CHECKING:
    from esops.stores.base import EventStore

log = structlog.get_logger("esops.store")

LOOKING = timedelta(seconds=5)
"""How long status, show and doctor wait for the newest events to settle."""
_QUIETLY = timedelta(milliseconds=500)
"""How long a command waits for events to settle before it says so."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A session or missing number that holds the settled head back: who, doing what, since when."""

    who: str
    what: str
    since: datetime | None
    remedy: str = "Let that session end its transaction, or end the session."
    """What an operator can do."""

    def in_words(self) -> str:
        """Who it is, what it does and since when, for a message."""
        since = ""
        if self.since is not None:
            since = f", since {self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.who} ({self.what}{since})"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest settled position, and who keeps it from being newer."""

    position: Position | None
    """None where nothing is settled: in an empty store, or while the first events settle."""
    held_back_by: Sequence[Holder] = ()
    """Empty only where all that was written before the call is settled."""


class Unsettled(Stopped):
    """Some events that were committed could not be read: what comes before them is not settled."""

    def __init__(self, store: EventStore, head: Position | None, holders: Sequence[Holder]) -> None:
        """`head` is the position up to which the store was read; `holders` hold back the rest."""
        who = "; ".join(each.in_words() for each in holders[:3])
        super().__init__(
            f"store {store.name} was read up to {head or 'nothing'} only: later events are not "
            f"settled yet, because they are held back by {who}",
            hint="Run it again once that has ended. `esops status` and `esops doctor` show what "
            "holds the store back.",
        )


def settled(
    store: EventStore,
    after: Position | None = None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] | None = None,
) -> tuple[Position | None, Unsettled | None]:
    """The newest settled position, once all that was committed before the call is settled.

    Where it takes longer than a moment, `say` gets a sentence about it; without `say` it is logged.
    Where it does not happen within the store's `settling` time, or before `stop`, the second
    value is the error to raise after the settled events have been read.
    """
    patience = store.capabilities.settling
    # First a short look: mostly everything settles at once, and nothing need be said.
    head = store.head(min(patience, _QUIETLY), after, stop)
    if head.held_back_by and patience > _QUIETLY and not stop():
        who = "; ".join(each.in_words() for each in head.held_back_by[:3])
        (say or log.warning)(
            f"waiting up to {patience.total_seconds():.0f} s for the newest events of store "
            f"{store.name} to settle; they are held back by {who}"
        )
        head = store.head(patience - _QUIETLY, after, stop)
    holders = head.held_back_by
    return head.position, Unsettled(store, head.position, holders) if holders else None
