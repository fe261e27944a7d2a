"""What `verify.ignore` names in a table that the application writes stays as it wrote it."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.test_inline_switch import configure
from tests.support import inline_writers
from tests.support.inline_writers import logic

COLUMNS = "id, mt_last_modified, mt_created_at, last_modified_by, mt_deleted, data"


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    connection.execute(
        "ALTER TABLE mt_doc_cart ADD mt_created_at timestamptz DEFAULT now(), "
        "ADD last_modified_by json, ADD mt_deleted boolean DEFAULT false, "
        "ADD wide int GENERATED ALWAYS AS ((data->>'Items')::int) STORED"
    )
    with psycopg.connect(dsn, autocommit=True) as writer:
        for n in range(6):
            inline_writers.append(writer, f"cart-{n % 3}", logic(1), 1)
    ignore = COLUMNS.split(", ")[1:5]
    configure(project, dsn, verify={"ignore": [*ignore, "wide", "data.Note", "data.By[0].at"]})
    connection.execute(
        "UPDATE mt_doc_cart SET mt_last_modified = '2020-01-01', mt_created_at = '2019-01-01', "
        """last_modified_by = '{"who": "eve"}', mt_deleted = id = 'cart-1', """
        """data = data || '{"Note": "x"}' WHERE id <> 'cart-0'"""
    )
    return project


def rows(connection) -> list[tuple]:
    return connection.execute(f"SELECT {COLUMNS} FROM mt_doc_cart ORDER BY id").fetchall()


def test_what_is_ignored_stays_as_it_is_in_the_row(carts, connection, dsn):
    before = rows(connection)
    carts.ok("rebuild", "--blue-green")
    assert rows(connection) == before
    # Somebody changes such values, and appends, at the last moment before the lock.
    carts.patch(
        f"""
        import psycopg
        import esops.rebuild.inline_switch as s
        from esops.rebuild.switch import prepare
        def late(connection, what):
            with psycopg.connect({dsn!r}, autocommit=True) as other:
                other.execute("UPDATE mt_doc_cart SET mt_deleted = true WHERE id = 'cart-2'")
                other.execute("UPDATE mt_doc_cart SET data = data || "
                              "'{{\\"Note\\": 5}}' WHERE id = 'cart-0'")
            return prepare(connection, what)
        s.switch.prepare = late
        """.replace("\n        ", "\n")
    )
    carts.ok("rebuild", "--blue-green")
    after = rows(connection)
    assert [row[4] for row in after] == [False, True, True]
    assert [row[5].get("Note") for row in after] == [5, "x", "x"]
    assert [row[1:4] for row in after] == [row[1:4] for row in before]
    carts.patch("")
    connection.execute("""UPDATE mt_doc_cart SET data = data || '{"Items": 99}'""")
    before = rows(connection)
    carts.ok("projection", "finish", "carts", "--yes", "--longest-session", "100ms")
    healed = rows(connection)
    assert [row[:5] for row in healed] == [row[:5] for row in before]
    assert [(row[5]["Items"], row[5].get("Note")) for row in healed] == [(2, 5), (2, "x"), (2, "x")]
