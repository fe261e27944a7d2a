"""What else happens where events leave a store: by triggers, rules and foreign keys.

What these delete or change is in no archive, so that nothing is removed where there are some. They
are looked at before a run and again in each of its transactions, since they may be made in between.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres import catalog
from esops.stores.postgres.layouts.archiving import LayoutArchiving, SqlRemoval

_KEEP = 'With remove = "keep", esops archives the events and removes nothing.'


def refuse_side_effects(
    connection: psycopg.Connection,
    rules: LayoutArchiving,
    removal: SqlRemoval,
    events: sql.Identifier,
) -> None:
    """Raises Refused where a removal would delete or change more than the archive has."""
    streams = rules.streams if removal.end else ()
    tables = {
        events.as_string(connection): catalog.DELETE if removal.deletes else catalog.UPDATE,
        **{name.as_string(connection): catalog.UPDATE for name in streams},
    }
    found = catalog.side_effects(connection, tables)
    if not found:
        return
    kind, table, _ = found[0]
    names = ", ".join(name for *of, name in found if of == [kind, table])
    if kind == "foreign key":
        raise Refused(
            f"removing streams would also delete or change rows of {names}, which are not in the "
            "archive",
            hint=f"The foreign keys of these tables to {table} say so (ON DELETE, ON UPDATE). "
            + _KEEP,
        )
    raise Refused(
        f"removing events or streams from {table} would run {kind}s of the application ({names}), "
        "which may delete or change rows that are not in the archive",
        hint="Read what they do. If nothing is lost by it, disable them while the policy runs "
        f"(ALTER TABLE … DISABLE {kind.upper()} …). {_KEEP}",
    )
