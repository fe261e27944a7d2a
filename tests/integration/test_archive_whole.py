"""What leaves a store comes back as it was, or is refused before anything is removed."""

from __future__ import annotations

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import new, of, write
from tests.support import marten

DELETE = 'store = "s"\nstream = "*"\nremove = "delete"'


def rows(connection, *tables: str) -> list:
    return [
        connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
        for table in tables
    ]


def test_columns_that_nobody_can_write_come_back(project, dsn, connection):
    """Generated ones are computed again, identities and streams' own columns are as they were."""
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute(
        "ALTER TABLE mt_events ADD n int GENERATED ALWAYS AS ((data->>'n')::int) STORED, "
        "ADD line bigint GENERATED ALWAYS AS IDENTITY (START 500)"
    )
    connection.execute(
        "ALTER TABLE mt_streams ADD line bigint GENERATED ALWAYS AS IDENTITY, ADD note json, "
        "ADD up text GENERATED ALWAYS AS (upper(id)) STORED, ADD zero float8 DEFAULT '-0'"
    )
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(n=1), new(n=2)])
    connection.execute("""UPDATE mt_streams SET note = '{"b":  1, "a": 1.0, "b": 2}'""")
    was = rows(connection, "mt_events", "mt_streams")
    write(project, of(dsn), DELETE)
    told = project.ok("archive", "run", "old", "--output", "json").json
    assert told["removed_events"] == 6
    connection.execute("TRUNCATE mt_events, mt_streams")
    project.ok("archive", "restore", told["run"], "--yes")
    assert rows(connection, "mt_events", "mt_streams") == was
