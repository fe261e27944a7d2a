"""Events that share a position, as a table of one's own allows: all of one transaction, say."""

from __future__ import annotations

import pytest

from esops.archive.run import run
from esops.config import load_config
from esops.events import Position
from esops.stores import open_store
from tests.support.cases import thorough_but

TABLE = """
CREATE TABLE ev (pos bigint NOT NULL, k text NOT NULL, i text NOT NULL, v int NOT NULL,
    typ text NOT NULL, d jsonb NOT NULL, at timestamptz NOT NULL DEFAULT now(), UNIQUE (k, i, v));
CREATE INDEX ON ev (pos);
CREATE SEQUENCE evs OWNED BY ev.pos
"""
DESCRIBED = {
    "name": "ev",
    "stream": ["k", "i"],
    "version": "v",
    "position": "pos",
    "sequence": "evs",
    "type": "typ",
    "data": "d",
    "time": "at",
}
STREAMS = ("1", "2", "3")
CODE = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    assert event.version == (row or {"n": 0})["n"] + 1
    return {"stream": event.stream, "n": (row or {"n": 0})["n"] + 1}
"""


@pytest.fixture
def shared(project, dsn, connection):
    connection.execute(TABLE)
    for first in (1, 3, 5):
        (position,) = connection.execute("SELECT nextval('evs')").fetchone()
        for stream in STREAMS:
            for version in (first, first + 1):
                connection.execute(
                    "INSERT INTO ev VALUES (%s, 'c', %s, %s, 'added', '{\"n\": 1}')",
                    (position, stream, version),
                )
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick", "archive": "cold", "table": DESCRIBED}},
        projections={"carts": {"python": "carts:carts", "tables": ["carts"], "ddl": "carts.sql"}},
        archives={
            "cold": {
                "repository": "cold",
                "policies": {"two": {"store": "s", "stream": "c-2", "never_younger_than": "0s"}},
            }
        },
    )
    project.write("carts.py", CODE)
    project.write("carts.sql", "CREATE TABLE {table} (stream text PRIMARY KEY, n int);")
    project.begin_archive("cold")
    return project


@pytest.mark.parametrize(
    "gone",
    thorough_but(["nothing", "v < 4", "v IN (1, 4, 5)", "TRUE"], "nothing", "v IN (1, 4, 5)"),
)
def test_what_an_archive_has_too_is_read_once(shared, connection, gone):
    config = load_config(shared.folder / "esops.toml")
    run(config, "two")
    if gone != "nothing":
        connection.execute(f"DELETE FROM ev WHERE i = '2' AND {gone}")
    with open_store("s", config.stores["s"]) as store:
        found = [event for batch in store.read_all() for event in batch.events]
    assert len(found) == 18
    for stream in STREAMS:
        own = [(e.position[0], e.version) for e in found if e.stream == f"c-{stream}"]
        assert own == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    assert [e.position for e in found] == sorted(e.position for e in found)
    shared.ok("rebuild", "carts", "--blue-green")
    rows = connection.execute("SELECT stream, n FROM carts ORDER BY 1").fetchall()
    assert rows == [("c-1", 6), ("c-2", 6), ("c-3", 6)]


@pytest.mark.parametrize("joined", thorough_but([False, True], True))
def test_a_batch_ends_where_a_position_ends(shared, connection, joined):
    """Else a reader that stops behind it would go on behind what it has not read."""
    connection.execute(
        "INSERT INTO ev SELECT nextval('evs'), 'c', 'big', 1, 'added', '{}'; "
        "INSERT INTO ev SELECT currval('evs'), 'c', 'big', g, 'added', "
        "jsonb_build_object('t', (SELECT string_agg(md5(h::text || g), '') "
        "FROM generate_series(1, 2000) h)) FROM generate_series(2, 500) g; "
        "INSERT INTO ev SELECT nextval('evs'), 'c', 'big', 501, 'added', '{}'"
    )
    config = load_config(shared.folder / "esops.toml")
    settings = config.stores["s"] if joined else config.stores["s"].without_archive
    if joined:
        run(config, "two")
    with open_store("s", settings) as store:
        batches = list(store.read_all())
    ends = [batch.events[-1].position for batch in batches]
    begins = [batch.events[0].position for batch in batches]
    assert sum(len(batch.events) for batch in batches) == 18 + 501
    assert all(end < begin for end, begin in zip(ends, begins[1:], strict=False))
    assert ends[-1] == Position((5,))


def alone(project, dsn: str, **settings) -> None:
    """The store without its archive."""
    carts = {"python": "carts:carts", "tables": ["carts"], "ddl": "carts.sql", **settings}
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick", "table": DESCRIBED}},
        projections={"carts": carts},
    )


@pytest.mark.parametrize("joined", thorough_but([False, True], False))
def test_no_slice_of_a_limited_rate_divides_a_position(shared, dsn, connection, joined):
    """What lies behind a checkpoint is read; the rest of its position never would be."""
    connection.execute(
        "INSERT INTO ev SELECT 3 + g / 7, 'many', (g % 7)::text, g / 7 + 1, 'added', '{}' "
        "FROM generate_series(7, 699) g; SELECT setval('evs', 200)"
    )
    connection.execute("UPDATE ev SET v = v - 1 WHERE k = 'many'")
    if not joined:
        alone(shared, dsn)
    said = shared.ok(
        "rebuild", "carts", "--blue-green", "--output", "json", "--max-rate", "500"
    ).json
    assert said["events"] == 18 + 693
    assert connection.execute("SELECT sum(n) FROM carts").fetchone() == (18 + 693,)


def failing(project, dsn: str, at: str, **settings) -> None:
    """A fold that fails at one event."""
    condition = f"    if event.stream == 'c-2' and event.version == {at}:\n        raise KeyError\n"
    alone(project, dsn, **settings)
    project.write("carts.py", CODE.replace("    assert", f"{condition}    assert"))


@pytest.mark.parametrize("setting", ["stop", "dead-letter"])
def test_a_poison_event_that_shares_its_position_is_found_and_stops_the_projection(
    shared, dsn, connection, setting
):
    failing(shared, dsn, "4", on_error=setting)
    said = shared.run("rebuild", "carts", "--blue-green", "--max-dead-letters", "10")
    assert said.code == 6, said.err
    assert "(added, version 4 of stream 'c-2', position 2): KeyError" in said.err
    shares = "6 of its events share that position, and one of them alone cannot become a dead"
    assert (shares in said.err) == (setting == "dead-letter")
    found = connection.execute("SELECT position, events FROM esops.versions").fetchone()
    assert found == ("1", 6), "all of the position before it, and nothing of its own"
    assert connection.execute("SELECT count(*) FROM esops.dead_letters").fetchone() == (0,)
    shared.write("carts.py", CODE)
    shared.ok("rebuild", "carts", "--blue-green", "--resume", "--accept-code")
    rows = connection.execute("SELECT stream, n FROM carts ORDER BY 1").fetchall()
    assert rows == [("c-1", 6), ("c-2", 6), ("c-3", 6)]


def test_one_that_is_alone_at_its_position_becomes_a_dead_letter(shared, dsn, connection):
    connection.execute("INSERT INTO ev SELECT nextval('evs'), 'c', '2', 7, 'added', '{}'")
    failing(shared, dsn, "7", on_error="dead-letter")
    said = shared.run("rebuild", "carts", "--blue-green", "--max-dead-letters", "10")
    assert said.code in {0, 1}, said
    assert connection.execute("SELECT position FROM esops.dead_letters").fetchall() == [("4",)]
    assert connection.execute("SELECT sum(n) FROM carts").fetchone() == (18,)


def test_events_of_a_position_come_by_version_wherever_their_rows_lie(shared, connection):
    connection.execute("UPDATE ev SET d = '{\"n\": 2}' WHERE v % 2 = 1")
    settings = load_config(shared.folder / "esops.toml").stores["s"].without_archive
    with open_store("s", settings) as store:
        whole = [event for batch in store.read_all() for event in batch.events]
        some = [event for batch in store.read_all(limit=4) for event in batch.events]
        back = store.read_backwards(Position((3,)))
        last = [event.version for batch in back for event in batch.events if event.stream == "c-1"]
    assert [event.version for event in whole if event.stream == "c-1"] == [1, 2, 3, 4, 5, 6]
    assert last == [6, 5, 4, 3, 2, 1]
    assert len(some) == 6, "the first position is given out whole"
    shared.ok("rebuild", "carts", "--blue-green")


def test_who_asks_for_some_events_sees_no_more(shared):
    said = shared.ok("events", "--limit", "4", "--output", "json")
    assert len(said.json) == 4
