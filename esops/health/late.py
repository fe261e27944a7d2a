"""Events that came after their numbers had been passed as dead, and the versions without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import psycopg

from esops.config import Config
from esops.errors import EsopsError
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations, registry, renamed
from esops.stores import open_store
from esops.stores.base import EventStore
from esops.stores.parts import LateEvent


class Missed(NamedTuple):
    """An event that came late, and the versions of read models that passed it."""

    event: LateEvent
    versions: tuple[tuple[str, int], ...]

    def in_words(self) -> str:
        """What happened, for an operator."""
        names = ", ".join(f"{name} v{version}" for name, version in self.versions)
        return (
            f"{self.event.in_words()} came after its number had been passed as dead "
            f"({self.event.passed_at:%Y-%m-%d %H:%M:%S} UTC), so {names} may not contain it"
        )

    @property
    def remedy(self) -> str:
        """What to do."""
        names = " ".join(sorted({name for name, _ in self.versions}))
        return (
            f"Rebuild: esops rebuild {names} --blue-green. Set `hole_threshold` or `dead_after` of "
            "the store longer than its writers take from drawing a number to the commit."
        )


def missed(config: Config, name: str, store: EventStore) -> list[Missed]:
    """The late events of a store that a version which is fresh or serves has passed; newest first.

    Raises Unavailable where a read model cannot be asked.
    """
    late = [] if store.memory is None else store.memory.late()
    if not late:
        return []
    versions = [(version, built_at) for _, version, built_at in live_versions(config, name)]
    found = []
    for event in late:
        without = tuple(
            (version.projection, version.version)
            for version, built_at in versions
            if version.position is not None
            and version.position >= event.position
            # One that was built later has read it.
            and (event.found_at is None or built_at <= event.found_at)
        )
        if without:
            found.append(Missed(event, without))
    return found


def missed_by(config: Config, projections: Sequence[str]) -> list[Missed]:
    """The same for the stores of some projections, with only these. Raises EsopsError."""
    found = []
    stores = {config.store(config.projection(name).store)[0] for name in projections}
    for name in sorted(stores):
        with open_store(name, config.store(name)[1].without_archive) as store:
            if store.memory is not None:
                store.memory.keep()
            for each in missed(config, name, store):
                own = tuple(pair for pair in each.versions if pair[0] in projections)
                if own:
                    found.append(each._replace(versions=own))
    return found


def live_versions(
    config: Config, store: str
) -> Iterator[tuple[psycopg.Connection, registry.Version, datetime]]:
    """Each version of a read model over a store that is fresh or serves, when it was made, and a
    connection to it that is open until the next one is asked for.

    Raises Unavailable where a read model cannot be asked.
    """
    for name, settings in config.projections.items():
        if settings.kind in ("server", "external"):
            continue
        try:
            if config.store(settings.store)[0] != store:
                continue
        except EsopsError:
            continue
        with connect(config.readmodel_of(name).dsn, "late") as connection, translated():
            if not migrations.installed(connection):
                continue
            built: dict[tuple[str, int], datetime] = {
                (row[0], row[1]): row[2]
                for row in connection.execute(
                    "SELECT projection, version, created_at FROM esops.versions"
                )
            }
            for version in renamed.versions_of(config, connection, name):
                if version.state in ("active", "standby", "building"):
                    yield connection, version, built[version.projection, version.version]
