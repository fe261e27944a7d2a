"""A projection is tried: what it does otherwise when the same events come again is found, with the
first key and event, and what is probably wrong. Each defect is one that people write.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from random import Random

import pytest

from esops.check import trial_streams
from esops.check.trial_plan import Wanted, choose
from esops.config import load_config
from esops.errors import UsageError
from esops.stores import open_store
from tests.support import kinds, shop
from tests.support.cases import thorough_but
from tests.support.waiting import until

TEST = ("projection", "test", "cart_summary", "--output", "json")
EVENTS = 160


@pytest.fixture
def store(dsn):
    shop.make(dsn, EVENTS)
    return dsn


def tables(connection) -> list[tuple]:
    """What lasts in the database."""
    return connection.execute(
        "SELECT relnamespace::regnamespace::text, relname, relpages, reltuples FROM pg_class "
        "WHERE relpersistence <> 't' AND relnamespace::regnamespace::text !~ '^pg_|^information' "
        "ORDER BY 1, 2"
    ).fetchall()


def skip(*trials: str) -> list[str]:
    return [each for trial in trials for each in ("--skip", trial)]


def problems(found) -> dict[str, dict]:
    return {each["kind"]: each for each in found["problems"]}


@pytest.mark.parametrize("kind", thorough_but(kinds.KINDS, "sql"))
def test_a_projection_of_each_kind_that_is_right_has_no_finding(kind, store, connection, project):
    kinds.configure(project, store, kind)
    before = tables(connection)
    done = project.ok(*TEST)
    found = done.json
    assert found["problems"] == []
    assert (found["deterministic"], found["projection"]) == (True, "cart_summary")
    assert (found["events"], found["rows"] > 10) == (EVENTS, True)
    # The counts are wrong where an event is applied twice, which esops never does: a fact.
    assert found["idempotent"] is False
    [note] = found["notes"]
    assert note["kind"] == "twice"
    assert {each["path"] for each in note["differs"]} <= {"items", "total"}
    assert tables(connection) == before
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)
    wanted = project.run(*TEST, "--idempotent", *skip("order", "hash"))
    assert (wanted.code, [*problems(wanted.json)]) == (1, ["twice"])


FIRST = "    data, kind, at = event.json(), event.type, event.position[0]\n"
BEGIN = "    data, kind = event.json(), event.type\n"
DEFECTS = {
    # What is wrong: what stands above the function, what it does first, and the trial that tells.
    "clock": ("import time\n", '    if kind == "shopping_cart_confirmed":\n        data["now"] = time.time_ns()\n', "now"),
    "chance": ("import random\n", '    if kind == "shopping_cart_confirmed":\n        data["now"] = random.getrandbits(40)\n', "now"),
    "hash": ("", '    if kind == "shopping_cart_confirmed":\n        data["now"] = hash(event.stream) & 0xFFFFFF\n', "now"),
    "global": ("seen = {}\n", '    if kind == "shopping_cart_confirmed":\n        data["now"] = len(seen)\n    else:\n        seen[event.id] = 1\n', "now"),
}  # fmt: skip
EXPECTED = {"clock": "clock", "chance": "clock", "hash": "hash", "global": "restart"}


def with_defect(above: str, first: str) -> str:
    code = shop.PROJECTION.replace("@fold", f"{above}\n@fold").replace(BEGIN, BEGIN + first)
    return code.replace(
        '"status": kind.rpartition("_")[2], "position": at',
        '"status": kind.rpartition("_")[2], "position": data.get("now", at)',
    )


@pytest.mark.parametrize("defect", thorough_but(DEFECTS, "clock"))
def test_a_fold_with_a_defect_is_found_with_the_first_key_and_event(
    defect, store, connection, project
):
    above, first, _ = DEFECTS[defect]
    shop.configure(project, store, code=with_defect(above, first))
    others = {
        "hash": ("clock", "batches", "restart", "order"),
        "clock": ("hash", "restart", "order"),
    }
    done = project.run(*TEST, *skip("twice", *others.get(defect, ())))
    found = problems(done.json)
    kind = EXPECTED[defect]
    assert (done.code, done.json["deterministic"], kind in found) == (1, False, True), found
    if kind == "clock":
        assert [*found] == ["clock"], "what differs each time is said once"
    problem = found[kind]
    event = problem["event"]
    assert event["type"] == "shopping_cart_confirmed"
    assert json.loads(problem["key"]) == {"cart_id": event["stream"]}
    assert [each["path"] for each in problem["differs"]] == ["position"]
    if kind in {"clock", "hash"}:
        assert connection.execute(
            "SELECT min(seq_id)::text FROM shop.mt_events WHERE type = 'shopping_cart_confirmed'"
        ).fetchone() == (event["position"],)


@pytest.mark.thorough
def test_what_verify_ignores_is_no_finding(store, project):
    above, first, _ = DEFECTS["clock"]
    options = 'verify.ignore = ["position"]'
    shop.configure(project, store, code=with_defect(above, first), projection_options=options)
    done = project.ok(*TEST, *skip("hash", "order", "twice")).json
    assert (done["deterministic"], done["ignored"]) == (True, ["position"])


LAST = """
from esops import fold

@fold(key=lambda event: event.type)
def cart_summary(row, event):
    return {"last": event.stream}
"""


def test_a_row_of_several_streams_whose_last_event_wins_depends_on_their_order(store, project):
    ddl = "CREATE TABLE {table} (type text PRIMARY KEY, last text)"
    shop.configure(project, store, code=LAST, ddl=ddl)
    done = project.run(*TEST, *skip("hash", "restart"))
    assert (done.code, [*problems(done.json)]) == (1, ["order"])
    assert done.json["idempotent"] is True
    [problem] = done.json["problems"]
    assert json.loads(problem["key"]) == {"type": problem["event"]["type"]}
    said = project.run(
        "projection", "test", "cart_summary", *skip("hash", "batches", "restart", "twice")
    ).out
    assert "Finding (order): " in said
    assert "rows are different when the streams come in another order" in said
    assert f"  Where: row {problem['key']} of cart_summary, from event " in said
    assert "\n  At the end of all events: last " in said
    assert "would find, which was skipped" in said
    assert "\n  Probable cause: the row depends on events of other streams" in said
    assert "\n  What to do: if it is meant to depend on the order of the log" in said
    assert "deterministic: no, idempotent: not tried" in said
    other = project.ok(*TEST, *skip("order", "hash", "twice")).json
    assert other["trials"] == ["clock", "batches", "restart"]


COUNTS = """
from esops import Handlers

cart_summary = Handlers()

@cart_summary.on("product_item_added")
def added(event, write):
    AROUND
    write.increment("cart_summary", {"cart_id": event.stream}, {"items": 1})
"""
COUNTED = (
    "CREATE TABLE {table} (n serial, cart_id text PRIMARY KEY, items integer NOT NULL DEFAULT 0)"
)


def test_handlers_cannot_write_beside_their_tables(store, connection, project):
    connection.execute("CREATE TABLE log (stream text)")
    shop.configure(project, store, ddl=COUNTED)
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace("python =", 'kind = "handlers"\npython ='))
    project.write("shop_projections.py", COUNTS.replace("AROUND", "pass"))
    found = project.ok(*TEST, *skip("hash", "order")).json
    assert (found["deterministic"], found["idempotent"]) == (True, False)
    write = "write.execute('INSERT INTO log VALUES (%s)', event.stream)"
    project.write("shop_projections.py", COUNTS.replace("AROUND", write))
    failed = project.run(*TEST)
    [problem] = failed.json["problems"]
    assert (failed.code, problem["kind"], problem["event"]["type"]) == (
        1,
        "fails",
        "product_item_added",
    )
    assert "something else than the projection's tables" in problem["detail"]
    assert connection.execute("SELECT count(*) FROM log").fetchone() == (0,)


PROGRAM = """
import json, sys

def say(**document):
    print(json.dumps(document), flush=True)

counts = {}
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        say(type="ready", protocol=1)
    elif message["type"] == "batch":
        for event in message["events"]:
            stream = event["stream"]
            counts[stream] = counts.get(stream, 0) + 1
            say(op="upsert", table="cart_summary", row={"cart_id": stream, "items": counts[stream]})
        say(type="done", number=message["number"])
"""


def test_a_program_that_keeps_its_state_to_itself_is_found_by_a_restart(store, project):
    shop.configure(project, store, ddl=COUNTED)
    project.write("program.py", PROGRAM)
    text = (project.folder / "esops.toml").read_text()
    how = f'kind = "process"\ncommand = {json.dumps([sys.executable, "program.py"])}'
    project.write("esops.toml", text.replace('python = "shop_projections:cart_summary"', how))
    done = project.run(*TEST, *skip("hash", "twice"))
    found = problems(done.json)
    assert (done.code, [*found]) == (1, ["restart"])
    problem = found["restart"]
    assert json.loads(problem["key"])["cart_id"] == problem["event"]["stream"]
    assert [each["path"] for each in problem["differs"]] == ["items"]


def test_code_that_fails_is_said_with_its_event(store, connection, project):
    code = shop.PROJECTION.replace(BEGIN, BEGIN + "    assert event.version < 3\n")
    shop.configure(project, store, code=code)
    failed = project.run(*TEST)
    [problem] = failed.json["problems"]
    assert (failed.code, problem["kind"], problem["event"]["version"]) == (1, "fails", 3)
    assert failed.json["deterministic"] is None
    ends = shop.PROJECTION.replace(BEGIN, BEGIN + "    import os; os._exit(7)\n")
    shop.configure(project, store, code=ends)
    ended = project.run(*TEST)
    assert (ended.code, "the process that ran the code ended" in ended.err) == (3, True)


@pytest.mark.thorough
def test_code_that_looks_at_its_batch_is_found(store, project):
    code = COUNTS.replace("AROUND", "many = getattr(write, 'many', 0)").replace(
        '{"items": 1}', '{"items": 1 + many}'
    )
    code += "    write.many = many + 1\n"
    shop.configure(project, store, ddl=COUNTED)
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace("python =", 'kind = "handlers"\npython ='))
    project.write("shop_projections.py", code)
    found = problems(project.run(*TEST, *skip("hash", "order", "twice")).json)
    assert "restart" in found
    assert found["restart"]["event"]["type"] == "product_item_added"


@pytest.mark.thorough
def test_only_some_streams_and_whole_ones(store, connection, project):
    shop.configure(project, store)
    project.patch("from esops.check import trial_streams\ntrial_streams._PLACES = 100\n")
    found = project.ok(*TEST, "--events", "40", *skip("hash", "order")).json
    assert 0 < found["events"] < EVENTS
    assert "whole streams" in found["which"]
    (one,) = connection.execute("SELECT min(stream_id) FROM shop.mt_events").fetchone()
    alone = project.ok(*TEST, "--streams", one, *skip("hash", "order", "twice")).json
    assert alone["rows"] == 1
    assert project.run(*TEST, "--streams", "nobody").code == 2


def chosen(store, settings, seed, monkeypatch):
    """What is chosen by a seed, and with which limit the log was read each time."""
    limits: list[int | None] = []

    def read_all(*arguments):
        limits.append(arguments[3] if len(arguments) > 3 else None)
        return store.__class__.read_all(store, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, "read_all", read_all, raising=False)
        found = choose(store, settings, Wanted(40), Random(seed), lambda _: False, lambda: False)
    return found, limits


def test_streams_are_drawn_without_a_look_at_the_whole_log(store, connection, project, monkeypatch):
    monkeypatch.setattr(trial_streams, "_PLACES", 100)
    shop.configure(project, store)
    config = load_config(project.folder / "esops.toml")
    settings = config.projection("cart_summary")
    with open_store(*config.store("shop")) as opened:
        found, limits = chosen(opened, settings, 1, monkeypatch)
        assert limits
        assert None not in limits
        assert 40 <= len(found.events) < 80
        lengths = dict(
            connection.execute("SELECT stream_id, count(*) FROM shop.mt_events GROUP BY 1")
        )
        assert Counter(each.stream for each in found.events).items() <= lengths.items()
        assert chosen(opened, settings, 1, monkeypatch)[0] == found
        assert chosen(opened, settings, 2, monkeypatch)[0] != found
        # What is so rare that no place has it is looked for in the whole log.
        rare = settings.model_copy(update={"events": ("nothing_of_that_type",)})
        with pytest.raises(UsageError, match="no event that the projection reads"):
            chosen(opened, rare, 1, monkeypatch)


def test_nothing_is_left_when_it_is_killed(store, connection, project):
    slow = shop.PROJECTION.replace(BEGIN, BEGIN + "    import time; time.sleep(0.2)\n")
    shop.configure(project, store, code=slow)
    process = project.start(*TEST)
    session = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
    temporary = "SELECT count(*) FROM pg_class WHERE relname = 'esops_trial_cart_summary'"
    until(lambda: connection.execute(temporary).fetchone() == (1,))
    assert connection.execute(session, ["%test cart_summary%"]).fetchone() == (2,)
    process.kill()
    until(lambda: connection.execute(session, ["%test cart_summary%"]).fetchone() == (0,))
    assert connection.execute(temporary).fetchone() == (0,)
