"""The rights that a role needs, and no more: what to grant for the stores and read models of a
configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from esops.config import Config
from esops.errors import UsageError
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations
from esops.readmodel.names import ReadModelName, default_schema, parse_name
from esops.stores import open_store
from esops.stores.parts import SqlTables

if TYPE_CHECKING:
    import psycopg


def statements(config: Config, role: str) -> list[str]:
    """The GRANTs for a role, to be executed by the owner of each; comments say in which database.

    Raises Unavailable.
    """
    lines: list[str] = []
    for name, settings in config.stores.items():
        with open_store(name, settings.without_archive) as store:
            if store.sql is None:
                lines.append(
                    f"-- store {name} is no Postgres database: see `esops docs eventstoredb` for "
                    "its rights"
                )
                continue
            with store.sql.control() as connection:
                lines += [
                    (
                        f"-- store {name}, in database {connection.info.dbname}: to read, and to "
                        "know what is settled"
                    )
                ]
                lines += _of_store(store.sql.tables, connection, role)
                policies = [
                    policy
                    for archive in config.archives.values()
                    for policy in archive.policies.values()
                ]
                if any(
                    config.store(policy.store)[0] == name and policy.remove != "keep"
                    for policy in policies
                ):
                    lines += ["-- to remove archived streams and to restore them"]
                    lines += _of_archiving(store.sql.tables, connection, role)
    for name, projection in config.projections.items():
        if projection.kind == "server":
            continue
        target = config.readmodel_of(name)
        with connect(target.dsn, "grants") as connection, translated():
            default = default_schema(connection, target.db_schema)
            lines += [
                (
                    f"-- projection {name}, in database {connection.info.dbname}: to build and "
                    "to switch"
                )
            ]
            for table in projection.tables:
                lines += _of_read_model(connection, parse_name(table, default), role)
    if not lines:
        raise UsageError("the configuration names no store and no projection")
    return list(dict.fromkeys(lines))


def _of_store(tables: SqlTables, connection: psycopg.Connection, role: str) -> list[str]:
    to = sql.Identifier(role)
    found = [sql.SQL("GRANT USAGE ON SCHEMA {} TO {};").format(sql.Identifier(tables.schema), to)]
    found += [sql.SQL("GRANT SELECT ON {} TO {};").format(table, to) for table in tables.reads]
    found += [
        sql.SQL("GRANT SELECT ON SEQUENCE {} TO {};").format(sequence, to)
        for sequence in tables.sequences
    ]
    return [each.as_string(connection) for each in found]


def _of_archiving(tables: SqlTables, connection: psycopg.Connection, role: str) -> list[str]:
    """Rows of events go and come; those of streams are locked, marked, and made where a library
    partitions by the mark.
    """
    statement = sql.SQL("GRANT INSERT, UPDATE, DELETE ON {} TO {};")
    return [
        statement.format(table, sql.Identifier(role)).as_string(connection)
        for table in dict.fromkeys(tables.archived)
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
        # Only an owner may rename, replace or drop it.
        owner = (
            sql.SQL("GRANT {} TO {};").format(sql.Identifier(table.owner), to).as_string(connection)
        )
        notes.append(f"{owner}  -- {model} is {table.owner}'s, and only an owner may switch it")
    return [*(each.as_string(connection) for each in found), *notes]
