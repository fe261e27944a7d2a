"""The tables of a version as a projector writes them: what the catalogue and the registry say."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from esops.errors import Unavailable
from esops.postgres import catalog
from esops.projections.kinds.fold import following_cache
from esops.projections.projector import VersionTables
from esops.readmodel.after_load import noted_key
from esops.readmodel.registry import Version
from esops.running.work import Work
from esops.stores.capabilities import Capabilities


def find_tables(
    connection: psycopg.Connection,
    version: Version,
    work: Work,
    can: Capabilities,
    ensure_keys: Callable[[], None],
) -> VersionTables:
    """Find the tables of a version by the names that they have now.

    `can` is what the store of the events can do; `ensure_keys` builds the keys of the tables where
    a statement needs them before the end of the load. Raises Unavailable for a table that is gone.
    """
    tables = {}
    for name, physical in version.tables.items():
        table = catalog.find_table(connection, *physical)
        if table is None:
            raise Unavailable(
                f"the table {'.'.join(physical)} of {version.projection} v{version.version} "
                "does not exist any more"
            )
        tables[name] = table
    loading, of = version.state == "building", work.shard
    cache = work.cache // (of[1] if of else 1)
    return VersionTables(
        projection=version.projection,
        version=version.version,
        by_name=tables,
        keys={name: table.key or noted_key(version, table.name) for name, table in tables.items()},
        value_types=version.value_types,
        conjoined=can.tenants,
        empty=version.events == 0 and loading,
        cache=cache if loading else following_cache(cache),
        loading=loading,
        ensure_keys=ensure_keys,
        begins=can.first_version if can.names_begin_again else None,
    )
