"""The table layouts that esops knows, and how one is found in a database."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import psycopg

from esops.backends.postgres.layouts import emmett, marten
from esops.backends.postgres.layouts.base import Layout
from esops.config import StoreSettings
from esops.errors import UsageError, nearest

Detect = Callable[[psycopg.Connection, StoreSettings], list[Layout]]

LAYOUTS: Mapping[str, Detect] = {"marten": marten.detect, "emmett": emmett.detect}


def find_layout(connection: psycopg.Connection, name: str, settings: StoreSettings) -> Layout:
    """The one layout that a database holds under these settings. Raises UsageError where there is none, or several."""
    if settings.layout is not None and settings.layout not in LAYOUTS:
        raise UsageError(
            f"stores.{name}.layout: there is no layout named {settings.layout!r}", hint=nearest(settings.layout, LAYOUTS)
        )
    wanted = [settings.layout] if settings.layout else list(LAYOUTS)
    found = [layout for each in wanted for layout in LAYOUTS[each](connection, settings)]
    database = connection.info.dbname
    if not found:
        where = f"schema {settings.db_schema!r} of database {database!r}" if settings.db_schema else f"database {database!r}"
        raise UsageError(
            f"stores.{name}: {where} holds no event store that esops knows ({', '.join(wanted)})",
            hint="Check dsn and schema; Marten has tables mt_events and mt_streams, Emmett emt_messages and emt_streams.",
        )
    if len(found) > 1:
        there_are = ", ".join(f"{layout.name} in schema {layout.schema!r}" for layout in found)
        raise UsageError(
            f"stores.{name}: database {database!r} holds several event stores: {there_are}",
            hint="Name one with `schema` (and `layout`).",
        )
    return found[0]
