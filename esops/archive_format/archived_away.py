"""What was taken out of a store into an archive, and is not seen by who reads the store alone."""

from __future__ import annotations

from dataclasses import dataclass

from esops.config import Config
from esops.errors import EsopsError


@dataclass(frozen=True, slots=True)
class ArchivedAway:
    """Streams that were removed after they were archived, in how many runs of which archive."""

    archive: str
    runs: int
    streams: int
    events: int

    def __str__(self) -> str:
        return (
            f"{self.events:,} events of {self.streams:,} streams were archived ({self.runs} "
            f"runs in archive {self.archive})"
        )


def removed_from(config: Config, store: str) -> list[ArchivedAway]:
    """What each archive of the configuration holds of a store that was removed from it; one that
    cannot be asked is left out.
    """
    found = []
    for name, settings in config.archives.items():
        if not any(config.store(policy.store)[0] == store for policy in settings.policies.values()):
            continue
        # Imported where there is an archive to ask: a rebuild without one needs neither Parquet nor
        # object stores.
        from esops.archive_format.repository import Repository
        from esops.archive_format.runs import Catalog

        runs, streams, events = 0, 0, 0
        try:
            for run, _ in Catalog(Repository(settings)).sealed(store):
                done = run.read("done.json")
                if done is not None and done.get("removed"):
                    runs += 1
                    streams += done["removed"]
                    events += done["removed_events"]
        except EsopsError:
            continue
        if runs:
            found.append(ArchivedAway(name, runs, streams, events))
    return found
