"""What else in the database refers to a read model: views, functions, foreign keys.

They refer to a relation by its identity, not by its name. After a switch they would read the old
version without anybody noticing, so a switch refuses while there are any.
"""

from __future__ import annotations

import psycopg

from esops.postgres.statements import statements

_SQL = statements(__package__, "dependants")


def dependants(connection: psycopg.Connection, oid: int, *, foreign_keys: bool) -> list[str]:
    """What refers to a relation, each in words: `view public.report`, `function …`.

    `foreign_keys`: include those of other tables, which can refer to a table but not to a view.
    """
    rows = connection.execute(_SQL["dependants"], {"oid": oid, "tables": foreign_keys}).fetchall()
    return [row[0] for row in rows]
