"""What the steps of an archive run share, and what a run reports when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from esops.archive_format.lease import Lease
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Catalog, Run
from esops.config import Config
from esops.settings import PolicySettings, Removal
from esops.stores.archive.own_runs import own_runs
from esops.stores.archiving import RemovalStrategy
from esops.stores.base import EventStore

if TYPE_CHECKING:
    from esops.stores.archive.own_runs import SealedRun

Progress = Callable[[str, int, int | None], None]
"""Is given what is counted, how many are done, and how many there are (None if unknown)."""


@dataclass
class ArchiveOutcome:
    """What a run did.

    `state` is one of: nothing (no stream was selected), verified (and nothing was to be removed),
    done, failed.
    """

    policy: str
    archive: str
    store: str
    remove: str
    run: str | None = None
    state: str = "nothing"
    streams: int = 0
    events: int = 0
    bytes: int = 0
    """Bytes of data and metadata."""
    files: int = 0
    stored_bytes: int = 0
    """Bytes of the archive's files."""
    removed: int = 0
    """Streams."""
    removed_events: int = 0
    left_alone: int = 0
    """Streams that were archived and not removed."""
    stuck: int = 0
    """Streams that cannot be removed until somebody changes the database: of this run, and those
    that an earlier one has archived as they are, which are not archived again.
    """
    hidden: list[list[str]] = field(default_factory=list)
    """Those of this run whose reason only a trial shows: stream, tenant and reason. For the run's
    own notes.
    """
    skipped: list[dict[str, str]] = field(default_factory=list)
    """At most a thousand of them, each with its reason."""
    problems: list[str] = field(default_factory=list)
    tried: int = 0
    """Events of which a restore was tried before anything was removed."""
    scavenge: str | None = None
    seconds: float = 0.0

    def count(self, run: Run, manifest: Manifest) -> None:
        """Take over what a sealed run holds."""
        self.run = run.name
        self.streams, self.events, self.bytes = manifest.streams, manifest.events, manifest.bytes
        self.files = len(manifest.files)
        self.stored_bytes = sum(entry.size for entry in manifest.files)

    def as_dict(self) -> dict[str, Any]:
        """The outcome under the documented field names."""
        shown = {name: value for name, value in asdict(self).items() if name != "hidden"}
        return {**shown, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class RunContext:
    """What all steps of a run need."""

    config: Config
    policy_name: str
    """`archive/policy`, which is what the lease is on."""
    policy: PolicySettings
    file_size: int
    """Bytes from which on a file is closed and the next one begun."""
    store_name: str
    store: EventStore
    removal: Removal
    strategy: RemovalStrategy
    run: Run
    lease: Lease
    despite_checkpoints: bool
    despite: Sequence[str]
    """The readers that need not have read the events."""
    prove: bool
    """Whether a restore of all of it is tried before anything is removed, and not of a sample."""
    check_stop: Callable[[], None]
    """Raises Stopped when the run has to stop. Called between units of work, never within one."""
    progress: Progress

    def own_runs(self, catalog: Catalog) -> list[SealedRun]:
        """The sealed runs of the store, under whatever name. Raises Damaged, Unavailable."""
        settings = self.config.stores[self.store_name]
        return own_runs(catalog.repository, catalog.sealed(), self.store, settings).all


def utc_now() -> str:
    """The time as the documents of a run note it."""
    return datetime.now(UTC).isoformat()
