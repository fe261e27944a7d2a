"""What blue has and a user's DDL leaves out: taken over, or named.

What makes reads fast is taken over: an index that somebody added by hand at night is usually
needed, and costs little where it is not. What says which rows there may be (keys, checks, NOT NULL,
default values) is for the DDL to say, so it is only named. So is an index that the DDL made for
blue and does not make any more: somebody removed it on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from esops.postgres.catalog import Table
from esops.postgres.connection import is_lost, qualified
from esops.postgres.statements import statements
from esops.readmodel.names import physical_name
from esops.readmodel.object_names import Side, plain_name

_SQL = statements(__package__, "left_out")


@dataclass(slots=True)
class LeftOut:
    """What is taken over from blue, and what green will not have, in words."""

    statements: list[str] = field(default_factory=list)
    """Those that were executed."""
    taken: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Index:
    """An index, or the key whose index it is."""

    name: str
    key: str | None
    """How ALTER TABLE … ADD says it, where it is a constraint."""
    unique: bool
    excludes: bool
    whole: str
    """What CREATE INDEX says after the table's name."""
    bare: str
    """The same without storage options."""
    options: str | None

    def covers(self, other: _Index) -> bool:
        """Whether the other one would be of no use beside it."""
        if other.excludes:
            return self.excludes and self.key == other.key
        return self.bare == other.bare and self.unique >= other.unique


def take_over(connection: psycopg.Connection, blue: Side, green: Side, placeholder: str) -> LeftOut:
    """Give green, which a user's DDL has just made, what that leaves out, in the transaction that
    the connection is in.

    `placeholder` stands for the table in the DDL.
    """
    done = LeftOut()
    _indexes(connection, blue, green, placeholder, done)
    _statistics(connection, blue, green, done)
    _columns(connection, blue.table, green.table, done)
    checks, has = (_checks(connection, each.table.oid) for each in (blue, green))
    done.lacks += [
        f"check {name}, which the DDL leaves out. To keep it: ALTER TABLE {placeholder} ADD {text}"
        for name, text in checks
        if text not in [other for _, other in has]
    ]
    return done


def _indexes(
    connection: psycopg.Connection, blue: Side, green: Side, placeholder: str, done: LeftOut
) -> None:
    there = _read_indexes(connection, green.table)
    table = qualified(green.table.schema, green.table.name).as_string(connection)
    for each in _read_indexes(connection, blue.table):
        same = next((other for other in there if other.covers(each)), None)
        plain = plain_name(each.name, blue)
        if same is not None:
            if each.options is not None and same.options is None:
                index = qualified(green.table.schema, same.name).as_string(connection)
                _try(connection, [f"ALTER INDEX {index} SET ({each.options})"], each.name, done)
        elif each.key is not None or each.unique:
            made = (
                f"ALTER TABLE {placeholder} ADD {each.key}"
                if each.key is not None
                else f"CREATE UNIQUE INDEX ON {placeholder}{each.whole}"
            )
            kind = "unique index" if each.key is None else "key"
            done.lacks.append(f"{kind} {plain}, which the DDL leaves out. To keep it: {made}")
        elif plain in blue.made_by_ddl:
            done.lacks.append(
                f"index {plain}, which the DDL made for v{blue.version} and does not make now"
            )
        else:
            name = sql.Identifier(physical_name(plain, green.version)).as_string(connection)
            what = f"index {plain}"
            if _try(connection, [f"CREATE INDEX {name} ON {table}{each.whole}"], what, done):
                drop = qualified(blue.table.schema, each.name).as_string(connection)
                done.taken.append(f"{what}. To be without it: DROP INDEX {drop}")


def _statistics(connection: psycopg.Connection, blue: Side, green: Side, done: LeftOut) -> None:
    rows, others = (
        connection.execute(_SQL["statistics"], {"oid": each.table.oid}).fetchall()
        for each in (blue, green)
    )
    table = qualified(green.table.schema, green.table.name).as_string(connection)
    for schema, name, text in rows:
        if text in [other for _, _, other in others]:
            continue
        plain = plain_name(name, blue)
        new = qualified(schema, physical_name(plain, green.version)).as_string(connection)
        what = f"statistics {plain}"
        if _try(connection, [f"CREATE STATISTICS {new}{text} FROM {table}"], what, done):
            drop = qualified(schema, name).as_string(connection)
            done.taken.append(f"{what}. To be without them: DROP STATISTICS {drop}")


def _columns(connection: psycopg.Connection, blue: Table, green: Table, done: LeftOut) -> None:
    table = qualified(green.schema, green.name).as_string(connection)
    oids = {"blue": blue.oid, "green": green.oid}
    for column, lost, storage, compression, comment in connection.execute(
        _SQL["columns"], oids
    ).fetchall():
        done.lacks += [f"{each} of column {column}, which the DDL leaves out" for each in lost]
        alter = f"ALTER TABLE {table} ALTER COLUMN {column} SET"
        if storage is not None:
            _try(connection, [f"{alter} STORAGE {storage}"], f"storage of {column}", done)
        if compression is not None:
            what = f"compression of {column}"
            _try(connection, [f"{alter} COMPRESSION {compression}"], what, done)
        if comment is not None:
            text = sql.Literal(comment).as_string(None)
            statement = f"COMMENT ON COLUMN {table}.{column} IS {text}"
            _try(connection, [statement], f"comment of {column}", done)


def _try(connection: psycopg.Connection, made: Sequence[str], what: str, done: LeftOut) -> bool:
    """Execute statements; what does not suit green's columns is named and left out."""
    try:
        with connection.transaction():
            for statement in made:
                connection.execute(statement.encode())
    except psycopg.Error as error:
        if is_lost(error) or isinstance(error, psycopg.errors.LockNotAvailable):
            raise  # nothing was found out
        done.lacks.append(f"{what}, which does not suit green: {str(error).splitlines()[0]}")
        return False
    done.statements += made
    return True


def _read_indexes(connection: psycopg.Connection, table: Table) -> list[_Index]:
    rows = connection.execute(_SQL["indexes"], {"oid": table.oid}).fetchall()
    return [_Index(*row) for row in rows]


def _checks(connection: psycopg.Connection, oid: int) -> list[tuple[str, str]]:
    return connection.execute(_SQL["checks"], {"oid": oid}).fetchall()
