"""A load by several processes: the same rows, whoever dies, and one checkpoint at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict

import psutil
import pytest
from psycopg import sql

from esops.postgres.sharding import shard_predicate
from esops.rebuild.load.worker import Task, in_process
from esops.running.throttle import Limits
from tests.support import kinds, marten, shop
from tests.support.cases import thorough_but
from tests.support.waiting import DEADLINE, end, finish, kill, stays, until

EVENTS = 1_500
ADDED = """
from esops import fold

@fold(key="stream")
def added(row, event):
    return {"events": (row or {"events": 0})["events"] + 1}
"""


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    return project


def shards(connection) -> list[tuple]:
    if connection.execute("SELECT to_regclass('esops.shards')").fetchone()[0] is None:
        return []
    return connection.execute(
        "SELECT shard, of, position, events FROM esops.shards ORDER BY 1"
    ).fetchall()


def processes_of(rebuild) -> list[psutil.Process]:
    try:
        return [
            each
            for each in psutil.Process(rebuild.pid).children()
            if "esops.rebuild.load.worker" in each.cmdline()
        ]
    except psutil.NoSuchProcess:
        return []


def test_three_processes_make_what_one_makes(carts, connection, dsn):
    done = carts.ok("rebuild", "--blue-green", "--workers", "3", "--output", "json")
    assert (done.json["state"], done.json["events"], done.json["rows"]) == (
        "switched",
        EVENTS,
        EVENTS // 10,
    )
    assert f"load up to position {EVENTS}" in done.err
    shop.check_version(connection, 1)
    assert shards(connection) == []
    indexes = connection.execute(
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'cart_summary__v1'"
    ).fetchone()
    assert indexes == (2,)
    shop.more(dsn, 500)
    carts.ok("run", "--until-caught-up")
    shop.check_version(connection, 1)


def test_a_worker_that_dies_is_begun_again(carts, connection):
    process = carts.start(
        "rebuild", "--blue-green", "--workers", "2", "--batch-size", "100", "--max-rate", "700"
    )
    until(lambda: sum(each[3] for each in shards(connection)) > 300)
    workers = processes_of(process)
    workers[0].kill()
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "a process died" in err
    shop.check_version(connection, 1)


def test_stopped_and_resumed_with_as_many_as_it_began_with(carts, connection):
    process = carts.start(
        "rebuild", "--blue-green", "--workers", "2", "--batch-size", "100", "--max-rate", "250"
    )
    until(lambda: sum(each[3] for each in shards(connection)) > 300)
    end(process)
    assert process.returncode == 5
    stood = shards(connection)
    assert len(stood) == 2
    stays(lambda: shards(connection) == stood, 0.5)  # nobody works on
    carts.ok("projection", "pause", "cart_summary")
    process = carts.start("rebuild", "--blue-green", "--resume")
    until(lambda: processes_of(process))
    stays(lambda: shards(connection) == stood, 1)  # paused
    carts.ok("projection", "resume", "cart_summary")
    carts.ok("projection", "throttle", "cart_summary", "--max-rate", "1000000")
    _, err = finish(process)
    assert process.returncode == 0, err
    shop.check_version(connection, 1)


@pytest.mark.parametrize("number", thorough_but([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_a_signal_to_all_of_them_stops_them_in_order(carts, connection, number):
    """As a terminal's Ctrl-C goes to all processes of a job, and a service manager's end."""
    text = (carts.folder / "shop_projections.py").read_text()
    carts.write(
        "shop_projections.py",
        text.replace(
            "    at = event", "    print('a projection may print', 'x' * 1000)\n    at = event"
        ),
    )
    process = subprocess.Popen(
        carts.command(
            "rebuild", "--blue-green", "--workers", "2", "--batch-size", "100", "--max-rate", "250"
        ),
        cwd=carts.folder,
        env=carts.environ(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    threading.Thread(target=process.communicate, daemon=True).start()
    until(lambda: sum(each[3] for each in shards(connection)) > 300)
    os.killpg(process.pid, number)
    assert process.wait(DEADLINE) == 5
    until(
        lambda: (
            connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND "
                "mode = 'ExclusiveLock'"
            ).fetchone()
            == (0,)
        )
    )
    (carts.folder / "shop_projections.py").write_text(text)
    state = connection.execute("SELECT state, reason FROM esops.rebuilds").fetchone()
    assert state == ("paused", "asked to stop")


def test_given_up_it_leaves_nothing(carts, connection):
    process = carts.start(
        "rebuild", "--blue-green", "--workers", "2", "--batch-size", "100", "--max-rate", "250"
    )
    until(lambda: sum(each[3] for each in shards(connection)) > 300)
    kill(process)
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    assert shards(connection) == []
    carts.ok("rebuild", "--blue-green")
    shop.check_version(connection, 2)


def test_a_poison_event_of_one_shard_stops_all(carts, connection):
    text = (carts.folder / "shop_projections.py").read_text()
    bad = text.replace(
        "    at = event.position[0]\n",
        "    at = event.position[0]\n    assert at != 1121, 'bad luck'\n",
    )
    (carts.folder / "shop_projections.py").write_text(bad)
    result = carts.run("rebuild", "--blue-green", "--workers", "2")
    assert result.code == 6
    assert "position 1121" in result.err
    assert "bad luck" in result.err
    config = (carts.folder / "esops.toml").read_text()
    carts.write(
        "esops.toml",
        config.replace(
            'tables = ["cart_summary"]', 'tables = ["cart_summary"]\non_error = "dead-letter"'
        ),
    )
    done = carts.run("rebuild", "--blue-green", "--resume", "--max-dead-letters", "1")
    assert (done.code, "serves now" in done.out) == (1, True)
    assert connection.execute("SELECT position FROM esops.dead_letters").fetchall() == [("1121",)]


def test_what_cannot_be_dealt_says_so(dsn, project):
    shop.make(dsn, 100)
    kinds.configure(project, dsn, "handlers")
    result = project.run("rebuild", "--blue-green", "--workers", "2")
    assert result.code == 6
    assert "--workers and --engine: only for folds" in result.err
    shop.configure(
        project, dsn, code=shop.PROJECTION.replace('key="stream"', "key=lambda event: event.stream")
    )
    result = project.run("rebuild", "--blue-green", "--workers", "2")
    assert result.code == 6
    assert "keyed by the stream" in result.err
    assert project.run("rebuild", "--yes", "--workers", "2").code == 2
    assert os.environ is not None


def test_a_process_with_other_code_touches_nothing(carts, connection):
    process = carts.start(
        "rebuild", "--blue-green", "--workers", "2", "--batch-size", "100", "--max-rate", "250"
    )
    until(lambda: sum(each[3] for each in shards(connection)) > 200)
    kill(process)
    until(
        lambda: (
            connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND "
                "mode = 'ExclusiveLock'"
            ).fetchone()
            == (0,)
        )
    )
    stood = shards(connection)
    task = Task(
        carts.folder / "esops.toml",
        "cart_summary",
        1,
        "shop",
        0,
        2,
        str(EVENTS),
        None,
        Limits(None, None, None, None),
        "other",
        {"carts.RATE": "1"},
        None,
    )
    failure = in_process(task, lambda: False)
    assert failure is not None
    assert (failure.error, "is not the code that the rebuild began with" in failure.message) == (
        "Refused",
        True,
    )
    assert "carts.RATE" in failure.message
    assert shards(connection) == stood


DDL = """
CREATE TABLE {table} (
    cart_id text PRIMARY KEY, whole numeric, exact numeric, seldom numeric, one uuid,
    at timestamptz, only_here text DEFAULT 'nobody', only_there numeric DEFAULT 7, after text
)
"""
TYPED = """
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID
from esops import fold

HERE = {here!r}

@fold(key="stream")
def cart_summary(row, event):
    here, n = event.stream in HERE, event.version
    if event.position[0] > {last}:
        # How a row comes back after the load.
        return {{**row, "after": repr([type(each).__name__ for each in row.values()])}}
    values = {{
        "whole": n if here else n + 0.5,
        "exact": n if here else Decimal(n) / 4,
        "seldom": n if here else None,
        "one": UUID(int=n) if here else str(UUID(int=n)),
        "at": datetime(2026, 1, n, tzinfo=UTC) if here else f"2026-01-{{n:02}}T00:00:00Z",
    }}
    return values | ({{"only_here": "x"}} if here else {{"only_there": n}})
"""


def test_types_that_only_one_process_has_seen_come_back_as_with_one_process(
    dsn, connection, project
):
    shop.make(dsn, 200)
    here = connection.execute(
        sql.SQL("SELECT DISTINCT stream_id FROM shop.mt_events WHERE {}").format(
            shard_predicate(sql.Identifier("stream_id"), 0, 2)
        )
    ).fetchall()
    assert 0 < len(here) < 20
    code = TYPED.format(here=sorted(row[0] for row in here), last=200)
    shop.configure(project, dsn, code=code, ddl=DDL)
    alone = project.ok("rebuild", "--blue-green", "--dry-run", "--output", "json").json
    plan = ("rebuild", "--blue-green", "--workers", "2", "--dry-run", "--output", "json")
    notes = set(project.ok(*plan).json["notes"]) - set(alone["notes"])
    typed = "5 for 5.0 in whole, exact, seldom, one, at, only_there."
    assert [note for note in notes if typed in note], notes
    project.ok("rebuild", "--blue-green")
    project.ok("rebuild", "--blue-green", "--workers", "2")

    def table(number: int) -> list[tuple]:
        return connection.execute(f"SELECT * FROM cart_summary__v{number} ORDER BY 1").fetchall()

    assert table(2) == table(1)
    one, two = connection.execute(
        "SELECT value_types FROM esops.versions ORDER BY version"
    ).fetchall()
    assert two == one
    connection.execute(
        "INSERT INTO shop.mt_events (seq_id, id, stream_id, version, data, type, timestamp)"
        " SELECT nextval('shop.mt_events_sequence'), gen_random_uuid(), stream_id, 99, '{}',"
        " 'product_item_added', now() FROM (SELECT DISTINCT stream_id FROM shop.mt_events) s"
    )
    project.ok("run", "--until-caught-up")
    assert table(2) == table(1)
    assert all(row[-1] for row in table(2))


@pytest.mark.parametrize("workers", thorough_but(["1", "2"], "2"))
def test_a_column_of_one_process_whose_default_is_not_the_same_for_all_rows(
    workers, dsn, connection, project
):
    """One process refuses such a row; several used to leave the others to chance."""
    shop.make(dsn, 100)
    (some,) = connection.execute("SELECT min(stream_id) FROM shop.mt_events").fetchone()
    code = TYPED.format(here=[some], last=100)
    ddl = DDL.replace("'nobody'", "gen_random_uuid()::text")
    shop.configure(project, dsn, code=code, ddl=ddl)
    refused = project.run("rebuild", "--blue-green", "--workers", workers)
    assert refused.code == 6, refused.err
    assert "only_here" in refused.err
    assert "write it in each row" in refused.err


@pytest.mark.parametrize(
    "killed", thorough_but(["before the task", "before the answer"], "before the answer")
)
def test_a_process_whose_rebuild_is_killed_ends_without_a_traceback(carts, killed):
    """Nobody reads its answer any more, or gives it a task."""
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "esops.rebuild.load.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    task = json.dumps(
        {
            "config": str(carts.folder / "esops.toml"),
            "projection": "no_such",
            "version": 1,
            "store": "shop",
            "shard": 0,
            "of": 2,
            "until": "1",
            "batch_size": None,
            "limits": asdict(Limits()),
            "fingerprint": "",
            "names": {},
            "owner": None,
        }
    )
    worker.stdout.close()
    worker.stdin.write(task[:20] if killed == "before the task" else task + "\n")
    worker.stdin.close()
    assert worker.stderr.read() == ""
    worker.stderr.close()
    worker.wait(DEADLINE)


@pytest.mark.parametrize("named_by", ["text", "uuid"])
def test_streams_are_split_only_where_the_key_tells_them_apart(named_by, dsn, connection, project):
    """A uuid column takes a name in capitals and the same in small letters for one key: two
    processes would both write its row, and one of them lose what the other has folded.
    """
    name = "AAAAAAAA-0000-4000-8000-00000000000B"
    marten.create(connection, marten.Variant(text_ids=named_by == "text"))
    streams = [name, name.lower()] if named_by == "text" else [name]
    for number, stream in enumerate(streams, 1):
        connection.execute("INSERT INTO mt_streams (id, version) VALUES (%s, 1)", (stream,))
        connection.execute(
            "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) "
            "VALUES (%s, gen_random_uuid(), %s, 1, '{}', 'added')",
            (number, stream),
        )
    connection.execute("SELECT setval('mt_events_sequence', %s)", (len(streams),))
    project.configure(
        stores={"s": {"dsn": dsn}},
        projections={"p": {"python": "p:added", "tables": ["added"], "ddl": "added.sql"}},
    )
    project.write("p.py", ADDED)
    project.write("added.sql", "CREATE TABLE {table} (id uuid PRIMARY KEY, events int)")
    project.patch(
        "from esops.rebuild.load import measuring\n"
        "measuring.choose = lambda *_: measuring.Workers(2, 'two')\n"
    )
    build = ("rebuild", "--blue-green", "--workers")
    done = project.ok(*build, "auto" if named_by == "text" else "1", "--output", "json")
    assert (done.json["rows"], done.json["events"]) == (1, len(streams))
    several = [project.run(*build, "2", "--dry-run")]
    several.append(project.run("rebuild", "--ranges", "2", "--dry-run"))
    measured = project.ok(*build, "auto", "--dry-run").out
    if named_by == "uuid":
        assert [each.code for each in several] == [0, 0], several
        assert "workers: 2 (two)" in measured
        return
    several.append(project.run("rebuild", "--ranges", "2", "--yes"))
    for each in several:
        assert each.code == 6, each.err
        assert "the column id of the key" in each.err
    assert "workers: 1 (the column id of the key" in measured
    (position,) = connection.execute("SELECT position FROM esops.versions").fetchone()
    assert position == str(len(streams)), "nothing was begun"
