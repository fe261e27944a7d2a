"""Events that cannot be projected: found exactly, told with coordinates, and passed only when asked
to.
"""

from __future__ import annotations

import json
import sys

import pytest

from esops.config import load_config
from esops.errors import EsopsError
from esops.readmodel import locks
from esops.rebuild.api import rebuild
from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.waiting import end, until

PLACE = "    if event.position[0] == AT:\n        {what}\n"
KINDS = {
    "raises": ("raise KeyError('quantity')", "KeyError: 'quantity' (in cart_summary"),
    "returns nonsense": ("return ['not', 'a', 'row']", "the function returned a list"),
    "returns an unknown column": (
        "return {**(row or {}), 'totl': 1}",
        "column 'totl', but cart_summary__v1 has no such column. Did you mean 'total'?",
    ),
    "returns a wrong type": (
        "return {**row, 'items': 'many'} if row else None",
        "items = 'many' (str), which the column (integer) cannot hold: it is no integer",
    ),
    "returns too much": (
        "return {**row, 'total': 10 ** 20} if row else None",
        "more than 10 digits before the point",
    ),
    "breaks a constraint": (
        "return {**row, 'client': None} if row else None",
        'null value in column "client"',
    ),
    "returns what cannot be stored": (
        "return {**row, 'status': object()} if row else None",
        "(object), which the column (text) cannot hold",
    ),
    "returns a NUL": ("return {**row, 'status': chr(0)} if row else None", "NUL"),
    "has another key": (
        "return {**row, 'cart_id': 'stolen'} if row else None",
        "its row has cart_id = 'stolen', but its key is",
    ),
}


def last_of_a_cart(connection, after: int) -> int:
    """The last event of some cart, so that no later one puts its row right again before it is
    written.
    """
    return connection.execute(
        "SELECT min(seq_id) FROM shop.mt_events WHERE seq_id > %s AND version = 10", (after,)
    ).fetchone()[0]


@pytest.mark.parametrize(
    "kind",
    thorough_but(KINDS, "raises", "returns a wrong type", "breaks a constraint", "has another key"),
)
def test_a_poison_event_stops_with_its_coordinates_and_what_was_before_is_kept(
    kind, dsn, connection, project
):
    what, reason = KINDS[kind]
    shop.make(dsn, 800)
    at = last_of_a_cart(connection, 234)
    code = shop.PROJECTION.replace(
        "    at = event", PLACE.format(what=what).replace("AT", str(at)) + "    at = event"
    )
    shop.configure(project, dsn, code=code)
    with pytest.raises(EsopsError) as stopped:
        rebuild(load_config(project.folder / "esops.toml"), ["cart_summary"])
    assert stopped.value.exit_code == 6
    told = f"{stopped.value.message} {stopped.value.hint}"
    event = connection.execute(
        "SELECT id, type, version, stream_id FROM shop.mt_events WHERE seq_id = %s", (at,)
    ).fetchone()
    assert (
        f"cannot project event {event[0]} ({event[1]}, version {event[2]} of stream '{event[3]}', "
        f"position {at})" in told
    )
    assert reason in told
    position = connection.execute("SELECT position FROM esops.versions").fetchone()[0]
    assert int(position) == at - 1
    assert shop.table(connection, "cart_summary__v1") == shop.truth(connection, at - 1)
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)


@pytest.mark.parametrize(
    "kind", thorough_but(["raises", "returns a wrong type", "returns nonsense"], "raises")
)
def test_dead_letters_are_kept_and_passed(kind, dsn, connection, project):
    what, reason = KINDS[kind]
    shop.make(dsn, 1_000)
    ends = connection.execute("SELECT seq_id FROM shop.mt_events WHERE version = 10").fetchall()
    at = {min(ends)[0], max(ends)[0]}
    code = shop.PROJECTION.replace(
        "    at = event", PLACE.format(what=what).replace("== AT", f"in {at}") + "    at = event"
    )
    shop.configure(project, dsn, code=code, projection_options='on_error = "dead-letter"')
    stopped = project.run("rebuild", "--blue-green", "--output", "json")
    assert (stopped.code, stopped.json["dead_letters"], stopped.json["state"]) == (1, 2, "paused")
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)
    resume = ("rebuild", "--blue-green", "--resume", "--max-dead-letters")
    assert project.run(*resume, "1").code == 1
    assert "--max-dead-letters 2" in project.run(*resume, "0.01%").out
    assert project.run(*resume, "some").code == 2
    # Done, but not all of it: the exit code says so, whatever was allowed.
    switched = project.run(*resume, "0.3%", "--output", "json")
    done = switched.json
    assert (switched.code, done["state"], done["dead_letters"]) == (1, "switched", 2)
    assert done["events"] == 1_000
    letters = project.ok("projection", "dead-letters", "cart_summary", "--output", "json").json
    assert [letter["position"] for letter in letters] == [str(number) for number in sorted(at)]
    assert reason in letters[0]["error"]
    carts = connection.execute(
        "SELECT stream_id FROM shop.mt_events WHERE seq_id = ANY(%s)", (list(at),)
    ).fetchall()
    spoiled = {row[0] for row in carts}
    found, expected = shop.table(connection, "cart_summary"), shop.truth(connection, 1_000)
    assert {k: v for k, v in found.items() if k not in spoiled} == {
        k: v for k, v in expected.items() if k not in spoiled
    }
    assert len(found) == len(expected)


def test_rows_that_collide_on_a_unique_key_are_refused_by_name(dsn, connection, project):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn, ddl=shop.DDL + "CREATE UNIQUE INDEX one_each ON {table} (status);")
    result = project.run("rebuild", "--blue-green")
    assert result.code == 6
    assert "unique key one_each" in result.err
    assert "(status)=" in result.err
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)


def test_two_ways_to_write_a_key_are_one_row(dsn, connection, project):
    shop.make(dsn, 1_000)
    ddl = shop.DDL.replace("cart_id text PRIMARY KEY", "cart_id numeric PRIMARY KEY")
    code = (
        shop.PROJECTION.replace('key="stream"', "key=lambda e: '1' if e.version < 5 else '1.0'")
        .replace('"cart_id": event.stream, ', "")
        .replace("**row", "**(row or {'client': 'x', 'items': 0, 'total': 0, 'status': 'y'})")
        .replace('row["items"]', '(row or {"items": 0})["items"]')
        .replace('row["total"]', '(row or {"total": 0})["total"]')
    )
    shop.configure(project, dsn, code=code, ddl=ddl)
    project.ok("rebuild", "--blue-green")
    assert connection.execute("SELECT cart_id, position FROM cart_summary").fetchall() == [
        (1, 1_000)
    ]


def test_the_event_that_spoils_a_row_is_blamed_and_not_the_one_that_stumbles_over_it(
    dsn, connection, project
):
    shop.make(dsn, 600)
    at = connection.execute(
        "SELECT min(seq_id) FROM shop.mt_events WHERE seq_id > 100 AND version = 5"
    ).fetchone()[0]
    spoil = PLACE.format(what="return {**row, 'items': 'many'}").replace("AT", str(at))
    shop.configure(
        project, dsn, code=shop.PROJECTION.replace("    at = event", spoil + "    at = event")
    )
    result = project.run("rebuild", "--blue-green")
    assert (
        f"position {at}): its row has items = 'many' (str), which the column (integer) cannot hold"
        in result.err
    )


def test_fixed_code_continues_where_the_operator_vouches_for_the_rows_so_far(
    dsn, connection, project
):
    shop.make(dsn, 300)
    at = last_of_a_cart(connection, 150)
    place = PLACE.format(what="raise KeyError('quantity')").replace("AT", str(at))
    code = shop.PROJECTION.replace("    at = event", place + "    at = event")
    shop.configure(project, dsn, code=code)
    stopped = project.run("rebuild", "--blue-green", "--batch-size", "50")
    assert (stopped.code, "--resume --accept-code" in stopped.err) == (6, True)
    shop.configure(project, dsn)
    refused = project.run("rebuild", "--blue-green", "--resume")
    assert (refused.code, "--accept-code" in refused.err) == (6, True)
    preview = project.ok("rebuild", "--blue-green", "--resume", "--accept-code", "--dry-run")
    assert f"up to position {at - 1} were made by the code before" in preview.out
    assert project.run("rebuild", "--blue-green", "--accept-code").code == 2
    done = project.ok("rebuild", "--blue-green", "--resume", "--accept-code")
    assert f"up to position {at - 1} were made by the code before" in done.err
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 300)
    shown = project.ok("projection", "show", "cart_summary", "--output", "json").json
    [version] = shown["versions"]
    assert [each["position"] for each in version["accepted_code"]] == [str(at - 1)]
    assert f"up to position {at - 1}" in project.ok("projection", "show", "cart_summary").out
    # The code of today is the version's own from now on.
    assert "older events" not in project.ok("run", "--until-caught-up").err


def test_dead_letters_are_told_wherever_a_version_is_shown_and_can_be_discarded(
    dsn, connection, project
):
    shop.make(dsn, 100)
    at = last_of_a_cart(connection, 50)
    place = PLACE.format(what="raise KeyError('quantity')").replace("AT", str(at))
    code = shop.PROJECTION.replace("    at = event", place + "    at = event")
    skip = 'on_error = "dead-letter"'
    shop.configure(project, dsn, code=code, projection_options=skip)
    assert project.run("rebuild", "--blue-green", "--no-switch").code == 1
    refused = project.run("projection", "switch", "cart_summary")
    assert (refused.code, "1 of 100 events" in refused.err) == (6, True)
    project.ok("projection", "switch", "cart_summary", "--max-dead-letters", "1")
    shown = project.ok("projection", "show", "cart_summary", "--output", "json").json
    assert shown["versions"][0]["dead_letters"] == 1
    assert "1 event became a dead letter" in project.ok("projection", "show", "cart_summary").out
    status = project.run("status", "--output", "json")
    assert (status.code, status.json["projections"][0]["dead_letters"]) == (1, 1)
    labels = 'projection="cart_summary",state="active",version="1"'
    assert f"esops_version_dead_letters{{{labels}}} 1.0" in project.ok("metrics").out
    assert project.run("run", "--until-caught-up").code == 1
    assert project.run("projection", "dead-letters", "cart_summary", "discard").code == 2
    discard = ("projection", "dead-letters", "cart_summary", "discard", "--yes", "--output", "json")
    assert project.ok(*discard).json == {"projection": "cart_summary", "discarded": 1}
    note = "SELECT detail FROM esops.rebuild_log WHERE event = 'dead letters discarded'"
    [(detail,)] = connection.execute(note).fetchall()
    assert detail == {"events": 1, "first": [f"v1 at {at}"]}
    project.ok("status")
    project.ok("run", "--until-caught-up")


def test_a_dead_letter_that_comes_just_before_the_switch_keeps_green_from_serving(
    dsn, connection, project
):
    """Events are appended after the verification, by the hook that runs before the switch."""
    shop.make(dsn, 400)
    code = shop.PROJECTION.replace(
        "    at = event",
        PLACE.format(what="raise KeyError('x')").replace("== AT", "> 400") + "    at = event",
    )
    project.write(
        "append.py",
        "import psycopg\n"
        "from esops.demo import store\n"
        f"with psycopg.connect({dsn!r}, autocommit=True) as connection:\n"
        "    store.generate(connection, 10, after=400, first_cart=40)\n",
    )
    hook = json.dumps([sys.executable, "append.py"])
    options = f'on_error = "dead-letter"\nhooks.before_switch = {hook}'
    shop.configure(project, dsn, code=code, projection_options=options)
    stopped = project.run("rebuild", "--blue-green", "--output", "json")
    assert (stopped.code, stopped.json["dead_letters"], stopped.json["state"]) == (1, 10, "paused")
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)


@pytest.mark.parametrize("ranges", thorough_but([(), ("--ranges", "3")], ("--ranges", "3")))
def test_a_rebuild_in_place_begins_its_dead_letters_again(ranges, dsn, connection, project):
    shop.make(dsn, 100)
    at = last_of_a_cart(connection, 50)
    place = PLACE.format(what="raise KeyError('quantity')").replace("AT", str(at))
    code = shop.PROJECTION.replace("    at = event", place + "    at = event")
    skip = 'on_error = "dead-letter"'
    shop.configure(project, dsn, code=code, projection_options=skip)
    assert project.run("rebuild", "--blue-green", "--max-dead-letters", "1").code == 1
    again = project.run("rebuild", "--yes", *ranges, "--output", "json")
    assert (again.code, again.json["state"], again.json["dead_letters"]) == (1, "paused", 1)
    finished = project.run("rebuild", "--resume", "--max-dead-letters", "1", "--output", "json")
    assert (finished.code, finished.json["state"]) == (1, "rebuilt")
    found = connection.execute("SELECT version, position FROM esops.dead_letters").fetchall()
    assert found == [(1, str(at))]
    shop.configure(project, dsn, projection_options=skip)
    project.ok("rebuild", "--yes", *ranges)
    assert connection.execute("SELECT count(*) FROM esops.dead_letters").fetchone() == (0,)


REPLAY = ("projection", "dead-letters", "cart_summary", "replay")
SKIP = 'on_error = "dead-letter"'


def test_dead_letters_are_replayed_once_with_fixed_code(dsn, connection, project):
    shop.make(dsn, 120)
    # In the middle of a cart: what follows it depends on it, or fails without it.
    bad = "event.version in (1, 3) and event.stream[-1] in '02468'"
    place = f"    assert not ({bad})\n"
    code = shop.PROJECTION.replace("    at = event", place + "    at = event")
    shop.configure(project, dsn, code=code, projection_options=SKIP)
    built = project.run("rebuild", "--blue-green", "--output", "json", "--max-dead-letters", "99%")
    dead = built.json["dead_letters"]
    assert dead > 10
    # The code that is there still fails: nothing changes.
    still = project.run(*REPLAY, "--output", "json")
    assert (still.code, still.json["replayed"], still.json["failed"]) == (1, 0, dead)
    shop.configure(project, dsn, projection_options=SKIP)
    assert project.run(*REPLAY).code == 6
    host = project.start("run")
    try:
        lock = locks.version_lock("cart_summary", 1)
        until(lambda: locks.holder(connection, lock) is not None)
        assert project.run(*REPLAY, "--accept-code").code == 4
    finally:
        end(host)
    done = project.ok(*REPLAY, "--accept-code", "--output", "json").json
    assert (done["replayed"], done["failed"]) == (dead, 0)
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 120)
    rows = connection.execute("SELECT count(*) FROM cart_summary").fetchone()
    assert connection.execute("SELECT rows FROM esops.versions").fetchone() == rows
    assert project.ok(*REPLAY, "--output", "json").json["replayed"] == 0
    project.ok("status")


COUNTS = """
from esops import Handlers

counts = Handlers()

@counts.on("product_item_added")
def added(event, write):
    write.increment("cart_summary", {"cart_id": event.stream}, {"items": 1})
"""
DIES = """
import os, signal
from esops.running import replay

real, calls = replay.remove_dead_letters, []

def remove(*given):
    real(*given)
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

replay.remove_dead_letters = remove
"""
DIES_AFTER = """
import os, signal
from esops.running import replay

real, calls = replay.Replayer._one, []

def one(self, event, found):
    real(self, event, found)
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

replay.Replayer._one = one
"""


PROGRAM = """
import json, os, sys

def say(**document):
    print(json.dumps(document), flush=True)

for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        say(type="ready", protocol=1)
    elif message["type"] == "batch":
        for event in message["events"]:
            if "BAD" in sys.argv and not event["version"] % 2:
                say(type="poison", event=event["id"], error="I cannot")
                break
            key = {"cart_id": event["stream"]}
            say(op="increment", table="cart_summary", key=key, by={"items": 1})
        else:
            say(type="done", number=message["number"])
"""
COUNTED = "CREATE TABLE {table} (cart_id text PRIMARY KEY, items integer NOT NULL DEFAULT 0)"


def counting(project, dsn, kind: str, *, bad: bool) -> None:
    """A projection that counts what is added, and fails on every other event if `bad`."""
    body = "    write.increment"
    fails = COUNTS.replace(body, "    assert event.version % 2\n" + body)
    shop.configure(
        project, dsn, code=fails if bad else COUNTS, ddl=COUNTED, projection_options=SKIP
    )
    project.write("program.py", PROGRAM)
    how = {
        "handlers": 'kind = "handlers"\npython = "shop_projections:counts"',
        "process": 'kind = "process"\nevents = ["product_item_added"]\n'
        f"command = {json.dumps([sys.executable, 'program.py', *(['BAD'] if bad else [])])}",
        "sql": 'kind = "sql"\nstatement = "counts.sql"',
    }[kind]
    project.write("counts.sql", "SELECT :after + :until")
    text = (project.folder / "esops.toml").read_text()
    text = text.replace('python = "shop_projections:cart_summary"', how)
    project.write("esops.toml", text.replace(SKIP, "") if kind == "sql" else text)


@pytest.mark.parametrize("kind", thorough_but(["handlers", "process"], "handlers"))
def test_a_replay_that_is_killed_applies_nothing_twice(kind, dsn, connection, project):
    shop.make(dsn, 60)
    counting(project, dsn, kind, bad=True)
    built = project.run("rebuild", "--blue-green", "--output", "json", "--max-dead-letters", "99%")
    dead = built.json["dead_letters"]
    assert dead > 3
    counting(project, dsn, kind, bad=False)
    with_run = project.start("run")
    try:
        lock = locks.version_lock("cart_summary", 1)
        until(lambda: locks.holder(connection, lock) is not None)
        assert project.run(*REPLAY, "--accept-code").code == 4
    finally:
        end(with_run)
    # They would come after later events, which this counting does not mind: its author says so.
    refused = project.run(*REPLAY, "--accept-code")
    (stream,) = connection.execute(
        "SELECT d.stream FROM esops.dead_letters d JOIN shop.mt_events e ON e.stream_id = d.stream "
        "WHERE e.type = 'product_item_added' AND e.seq_id > d.position::bigint AND NOT EXISTS ("
        "SELECT FROM esops.dead_letters o WHERE o.position = e.seq_id::text) "
        "GROUP BY 1 ORDER BY count(DISTINCT e.seq_id) DESC, 1 LIMIT 1"
    ).fetchone()
    assert (refused.code, stream in refused.err) == (6, True), refused.err
    # It dies before the commit of the third event, and after it.
    for dies, left in ((DIES, dead - 2), (DIES_AFTER, dead - 5)):
        project.patch(dies)
        process = project.start(*REPLAY, "--accept-code", "--out-of-order")
        until(lambda process=process: process.poll() is not None)
        project.write("sitecustomize.py", "")
        found = connection.execute("SELECT count(*) FROM esops.dead_letters").fetchone()
        assert found == (left,)
    done = project.ok(*REPLAY, "--out-of-order", "--output", "json").json
    assert done["replayed"] == left
    counted = dict(connection.execute("SELECT cart_id, items FROM cart_summary").fetchall())
    expected = connection.execute(
        "SELECT stream_id, count(*) FROM shop.mt_events WHERE type = 'product_item_added' GROUP BY 1"
    ).fetchall()
    assert counted == dict(expected)


def test_a_statement_cannot_replay_single_events(dsn, connection, project):
    """They are of the time when the projection was of another kind."""
    shop.make(dsn, 20)
    counting(project, dsn, "handlers", bad=True)
    project.run("rebuild", "--blue-green", "--max-dead-letters", "99%")
    counting(project, dsn, "sql", bad=False)
    refused = project.run(*REPLAY, "--accept-code")
    assert refused.code == 6, refused.err
    assert "discard" in refused.err


FAILS = {
    "CHECK (boom(items))": ("RAISE EXCEPTION 'not today'", "not today"),
    "CHECK (boom(items) IS NOT NULL)": ("PERFORM FROM nowhere", "nowhere"),
}


@pytest.mark.parametrize("check", FAILS)
def test_an_error_of_the_users_own_schema_names_the_table(dsn, connection, project, check):
    shop.make(dsn, 20)
    what, told = FAILS[check]
    connection.execute(
        "CREATE FUNCTION boom(int) RETURNS boolean LANGUAGE plpgsql AS "
        f"$$BEGIN {what}; RETURN true; END$$".encode()
    )
    ddl = shop.DDL.replace("position bigint", f"{check}, position bigint")
    shop.configure(project, dsn, ddl=ddl)
    failed = project.run("rebuild", "--blue-green")
    assert failed.code == 3, failed.err
    for each in ("public.cart_summary__v1", told, "function", "boom"):
        assert each in failed.err
    assert "--debug" not in failed.err


def test_at_the_very_first_event_nothing_is_there_to_be_kept(dsn, connection, project):
    shop.make(dsn, 100)
    code = shop.PROJECTION.replace("    data, kind", "    return 7\n    data, kind")
    shop.configure(project, dsn, code=code)
    failed = project.run("rebuild", "--blue-green")
    assert "the function returned an int" in failed.err
    assert "--blue-green --abort" in failed.err
    assert "--accept-code" not in failed.err, "no row is there to be kept"
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
