"""Which versions of read models were made of a store's events, in all registries that esops.toml
reaches.

The name of a section tells too little: two sections may name one database, and another esops.toml
may keep a read model in the same one. So a version is known by where its section's events are, or
by the mark of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from esops.config import Config
from esops.errors import EsopsError
from esops.postgres.connection import connect, database_of, translated
from esops.readmodel import marks, migrations, registry, renamed
from esops.readmodel.registry import Version
from esops.settings import PostgresSettings, ProjectionSettings, StoreSettings
from esops.stores.base import EventStore

_READERS = ("active", "standby", "building")


class Registered(NamedTuple):
    """A version that is, or may be, made of a store's events."""

    name: str
    """By esops.toml, or by the registry where esops.toml does not have it."""
    version: Version
    settings: ProjectionSettings | None
    """None where esops.toml does not have the projection."""
    doubt: str = ""
    """Why its checkpoint says nothing of the store; empty where it does."""
    dsn: str = ""
    """Of the database that keeps it."""


def versions_of_store(
    config: Config, store: EventStore, store_name: str, *, of_any_history: bool = False
) -> Iterator[Registered]:
    """The versions that need a store's events: those that are kept fresh or built, in each read
    model's database and in the store's own.

    Raises Unavailable where a database cannot be asked, and AnotherLog where a projection of
    esops.toml was made from another history of the store, unless those count as well.
    """
    with ExitStack() as stack:
        reached: dict[str, tuple[psycopg.Connection, str]] = {}
        names: dict[str, list[str]] = {}
        for dsn, name in _addresses(config, store_name):
            connection = stack.enter_context(connect(dsn, "archive"))
            with translated():
                database = _database(connection, dsn)
                reached.setdefault(database, (connection, dsn))
                if name is not None:
                    names.setdefault(database, []).append(name)
        for database, (connection, dsn) in reached.items():
            with translated():
                for each in _of(config, store, store_name, connection, names.get(database, [])):
                    if not of_any_history:
                        _check_history(connection, store, each)
                    yield each._replace(dsn=dsn)


def _addresses(config: Config, store_name: str) -> Iterator[tuple[str, str | None]]:
    """Each database's address, with the name of a projection that is kept there."""
    for name, settings in config.projections.items():
        if settings.kind != "server":
            yield config.readmodel_of(name).dsn, name
    for readmodel in config.readmodels.values():
        yield readmodel.dsn, None
    own = config.stores[store_name].postgres
    if own is not None:
        yield own, None


def _database(connection: psycopg.Connection, dsn: str) -> str:
    """The same text for two addresses of one database, where the server tells."""
    try:
        return database_of(connection)
    except psycopg.Error:
        return dsn


def _of(
    config: Config,
    store: EventStore,
    store_name: str,
    connection: psycopg.Connection,
    names: Iterable[str],
) -> Iterator[Registered]:
    """Those of one registry; `names` are the projections of esops.toml that it keeps."""
    if not migrations.installed(connection):
        return
    known = {
        (version.projection, version.version): name
        for name in names
        for version in renamed.versions_of(config, connection, name)
    }
    for version in registry.versions(connection):
        if version.state not in _READERS:
            continue
        name = known.get((version.projection, version.version))
        settings = None if name is None else config.projections[name]
        if settings is None:
            found = _by_mark(config, store, store_name, connection, version)
        else:
            found = _by_section(config, store, store_name, connection, version, settings)
        if found is not None:
            yield Registered(name or version.projection, version, settings, found)


def _by_section(
    config: Config,
    store: EventStore,
    store_name: str,
    connection: psycopg.Connection,
    version: Version,
    settings: ProjectionSettings,
) -> str | None:
    """The doubt about a version of esops.toml's own; None where it is of another store."""
    section = config.store(settings.store)[0]
    built_of = version.store if version.store in config.stores else section
    same = _same_store(config, built_of, store_name)
    if same is None:
        return _by_mark(config, store, store_name, connection, version)
    if not same:
        # Moved to this store, and not rebuilt yet: a rebuild will read all of it.
        return f"it has the events of store {built_of}" if section == store_name else None
    return ""


def _check_history(connection: psycopg.Connection, store: EventStore, found: Registered) -> None:
    # In another history it has read other events, whatever its position. Of a version that
    # esops.toml does not name, the mark says so.
    if found.settings is not None and not found.doubt and found.version.position is not None:
        marks.check(connection, store, found.version)


def _by_mark(
    config: Config,
    store: EventStore,
    store_name: str,
    connection: psycopg.Connection,
    version: Version,
) -> str | None:
    """The doubt about a version of which the mark of its checkpoint has to tell; None where it is
    of another store.
    """
    kept = marks.newest_mark(connection, version)
    verdict = None
    if kept is not None and store.identity is not None:
        verdict = store.identity.tells(*kept)
    if verdict:
        return ""
    if verdict is False:
        # A store that was restored has other events in the same place.
        return "made from another history of the store" if _here(store, kept) else None
    same = _same_store(config, version.store, store_name)
    if same:
        return ""
    if same is False:
        return None
    return f"nothing tells whose events it has, store {version.store!r} is not in esops.toml"


def _here(store: EventStore, kept: marks.KeptMark | None) -> bool:
    """Whether a mark was made in the very table that a store reads."""
    assert kept is not None
    try:
        now = marks.mark_at(store, kept.position)
    except EsopsError:
        return False
    log, own = kept.mark.get("log"), (now or {}).get("log")
    if not isinstance(log, dict) or not isinstance(own, dict) or own.get("system") is None:
        return False
    return all(log.get(each) == own.get(each) for each in ("system", "database", "table"))


def _same_store(config: Config, one: str, other: str) -> bool | None:
    """Whether two sections name the same events; None where that is not known."""
    if one == other:
        return True
    if one not in config.stores:
        return None
    first, second = config.stores[one], config.stores[other]
    if first.backend != second.backend:
        return False
    if isinstance(first, PostgresSettings) and isinstance(second, PostgresSettings):
        return _same_tables(first, second)
    if first.address and first.address == second.address:
        return True
    return _same_servers(first, second)


def _same_tables(first: PostgresSettings, second: PostgresSettings) -> bool | None:
    for mine, others in (
        (first.db_schema, second.db_schema),
        (first.application, second.application),
        (first.tenant, second.tenant),
        (first.table and first.table.name, second.table and second.table.name),
    ):
        if mine and others and mine != others:
            return False
    if _place_in(first.dsn) == _place_in(second.dsn):
        return True
    found = []
    for dsn in (first.dsn, second.dsn):
        try:
            with connect(dsn, "archive") as connection:
                found.append(database_of(connection))
        except (EsopsError, psycopg.Error):
            return None
    return found[0] == found[1]


def _place_in(dsn: str) -> tuple[object, ...]:
    """Which database an address names, as far as it says so itself."""
    said = conninfo_to_dict(dsn)
    names = ("host", "hostaddr", "port", "dbname", "service", "options")
    return tuple(said.get(each) for each in names)


def _same_servers(first: StoreSettings, second: StoreSettings) -> bool | None:
    """By the servers in two URIs; None where one is in both, or none is named."""
    mine, others = (
        {host for host in each.address.partition("://")[2].partition("?")[0].split(",") if host}
        for each in (first, second)
    )
    return False if mine and others and not mine & others else None
