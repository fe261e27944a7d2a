"""The events that projections could not project and passed."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from esops.config import Config
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations


def dead_letters(config: Config, name: str) -> list[dict[str, Any]]:
    """A projection's dead letters, oldest first. Raises UsageError for an unknown projection."""
    config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, "dead letters") as connection:
        if not migrations.installed(connection):
            return []
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                "SELECT version, position, event_id, stream, stream_version, type, error, at FROM "
                "esops.dead_letters "
                "WHERE projection = %s ORDER BY version, at, position",
                (name,),
            ).fetchall()
