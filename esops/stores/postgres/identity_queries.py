"""The statements by which a log is recognised, for one layout."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from esops.postgres.statements import statements
from esops.stores.postgres.layouts.base import NO_TENANT, Layout

SQL = statements(__package__, "identity")


def names_of(layout: Layout) -> dict[str, sql.Composable]:
    """What the statements about a layout's events name."""
    m = layout.mapped
    content: sql.Composable = sql.SQL("NULL::text")
    if layout.made_up_ids:
        content = sql.SQL("coalesce(extract(epoch FROM {})::text, md5(({})::text))").format(
            m.recorded_at, m.data
        )
    return {
        "order": sql.SQL(", ").join(layout.order),
        "descending": sql.SQL(", ").join(
            sql.SQL("{} DESC").format(column) for column in layout.order_columns
        ),
        "id": m.id,
        "stream": m.stream,
        "version": m.version,
        "type": m.type,
        "tenant": m.tenant if m.tenant is not NO_TENANT else sql.SQL("''::text"),
        "content": content,
        "events": layout.events,
        "scope": layout.numbered,
    }


def queries_of(layout: Layout) -> dict[str, sql.Composed]:
    """The statements that need no more than the layout."""
    names = {
        "events": layout.events,
        "scope": layout.numbered,
        "table": sql.Literal(layout.events.as_string(None)),
        "sequence": next(iter(layout.sequences), sql.SQL("")),
        "number": layout.order_columns[-1],
    }
    wanted = ("cluster", "drawn", "highest", "transactions", "newest_transaction")
    found = {name: sql.SQL(SQL[name]).format(**names) for name in wanted}
    if not layout.sequences:
        found["drawn"] = sql.SQL("SELECT coalesce(({}), 0)").format(found["highest"])
    return found


def filled_in(
    name: str, names: Mapping[str, sql.Composable], **more: sql.Composable
) -> sql.Composed:
    """A statement about a layout's events, with what it names (`names_of`, and more)."""
    return sql.SQL(SQL[name]).format(**names, **more)
