"""What indexes and extended statistics have beside their definition: comments, marks, tablespaces,
targets, owners. Whatever makes one again asks here for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.postgres.connection import qualified
from esops.postgres.statements import statements

_SQL = statements(__package__, "described")


@dataclass(frozen=True, slots=True)
class Index:
    """What an index has beside its definition."""

    name: str
    key: str | None
    """The name of the constraint whose index it is."""
    comment: str | None
    key_comment: str | None
    clustered: bool
    identity: bool
    """Whether it is the replica identity."""
    tablespace: str | None
    """Quoted; None for the one that the database has by default."""
    targets: Sequence[tuple[int, int]] | None
    """The numbers of columns, each with its statistics target."""

    def statements(self, table: str, place: tuple[str, str]) -> list[str]:
        """The statements that give the same to an index of a table (its quoted name); `place` is
        the index's schema and name.
        """
        index = qualified(*place).as_string(None)
        own = sql.Identifier(place[1]).as_string(None)
        done = []
        if self.key_comment is not None:
            done.append(f"COMMENT ON CONSTRAINT {own} ON {table} IS {_literal(self.key_comment)}")
        if self.comment is not None:
            done.append(f"COMMENT ON INDEX {index} IS {_literal(self.comment)}")
        if self.clustered:
            done.append(f"ALTER TABLE {table} CLUSTER ON {own}")
        if self.identity:
            done.append(f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {own}")
        if self.tablespace is not None:
            done.append(f"ALTER INDEX {index} SET TABLESPACE {self.tablespace}")
        for number, target in self.targets or ():
            done.append(f"ALTER INDEX {index} ALTER COLUMN {number} SET STATISTICS {target}")
        return done


@dataclass(frozen=True, slots=True)
class Statistics:
    """What extended statistics have beside their definition."""

    schema: str
    name: str
    target: int | None
    comment: str | None
    owner: str | None
    """Quoted; None where it is the role that makes them, or has to be."""

    def statements(self, place: tuple[str, str]) -> list[str]:
        """The statements that give the same to others; `place` is their schema and name."""
        name = qualified(*place).as_string(None)
        done = []
        if self.target is not None:
            done.append(f"ALTER STATISTICS {name} SET STATISTICS {self.target}")
        if self.comment is not None:
            done.append(f"COMMENT ON STATISTICS {name} IS {_literal(self.comment)}")
        if self.owner is not None:
            done.append(f"ALTER STATISTICS {name} OWNER TO {self.owner}")
        return done


def indexes(connection: psycopg.Connection, table: int) -> Mapping[str, Index]:
    """What the indexes of a table or materialised view (its oid) have, by their names."""
    rows = connection.execute(_SQL["indexes"], {"table": table}).fetchall()
    return {row[0]: Index(*row) for row in rows}


def extended_statistics(
    connection: psycopg.Connection, table: int
) -> Mapping[tuple[str, str], Statistics]:
    """What the extended statistics of a table or materialised view (its oid) have, by their schema
    and name.
    """
    rows = connection.execute(_SQL["statistics"], {"table": table}).fetchall()
    return {(row[0], row[1]): Statistics(*row) for row in rows}


def owners_lost(connection: psycopg.Connection, table: int) -> list[str]:
    """The owners of extended statistics that this role cannot make the owners of others, in
    words.
    """
    return [row[0] for row in connection.execute(_SQL["owners_lost"], {"table": table}).fetchall()]


def in_the_same_place(connection: psycopg.Connection) -> list[str]:
    """The statement before those that make something again without naming its tablespace: it would
    land where the role or the database says otherwise.
    """
    row = connection.execute(_SQL["tablespace"]).fetchone()
    return ["SET LOCAL default_tablespace = ''"] if row is not None and row[0] else []


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)
