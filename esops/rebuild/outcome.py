"""What a rebuild reports: messages and progress on the way, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from esops.errors import EsopsError
from esops.events import Position


class Reporter(Protocol):
    """Receives the messages and the progress of one rebuild."""

    def say(self, text: str) -> None:
        """Report that a state was reached, or what the rebuild waits for."""
        ...

    def progress(self, done: int, total: int | None) -> None:
        """Report that `done` events of `total` (None: unknown) are applied to green."""
        ...

    def doing(self, what: str, *, paused: bool = False) -> None:
        """Report what is done beside applying events, or (`paused`) waited for; an empty text when
        that is over.
        """
        ...


def rows_of_old_code(position: str | None) -> str:
    """What it means that a version is continued with other code, in words."""
    up_to = "so far" if position is None else f"of the events up to position {position}"
    return f"the rows {up_to} were made by the code before, and stay as they are"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rebuild did.

    `seconds` is working time over all its sessions; `events` is how many events green was made of.
    `findings`: the verification found more differences than are allowed, there is a warning that
    was not accepted, or a hook failed.
    `followed`: an `esops run` is there that will keep the new version fresh.
    """

    rebuild: int
    projection: str
    state: str
    from_version: int | None
    to_version: int
    events: int
    rows: int | None
    seconds: float
    position: Position | None
    verification: Mapping[str, Any] | None
    findings: bool = False
    followed: bool = False
    dead_letters: int = 0
    """How many events could not be projected and are missing from the rows."""
    lock: Mapping[str, float] | None = None
    """Where the application writes the read model itself: for how many seconds the switch held its
    lock, in which try it got it, and how many events were applied under it.
    """
    back_is_stale: bool = False
    """Whether the version before was adopted, and does not advance: esops never followed it."""
    back_is_of_two_codes: bool = False
    """Whether other code than built it has advanced the version before."""
    warnings: Sequence[str] = ()
    """What speaks against taking the version for the whole read model, such as 0 rows."""

    @property
    def events_per_second(self) -> float:
        """Events per second of working time."""
        return self.events / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "rebuild": self.rebuild,
            "projection": self.projection,
            "state": self.state,
            "from_version": self.from_version,
            "to_version": self.to_version,
            "events": self.events,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.events_per_second),
            "position": None if self.position is None else str(self.position),
            "verification": self.verification,
            "dead_letters": self.dead_letters,
            "lock": None if self.lock is None else dict(self.lock),
            "warnings": list(self.warnings),
        }


class RebuildsFailed(EsopsError):
    """Some of several rebuilds did not finish. Has the exit code and hint of the worst error."""

    def __init__(self, outcomes: Sequence[Outcome], errors: Mapping[str, EsopsError]) -> None:
        """`outcomes` are those of the rebuilds that finished, `errors` go by projection."""
        worst = max(errors.values(), key=lambda error: error.exit_code)
        total = len(outcomes) + len(errors)
        super().__init__(
            f"{len(errors)} of {total} rebuilds did not finish: {worst.message}", hint=worst.hint
        )
        self.outcomes, self.errors = outcomes, errors
        self.exit_code = worst.exit_code  # type: ignore[misc]
