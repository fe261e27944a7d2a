"""What a table has beside columns, keys and indexes: partitions, storage, statistics, comments, row
security. Green gets what blue has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from esops.postgres import catalog, publications
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.grants import Change, for_green, hand_over, rights
from esops.postgres.statements import statements
from esops.readmodel import described
from esops.readmodel.after_load import not_valid
from esops.readmodel.names import physical_name
from esops.readmodel.object_names import Counterpart, Side, counterparts, plain_name

_SQL = statements(__package__, "properties")
_IDENTITY = {"f": "FULL", "n": "NOTHING"}
_CLAUSES = ("UNLOGGED", "PARTITION BY", "USING", "TABLESPACE")


def create_like(
    connection: psycopg.Connection, blue: Side, green: tuple[str, str], version: int
) -> list[str]:
    """The statements that make a table like another one, with its partitions.

    `green` is the schema and name of the new table, of a version with this number.
    """
    table = blue.table
    made = {table.oid: qualified(*green).as_string(connection)}
    like = qualified(table.schema, table.name).as_string(connection)
    done = [
        *described.in_the_same_place(connection),
        _create(connection, table.oid, f"{made[table.oid]} (LIKE {like} INCLUDING ALL)"),
    ]
    for oid, parent, schema, part, bound in connection.execute(
        _SQL["partitions"], {"oid": table.oid}
    ).fetchall():
        name = physical_name(plain_name(part, blue), version)
        made[oid] = qualified(schema, name).as_string(connection)
        done.append(_create(connection, oid, f"{made[oid]} PARTITION OF {made[parent]} {bound}"))
    return [*done, *not_valid(connection, table, made[table.oid])]


def carry(connection: psycopg.Connection, blue: Table, green: Table, *, shown: bool) -> list[str]:
    """The statements that give green, which exists, what blue has and CREATE TABLE does not copy:
    also rights and owner.

    `shown`: a view will show green.
    """
    same = counterparts(connection, blue, green)
    statements = _carry_one(connection, blue, green, same, shown=shown)
    for each in same:
        if each.kind == "TABLE":
            parts = [catalog.find_table(connection, *name) for name in (each.blue, each.green)]
            if (left := parts[0]) and (right := parts[1]):
                of_part = counterparts(connection, left, right)
                statements += _carry_one(connection, left, right, of_part, shown=shown)
    return statements


def missing(connection: psycopg.Connection, blue: Table, green: Table) -> list[str]:
    """What a `ddl` file leaves out, although blue has it: each in words."""
    has, gets = (_clauses(connection, each.oid) for each in (blue, green))
    lacks = [
        clause if value is True else f"{clause} {value}"
        for clause, value, other in zip(_CLAUSES, has, gets, strict=True)
        if value and value != other
    ]
    if gets[-1] and not has[-1]:
        lacks.append(f"the database's own TABLESPACE (green is in {gets[-1]})")
    return lacks


def is_unlogged(connection: psycopg.Connection, table: Table) -> bool:
    """Whether a crash of the server empties a table."""
    return bool(_clauses(connection, table.oid)[0])


def check_published(connection: psycopg.Connection, tables: Iterable[tuple[str, str]]) -> None:
    """Raises Refused where new tables, each by its schema and name, are published and that is not
    allowed.
    """
    for schema, name in tables:
        table = catalog.find_table(connection, schema, name)
        if table is not None:
            check_new_table(connection, table)


def check_new_table(connection: psycopg.Connection, table: Table) -> None:
    """Raises Refused where a new table is published and that is not allowed."""
    if not is_unlogged(connection, table):
        publications.check_new_tables(connection, table.schema, f"the new table {table.name}")


def hide(connection: psycopg.Connection, blue: Table, green: Table) -> list[str]:
    """The statement by which nobody reads green's rows where blue has policies: green gets them at
    the switch.
    """
    name = qualified(green.schema, green.name).as_string(connection)
    return [f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"] if blue.row_security else []


def same_row_security(
    connection: psycopg.Connection, serving: Table, target: Table, name: str
) -> list[str]:
    """The statements after which a table has the row security and the policies of the one that
    serves now. `name` is the quoted name that it has by then.
    """
    (has, policies), (gets, others) = (
        _row_security(connection, each.oid) for each in (serving, target)
    )
    done: list[str] = []
    if has[0] != gets[0]:
        done.append(f"ALTER TABLE {name} {'EN' if has[0] else 'DIS'}ABLE ROW LEVEL SECURITY")
    if has[1] != gets[1]:
        done.append(f"ALTER TABLE {name} {'' if has[1] else 'NO '}FORCE ROW LEVEL SECURITY")
    if policies == others:
        return done
    done += [f"DROP POLICY {policy} ON {name}" for policy, _, _ in others]
    for policy, text, comment in policies:
        done.append(f"CREATE POLICY {policy} ON {name}{text}")
        if comment is not None:
            done.append(f"COMMENT ON POLICY {policy} ON {name} IS {_literal(comment)}")
    return done


def _row_security(connection: psycopg.Connection, oid: int) -> tuple[Any, list[Any]]:
    flags = connection.execute(_SQL["row_security"], {"oid": oid}).fetchone()
    return flags, connection.execute(_SQL["policies"], {"oid": oid}).fetchall()


def _clauses(connection: psycopg.Connection, oid: int) -> tuple[Any, ...]:
    row = connection.execute(_SQL["clauses"], {"oid": oid}).fetchone()
    assert row is not None
    return tuple(row)


def _create(connection: psycopg.Connection, oid: int, body: str) -> str:
    """CREATE TABLE with the clauses that another table has."""
    unlogged, *rest = _clauses(connection, oid)
    clauses = "".join(
        f" {clause} {value}" for clause, value in zip(_CLAUSES[1:], rest, strict=True) if value
    )
    return f"CREATE {'UNLOGGED ' if unlogged else ''}TABLE {body}{clauses}"


def _carry_one(
    connection: psycopg.Connection,
    blue: Table,
    green: Table,
    pairs: Sequence[Counterpart],
    *,
    shown: bool,
) -> list[str]:
    name = qualified(green.schema, green.name).as_string(connection)
    oids = {"blue": blue.oid, "green": green.oid}
    row = connection.execute(_SQL["settings"], oids).fetchone()
    assert row is not None
    options, identity, comment = row
    result: list[str] = []
    if options and blue.kind == green.kind == "r":
        result.append(f"ALTER TABLE {name} SET ({options})")
    if identity in _IDENTITY:
        result.append(f"ALTER TABLE {name} REPLICA IDENTITY {_IDENTITY[identity]}")
    if comment is not None:
        result.append(f"COMMENT ON TABLE {name} IS {_literal(comment)}")
    for column, target, column_options in connection.execute(_SQL["columns"], oids).fetchall():
        if target is not None:
            result.append(f"ALTER TABLE {name} ALTER COLUMN {column} SET STATISTICS {target}")
        if column_options:
            result.append(f"ALTER TABLE {name} ALTER COLUMN {column} SET ({column_options})")
    for constraint, text in connection.execute(_SQL["constraint_comments"], oids).fetchall():
        result.append(f"COMMENT ON CONSTRAINT {constraint} ON {name} IS {_literal(text)}")
    result += _of_indexes(connection, blue, green, pairs)
    result += _of_statistics(connection, blue, pairs)
    sequences = [_of_sequence(connection, each) for each in pairs if each.kind == "SEQUENCE"]
    result += [statement for each, _ in sequences for statement in each]
    wanted = for_green(connection, rights(connection, blue.oid).where(green.has), shown=shown)
    change = Change(name, rights(connection, green.oid), wanted)
    # The owner last: once the table is somebody else's, this role may no longer change it.
    result += hand_over(connection, "TABLE", change, *(each for _, each in sequences))
    return result


def _of_indexes(
    connection: psycopg.Connection, blue: Table, green: Table, pairs: Sequence[Counterpart]
) -> list[str]:
    """What indexes of blue have beside their definition, and green's have not."""
    name = qualified(green.schema, green.name).as_string(connection)
    theirs, ours = (described.indexes(connection, each.oid) for each in (blue, green))
    result: list[str] = []
    for pair in pairs:
        index, same = theirs.get(pair.blue[1]), ours.get(pair.green[1])
        if pair.kind != "INDEX" or index is None or same is None:
            continue
        if same.comment is not None:
            index = replace(index, comment=None)
        has = same.statements(name, pair.green)
        result += [each for each in index.statements(name, pair.green) if each not in has]
    return result


def _of_statistics(
    connection: psycopg.Connection, blue: Table, pairs: Sequence[Counterpart]
) -> list[str]:
    theirs = described.extended_statistics(connection, blue.oid)
    return [
        statement
        for pair in pairs
        if pair.kind == "STATISTICS" and pair.blue in theirs
        for statement in theirs[pair.blue].statements(pair.green)
    ]


def _of_sequence(connection: psycopg.Connection, pair: Counterpart) -> tuple[list[str], Change]:
    """What the sequence of an identity column has, and the rights that it gets."""
    blue, green = (qualified(*each).as_string(connection) for each in (pair.blue, pair.green))
    row = connection.execute(_SQL["sequences"], {"blue": blue, "green": green}).fetchone()
    assert row is not None
    blue_oid, green_oid, comment, kind = row
    done: list[str] = []
    if kind is not None:
        done.append(f"ALTER SEQUENCE {green} AS {kind}")
    if comment is not None:
        done.append(f"COMMENT ON SEQUENCE {green} IS {_literal(comment)}")
    has, wanted = (rights(connection, oid, "SEQUENCE") for oid in (green_oid, blue_oid))
    return done, Change(green, has, wanted)


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)
