"""Keys, indexes and constraints that green gets when its rows are in.

Building an index once costs less than keeping it up to date with each row. So green is made with
all keys and indexes of blue (or of the user's DDL); they are noted, taken off, and built after the
load. A constraint that is NOT VALID has to wait as well: blue may have rows that it would refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import connect, qualified, translated
from esops.postgres.statements import statements
from esops.readmodel.described import in_the_same_place, indexes
from esops.readmodel.registry import Version

_SQL = statements(__package__, "after_load")
_AT_ONCE = 2
"""Indexes that are built at the same time, each on a connection of its own."""


@dataclass(frozen=True, slots=True)
class AfterLoad:
    """A key, an index, a constraint or the comment on one, for when green's rows are in."""

    what: str
    """The name of the constraint or index."""
    statement: str
    primary: bool
    """Whether it belongs to the primary key."""
    table: str
    """The physical name of the table that gets it."""
    describes: bool = False
    """Whether it sets something of an index that is there by then; that may be done again."""
    by_ddl: bool = False
    """Whether a user's DDL made it; otherwise blue has it."""


def read_after_load(
    connection: psycopg.Connection, table: Table
) -> tuple[list[AfterLoad], list[str]]:
    """The keys and indexes that a table has, and its constraints that are NOT VALID: how to build
    each later, and the statements that take them off now.
    """
    name = qualified(table.schema, table.name).as_string(connection)
    later: list[AfterLoad] = []
    now: list[str] = []

    def add(what: str, statement: str, primary: bool) -> None:
        later.append(AfterLoad(what, statement, primary, table.name))

    described = indexes(connection, table.oid)
    for row in connection.execute(_SQL["keys_and_indexes"], (table.oid,)).fetchall():
        index, index_sql, key, key_sql, primary = row
        index_name = qualified(table.schema, index).as_string(connection)
        if key is None:
            add(index, index_sql, primary)
            now.append(f"DROP INDEX {index_name}")
        else:
            # The index belongs to the constraint: it is made and dropped with it.
            key_name = sql.Identifier(key).as_string(connection)
            add(key, f"ALTER TABLE {name} ADD CONSTRAINT {key_name} {key_sql}", primary)
            now.append(f"ALTER TABLE {name} DROP CONSTRAINT {key_name}")
        later += [
            AfterLoad(key or index, statement, primary, table.name, describes=True)
            for statement in described[index].statements(name, (table.schema, index))
        ]
    for own, what, text, comment in connection.execute(_SQL["not_valid"], (table.oid,)).fetchall():
        add(what, f"ALTER TABLE {name} ADD CONSTRAINT {own} {text}", False)
        now.append(f"ALTER TABLE {name} DROP CONSTRAINT {own}")
        if comment is not None:
            statement = f"COMMENT ON CONSTRAINT {own} ON {name} IS {_literal(comment)}"
            later.append(AfterLoad(what, statement, False, table.name, describes=True))
    return later, now


def foreign_keys_within(
    connection: psycopg.Connection, tables: Sequence[Table], *, by_ddl: bool
) -> tuple[list[AfterLoad], list[str]]:
    """The foreign keys from one of these tables to another, or to itself: how to build each when
    the keys are there that it needs, and the statements that take them off before these.
    """
    later: list[AfterLoad] = []
    now: list[str] = []
    values = {"tables": [each.oid for each in tables]}
    rows = connection.execute(_SQL["foreign_keys_within"], values).fetchall()
    for table, name, own, what, text, comment in rows:
        add = f"ALTER TABLE {name} ADD CONSTRAINT {own} {text}"
        later.append(AfterLoad(what, add, False, table, by_ddl=by_ddl))
        now.append(f"ALTER TABLE {name} DROP CONSTRAINT {own}")
        if comment is not None:
            statement = f"COMMENT ON CONSTRAINT {own} ON {name} IS {_literal(comment)}"
            later.append(AfterLoad(what, statement, False, table, describes=True))
    return later, now


def not_valid(connection: psycopg.Connection, blue: Table, green: str) -> list[str]:
    """The statements by which constraints that CREATE TABLE … LIKE has made whole are NOT VALID on
    green (its quoted name), as they are on blue.
    """
    rows = connection.execute(_SQL["not_valid"], (blue.oid,)).fetchall()
    return [
        f"ALTER TABLE {green} DROP CONSTRAINT {own}, ADD CONSTRAINT {own} {text}"
        for own, _, text, _ in rows
    ]


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def lacks_keys(connection: psycopg.Connection, version: Version) -> bool:
    """Whether a primary key of a version has still to be built."""
    return bool(_missing(connection, version, primary_only=True))


def build_after_load(
    connection: psycopg.Connection,
    version: Version,
    *,
    primary_only: bool = False,
    dsn: str | None = None,
) -> list[str]:
    """Build what a version still lacks of its keys and indexes; returns the names that were built.

    With a DSN, several plain indexes are built two at a time, on connections of their own. Can be
    called again after a crash. Raises Refused where two rows have the same value in a unique key,
    or a row lacks the one that a foreign key names.
    """
    missing = _missing(connection, version, primary_only=primary_only)
    apart = (
        [item for item in missing if item["statement"].startswith("CREATE INDEX")]
        if dsn is not None
        else []
    )
    # What describes an index comes last, because other connections are still building it.
    described = [item for item in missing if _describes(item)]
    for item in missing:
        if item not in apart and item not in described:
            _build(connection, version, item)
    if len(apart) == 1:
        _build(connection, version, apart[0])
    elif apart and dsn is not None:
        _build_apart(dsn, version, apart)
    for item in described:
        _build(connection, version, item)
    return [item["what"] for item in missing if not _describes(item)]


def _describes(item: Mapping[str, Any]) -> bool:
    # An esops of before other things than comments were kept noted no more than the statement.
    return bool(item.get("describes")) or item["statement"].startswith("COMMENT")


def _missing(
    connection: psycopg.Connection, version: Version, *, primary_only: bool
) -> list[Mapping[str, Any]]:
    tables = {
        name: catalog.find_table(connection, schema, name)
        for schema, name in version.tables.values()
    }
    found = []
    for item in version.after_load:
        # An esops of before versions had several tables noted no table: it is the first one.
        name = item.get("table", version.table[1])
        # A switch by rename gave the table another name: what comes after a load is long there.
        if name not in tables:
            continue
        table = tables[name]
        assert table is not None
        if (item["primary"] or not primary_only) and not _exists(connection, table, item):
            found.append(item)
    return found


def _exists(connection: psycopg.Connection, table: Table, item: Mapping[str, Any]) -> bool:
    if _describes(item):
        return False  # it may be set again
    # A check and an index of one table may have the same name.
    kind = "index" if item["statement"].startswith("CREATE ") else "constraint"
    row = connection.execute(_SQL[f"{kind}_exists"], (table.oid, item["what"])).fetchone()
    return bool(row and row[0])


def _build_apart(dsn: str, version: Version, items: Sequence[Mapping[str, Any]]) -> None:
    def build_one(item: Mapping[str, Any]) -> None:
        with translated(), connect(dsn, f"index {version.projection}") as own:
            _build(own, version, item)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(build_one, items))


def _build(connection: psycopg.Connection, version: Version, item: Mapping[str, Any]) -> None:
    try:
        with connection.transaction():
            for statement in (*in_the_same_place(connection), item["statement"]):
                connection.execute(statement.encode())
    except psycopg.errors.UniqueViolation as error:
        raise Refused(
            f"two rows of {version.projection} v{version.version} have the same value in the "
            f"unique key {item['what']}: {error.diag.message_detail}",
            hint="Fix the key of the projection, or the constraint of the table.",
        ) from error
    except psycopg.errors.ForeignKeyViolation as error:
        raise Refused(
            f"a row of {version.projection} v{version.version} has no other one as the foreign key "
            f"{item['what']} asks for: {error.diag.message_detail}",
            hint="Fix the projection, or leave the foreign key out of the table.",
        ) from error


def noted_key(version: Version, physical: str) -> tuple[str, ...]:
    """The columns of a key that is built only after the load, as the registry has noted them."""
    noted = (item for item in version.after_load if item.get("table", version.table[1]) == physical)
    return next((tuple(item["key"]) for item in noted if item["primary"] and item.get("key")), ())
