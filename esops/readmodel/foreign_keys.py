"""Foreign keys of a read model. Whoever makes or drops one locks the table that it refers to, which
the application may be writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from esops.postgres.catalog import Table
from esops.postgres.statements import statements

_SQL = statements(__package__, "foreign_keys")
_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_REFERENCES = re.compile(
    rf"\bREFERENCES\s+(?:ONLY\s+)?({_NAME}(?:\s*\.\s*{_NAME})?)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One that leaves some tables: its quoted name, and the table that it refers to (quoted)."""

    name: str
    to: str


def leaving(connection: psycopg.Connection, tables: Sequence[int]) -> list[ForeignKey]:
    """The foreign keys from some tables (their oids) to others."""
    rows = connection.execute(_SQL["leaving"], {"tables": list(tables)}).fetchall()
    return [ForeignKey(*row) for row in rows]


def not_made(
    connection: psycopg.Connection, blue: Mapping[str, Table], green: Mapping[str, Table]
) -> list[str]:
    """The foreign keys that blue has and green, which exists, does not: their quoted names."""
    there = {(table, text) for table, _, text in _defined(connection, green)}
    return [name for table, name, text in _defined(connection, blue) if (table, text) not in there]


def _defined(
    connection: psycopg.Connection, tables: Mapping[str, Table]
) -> list[tuple[str, str, str]]:
    """Table, name and definition of each, with tables by the names that the application reads."""
    names = {table.oid: name for name, table in tables.items()}
    rows = connection.execute(_SQL["defined"], {"tables": list(names)}).fetchall()
    return [
        (names[of], name, text.replace(f" {to}(", f" {names[oid]}(") if oid in names else text)
        for of, name, text, oid, to in rows
    ]


def referred_to(connection: psycopg.Connection, made: Iterable[str]) -> list[str]:
    """The tables, quoted, to which statements refer that make foreign keys, and that exist by now.
    Read from their text, since nothing is made yet.
    """
    found = [re.sub(r"\s", "", each) for text in made for each in _REFERENCES.findall(text)]
    rows = connection.execute(_SQL["there"], (list(dict.fromkeys(found)),)).fetchall()
    return [row[0] for row in rows]
