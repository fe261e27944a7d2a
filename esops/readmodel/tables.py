"""A read model's tables in Postgres: their names, the making of a new version, and what is built
after the load.

What the application reads is a plain name. Behind it stand tables with a version suffix
(`cart_summary__v3`). Green is made
like the table that serves now, or by the user's DDL; then its indexes and keys are taken off,
noted, and built when the
rows are in, since building an index once costs less than keeping it at each row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import Refused, UsageError
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import connect, qualified, translated
from esops.postgres.grants import grant_statements
from esops.readmodel.registry import Version

_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class ReadModelName:
    """The name that the application reads, with its schema."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """Quoted, for SQL."""
        return qualified(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class AfterLoad:
    """Something that green gets when its rows are in.

    `unique` tells a key that rows can collide on.
    """

    what: str
    statement: str
    primary: bool
    table: str
    """The physical name of the table that gets it."""


def parse_name(text: str, default_schema: str) -> ReadModelName:
    """Read `name`, `schema.name` or `"a schema"."a name"`.

    Quotes are needed only where a part holds a dot or begins with one.

    Raises UsageError where the quotes do not match.
    """
    parts: list[str] = []
    rest = text
    while rest:
        if rest.startswith('"'):
            end = 1
            while (end := rest.find('"', end)) != -1 and rest[end : end + 2] == '""':
                end += 2
            if end == -1 or (end + 1 < len(rest) and rest[end + 1] != "."):
                raise UsageError(f"the table name {text!r} has quotes that do not match")
            part, rest = rest[1:end].replace('""', '"'), rest[end + 1 :]
            dot, rest = rest[:1], rest[1:]
        else:
            part, dot, rest = rest.partition(".")
        parts.append(part)
        if dot and not rest:
            parts.append("")
    if not parts or len(parts) > 2 or not all(parts):
        raise UsageError(
            f"{text!r} is not the name of a table",
            hint='Write name, schema.name or "a schema"."a name".',
        )
    return ReadModelName(parts[-2] if len(parts) == 2 else default_schema, parts[-1])


def default_schema(connection: psycopg.Connection, configured: str | None) -> str:
    """The schema of unqualified names: as configured, or the role's own current one."""
    if configured is not None:
        return configured
    row = connection.execute("SELECT coalesce(current_schema(), 'public')").fetchone()
    assert row is not None
    return str(row[0])


def physical_name(plain: str, version: int) -> str:
    """The table's name under a version suffix, shortened with a hash where Postgres would
    cut it.
    """
    suffix = f"__v{version}"
    if len((plain + suffix).encode()) <= _LONGEST_NAME:
        return plain + suffix
    tail = "_" + hashlib.sha256(plain.encode()).hexdigest()[:8] + suffix
    return plain.encode()[: _LONGEST_NAME - len(tail)].decode(errors="ignore") + tail


def green_tables(plains: Sequence[ReadModelName], version: int) -> dict[str, tuple[str, str]]:
    """Schema and physical name of each table of a version that is to be made."""
    return {plain.name: (plain.schema, physical_name(plain.name, version)) for plain in plains}


def create_statements(
    plains: Sequence[ReadModelName],
    tables: Mapping[str, tuple[str, str]],
    blue: Mapping[str, Table],
    ddl: Path | None,
) -> list[str]:
    """The statements that make green, of `tables` by plain names.

    Raises UsageError for want of DDL and of a table to make one like.
    """
    if ddl is not None:
        try:
            text = ddl.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the DDL {ddl} cannot be read: {error.strerror}") from None
        for mark in marks(plains):
            if mark not in text:
                raise UsageError(
                    f"the DDL {ddl} does not name {mark}", hint=f"Write CREATE TABLE {mark} (…)."
                )
        return [with_names(text, tables)]
    missing = next((plain for plain in plains if plain.name not in blue), None)
    if missing is not None:
        raise UsageError(
            f"there is no table {missing} to make the first version like",
            hint=f'Give its DDL: ddl = "sql/….sql" with {marks(plains)[plains.index(missing)]}.',
        )
    return [
        f"CREATE TABLE {qualified(*tables[plain.name]).as_string(None)} "
        f"(LIKE {qualified(blue[plain.name].schema, blue[plain.name].name).as_string(None)} "
        "INCLUDING ALL)"
        for plain in plains
    ]


def marks(plains: Sequence[ReadModelName]) -> list[str]:
    """What stands for each table in a user's SQL: {table}, or its own name in braces where there
    are several.
    """
    return ["{table}"] if len(plains) == 1 else [f"{{{plain.name}}}" for plain in plains]


def with_names(text: str, tables: Mapping[str, tuple[str, str]]) -> str:
    """A user's SQL with the names of tables, by their plain names."""
    for name, (schema, physical) in tables.items():
        text = text.replace(f"{{{name}}}", qualified(schema, physical).as_string(None))
    return text.replace("{table}", qualified(*next(iter(tables.values()))).as_string(None))


def carry_statements(
    connection: psycopg.Connection, blue: Table, green: sql.Identifier
) -> list[str]:
    """What green gets of blue beside columns, constraints and indexes: owner, grants, comment,
    storage options.
    """
    name = green.as_string(connection)
    statements: list[str] = []
    row = connection.execute(
        "SELECT array_to_string(c.reloptions, ', '), obj_description(c.oid, 'pg_class'), "
        "pg_get_userbyid(c.relowner) = current_user "
        "FROM pg_class c WHERE c.oid = %s",
        (blue.oid,),
    ).fetchone()
    assert row is not None
    options, comment, ours = row
    if options and blue.kind == "r":
        statements.append(f"ALTER TABLE {name} SET ({options})")
    if comment is not None:
        statements.append(
            f"COMMENT ON TABLE {name} IS {sql.Literal(comment).as_string(connection)}"
        )
    statements.extend(grant_statements(connection, blue.oid, name))
    if not ours:
        statements.append(
            f"ALTER TABLE {name} OWNER TO {sql.Identifier(blue.owner).as_string(connection)}"
        )
    return statements


def not_carried(connection: psycopg.Connection, blue: Table) -> list[str]:
    """What blue has and green will not get, each in words with the reason.

    Raises Refused where that would be unsafe.
    """
    if blue.row_security:
        raise Refused(
            f"{blue.schema}.{blue.name} has row security, which a view in its place would not keep",
            hint="Rebuild it under a name without policies, or move the policies to the "
            "readers' views.",
        )
    rows = connection.execute(
        """
        SELECT 'foreign key ' || quote_ident(conname) ||
        ' (adding it would lock the table it refers to)'
          FROM pg_constraint WHERE conrelid = %(oid)s AND contype = 'f'
        UNION ALL
        SELECT 'trigger ' || quote_ident(tgname) FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT
        tgisinternal
        UNION ALL
        SELECT 'rule ' || quote_ident(rulename) FROM pg_rewrite WHERE ev_class = %(oid)s AND
        rulename <> '_RETURN'
        UNION ALL
        SELECT 'membership of publication ' || quote_ident(p.pubname)
          FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid =
          %(oid)s
        ORDER BY 1
        """,
        {"oid": blue.oid},
    ).fetchall()
    return [row[0] for row in rows]


def dependants(connection: psycopg.Connection, oid: int, *, tables_too: bool) -> list[str]:
    """What refers to a relation by its identity and so would go on reading it after a switch:
    views, foreign keys, functions.
    """
    rows = connection.execute(
        """
        SELECT DISTINCT CASE c.relkind WHEN 'm' THEN 'materialised view ' ELSE 'view ' END ||
        c.oid::regclass::text
          FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid =
          r.ev_class
         WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND
         d.refobjid = %(oid)s AND c.oid <> %(oid)s
        UNION
        SELECT 'function ' || d.objid::regprocedure::text FROM pg_depend d
         WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND
         d.refobjid = %(oid)s
        UNION
        SELECT 'foreign key ' || quote_ident(conname) || ' of ' || conrelid::regclass::text
          FROM pg_constraint WHERE confrelid = %(oid)s AND contype = 'f' AND conrelid <> %(oid)s AND
          %(tables)s
        ORDER BY 1
        """,
        {"oid": oid, "tables": tables_too},
    ).fetchall()
    return [row[0] for row in rows]


def read_after_load(
    connection: psycopg.Connection, table: Table
) -> tuple[list[AfterLoad], list[str]]:
    """A table's keys and indexes: the statements that would build each, and those that take them
    off now.
    """
    rows = connection.execute(
        """
        SELECT c.relname, pg_get_indexdef(i.indexrelid), con.conname, pg_get_constraintdef(con.oid),
        i.indisprimary,
               obj_description(i.indexrelid, 'pg_class'), obj_description(con.oid, 'pg_constraint')
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
          LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
          AND con.contype IN ('p', 'u', 'x')
         WHERE i.indrelid = %s ORDER BY i.indisprimary DESC, c.relname
        """,
        (table.oid,),
    ).fetchall()
    name = qualified(table.schema, table.name).as_string(connection)
    later: list[AfterLoad] = []
    now: list[str] = []
    for (
        index,
        index_definition,
        constraint,
        constraint_definition,
        primary,
        index_comment,
        constraint_comment,
    ) in rows:
        quoted = qualified(table.schema, index).as_string(connection)
        if constraint is not None:
            quoted_constraint = sql.Identifier(constraint).as_string(connection)
            later.append(
                AfterLoad(
                    constraint,
                    f"ALTER TABLE {name} ADD CONSTRAINT {quoted_constraint} "
                    f"{constraint_definition}",
                    primary,
                    table.name,
                )
            )
            now.append(f"ALTER TABLE {name} DROP CONSTRAINT {quoted_constraint}")
            if constraint_comment is not None:
                text = sql.Literal(constraint_comment).as_string(connection)
                later.append(
                    AfterLoad(
                        constraint,
                        f"COMMENT ON CONSTRAINT {quoted_constraint} ON {name} IS {text}",
                        primary,
                        table.name,
                    )
                )
        else:
            later.append(AfterLoad(index, index_definition, primary, table.name))
            now.append(f"DROP INDEX {quoted}")
        if index_comment is not None:
            text = sql.Literal(index_comment).as_string(connection)
            later.append(
                AfterLoad(index, f"COMMENT ON INDEX {quoted} IS {text}", primary, table.name)
            )
    return later, now


def exists(connection: psycopg.Connection, table: Table, item: Mapping[str, Any]) -> bool:
    """Whether a key or index is there already, so that building can be gone on with after
    a crash.
    """
    if item["statement"].startswith("COMMENT"):
        return False
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE "
        "i.indrelid = %s AND c.relname = %s)",
        (table.oid, item["what"]),
    ).fetchone()
    return bool(row and row[0])


def build(
    connection: psycopg.Connection,
    version: Version,
    *,
    primary_only: bool = False,
    dsn: str | None = None,
) -> list[str]:
    """Build what is noted for after the load and not there yet; returns the names built.

    With a DSN, plain indexes are built two at a time, on connections of their own. Raises Refused
    where rows collide on a
    unique key.
    """
    tables = {
        name: catalog.find_table(connection, schema, name)
        for schema, name in version.tables.values()
    }
    wanted = []
    for item in version.after_load:
        table = tables[
            item.get("table", version.table[1])
        ]  # an entry of a version that an older esops made has none
        assert table is not None
        if (item["primary"] or not primary_only) and not exists(connection, table, item):
            wanted.append(item)
    plain = (
        [item for item in wanted if item["statement"].startswith("CREATE INDEX")]
        if dsn is not None
        else []
    )
    for item in wanted:
        if item not in plain and not item["statement"].startswith("COMMENT ON INDEX"):
            _build_one(connection, version, item)
    if plain and dsn is not None:
        _build_side_by_side(dsn, version, plain)
    for item in wanted:
        if item["statement"].startswith("COMMENT ON INDEX"):
            _build_one(connection, version, item)
    return [item["what"] for item in wanted if not item["statement"].startswith("COMMENT")]


def _build_side_by_side(dsn: str, version: Version, items: Sequence[Mapping[str, Any]]) -> None:
    def build_one(item: Mapping[str, Any]) -> None:
        with translated(), connect(dsn, f"index {version.projection}") as own:
            _build_one(own, version, item)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(build_one, items))


def _build_one(connection: psycopg.Connection, version: Version, item: Mapping[str, Any]) -> None:
    try:
        connection.execute(item["statement"].encode())
    except psycopg.errors.UniqueViolation as error:
        raise Refused(
            f"rows of {version.projection} v{version.version} collide on {item['what']}: "
            f"{error.diag.message_detail}",
            hint="Two keys of the projection give rows with the same unique value: mend its key or "
            "the table's constraint.",
        ) from error


def count(connection: psycopg.Connection, table: tuple[str, str]) -> int:
    """How many rows a table has."""
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(qualified(*table))
    ).fetchone()
    return int(row[0]) if row else 0


def drop(connection: psycopg.Connection, version: Version) -> list[str]:
    """The statements that remove a version's tables, run in the transaction that the connection is
    in. Never with CASCADE.
    """
    done: list[str] = []
    for schema, name in version.tables.values():
        table = catalog.find_table(connection, schema, name)
        if table is None:
            continue
        for statement in (
            *_free_sequences(connection, table),
            f"DROP TABLE {qualified(schema, name).as_string(connection)}",
        ):
            connection.execute(statement.encode())
            done.append(statement)
    return done


def _free_sequences(connection: psycopg.Connection, table: Table) -> list[str]:
    """Serial columns copied by LIKE draw from the old table's sequence; it must outlive
    that table.
    """
    rows = connection.execute(
        """
        SELECT format('ALTER SEQUENCE %%s OWNED BY NONE', s.oid::regclass)
          FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
         WHERE d.refobjid = %(oid)s AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
           AND EXISTS (SELECT FROM pg_depend u JOIN pg_attrdef f ON f.oid = u.objid AND u.classid =
           'pg_attrdef'::regclass
                        WHERE u.refobjid = s.oid AND f.adrelid <> %(oid)s)
        """,
        {"oid": table.oid},
    ).fetchall()
    return [row[0] for row in rows]


def common_columns(blue: Table, green: Table, ignore: Sequence[str]) -> list[str]:
    """The columns that both have and that are compared, in green's order."""
    return [
        column.name
        for column in green.columns
        if blue.has(column.name) and column.name not in ignore
    ]


@contextmanager
def rolled_back(connection: psycopg.Connection) -> Iterator[None]:
    """Run statements to see what they would make, and leave nothing of it."""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL lock_timeout = '2s'")
        yield
