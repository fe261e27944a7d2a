"""What the catalogue of Postgres says: tables, columns, keys, partitions, sequences.

Detection of layouts asks here; it never looks at the rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg

from esops.errors import UsageError
from esops.postgres.statements import statements

_SQL = statements(__package__, "catalog")
_COLLATIONS = {
    "0": "",
    "100": 'pg_catalog."default"',
    "950": 'pg_catalog."C"',
    "951": 'pg_catalog."POSIX"',
}
"""Collations by number, as every catalogue is made with them."""
_TYPES = {
    "16": "bool",
    "17": "bytea",
    "20": "int8",
    "21": "int2",
    "23": "int4",
    "25": "text",
    "26": "oid",
    "114": "json",
    "142": "xml",
    "700": "float4",
    "701": "float8",
    "790": "money",
    "829": "macaddr",
    "869": "inet",
    "650": "cidr",
    "1042": "bpchar",
    "1043": "varchar",
    "1082": "date",
    "1083": "time",
    "1114": "timestamp",
    "1184": "timestamptz",
    "1186": "interval",
    "1266": "timetz",
    "1560": "bit",
    "1562": "varbit",
    "1700": "numeric",
    "2950": "uuid",
    "3802": "jsonb",
}
"""Types by number, likewise: those that are not made of others."""
DELETE, UPDATE = 8, 16
"""What is done to rows, as pg_trigger.tgtype has it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column, as the catalogue has it."""

    name: str
    type: str
    """As in DDL, with its modifiers: `character varying(20)`."""
    kind: str
    """The name of the type alone: `varchar`; of a domain, that of the type below it."""
    loose: bool = False
    """Whether its collation is not deterministic, and takes some texts that differ for equal."""
    collation: str = ""
    """Quoted, with its schema; empty where its type has none."""
    loose_part: str | None = None
    """Of a type that is made of others, one of these that takes values that differ for equal."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view, its columns in their physical order, and those of its primary key."""

    oid: int
    schema: str
    name: str
    kind: str
    """pg_class.relkind: r table, p partitioned table, v view, m materialised view, f foreign table.
    """
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitioned_by: tuple[str, ...]
    owner: str
    row_security: bool

    def has(self, *names: str) -> bool:
        """Whether all these columns are there."""
        return set(names) <= {column.name for column in self.columns}

    def column(self, name: str) -> Column:
        """The column of that name. Raises KeyError."""
        return {column.name: column for column in self.columns}[name]


def parse_name(text: str) -> tuple[str | None, str]:
    """Read `name`, `schema.name` or `"a schema"."a name"`: the schema, if there is one, and the
    name.

    A part needs quotes only where it contains a dot or starts with a quote. Raises UsageError for
    anything else.
    """
    parts: list[str] = []
    rest = text
    while rest:
        if rest.startswith('"'):
            # Find the quote that closes the part: two quotes in a row stand for one in the name.
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
            parts.append("")  # "schema." lacks the name, which the check below reports
    if not parts or len(parts) > 2 or not all(parts):
        raise UsageError(
            f"{text!r} is not the name of a table",
            hint='Write name, schema.name or "a schema"."a name".',
        )
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def written_name(schema: str, name: str) -> str:
    """A name as `parse_name` reads it, quoted only where that is needed."""
    parts = [
        '"' + part.replace('"', '""') + '"' if "." in part or part.startswith('"') else part
        for part in (schema, name)
    ]
    return ".".join(parts)


def find_table(connection: psycopg.Connection, schema: str, name: str) -> Table | None:
    """A table or view with its columns; None where there is none of that name."""
    row = connection.execute(_SQL["plain_table"], {"schema": schema, "name": name}).fetchone()
    if row is None:
        return None
    return _plain_table(*row) or any_table(connection, schema, name)


def any_table(connection: psycopg.Connection, schema: str, name: str) -> Table | None:
    """As `find_table`, by the one query that knows all that a table can have."""
    rows = connection.execute(_SQL["table"], (schema, name)).fetchall()
    if not rows:
        return None
    oid, schema, name, kind, owner, row_security, key, partitioned_by = rows[0][:8]
    columns = tuple(Column(*row[8:]) for row in rows if row[8] is not None)
    return Table(
        oid, schema, name, kind, columns, tuple(key), tuple(partitioned_by), owner, row_security
    )


def _plain_table(
    oid: int,
    schema: str,
    name: str,
    kind: str,
    owner: str,
    row_security: bool,
    key: Sequence[str] | None,
    attributes: Sequence[Sequence[str]],
) -> Table | None:
    """The table of `plain_table`; None for one that has something special: partitions, a column of
    a domain, an enum, an array or another type that did not come with Postgres or is made of
    others, or a collation that not every server has under its number.
    """
    if kind == "p" or not all(
        type in _TYPES and collation in _COLLATIONS for *_, type, collation in attributes
    ):
        return None
    columns = {
        number: Column(name, written, _TYPES[type], collation=_COLLATIONS[collation])
        for number, name, written, type, collation in attributes
    }
    by = tuple(columns[number].name for number in key or ())
    return Table(oid, schema, name, kind, tuple(columns.values()), by, (), owner, row_security)


def there(connection: psycopg.Connection, schema: str, *names: str) -> set[str]:
    """Which of some tables or views a schema has."""
    rows = connection.execute(_SQL["there"], (schema, list(names))).fetchall()
    return {row[0] for row in rows}


def has_table(connection: psycopg.Connection, schema: str, name: str) -> bool:
    """Whether there is a table or view of that name."""
    return bool(there(connection, schema, name))


def defaults(connection: psycopg.Connection, oid: int) -> dict[str, tuple[str | None, bool]]:
    """The default of each column that has one, as SQL, and whether it is the column's own value: of
    an identity (None) or a generated column.
    """
    rows = connection.execute(_SQL["defaults"], (oid,)).fetchall()
    return {name: (default, own) for name, default, own in rows}


def oid_of(connection: psycopg.Connection, schema: str, name: str) -> int | None:
    """The oid of a table or view; None where there is none of that name."""
    row = connection.execute(
        "SELECT to_regclass(quote_ident(%s) || '.' || quote_ident(%s))::oid::bigint", (schema, name)
    ).fetchone()
    return None if row is None else row[0]


def exists(connection: psycopg.Connection, name: str) -> bool:
    """Whether there is a relation of this name, written as in SQL: schema.name."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()
    return bool(row and row[0])


def schemas_with(connection: psycopg.Connection, *tables: str) -> list[str]:
    """The schemas that hold all these tables, by name; those of the search path come first."""
    rows = connection.execute(_SQL["schemas_with"], (list(tables), len(tables))).fetchall()
    return [row[0] for row in rows]


def relation_tree(connection: psycopg.Connection, oid: int) -> list[int]:
    """The oid of a table and those of its partitions at every level."""
    rows = connection.execute(_SQL["relation_tree"], {"oid": oid}).fetchall()
    return [row[0] for row in rows]


def row_tables(connection: psycopg.Connection, table: str) -> list[str]:
    """The tables that hold the rows of a table (quoted and qualified), quoted: its partitions, or
    itself. An index of a partitioned table cannot be made CONCURRENTLY, so each gets its own.
    """
    rows = connection.execute(_SQL["row_tables"], {"table": table}).fetchall()
    return [row[0] for row in rows]


def leads_an_index(connection: psycopg.Connection, table: str, column: str) -> bool:
    """Whether an index of every part of a table (quoted and qualified) begins with a column."""
    row = connection.execute(_SQL["leads_an_index"], {"table": table, "column": column}).fetchone()
    return bool(row and row[0])


def side_effects(
    connection: psycopg.Connection, tables: Mapping[str, int]
) -> list[tuple[str, str, str]]:
    """What else is done where rows of some tables, or of their partitions, change: `trigger`,
    `rule` or `foreign key`, the table, and the name of the trigger, of the rule or of the table
    whose rows the key deletes or changes.

    `tables` are quoted and qualified, each with what is done to its rows: DELETE, UPDATE or both.
    Triggers of foreign keys are left out, and so are keys between these tables.
    """
    parameters = {"tables": list(tables), "actions": list(tables.values())}
    return connection.execute(_SQL["side_effects"], parameters).fetchall()


def sequence_of(connection: psycopg.Connection, schema: str, name: str) -> tuple[int, int] | None:
    """The CACHE of a sequence and its INCREMENT; None where there is none."""
    row = connection.execute(_SQL["sequence"], (schema, name)).fetchone()
    return None if row is None else (row[0], row[1])


def sequence_behind(
    connection: psycopg.Connection, table: Table, column: str
) -> tuple[str, str] | None:
    """The schema and name of the sequence from which the default or identity of a column draws;
    None where there is none.
    """
    row = connection.execute(_SQL["sequence_behind"], (table.oid, column)).fetchone()
    return None if row is None else (row[0], row[1])


def tables_with(
    connection: psycopg.Connection, columns: list[str], schema: str | None = None
) -> list[Table]:
    """The tables that have all these columns, by schema and name.

    Tables of esops and of the system are left out.
    """
    values = {"columns": columns, "schema": schema, "number": len(columns)}
    rows = connection.execute(_SQL["tables_with"], values).fetchall()
    # A table may have been dropped between the two queries.
    found = [find_table(connection, row[0], row[1]) for row in rows]
    return [table for table in found if table is not None]
