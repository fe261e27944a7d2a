"""What the parts of a check share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import psycopg

from esops.check.result import KeyFindings
from esops.check.sample import Draw
from esops.check.scratch import Scratch
from esops.check.standing import InlineRows, PositionSource
from esops.check.tables import CheckedTable, KeyText
from esops.errors import Stopped
from esops.events import Position
from esops.running.throttle import Throttle
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore

Report = Callable[[str, int, int | None], None]
"""Shows progress: what is counted, how much is done, and of how much."""


@dataclass
class CheckContext:
    """The version that is checked, and how the check is steered."""

    connection: psycopg.Connection
    store: EventStore
    settings: ProjectionSettings
    scratch: Scratch
    tables: Sequence[CheckedTable]
    standing: PositionSource
    inline: InlineRows | None
    """`standing`, where the application writes the rows with each append."""
    draw: Draw
    throttle: Throttle
    away: str | None = None
    """Why a key without any event may have had some: streams were archived and are not read."""
    stop: Callable[[], bool] = lambda: False
    report: Report = lambda *_: None
    found: KeyFindings = field(default_factory=KeyFindings)
    position: Position | None = None
    """The last position that rows were compared at."""
    about: int | None = None
    """About how many keys there are."""
    wrong_before: Collection[tuple[str, KeyText]] = ()
    """The tables and keys of rows that earlier checks found wrong, and nobody found right since."""

    @property
    def several(self) -> bool:
        """Whether the read model has several tables."""
        return len(self.tables) > 1

    def look(self) -> None:
        """Wait as long as the load asks for. Raises Stopped."""
        self.throttle.wait()
        if self.stop():
            raise Stopped("stopped before all keys were checked; nothing was changed")
