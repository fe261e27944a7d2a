"""A fold keyed by the stream whose table has the tenant after the id, and is partitioned."""

from __future__ import annotations

import uuid

from tests.support import marten

FOLD = """
from esops import fold

@fold(key="stream")
def count(row, event):
    return {"events": (row or {"events": 0})["events"] + 1}
"""


def append(connection, tenant: str, stream: str) -> None:
    connection.execute(
        "INSERT INTO mt_streams (tenant_id, id, version) VALUES (%s, %s, 1) ON CONFLICT "
        "(tenant_id, id) DO UPDATE SET version = mt_streams.version + 1",
        (tenant, stream),
    )
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp, tenant_id) "
        "SELECT nextval('mt_events_sequence'), %s, id, version, '{}', 'added', now(), tenant_id "
        "FROM mt_streams WHERE tenant_id = %s AND id = %s",
        (uuid.uuid4(), tenant, stream),
    )


def test_ranges_are_of_streams_where_the_tenant_comes_last(project, dsn, connection):
    """The rows of a range are found by the column that has the stream's name: by the tenant, those
    of another range would be deleted.
    """
    marten.create(connection, marten.Variant(text_ids=True, conjoined=True))
    project.configure(
        stores={"s": {"dsn": dsn}},
        projections={"p": {"python": "p:count", "tables": ["carts"], "ddl": "carts.sql"}},
    )
    project.write("p.py", FOLD)
    project.write(
        "carts.sql",
        "CREATE TABLE {table} (id text, tenant_id text, events int, PRIMARY KEY (id, tenant_id))",
    )
    for stream in "abcdefgh":
        append(connection, "acme", stream)
    project.ok("rebuild", "--blue-green")
    append(connection, "other", "a")
    project.ok("rebuild", "--yes", "--ranges", "2")
    rows = connection.execute("SELECT tenant_id, id, events FROM carts ORDER BY 1, 2").fetchall()
    assert rows == [*(("acme", stream, 1) for stream in "abcdefgh"), ("other", "a", 1)]


def test_rows_are_found_and_updated(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True, conjoined=True))
    connection.execute(
        "CREATE TABLE carts (id varchar, tenant_id varchar, events int, PRIMARY KEY (id, tenant_id))"
        " PARTITION BY LIST (tenant_id); "
        "CREATE TABLE carts_acme PARTITION OF carts FOR VALUES IN ('acme'); "
        "CREATE TABLE carts_rest PARTITION OF carts DEFAULT"
    )
    project.configure(
        stores={"s": {"dsn": dsn}},
        projections={"p": {"python": "p:count", "tables": ["carts"], "switch": "rename"}},
    )
    project.write("p.py", FOLD)
    for tenant, stream in (("acme", "a"), ("acme", "b"), ("other", "a")):
        append(connection, tenant, stream)
    project.ok("rebuild", "--blue-green", "--compare", "none")
    for tenant, stream in (("acme", "a"), ("other", "a"), ("other", "c")):
        append(connection, tenant, stream)
    # Rows that are there, and new ones, in one batch.
    project.ok("run", "--until-caught-up")
    rows = connection.execute("SELECT tenant_id, id, events FROM carts ORDER BY 1, 2").fetchall()
    assert rows == [("acme", "a", 2), ("acme", "b", 1), ("other", "a", 2), ("other", "c", 1)]
    (counted,) = connection.execute("SELECT max(rows) FROM esops.versions").fetchone()
    assert counted == 4
    step = ("projection", "step", "p", '{"id": "a", "tenant_id": "other"}', "--output", "json")
    stepped = project.ok(*step).json
    assert [each["event"]["tenant"] for each in stepped["steps"]] == ["other", "other"]
    assert [each["after"]["events"] for each in stepped["steps"]] == [1, 2]
    assert stepped["served"]["differs"] == []
    alone = project.run("projection", "step", "p", "a")
    assert (alone.code, "tenant_id" in alone.err) == (2, True)
    skip = [each for trial in ("hash", "order", "twice") for each in ("--skip", trial)]
    tried = project.ok("projection", "test", "p", "--output", "json", *skip).json
    assert (tried["rows"], tried["deterministic"]) == (4, True)
    connection.execute("UPDATE mt_events SET is_archived = true WHERE tenant_id = 'other'")
    connection.execute("UPDATE mt_streams SET is_archived = true WHERE tenant_id = 'other'")
    archived = project.run(*step)
    assert (archived.code, "include_archived = true" in archived.err) == (2, True)
