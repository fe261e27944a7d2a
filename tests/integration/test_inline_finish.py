"""`projection finish`: which rows it makes right, which it leaves and names, and that nobody of the
application waits for it.
"""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.integration.test_inline_switch import configure
from tests.support import inline_writers
from tests.support.inline_writers import logic
from tests.support.waiting import finish, until

QUICK = ("projection", "finish", "carts", "--yes", "--longest-session", "100ms", "--output", "json")


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    configure(project, dsn)
    return project


@pytest.fixture
def seeded(carts, dsn):
    """Four carts with 2, 4, 6 and 8 items, after a switch."""
    seed(dsn)
    carts.ok("rebuild", "--blue-green")
    return carts


def seed(dsn) -> None:
    with psycopg.connect(dsn, autocommit=True) as writer:
        for n in range(8):
            inline_writers.append(writer, f"cart-{n % 4}", logic(1), 1 + n % 4)


def spoil(connection, stream: str, items: int = 99) -> None:
    connection.execute(
        "UPDATE mt_doc_cart SET data = jsonb_set(data, '{Items}', %s::text::jsonb) WHERE id = %s",
        (items, stream),
    )


def items(connection) -> dict[str, int]:
    found = inline_writers.documents(connection)
    return {key: found[key][0]["Items"] for key in sorted(found)}


RIGHT = {"cart-0": 2, "cart-1": 4, "cart-2": 6, "cart-3": 8}


def test_documents_of_archived_events_stay_as_they_are(seeded, connection):
    """The application makes its documents of all events; what of a stream is archived does not make
    them wrong.
    """
    connection.execute(
        "UPDATE mt_events SET is_archived = true WHERE (stream_id = 'cart-1' AND version = 1) "
        "OR stream_id = 'cart-2'"
    )
    for stream in ("cart-1", "cart-2", "cart-3"):
        spoil(connection, stream)
    # Of a wrong one nobody knows: a rebuild makes something else of it than the application.
    left = seeded.run(*QUICK)
    assert (left.code, left.json["unchecked"]) == (1, ["cart-1", "cart-2"])
    assert (left.json["healed"], items(connection)["cart-1"]) == (1, 99)
    spoil(connection, "cart-1", 4)
    spoil(connection, "cart-2", 6)
    done = seeded.ok(*QUICK).json
    assert (done["healed"], done["unchecked"]) == (0, [])
    assert items(connection) == RIGHT


def test_rows_that_no_events_tell_of_are_named(seeded, connection):
    """All events of a stream are gone, or its last one, as the library's own list says."""
    connection.execute(
        "DELETE FROM mt_events WHERE stream_id = 'cart-1' OR (stream_id = 'cart-2' AND version = 2)"
    )
    spoil(connection, "cart-0")
    left = seeded.run(*QUICK)
    assert (left.code, left.json["unchecked"], left.json["healed"]) == (1, ["cart-1", "cart-2"], 1)
    assert items(connection) == RIGHT
    assert "rows may be" in seeded.ok("projection", "show", "carts").out
    seeded.ok(*QUICK, "--accept-unchecked")
    assert "rows may be" not in seeded.ok("projection", "show", "carts").out


@pytest.mark.thorough
def test_everything_tells_of_such_rows_until_somebody_has_looked_at_them(seeded, connection):
    connection.execute("DELETE FROM mt_events WHERE stream_id = 'cart-1'")
    assert seeded.run(*QUICK).code == 1
    metrics = seeded.ok("metrics").out
    assert 'esops_version_mixed{projection="carts",state="active",version="2"} 1' in metrics
    assert 'esops_version_of_log{projection="carts",state="active",version="2"} 1' in metrics
    assert "ESOPS-D097" in seeded.run("doctor").out
    seeded.ok(*QUICK, "--accept-unchecked")
    assert "ESOPS-D097" not in seeded.run("doctor").out
    assert 'esops_version_mixed{projection="carts",state="active",version="2"} 0' in (
        seeded.ok("metrics").out
    )


@pytest.mark.thorough
def test_columns_that_the_table_fills_itself(carts, connection, dsn):
    connection.execute(
        "ALTER TABLE mt_doc_cart ADD n bigint GENERATED ALWAYS AS IDENTITY, "
        "ADD items int GENERATED ALWAYS AS ((data ->> 'Items')::int) STORED"
    )
    seed(dsn)
    configure(carts, dsn, verify={"ignore": ["mt_last_modified", "n"]})
    carts.ok("rebuild", "--blue-green")
    spoil(connection, "cart-1")
    connection.execute("DELETE FROM mt_doc_cart WHERE id = 'cart-0'")
    before = connection.execute("SELECT n FROM mt_doc_cart WHERE id = 'cart-1'").fetchone()
    assert carts.ok(*QUICK).json["healed"] == 2
    rows = connection.execute("SELECT id, items FROM mt_doc_cart").fetchall()
    assert dict(rows) == items(connection) == RIGHT
    after = connection.execute("SELECT n FROM mt_doc_cart WHERE id = 'cart-1'").fetchone()
    assert before == after


def test_a_row_that_the_application_inserts_is_waited_for_without_a_lock(seeded, connection, dsn):
    """Else the application's next write would wait for one of esops' rows, and a server ends one of
    two that wait for each other.
    """
    connection.execute("DELETE FROM mt_doc_cart WHERE id = 'cart-0'")
    spoil(connection, "cart-2")
    with psycopg.connect(dsn) as application:
        inline_writers.upsert(application, "cart-0", {"Id": "cart-0", "Items": 2}, 2)
        running = seeded.start(*QUICK)
        until(lambda: items(connection).get("cart-2") == 6)
        application.execute("SET lock_timeout = '500ms'")
        for _ in range(20):
            application.execute("UPDATE mt_doc_cart SET mt_dotnet_type = mt_dotnet_type")
        application.commit()
    finish(running)
    assert running.returncode == 0
    assert items(connection) == RIGHT


def test_rows_are_compared_without_a_lock(seeded, connection, dsn):
    """An append goes on while esops folds, and what it adds is in the row in the end."""
    spoil(connection, "cart-2")
    seeded.patch(
        """
        import time, pathlib
        from esops.rebuild.refolded import RefoldedRows
        make = RefoldedRows.make
        def slow(self, events):
            pathlib.Path("folding").touch()
            for _ in range(200):
                if pathlib.Path("go").exists():
                    break
                time.sleep(0.05)
            return make(self, events)
        RefoldedRows.make = slow
        """.replace("\n        ", "\n")
    )
    running = seeded.start(*QUICK)
    until((seeded.folder / "folding").exists)
    with psycopg.connect(dsn, autocommit=True) as writer:
        writer.execute("SET lock_timeout = '1s'")
        inline_writers.append(writer, "cart-1", logic(1), 1)
        inline_writers.append(writer, "cart-2", logic(1), 1)
        # It ends although somebody has a row that is right.
        with psycopg.connect(dsn) as holder:
            holder.execute("SELECT FROM mt_doc_cart WHERE id = 'cart-3' FOR UPDATE")
            (seeded.folder / "go").touch()
            out, _ = finish(running)
    assert (running.returncode, json.loads(out)["healed"]) == (0, 1)
    assert items(connection) == {**RIGHT, "cart-1": 5, "cart-2": 7}


@pytest.mark.thorough
def test_who_has_a_row_for_too_long_is_named(seeded, connection, dsn):
    seeded.patch(
        "import datetime\nimport esops.rebuild.healing as h\n"
        "h._PATIENCE = datetime.timedelta(seconds=0.5)\n"
    )
    spoil(connection, "cart-1")
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT FROM mt_doc_cart WHERE id = 'cart-1' FOR UPDATE")
        refused = seeded.run(*QUICK)
        assert f"session {holder.info.backend_pid}" in refused.err
    assert (refused.code, "1 row (cart-1) of carts" in refused.err) == (6, True)
    seeded.ok(*QUICK)
    assert items(connection) == RIGHT


@pytest.mark.thorough
def test_rows_that_the_table_does_not_take_are_named(carts, connection, dsn):
    seed(dsn)
    connection.execute("CREATE UNIQUE INDEX by_items ON mt_doc_cart ((data ->> 'Items'))")
    carts.ok("rebuild", "--blue-green")
    # One is missing, and another one has its value; two have each other's.
    connection.execute("DELETE FROM mt_doc_cart WHERE id = 'cart-0'")
    for stream, wrong in {"cart-1": 2, "cart-2": 99, "cart-3": 6}.items():
        spoil(connection, stream, wrong)
    spoil(connection, "cart-2", 8)
    refused = carts.run(*QUICK)
    assert (refused.code, "2 rows (cart-2, cart-3)" in refused.err) == (6, True)
    assert '"by_items"' in refused.err
    assert items(connection) == {**RIGHT, "cart-2": 8, "cart-3": 6}
    told = "esops rebuild carts --blue-green --max-diff 2"
    assert told in refused.err
    carts.ok(*told.split()[1:])
    assert items(connection) == RIGHT
    assert "rows may be" not in carts.ok("projection", "show", "carts").out


PONGO = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    items = (row["data"]["items"] if row else 0) + event.json()["Quantity"]
    return {"data": {"_id": event.stream, "items": items}}
"""


def test_pongos_count_of_writes_stays(project, connection, dsn):
    """It is in the row twice, and Pongo compares it when it writes."""
    inline_writers.create(connection)
    seed(dsn)
    connection.execute(
        "CREATE TABLE pongo (_id text PRIMARY KEY, data jsonb NOT NULL, metadata jsonb NOT NULL "
        "DEFAULT '{}', _version bigint NOT NULL DEFAULT 1, _partition text NOT NULL DEFAULT "
        "'png_global', _archived boolean NOT NULL DEFAULT false, _created timestamptz NOT NULL "
        "DEFAULT now(), _updated timestamptz NOT NULL DEFAULT now());"
        "INSERT INTO pongo (_id, data, _version) SELECT id, jsonb_build_object('_id', id, 'items', "
        "data -> 'Items', '_version', '7'), 7 FROM mt_doc_cart"
    )
    configure(project, dsn, tables=["pongo"], python="carts:carts", verify={})
    project.write("carts.py", PONGO)
    project.ok("rebuild", "--blue-green")
    connection.execute(
        'UPDATE pongo SET _version = 8, data = data || \'{"items": 99, "_version": "8"}\' '
        "WHERE _id = 'cart-1'"
    )
    assert project.ok(*QUICK).json["healed"] == 1
    row = connection.execute("SELECT data, _version FROM pongo WHERE _id = 'cart-1'").fetchone()
    assert row == ({"_id": "cart-1", "items": 4, "_version": "8"}, 8)


def test_a_role_without_temporary_tables(carts, connection, dsn):
    """The plan says it before the switch, and `finish` says the statement."""
    seed(dsn)
    role, database = f"app_{connection.info.dbname}", connection.info.dbname
    connection.execute(
        f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}; "
        f"GRANT ALL ON SCHEMA public TO {role}; ALTER TABLE mt_doc_cart OWNER TO {role}; "
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; "
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}; "
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"
    )
    try:
        configure(carts, dsn.replace("user=postgres", f"user={role}"))
        told = f"GRANT TEMPORARY ON DATABASE {database} TO {role}"
        assert told in carts.ok("rebuild", "--blue-green", "--dry-run").out
        carts.ok("rebuild", "--blue-green")
        refused = carts.run(*QUICK)
        assert (refused.code, told in refused.err) == (6, True)
        connection.execute(told)
        carts.ok(*QUICK)
    finally:
        connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_document_whose_stream_begins_with_a_snapshot_stays_as_it_is(seeded, connection):
    """Marten may have replaced the first event alone: no version is missing."""
    connection.execute(
        "UPDATE mt_events SET type = 'Compacted<Cart>', data = '{\"Snapshot\": {}}' "
        "WHERE stream_id = 'cart-1' AND version = 1"
    )
    left = seeded.run(*QUICK)
    assert (left.code, left.json["unchecked"], left.json["healed"]) == (1, ["cart-1"], 0)
    assert items(connection) == RIGHT
