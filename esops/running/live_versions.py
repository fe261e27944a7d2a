"""Which versions of some projections are live, and which projections have none, for `esops run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import psycopg

from esops.config import Config, by_address
from esops.errors import ConnectionLost, EsopsError
from esops.postgres.connection import connect, translated
from esops.readmodel import by_ranges, registry, renamed
from esops.readmodel.registry import Version
from esops.running.followed_version import Key


class LiveVersions:
    """Looks into the registries of the projections, over a connection to each that it keeps."""

    def __init__(
        self, config: Config, names: Sequence[str], say: Callable[[str, int, str], None]
    ) -> None:
        """`say` gets a projection, a version (0: none) and what is to be said of it."""
        self._config, self._names, self._say = config, names, say
        self._connections: dict[str, psycopg.Connection] = {}
        self.unbuilt: set[str] = set()
        """The projections that have no version to follow."""
        self.renamed: dict[str, str] = {}
        """Of these, the ones that the registry knows by another name, with that name."""
        self.newer: set[Key] = set()
        """The versions that became live since the first look, until they are followed."""
        self._seen: set[Key] = set()
        self._looked_at: set[str] = set()
        self.unfinished: dict[tuple[str, int], EsopsError] = {}
        """The live versions that nobody can follow until a rebuild by ranges is finished."""

    def find(self, *, waits: bool) -> list[Version]:
        """The versions that are live now. With `waits`, a database that is unreachable is said, and
        asked again by the next look; otherwise this raises ConnectionLost.
        """
        found: list[Version] = []
        self.unfinished = {}
        for dsn, names in by_address(self._config, self._names).items():
            try:
                with translated():
                    found += self._live_in(self._connection(dsn), names)
            except ConnectionLost as lost:
                if not waits:
                    raise
                for name in names:
                    self._say(name, 0, f"waiting for the database: {lost.message}")
        return found

    def _live_in(self, connection: psycopg.Connection, names: Sequence[str]) -> Iterator[Version]:
        known = registry.versions(connection)
        for name in names:
            live = [
                each
                for each in known
                if each.projection == name and each.state in registry.LIVE_STATES
            ]
            if live:
                self.unbuilt.discard(name)
                self.renamed.pop(name, None)
            else:
                self._note_unbuilt(connection, name)
            self._note_newer(name, {(name, each.version) for each in live})
            for each in live:
                error = by_ranges.unfinished(connection, each)
                if error is not None:
                    self.unfinished[each.projection, each.version] = error
            yield from live

    def _note_newer(self, name: str, live: set[Key]) -> None:
        if name in self._looked_at:
            self.newer |= live - self._seen
        self._looked_at.add(name)
        self._seen |= live

    def _connection(self, dsn: str) -> psycopg.Connection:
        if dsn not in self._connections or self._connections[dsn].closed:
            self._connections[dsn] = connect(dsn, "run")
        return self._connections[dsn]

    def disconnect(self) -> None:
        """Close the connections; the next look opens others."""
        for each in self._connections.values():
            each.close()
        self._connections = {}

    def _note_unbuilt(self, connection: psycopg.Connection, name: str) -> None:
        self.unbuilt.add(name)
        former = renamed.former_name(self._config, connection, name)
        if former is None:
            self.renamed.pop(name, None)
            self._say(name, 0, "no version is built yet")
        else:
            self.renamed[name] = former
            self._say(name, 0, f"not followed: {renamed.in_words(former, name)}")

    def abandon(self) -> None:
        """Leave the connections to whoever still waits for an answer over one of them."""
        self._connections = {}
