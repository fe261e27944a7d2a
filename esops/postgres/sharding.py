"""How keys are split into shards, by a hash that Postgres computes.

The reader of events and the replacement of rows have to agree on who owns a key, so the rule is
written once. A shard is a pair: its number (from 0) and how many shards there are.
"""

from __future__ import annotations

from psycopg import sql


def shard_predicate(column: sql.Composable, number: int, of: int) -> sql.Composable:
    """The condition that a key, read as text from `column`, belongs to shard `number` of `of`."""
    # hashtextextended gives a signed bigint, and the remainder of a negative number is negative:
    # the mask keeps 30 bits, so that every key lands in exactly one of 0 … of - 1.
    return sql.SQL("(hashtextextended({}::text, 0) & 1073741823) % {} = {}").format(
        column, sql.Literal(of), sql.Literal(number)
    )
