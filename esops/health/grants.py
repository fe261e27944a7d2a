"""The GRANT statements that give a role the rights it needs for a configuration, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from esops.config import Config
from esops.errors import UsageError
from esops.escaping import visible
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations, registry
from esops.readmodel.names import ReadModelName, resolved
from esops.stores import open_store
from esops.stores.parts import SqlTables

if TYPE_CHECKING:
    import psycopg


_IS_SUPERUSER = """
SELECT EXISTS (
  SELECT FROM pg_roles AS super
  WHERE super.rolsuper AND pg_has_role(%s::name, super.oid, 'MEMBER')
)
"""


def statements(config: Config, role: str) -> list[str]:
    """Return the GRANTs for a role; comments say in which database to execute each.

    Raises Unavailable, and UsageError where the configuration is empty.
    """
    lines: list[str] = []
    for name in config.stores:
        lines += _store(config, name, role)
    for name, projection in config.projections.items():
        if projection.kind != "server":
            lines += _projection(config, name, role)
    if not lines:
        raise UsageError("the configuration names no store and no projection")
    # Two projections in one database need some of the same rights.
    return list(dict.fromkeys(lines))


def _store(config: Config, name: str, role: str) -> list[str]:
    if config.stores[name].backend == "archive":
        return [f"-- store {name} is an archive; its rights: esops docs archive-old-streams"]
    with open_store(name, config.stores[name].without_archive) as store:
        if store.sql is None:
            return [f"-- store {name} is not in Postgres; its rights: esops docs eventstoredb"]
        with store.sql.control() as connection:
            # A name that breaks the line would begin a statement.
            where = f"in database {visible(connection.info.dbname)}"
            lines = [
                f"-- store {name}, {where}: to read, and to know what is settled",
                *_of_store(store.sql.tables, connection, role),
            ]
            removes = any(
                config.store(policy.store)[0] == name and policy.remove != "keep"
                for archive in config.archives.values()
                for policy in archive.policies.values()
            )
            if removes:
                lines.append("-- to remove archived streams and to restore them")
                lines += _of_archiving(store.sql.tables, connection, role)
    return lines


def _projection(config: Config, name: str, role: str) -> list[str]:
    target = config.readmodel_of(name)
    with connect(target.dsn, "grants") as connection, translated():
        names = resolved(connection, config.projections[name].tables, target.db_schema)
        database = visible(connection.info.dbname)
        lines = [f"-- projection {name}, in database {database}: to build and to switch"]
        for each in names:
            lines += _of_read_model(connection, each, role)
        lines += _of_versions(connection, name, role)
    return lines


def _of_store(tables: SqlTables, connection: psycopg.Connection, role: str) -> list[str]:
    to = sql.Identifier(role)
    found = [sql.SQL("GRANT USAGE ON SCHEMA {} TO {};").format(sql.Identifier(tables.schema), to)]
    found += [sql.SQL("GRANT SELECT ON {} TO {};").format(table, to) for table in tables.reads]
    found += [
        sql.SQL("GRANT SELECT ON SEQUENCE {} TO {};").format(sequence, to)
        for sequence in tables.sequences
    ]
    if migrations.has(connection, "schema_progress"):
        # status and doctor show what the last schema check found, whoever ran it.
        found.append(sql.SQL("GRANT USAGE ON SCHEMA esops TO {};").format(to))
        found.append(sql.SQL("GRANT SELECT ON esops.schema_progress TO {};").format(to))
    return [each.as_string(connection) for each in found]


def _of_archiving(tables: SqlTables, connection: psycopg.Connection, role: str) -> list[str]:
    """Archiving deletes and restores rows of events. It locks and marks rows of streams, and
    inserts them where a library partitions its table by the mark.
    """
    statement = sql.SQL("GRANT INSERT, UPDATE, DELETE ON {} TO {};")
    return [
        statement.format(table, sql.Identifier(role)).as_string(connection)
        for table in tables.archived
    ]


def _of_owner(
    connection: psycopg.Connection, model: ReadModelName, owner: str, role: str
) -> list[str]:
    """What lets a role switch a table of somebody else's: only an owner may rename, replace or drop
    it.
    """
    name, to, whose = model.identifier, sql.Identifier(role), sql.Identifier(owner)
    change = sql.SQL("ALTER TABLE {} OWNER TO {};").format(name, to).as_string(connection)
    row = connection.execute(_IS_SUPERUSER, (owner,)).fetchone()
    if row is not None and row[0]:
        # Membership would make esops a superuser, too.
        keeps = visible(f"{owner}, a superuser, owns {model}; others keep their rights on it")
        return [f"{change}  -- {keeps}"]
    member = sql.SQL("GRANT {} TO {};").format(whose, to).as_string(connection)
    gives = visible(
        f"{owner} owns {model}, and only an owner may switch it; a member has all rights of "
        f"{owner}. Instead, if {owner} needs no more than its rights on the table: "
    )
    return [f"{member}  -- {gives}{visible(change)}"]


def _of_versions(connection: psycopg.Connection, projection: str, role: str) -> list[str]:
    """The tables that a superuser has built; those of another role come with its membership."""
    if not migrations.installed(connection):
        return []
    made = [
        ReadModelName(*table)
        for version in registry.versions(connection, projection)
        if version.state in registry.LIVE_STATES
        for table in version.tables.values()
    ]
    found = [(each, catalog.find_table(connection, each.schema, each.name)) for each in made]
    return [
        line
        for name, table in found
        if table is not None and table.owner != role
        for line in _of_owner(connection, name, table.owner, role)
        if line.startswith("ALTER")
    ]


def _of_read_model(connection: psycopg.Connection, model: ReadModelName, role: str) -> list[str]:
    to = sql.Identifier(role)
    found: list[sql.Composable] = [
        sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {};").format(sql.Identifier(model.schema), to)
    ]
    notes: list[str] = []
    if migrations.installed(connection):
        found.append(sql.SQL("GRANT USAGE ON SCHEMA esops TO {};").format(to))
        found.append(
            sql.SQL(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA esops TO {};"
            ).format(to)
        )
        found.append(sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA esops TO {};").format(to))
    else:
        database = sql.Identifier(connection.info.dbname)
        found.append(sql.SQL("GRANT CREATE ON DATABASE {} TO {};").format(database, to))
    table = catalog.find_table(connection, model.schema, model.name)
    if table is not None and table.owner != role:
        notes = _of_owner(connection, model, table.owner, role)
    return [*(each.as_string(connection) for each in found), *notes]
