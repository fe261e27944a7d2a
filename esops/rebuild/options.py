"""How a rebuild is carried out, as the journal keeps it: a resumed rebuild works with the same
options.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from esops.rebuild.snapshots import DEFAULT_PATIENCE, SnapshotPatience
from esops.running.throttle import Limits

SETTLING = timedelta(seconds=5)
"""How long the first look at the store's head may take. Long enough for old missing numbers to
be judged, so that they do not cut the first, bulky part of the work short.
"""


@dataclass(frozen=True)
class Options:
    """The options of one rebuild; those of a resumed one are changed by what it is given."""

    switch: bool = True
    switch_lag: int = 100
    max_diff: str = "0"
    max_dead_letters: str = "0"
    """Serve a version though this many events, or P% of them, became dead letters."""
    compare: str | None = None
    batch_size: int | None = None
    max_rate: float | None = None
    max_load: int | None = None
    max_lag_bytes: int | None = None
    nice: float | None = None
    postpone: bool = False
    workers: int | Literal["auto"] | None = None
    """None: one, or as many as the engine has; of a large load, as `auto`. `auto`: as many as are
    worth it. The journal has the number that this came to.
    """
    measured: bool = False
    """Whether esops itself has found the number of workers: they must make what one makes."""
    engine: str | None = None
    """Where shards are loaded; None is this machine."""
    ranges: int | None = None
    """In place: replace the rows in this many ranges of keys, and empty nothing."""
    test_only: bool = False
    without_archived: bool = False
    """Rebuild without events that were archived and removed, and that the store does not read."""
    accept_fewer: bool = False
    """Accept far fewer events than the version before was made of, or none, or no row."""
    accept_shortened: bool = False
    """Rebuild although streams have lost their first events."""
    accept_code: bool = False
    """Continue with other code than the rows so far were made by."""
    snapshot_wait: float | None = None
    """Seconds that the switch waits for older snapshots at most."""
    despite_snapshots: bool = False
    """Switch although somebody has a snapshot that is older than green's newest rows."""
    processor_stopped: bool = False
    """No process of the application's projector is left, whatever its row says."""
    retire_after: float | None = None
    """Seconds after the switch, from which on `esops run` drops blue."""

    @property
    def limits(self) -> Limits:
        """How much of the read model's server the work may use."""
        return Limits(self.max_rate, self.max_load, self.max_lag_bytes, self.nice)

    @property
    def patience(self) -> SnapshotPatience:
        """How long the switch waits for older snapshots."""
        limit = DEFAULT_PATIENCE.limit
        if self.snapshot_wait is not None:
            limit = timedelta(seconds=self.snapshot_wait)
        return SnapshotPatience(limit, self.despite_snapshots, "continue with --resume")

    @property
    def sharded(self) -> bool:
        """Whether several processes are to load."""
        return self.engine is not None or self.processes > 1

    @property
    def processes(self) -> int:
        """How many processes were asked for, or found."""
        return self.workers if isinstance(self.workers, int) else 1

    @property
    def ends_with_switch(self) -> bool:
        """Whether the rebuild ends with a switch."""
        return self.switch and not self.test_only

    def as_dict(self) -> dict[str, Any]:
        """For the journal: what is set."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_journal(cls, kept: dict[str, Any]) -> Options:
        """The options among what the journal keeps of a rebuild."""
        known = {key: value for key, value in kept.items() if key in cls.__dataclass_fields__}
        return cls(**known)

    def loading_option(self) -> str | None:
        """The first given option that only makes sense where esops itself applies the events."""
        given = {
            "--workers": self.workers,
            "--engine": self.engine,
            "--batch-size": self.batch_size,
            "--max-rate": self.max_rate,
            "--max-load": self.max_load,
            "--max-lag-bytes": self.max_lag_bytes,
            "--nice": self.nice,
        }
        return next((name for name, value in given.items() if value is not None), None)
