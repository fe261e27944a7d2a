"""Read models that the registry knows by another name than esops.toml: a projection was renamed
there, and `esops projection rename` has not been run yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from esops.config import Config
from esops.readmodel import migrations, owners, registry
from esops.readmodel.names import ReadModelName, names_of
from esops.readmodel.owners import remedy
from esops.readmodel.registry import Version

_LIVE = {*registry.LIVE_STATES, "building"}


def owner(connection: psycopg.Connection, name: str, names: Sequence[ReadModelName]) -> str | None:
    """The other projection to which the registry assigns these names that readers use.

    None where `name` has versions of its own, or nobody has them.
    """
    known = [each for each in registry.versions(connection) if each.state in _LIVE]
    if any(each.projection == name for each in known):
        return None
    wanted = {(each.schema, each.name) for each in names}
    for each in known:
        if wanted & {(schema, read_as) for read_as, (schema, _) in each.tables.items()}:
            return each.projection
    return None


def former_name(config: Config, connection: psycopg.Connection, name: str) -> str | None:
    """The name by which the registry knows a projection of the configuration, where that is one
    that the configuration does not have any more.
    """
    found = owner(connection, name, names_of(config, name, connection))
    return found if found not in config.projections else None


def versions_of(config: Config, connection: psycopg.Connection, name: str) -> list[Version]:
    """The versions of a projection of the configuration, by whatever name the registry knows it."""
    found = registry.versions(connection, name)
    if any(each.state in _LIVE for each in found):
        return found
    former = former_name(config, connection, name)
    return found if former is None else registry.versions(connection, former)


def in_words(former: str, name: str) -> str:
    """What happened, and what to do."""
    return f"the registry knows {name} as {former}. {remedy(former, name)}"


def check_own(connection: psycopg.Connection, name: str, names: Sequence[ReadModelName]) -> None:
    """Raises Refused where the registry assigns the names to another projection: it would be built
    from the beginning a second time, or over the other one's tables.
    """
    if migrations.installed(connection):
        owners.check(connection, name, {(each.schema, each.name) for each in names})
