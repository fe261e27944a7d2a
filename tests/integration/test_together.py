"""Several projections from one read of the events: each right by itself, whatever becomes of the
others.
"""

from __future__ import annotations

import json
import signal

import psycopg
import pytest

from tests.support import kinds, shop
from tests.support.kills import state
from tests.support.waiting import finish, kill, until

EVENTS = 4_000
TOTALS = """
from esops import fold

@fold(key=lambda event: event.stream)
def cart_events(row, event):
    return {"events": (row["events"] if row else 0) + 1, "position": event.position[0]}

@fold(key="stream")
def confirmed(row, event):
    return {"position": event.position[0]}
"""
MORE = """
[projections.cart_events]
python = "totals:cart_events"
tables = ["cart_events"]
ddl = "cart_events.sql"

[projections.confirmed]
python = "totals:confirmed"
tables = ["confirmed"]
events = ["shopping_cart_confirmed"]
ddl = "confirmed.sql"

[projections.by_statement]
kind = "sql"
statement = "cart_summary_statement.sql"
tables = ["by_statement"]
ddl = "cart_summary.sql"
"""
NAMES = ("cart_summary", "cart_events", "confirmed", "by_statement")


def configure(project, dsn: str) -> None:
    """Four projections of the shop's."""
    kinds.configure(project, dsn, "fold")
    project.write("cart_summary_statement.sql", kinds.SQL)
    project.write("totals.py", TOTALS)
    project.write(
        "cart_events.sql",
        "CREATE TABLE {table} (cart_id text PRIMARY KEY, events int NOT NULL, position bigint "
        "NOT NULL);",
    )
    project.write(
        "confirmed.sql",
        "CREATE TABLE {table} (cart_id text PRIMARY KEY, position bigint NOT NULL);",
    )
    project.write("esops.toml", (project.folder / "esops.toml").read_text() + MORE)


@pytest.fixture
def several(dsn, project):
    shop.make(dsn, EVENTS)
    configure(project, dsn)
    return project


def check(connection, up_to: int | None = None) -> None:
    (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
    last = up_to or last
    assert shop.table(connection, "cart_summary") == shop.truth(connection, last)
    assert shop.table(connection, "by_statement") == shop.truth(connection, last)
    for table, query in (
        (
            "cart_events",
            (
                "SELECT stream_id, count(*)::int, max(seq_id) FROM shop.mt_events WHERE seq_id <= %s "
                "GROUP BY 1"
            ),
        ),
        (
            "confirmed",
            (
                "SELECT stream_id, seq_id FROM shop.mt_events WHERE type = 'shopping_cart_confirmed' "
                "AND seq_id <= %s"
            ),
        ),
    ):
        assert set(connection.execute(f"SELECT * FROM {table}").fetchall()) == set(
            connection.execute(query, (last,)).fetchall()
        )


def unused(connection) -> bool:
    """Whether no session of esops is left: those of a killed process end a moment later."""
    return connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'esops%' AND datname = "
        "current_database()"
    ).fetchone() == (0,)


def events_read(connection) -> int:
    """Events that any session was given in order so far: what is counted is counted by scans, and
    reading goes by the index.
    """
    until(lambda: unused(connection))  # a session hands its figures over at its end
    connection.execute("SELECT pg_stat_clear_snapshot()")
    return connection.execute(
        "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'mt_events'"
    ).fetchone()[0]


def test_they_are_made_from_one_read(several, connection):
    hint = several.run("run", *NAMES[:3], "--until-caught-up").err
    assert f"esops rebuild {' '.join(sorted(NAMES[:3]))} --blue-green" in hint
    plan = several.ok("rebuild", *NAMES[:3], "--blue-green", "--dry-run").out
    assert plan.count("Plan: rebuild") == 3
    assert plan.count("CREATE TABLE IF NOT EXISTS esops.versions") == 1, "one read model"
    before = events_read(connection)
    done = several.ok("rebuild", *NAMES[:3], "--blue-green", "--output", "json").json
    together = events_read(connection) - before
    assert [(each["projection"], each["state"], each["events"]) for each in done["rebuilds"]] == [
        ("cart_summary", "switched", EVENTS),
        ("cart_events", "switched", EVENTS),
        (
            "confirmed",
            "switched",
            connection.execute("SELECT count(*) FROM confirmed").fetchone()[0],
        ),
    ]
    several.ok("rebuild", "by_statement", "--blue-green")
    check(connection)
    before = events_read(connection)
    for name in NAMES[:2]:
        several.ok("rebuild", name, "--blue-green", "--compare", "none")
    apart = events_read(connection) - before
    assert EVENTS <= together < 1.2 * EVENTS, f"{together} events were read for three projections"
    assert apart > 1.9 * EVENTS, (
        f"the measure does not measure: {apart} for two, one after the other"
    )


def test_with_writers_on_each_is_verified_and_switched(several, dsn, connection):
    several.ok("rebuild", *NAMES, "--blue-green")
    with shop.Workload() as workload:
        workload.add("writer", dsn, rate=300)
        done = several.ok("rebuild", *NAMES, "--blue-green", "--output", "json").json
        workload.stop()
    assert {each["to_version"] for each in done["rebuilds"]} == {2}
    assert {each["verification"]["differing"] for each in done["rebuilds"]} == {0}
    several.ok("run", "--until-caught-up")
    check(connection)


def test_one_that_fails_does_not_stop_the_others(several, connection):
    text = TOTALS.replace(
        '    return {"position"',
        '    if event.position[0] > 2500: raise ValueError("no more")\n    return {"position"',
    )
    several.write("totals.py", text)
    result = several.run("rebuild", *NAMES, "--blue-green", "--output", "json")
    assert result.code == 6, result.err
    assert "1 of 4 rebuilds did not finish" in result.err
    assert "confirmed: " in result.err
    assert "ValueError: no more" in result.err
    assert [each["projection"] for each in json.loads(result.out)["rebuilds"]] == [
        "cart_summary",
        "cart_events",
        "by_statement",
    ]
    again = several.run("rebuild", *NAMES, "--blue-green")
    assert again.code == 6
    assert "of confirmed (paused)" in again.err
    several.ok("rebuild", "confirmed", "--blue-green", "--abort", "--yes")
    several.write("totals.py", TOTALS)
    several.ok("rebuild", *NAMES, "--blue-green")
    check(connection)


def test_each_takes_its_part_of_a_read_that_begins_at_the_lowest_checkpoint(several, connection):
    """One is half done, another at its beginning: read together, nothing is applied twice."""
    process = several.start(
        "rebuild", "cart_events", "--blue-green", "--batch-size", "200", "--max-rate", "2000"
    )
    until(lambda: state(connection) == "catching-up")
    until(
        lambda: (
            connection.execute(
                "SELECT coalesce(max(position::int), 0) FROM esops.versions"
            ).fetchone()[0]
            >= 1_000
        )
    )
    kill(process)
    text = (several.folder / "shop_projections.py").read_text()
    several.write("shop_projections.py", "raise RuntimeError('not yet')")
    assert several.run("rebuild", *NAMES[:2], "--blue-green", "--resume").code == 2
    (several.folder / "shop_projections.py").write_text(text)
    start = several.start("rebuild", "cart_summary", "--blue-green", "--max-rate", "1000")
    until(lambda: connection.execute("SELECT count(*) FROM esops.rebuilds").fetchone() == (2,))
    start.send_signal(signal.SIGINT)
    assert start.wait() == 5
    done = several.ok(
        "rebuild",
        *NAMES[:2],
        "--blue-green",
        "--resume",
        "--max-rate",
        "1000000",
        "--output",
        "json",
    ).json
    assert [each["events"] for each in done["rebuilds"]] == [EVENTS, EVENTS]
    several.ok("rebuild", *NAMES[2:], "--blue-green")
    check(connection)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--workers", "2", "--blue-green"), "for one projection"),
        (("--yes",), "Add --blue-green"),
        (("cart_events", "--blue-green"), "named twice"),
    ],
)
def test_what_only_one_can_do(several, arguments, words):
    result = several.run("rebuild", "cart_summary", "cart_events", *arguments)
    assert result.code == 2
    assert words in result.err


@pytest.mark.thorough
def test_a_server_that_comes_back_is_read_together_again(several, own_server):
    """The read fails for all of them, and is begun again for all of them."""
    dsn = own_server.dsn()
    shop.make(dsn, EVENTS)
    text = (several.folder / "esops.toml").read_text()
    first = text.split('"')[1]
    several.write("esops.toml", text.replace(first, dsn))
    slow = "import time\n" + TOTALS.replace("    return {", "    time.sleep(0.001)\n    return {")
    several.write("totals.py", slow)  # under a rate each would read by itself
    process = several.start("rebuild", *NAMES[:2], "--blue-green", "--batch-size", "500")
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(lambda: state(connection) == "catching-up")
        until(lambda: connection.execute("SELECT max(events) FROM esops.versions").fetchone()[0])
    own_server.restart()
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "the database can be reached again" in err
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert shop.table(connection, "cart_summary") == shop.truth(connection, EVENTS)


def test_one_that_was_to_be_begun_with_the_others_and_was_not_is_begun_by_resume(
    several, connection
):
    """As where the command is killed between two entries of its journal."""
    process = several.start(
        "rebuild", *NAMES[:2], "--blue-green", "--batch-size", "200", "--max-rate", "1000"
    )
    until(
        lambda: (
            connection.execute(
                "SELECT count(*) FROM pg_class WHERE relname LIKE 'cart%v1'"
            ).fetchone()[0]
            >= 2
        )
    )
    kill(process)
    until(lambda: unused(connection))
    connection.execute(
        "DELETE FROM esops.rebuilds WHERE projection = 'cart_events'; DELETE FROM esops.versions "
        "WHERE projection = 'cart_events'; "
        "DROP TABLE cart_events__v1"
    )
    done = several.ok(
        "rebuild",
        *NAMES[:2],
        "--blue-green",
        "--resume",
        "--max-rate",
        "1000000",
        "--output",
        "json",
    ).json
    assert [(each["state"], each["events"]) for each in done["rebuilds"]] == [
        ("switched", EVENTS)
    ] * 2
    several.ok("rebuild", *NAMES[2:], "--blue-green")
    check(connection)
