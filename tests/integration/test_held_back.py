"""While a writer holds the head back, status and doctor say what `run` does."""

from __future__ import annotations

import psycopg
import pytest

from esops.errors import Refused
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support.numbered import LAYOUTS

CODE = """
from esops import fold

@fold(key=lambda event: str(event.position))
def numbers(row, event):
    return {"id": str(event.position)}
"""


@pytest.mark.thorough
def test_status_and_doctor_name_what_holds_back_the_events_after_the_checkpoint(
    project, dsn, connection
):
    layout = LAYOUTS["messagedb"]
    layout.make(connection)
    layout.insert(connection, [None] * 2)
    connection.execute(f"SELECT nextval('{layout.sequence}')")  # 3 is dead, and soon passed
    layout.insert(connection, [None] * 2)
    project.write("held_back_numbers.py", CODE)
    project.write("numbers.sql", "CREATE TABLE {table} (id text PRIMARY KEY);")
    project.configure(
        stores={"s": {"dsn": dsn, **layout.settings, "settle_timeout": "500ms"}},
        projections={
            "numbers": {
                "python": "held_back_numbers:numbers",
                "tables": ["numbers"],
                "ddl": "numbers.sql",
            }
        },
    )
    project.ok("rebuild", "numbers", "--blue-green")
    with psycopg.connect(dsn) as writer:
        layout.insert(writer, [None])
        layout.insert(connection, [None])
        status = project.run("status", "--output", "json").json
        (store,), (version,) = status["stores"], status["projections"]
        assert store["head"] == version["position"] == "5"
        assert version["lag_seconds"] > 1
        (held,) = store["held_back_by"]
        assert f"session {writer.info.backend_pid} " in held["who"]
        run = project.run("run", "numbers", "--until-caught-up")
        assert run.code == 5
        assert held["who"] in run.err


def test_a_table_that_is_renamed_under_a_running_reader_is_named(dsn, connection):
    layout = LAYOUTS["messagedb"]
    layout.make(connection)
    layout.insert(connection, [None])
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert store.head().position == (1,)
        layout.insert(connection, [None])
        connection.execute(f"ALTER TABLE {layout.table} RENAME TO renamed")
        with pytest.raises(Refused, match=f'gone: relation "{layout.table}" does not exist'):
            store.head()
        connection.execute("ALTER TABLE message_store.renamed RENAME TO messages")
        assert store.head().position == (2,)
