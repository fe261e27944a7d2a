"""`esops wait`: what was committed before it began is in the read model when it returns 0."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from esops.check.reach import Reach, Reader
from esops.check.wait import Wait
from esops.config import load_config
from esops.demo import store
from esops.errors import AnotherLog, Refused
from esops.events import Checkpoint, EventFilter, NewEvent, Position
from esops.testing.memory import MemoryStore
from tests.support import emmett, shop
from tests.support.waiting import DEADLINE, end, finish, heard, until

EVENTS = 60
PATIENT = f"{DEADLINE:g}s"
HEAD = "SELECT max(seq_id) FROM shop.mt_events"


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn, store_options='append = "quick"\nsettle_timeout = "300ms"')
    project.ok("rebuild", "--blue-green")
    return project


def waited(result) -> dict:
    (found,) = result.json["projections"]
    return found


def config_of(project):
    return load_config(project.folder / "esops.toml")


def test_it_says_who_holds_a_version_back_and_returns_when_nobody_does(carts, dsn, connection):
    assert waited(carts.ok("wait", "--output", "json"))["reached"] is True
    shop.more(dsn, 20)
    head = str(connection.execute(HEAD).fetchone()[0])
    late = carts.installed.run("wait", "cart_summary", "--timeout", "200ms", "--output", "json")
    assert late.code == 5
    found = waited(late)
    assert found["reached"] is False
    assert found["version"] == 1
    assert found["goal"] == head
    assert found["lag_events"] > 0
    assert "no process follows it" in found["held_back_by"][0]
    assert "1 of 1 projection has not taken in" in late.err
    carts.run("projection", "pause", "cart_summary")
    paused = carts.run("wait", "--timeout", "200ms")
    assert paused.code == 5
    assert "paused since" in paused.out
    assert "esops projection resume cart_summary" in paused.out
    carts.run("projection", "resume", "cart_summary")
    process = carts.start("run")
    heard(process, "following")
    done = carts.ok("wait", "cart_summary", "--timeout", PATIENT, "--output", "json")
    assert waited(done)["position"] == head
    table = connection.execute("SELECT tables->'cart_summary'->>1 FROM esops.versions").fetchone()
    with psycopg.connect(dsn, application_name="migration") as other:
        other.execute(f'LOCK TABLE "{table[0]}" IN ACCESS EXCLUSIVE MODE')
        shop.more(dsn, 10)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        pid = other.info.backend_pid
        until(lambda: connection.execute(waits, [pid]).fetchone()[0])
        blocked = carts.run("wait", "--timeout", "1s")
        assert blocked.code == 5
        assert f"waits for a lock of session {pid} (migration" in blocked.out
    carts.ok("wait", "--timeout", PATIENT)
    # A position that is still to come, as an append in another place will return it.
    later = str(int(connection.execute(HEAD).fetchone()[0]) + 1)
    early = carts.run("wait", "--position", later, "--timeout", "200ms")
    assert early.code == 5
    assert f"before {later}" in early.out or "settled up to" in early.out
    waiting = carts.start("wait", "--position", later)
    shop.more(dsn, 10)
    out, err = finish(waiting)
    assert waiting.returncode == 0, (out, err)
    end(process)
    assert carts.run("wait", "--position", "nowhere").code == 2


def test_an_event_committed_before_the_command_is_waited_for_behind_an_open_writer(
    carts, dsn, connection
):
    config = config_of(carts)
    with psycopg.connect(dsn, application_name="importer") as writer:
        (held,) = writer.execute("SELECT nextval('shop.mt_events_sequence')").fetchone()
        store.generate(connection, 10, after=held, first_cart=held)
        carts.run("run", "--until-caught-up")
        short = carts.run("wait", "--timeout", "900ms", "--output", "json")
        assert short.code == 5
        assert f"session {writer.info.backend_pid} " in waited(short)["held_back_by"][0]
        found: list = []
        waiting = threading.Thread(target=lambda: found.extend(Wait(config, []).run()))
        waiting.start()
        waiting.join(0.7)
        assert not found
    head = connection.execute(HEAD).fetchone()[0]
    carts.ok("run", "--until-caught-up")
    waiting.join(30)
    assert found[0].reached
    assert found[0].position >= (head,)


@pytest.mark.thorough
def test_the_version_that_serves_at_the_end_counts(carts, dsn, connection):
    shop.more(dsn, 20)
    carts.ok("rebuild", "--blue-green", "--no-switch")
    found: list = []
    wait = Wait(config_of(carts), ["cart_summary"])
    waiting = threading.Thread(target=lambda: found.extend(wait.run()))
    waiting.start()
    waiting.join(0.5)
    assert not found  # v1 is behind, and v2 does not serve
    carts.ok("projection", "switch", "cart_summary")
    waiting.join(30)
    assert (found[0].version, found[0].reached) == (2, True)
    connection.execute("UPDATE esops.versions SET lost = 'a restore' WHERE version = 2")
    with pytest.raises(AnotherLog, match="a restore"):
        Wait(config_of(carts), []).run()
    assert carts.run("wait").code == 6


def test_the_application_keeps_it_fresh(project, dsn, connection):
    shop.make(dsn, EVENTS)
    options = 'live = "app"\ncheckpoint = "Carts:All"'
    shop.configure(project, dsn, projection_options=options)
    config = config_of(project)
    head = connection.execute(HEAD).fetchone()[0]
    connection.execute(
        "CREATE TABLE IF NOT EXISTS shop.mt_event_progression (name varchar PRIMARY KEY, "
        "last_seq_id bigint, last_updated timestamptz DEFAULT now())"
    )
    connection.execute(
        "INSERT INTO shop.mt_event_progression VALUES ('Carts:All', %s, now())", (head - 1,)
    )
    late = project.run("wait", "--timeout", "100ms", "--output", "json")
    assert late.code == 5
    assert "the application's processor Carts:All makes it" in waited(late)["held_back_by"][0]
    connection.execute("UPDATE shop.mt_event_progression SET last_seq_id = %s", (head,))
    (found,) = Wait(config, []).run()
    assert (found.reached, found.position) == (True, (head,))
    shop.configure(project, dsn, projection_options='live = "inline"\nswitch = "rename"')
    (found,) = Wait(config_of(project), []).run()
    assert found.reached
    assert "in the transaction of its event" in found.notes[0]


def test_adopted_without_a_checkpoint_is_refused(carts, connection):
    connection.execute("UPDATE esops.versions SET position = NULL, fingerprint = NULL")
    with pytest.raises(Refused, match="nobody knows how far cart_summary v1 is"):
        Wait(config_of(carts), []).run()


def test_the_filter_of_a_version_is_that_by_which_it_was_built(carts, dsn, connection):
    shop.more(dsn, 20)
    options = 'append = "quick"\nsettle_timeout = "300ms"'
    shop.configure(carts, dsn, store_options=options, projection_options='events = ["never_seen"]')
    late = carts.run("wait", "--timeout", "0s", "--output", "json")
    assert (late.code, waited(late)["reached"]) == (5, False)
    shop.configure(carts, dsn, store_options=options)
    carts.ok("run", "--until-caught-up")
    # One look is made whatever the time is.
    assert carts.run("wait", "--timeout", "1ms").code == 0


def test_rows_that_are_written_with_their_events_wait_for_no_other_append(project, dsn, connection):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn, projection_options='live = "inline"\nswitch = "rename"')
    with psycopg.connect(dsn) as writer:
        (held,) = writer.execute("SELECT nextval('shop.mt_events_sequence')").fetchone()
        store.generate(connection, 5, after=held, first_cart=held)
        # As long as the writer is open, one that waited for it would not come to its goal.
        (found,) = Wait(config_of(project), []).run(timedelta(seconds=DEADLINE))
        assert found.reached


def test_a_row_of_bookkeeping_is_no_processor(dumps, project, dsn, connection):
    emmett.restore(connection, (dumps / "marten-9.58-v4.sql").read_text())
    connection.execute("CREATE TABLE x (id text PRIMARY KEY)")

    def configure(checkpoint: str) -> None:
        project.configure(
            stores={"s": {"dsn": dsn, "schema": "public"}},
            projections={
                "x": {"python": "x:x", "tables": ["x"], "live": "app", "checkpoint": checkpoint}
            },
        )

    project.write("x.py", "from esops import fold\n\n@fold(key='stream')\ndef x(row, event): ...\n")
    configure("HighWaterMark")
    for command in (("wait", "x", "--timeout", "0s"), ("projection", "check", "x")):
        refused = project.run(*command)
        assert (refused.code, "one of: " in refused.err) == (6, True), refused.err
    configure("Poison:All")
    assert "dead letters: 1" in project.run("wait", "x", "--timeout", "0s").out


def test_names_that_cannot_be_waited_for(project, dsn):
    shop.make(dsn, 1)
    shop.configure(project, dsn)
    unbuilt = project.run("wait")
    assert (unbuilt.code, "nothing is built yet of cart_summary" in unbuilt.err) == (2, True)
    assert project.run("wait", "nope").code == 2
    project.ok("rebuild", "--blue-green")
    path = project.folder / "esops.toml"
    project.write(
        "esops.toml", path.read_text().replace("[projections.cart_summary]", "[projections.carts]")
    )
    renamed = project.run("wait")
    assert renamed.code == 2
    assert "esops projection rename cart_summary carts" in renamed.err


def test_a_look_makes_few_statements(carts, dsn, connection):
    shop.more(dsn, 10)

    def statements() -> int:
        connection.execute("SELECT pg_stat_clear_snapshot()")
        return connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()[0]

    waiting = carts.start("wait", "--timeout", "60s")
    heard(waiting, "waiting for")  # after two seconds, when all that is asked once was asked
    beyond = []
    # Each look is a transaction of its own. A session reports its own a second late, and on a slow
    # machine what it asked at the beginning later still: once, not in each of three times.
    for _ in range(3):
        began, before = time.monotonic(), statements()
        connection.execute("SELECT pg_sleep(2)")
        made = statements() - before
        beyond.append(made - (time.monotonic() - began + 1) * 5 - 4)
    assert min(beyond) <= 0, beyond
    end(waiting)


# --- readers that filter, without a database


def new(*kinds: str) -> list[NewEvent]:
    return [NewEvent("", kind, b"{}") for kind in kinds]


@pytest.fixture
def reach():
    events = MemoryStore("s")
    events.append("a", new("opened", "added", "added"))
    return Reach(events)


def settle(reach: Reach) -> None:
    reach.settle(None, timedelta(seconds=1), lambda: False, lambda _: None)


def test_a_filter_that_passes_nothing_more_has_taken_in_all(reach):
    settle(reach)
    first = next(iter(reach.store.read_all())).events[0].position
    opened = Reader("r", first, EventFilter(types=("opened",)))
    assert reach.passed_by(opened)
    assert not reach.passed_by(Reader("s", first, EventFilter(types=("added",))))
    assert not reach.passed_by(Reader("t", None, EventFilter()))
    assert reach.passed_by(Reader("t", reach.goal, EventFilter()))


def test_a_position_that_nobody_knows_is_not_reached(reach):
    settle(reach)
    beyond = Checkpoint("p", None, "running", None, evidence="its checkpoint is 'x'")
    reader = Reader.of_application(beyond, "carts")
    assert reader is not None
    assert not reach.passed_by(reader)


def test_a_position_to_come_is_reached_only_when_it_is_settled(reach):
    head = reach.store.head().position
    later = Position((*head[:-1], head[-1] + 1))
    reach.settle(later, timedelta(seconds=1), lambda: False, lambda _: None)
    rare = Reader("r", head, EventFilter(types=("never",)))
    assert not reach.passed_by(rare)
    reach.store.append("a", new("added"))
    until(lambda: reach.passed_by(rare))
