"""One version that a thread follows beside others (turns.py): its runner, how it stands, and why it
may have no turn any more.
"""

from __future__ import annotations

import time
from contextvars import Context
from dataclasses import dataclass, field

from esops.errors import ConnectionLost
from esops.readmodel.registry import Version
from esops.running.heads import HeadWatch
from esops.running.orders import SharedThrottle
from esops.running.runner import Runner

Key = tuple[str, int]
"""A projection, and the number of its version."""


class Away(Exception):
    """A connection of a version is lost; it is opened again when its turn comes later."""

    def __init__(self, lost: ConnectionLost) -> None:
        """`lost` says why."""
        super().__init__(lost.message)
        self.lost = lost


class VersionRetired(Exception):
    """A version was retired, and its tables dropped, while it had its turn."""


class BuiltByOtherCode(Exception):
    """The code that this process has loaded did not build a version that it was offered late."""


class SharedRunner(Runner):
    """A runner that never waits: whoever drives it has other versions to drive."""

    def _reconnect(self, lost: ConnectionLost) -> None:
        raise Away(lost) from lost

    def recognise(self) -> None:
        """Look whether the store's log is the one of the checkpoint. Raises AnotherLog."""
        self._checkpoint.recognise()

    def drop(self) -> None:
        """Give up what a lost connection may have spoiled."""
        self._drop()

    def reopen(self) -> None:
        """Open everything again, at the checkpoint. Raises ConnectionLost and Busy."""
        self._reopen()


@dataclass
class FollowedVersion:
    """One version, and how it stands."""

    version: Version
    dsn: str
    head: HeadWatch
    runner: SharedRunner | None
    """None where the version is left alone."""
    throttle: SharedThrottle
    due: float = 0.0
    """It has no turn before this moment (monotonic seconds)."""
    lost_since: float | None = None
    pause: float = 0.2
    context: Context = field(default_factory=Context)
    """What its code sets for itself, such as the precision of decimals, is nobody else's."""
    fixed: bool = False
    opening: int = 0
    """For which opening of the store (HeadWatch) the log was recognised."""

    @property
    def key(self) -> Key:
        """The projection and the version."""
        return self.version.projection, self.version.version

    @property
    def waits(self) -> bool:
        """Whether there is something to apply, and nothing stands against it."""
        if self.runner is None or self.due > time.monotonic():
            return False
        head, position = self.head.last, self.runner.position
        return head is not None and (position is None or position < head)
