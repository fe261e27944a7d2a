"""What the catalogue says: tables, columns, keys, partitions.

Layout detection asks here, never `SELECT *`.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue has it; `type` is format_type's text, `kind` the type's
    own name.
    """

    name: str
    type: str
    kind: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view: what it is, its columns in their physical order, and its primary key's."""

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


_TABLE = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner), c.relrowsecurity,
       (SELECT coalesce(array_agg(a.attname::text ORDER BY k.ordinality), '{}') FROM pg_index i
          CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, ordinality)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
         WHERE i.indrelid = c.oid AND i.indisprimary),
       (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_partitioned_table p
          CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k(attnum)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
         WHERE p.partrelid = c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


def find_table(connection: psycopg.Connection, schema: str, name: str) -> Table | None:
    """A table or view with its columns; None where there is none of that name."""
    row = connection.execute(_TABLE, (schema, name)).fetchone()
    if row is None:
        return None
    oid, schema, name, kind, owner, row_security, key, partitioned_by = row
    columns = tuple(Column(*column) for column in connection.execute(_COLUMNS, (oid,)).fetchall())
    return Table(
        oid, schema, name, kind, columns, tuple(key), tuple(partitioned_by), owner, row_security
    )


def exists(connection: psycopg.Connection, name: str) -> bool:
    """Whether there is a relation of this name, written as in SQL: schema.name."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()
    return bool(row and row[0])


def schemas_with(connection: psycopg.Connection, *tables: str) -> list[str]:
    """The schemas that hold all these tables, by name; the search path's own first."""
    rows = connection.execute(
        "SELECT n.nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid "
        "WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p') GROUP BY n.nspname HAVING "
        "count(*) = %s "
        "ORDER BY n.nspname <> ALL(current_schemas(false)), n.nspname",
        (list(tables), len(tables)),
    ).fetchall()
    return [row[0] for row in rows]


def relation_tree(connection: psycopg.Connection, oid: int) -> list[int]:
    """A table's oid and those of its partitions at every level."""
    rows = connection.execute(
        "SELECT relid::oid::bigint FROM pg_partition_tree(%s::oid::regclass) UNION SELECT "
        "%s::bigint",
        (oid, oid),
    ).fetchall()
    return [row[0] for row in rows]


def drawn_along(connection: psycopg.Connection, oid: int) -> list[str]:
    """Tables whose rows a foreign key deletes or changes when rows of this table, or of a partition
    of it, are deleted.
    """
    rows = connection.execute(
        "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint "
        "WHERE contype = 'f' AND confdeltype IN ('c', 'n', 'd') AND confrelid = ANY(%s) ORDER BY 1",
        (relation_tree(connection, oid),),
    ).fetchall()
    return [row[0] for row in rows]


def sequence_of(connection: psycopg.Connection, schema: str, name: str) -> tuple[int, int] | None:
    """A sequence's oid and its CACHE; None where there is none."""
    row = connection.execute(
        "SELECT c.oid, s.seqcache FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_sequence s ON s.seqrelid = c.oid WHERE n.nspname = %s AND c.relname = %s",
        (schema, name),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def sequence_behind(
    connection: psycopg.Connection, table: Table, column: str
) -> tuple[str, str, int, int] | None:
    """The sequence that a column's default or identity draws from: schema, name, oid and CACHE;
    None where there is none.
    """
    row = connection.execute(
        "SELECT n.nspname, s.relname, s.oid, q.seqcache FROM pg_attribute a "
        "LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum "
        "JOIN pg_depend d ON (d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid AND "
        "d.refclassid = 'pg_class'::regclass) "
        "  OR (d.classid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = "
        "a.attnum AND d.deptype IN ('a', 'i')) "
        "JOIN pg_class s ON s.relkind = 'S' AND s.oid = CASE WHEN d.classid = 'pg_class'::regclass "
        "THEN d.objid ELSE d.refobjid END "
        "JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid "
        "WHERE a.attrelid = %s AND a.attname = %s LIMIT 1",
        (table.oid, column),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3])


def tables_with(
    connection: psycopg.Connection, columns: list[str], schema: str | None = None
) -> list[Table]:
    """The tables that have all these columns, by schema and name; esops' and the system's own are
    left out.
    """
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY(%s) AND NOT "
        "a.attisdropped "
        "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND (%s::text IS NULL OR "
        "n.nspname = %s) "
        "AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'esops') "
        "GROUP BY 1, 2 HAVING count(a.attname) = %s ORDER BY 1, 2",
        (columns, schema, schema, len(columns)),
    ).fetchall()
    found = [find_table(connection, row[0], row[1]) for row in rows]
    return [table for table in found if table is not None]
