"""Blue: what serves before a rebuild, and what tells whether esops made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import psycopg

from esops.config import Config
from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.readmodel import read_as, registry
from esops.readmodel.names import physical_name
from esops.readmodel.object_names import Side, plain_name
from esops.readmodel.registry import Version
from esops.readmodel.renamed import check_own
from esops.readmodel.tables import missing_tables
from esops.rebuild.target import Target
from esops.running import gone


@dataclass(frozen=True)
class Blue:
    """What is there before a rebuild: the version that serves with its tables (by the names that
    readers use), whether esops adopts it, and the number that green gets.
    """

    source: Version | None
    tables: Mapping[str, Table]
    adopt: bool
    to_version: int

    @property
    def sides(self) -> dict[str, Side]:
        """The tables, with what is known of how they were made."""
        return {name: side_of(self.source, name, table) for name, table in self.tables.items()}


def find_blue(config: Config, connection: psycopg.Connection, target: Target) -> Blue:
    """What serves now. Raises Refused where nothing can take its place as it is."""
    known, current = versions_and_tables(connection, target)
    source = next((each for each in known if each.state == "active"), None)
    if source is not None and not {each.name for each in target.names} & set(source.tables):
        raise Refused(
            f"v{source.version} of {target.name} is read as {', '.join(source.tables)}, and "
            f"esops.toml names {', '.join(map(str, target.names))}: readers of the first would "
            "stay with an old version",
            hint="Correct `tables` in esops.toml, or build the new tables as a projection with "
            "another name.",
        )
    if target.settings.switch != "hook":  # else a program moves the readers, wherever they are
        read_as.check(connection, target.names, source)
    adopt = source is None and bool(current)
    if adopt:
        source = adopted(connection, target, current)
    blue: dict[str, Table] = {}
    for name, physical in (source.tables if source is not None else {}).items():
        table = catalog.find_table(connection, *physical)
        if table is None:
            assert source is not None
            there = [each for each in known if not missing_tables(connection, each)]
            raise Refused(
                f"the table {'.'.join(physical)} of v{source.version}, which should serve, does "
                "not exist any more",
                hint=gone.remedy(config, source, there),
            )
        blue[name] = table
    numbers = [each.version for each in known] + [source.version if source else 0]
    return Blue(source, blue, adopt, max(numbers) + 1)


def check_begun(connection: psycopg.Connection, target: Target, green: Version) -> None:
    """Raises Refused where a rebuild that is resumed would serve other names than those that it
    began with.
    """
    if green.state != "building":
        return
    begun = {str(each) for each in read_as.names_of_version(green)}
    now = {str(each) for each in target.names}
    if green.checkpoint is not None or target.settings.switch == "hook":
        # Its tables may be in any schema.
        begun, now = set(green.tables), {each.name for each in target.names}
    if begun != now:
        raise Refused(
            f"v{green.version} of {target.name} was begun with the tables "
            f"{', '.join(sorted(begun))}, and by esops.toml and the search path of this role they "
            f"would be {', '.join(sorted(now))}",
            hint="Nothing was changed. Name the first ones in esops.toml again, or drop it: esops "
            f"rebuild {target.name} --blue-green --abort",
        )
    if target.settings.switch != "hook":
        read_as.check(connection, target.names, registry.active(connection, target.name))


def versions_and_tables(
    connection: psycopg.Connection, target: Target
) -> tuple[list[Version], dict[str, Table]]:
    """The versions of a projection that esops knows, and the tables or views under the names that
    readers use. Raises Refused where these are another projection's.
    """
    check_own(connection, target.name, target.names)
    there = {
        name.name: catalog.find_table(connection, name.schema, name.name) for name in target.names
    }
    return registry.versions(connection, target.name), {
        name: table for name, table in there.items() if table is not None
    }


def adopted(
    connection: psycopg.Connection, target: Target, current: Mapping[str, Table]
) -> Version:
    """The version 1 that existing tables would become.

    Raises Refused for what cannot be adopted.
    """
    for name in target.names:
        if name.name not in current:
            raise Refused(
                f"the table {name} does not exist, but other tables of {target.name} do",
                hint="Create it, or rename the others: version 1 is all of them or none.",
            )
        if current[name.name].kind not in "rp":
            raise Refused(
                f"{name} is a view or foreign table that esops did not create",
                hint="Rename it, or give the projection another table name.",
            )
    # The planner's estimate is enough here: the exact number of rows comes with the comparison.
    rows = connection.execute(
        # Below 0 where the table was never analysed: then it is not known.
        "SELECT CASE WHEN min(reltuples) >= 0 THEN sum(reltuples)::bigint END FROM pg_class "
        "WHERE oid = ANY(%s)",
        ([table.oid for table in current.values()],),
    ).fetchone()
    return Version(
        projection=target.name,
        version=1,
        state="active",
        store=target.store_name,
        position=None,
        events=0,
        rows=rows[0] if rows else None,
        tables={name: (table.schema, table.name) for name, table in current.items()},
        fingerprint=None,
    )


def bytes_of(connection: psycopg.Connection, table: Table) -> int:
    """The disk space of a table with its indexes and partitions."""
    row = connection.execute(
        "SELECT sum(pg_total_relation_size(oid))::bigint FROM unnest(%s::oid[]) oid",
        (catalog.relation_tree(connection, table.oid),),
    ).fetchone()
    return int(row[0]) if row else 0


def side_of(source: Version | None, name: str, table: Table) -> Side:
    """The table of the version that serves, with what is known of how it was made."""
    if source is None:
        return Side(table, name, 0)
    side = Side(table, name, source.version)
    # The names are of the time when it was made.
    physical = physical_name(name, source.version)
    made = (each for each in source.after_load if each.get("table", physical) == physical)
    by_ddl = frozenset(plain_name(each["what"], side) for each in made if each.get("by_ddl"))
    return replace(side, made_by_ddl=by_ddl)
