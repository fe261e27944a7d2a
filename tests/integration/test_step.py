"""A row is stepped through, event by event: what each makes of it, where the code fails, and where
old and new code part.
"""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from tests.support import kinds, shop
from tests.support.cases import thorough_but

NEXT = shop.PROJECTION.replace("count = sign * data", "count = sign * min(2, 9) * data")
STEP = ("projection", "step", "cart_summary")


def writes(connection) -> tuple:
    """What writing statements have done to lasting tables, and which relations there are."""
    return connection.execute(
        "SELECT (SELECT count(*) FROM pg_class WHERE relpersistence <> 't'), "
        "(SELECT md5(string_agg(c::text, ',' ORDER BY cart_id)) FROM cart_summary c), "
        "(SELECT md5(string_agg(v::text, ',' ORDER BY version)) FROM esops.versions v)"
    ).fetchone()


def longest(connection) -> tuple[str, int]:
    return connection.execute(
        "SELECT stream_id, max(version) FROM shop.mt_events GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"
    ).fetchone()


def test_a_row_is_stepped_through_and_nothing_is_written(dsn, connection, project):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    cart, length = longest(connection)
    # Also before it was ever built: its own DDL says what its columns hold.
    early = project.ok(*STEP, cart, "--output", "json").json
    project.ok("rebuild", "--blue-green")
    before = writes(connection)
    found = project.ok(*STEP, cart, "--output", "json").json
    assert [each["after"] for each in early["steps"]] == [each["after"] for each in found["steps"]]
    steps = found["steps"]
    assert (found["key"], [each["event"]["version"] for each in steps]) == (
        cart,
        list(range(1, length + 1)),
    )
    assert steps[0]["before"] is None
    for last, following in pairwise(steps):
        assert last["after"] == following["before"]
    assert all(each["microseconds"] > 0 and each["error"] is None for each in steps)
    served = connection.execute(
        "SELECT to_jsonb(c) FROM cart_summary c WHERE cart_id = %s", [cart]
    ).fetchone()[0]
    assert steps[-1]["after"] == served
    assert (found["served"]["row"], found["served"]["differs"]) == (served, [])
    added = next(each for each in steps if each["event"]["type"] == "product_item_added")
    assert {each["path"] for each in added["changed"]} == {"items", "total", "position"}
    some = project.ok(*STEP, cart, "--at", "3", "--output", "json").json["steps"]
    assert [each["event"]["version"] for each in some] == [1, 2, 3]
    few = project.ok(*STEP, cart, "--limit", "2", "--output", "json").json
    assert [each["event"]["version"] for each in few["steps"]] == [1, length]
    assert few["left_out"] == length - 2
    table = project.ok(*STEP, cart).out
    assert "product_item_added" in table
    assert f"{length} events" in table
    # What serves is compared with what the events make.
    connection.execute("UPDATE cart_summary__v1 SET items = items + 1 WHERE cart_id = %s", [cart])
    wrong = project.ok(*STEP, cart, "--output", "json")
    [differs] = wrong.json["served"]["differs"]
    assert (differs["path"], differs["after"] - differs["before"]) == ("items", 1)
    assert "serves another row" in project.ok(*STEP, cart).err
    connection.execute("UPDATE cart_summary__v1 SET items = items - 1 WHERE cart_id = %s", [cart])
    assert writes(connection) == before


def test_a_key_without_events_is_said(dsn, project):
    shop.make(dsn, 50)
    shop.configure(project, dsn)
    missing = project.run(*STEP, "cart-nobody")
    assert (missing.code, "no stream 'cart-nobody'" in missing.err) == (2, True)


FAILS = shop.PROJECTION.replace(
    "    sign = {", "    if event.version == 3:\n        raise KeyError('quantity')\n    sign = {"
)


def test_where_the_code_fails_is_shown_with_the_users_own_lines(dsn, connection, project):
    shop.make(dsn, 100)
    shop.configure(project, dsn, code=FAILS)
    cart, _ = longest(connection)
    failed = project.run(*STEP, cart, "--output", "json")
    last = failed.json["steps"][-1]
    assert (failed.code, failed.json["stopped"], last["event"]["version"]) == (1, True, 3)
    assert last["error"].startswith("KeyError: 'quantity' (in cart_summary")
    assert last["before"] == last["after"] is not None
    trace = "\n".join(last["traceback"])
    assert "shop_projections.py" in trace
    assert "esops/" not in trace
    assert "raise KeyError('quantity')" in project.run(*STEP, cart).out
    # What was skipped when the version was built is shown as that, and the row goes past it.
    skip = 'on_error = "dead-letter"'
    shop.configure(project, dsn, code=FAILS, projection_options=skip)
    project.run("rebuild", "--blue-green", "--max-dead-letters", "99%")
    shop.configure(project, dsn, projection_options=skip)
    past = project.ok(*STEP, cart, "--output", "json").json
    third = past["steps"][2]
    assert "KeyError" in third["skipped"]
    assert third["before"] == third["after"]
    assert third["microseconds"] is None
    assert past["served"]["differs"] == []


def test_old_and_new_code_part_at_an_event(dsn, connection, project):
    shop.make(dsn, 100)
    shop.configure(project, dsn)
    project.write("next_projections.py", NEXT)
    project.write("same_projections.py", shop.PROJECTION)
    cart, first = connection.execute(
        "SELECT stream_id, min(version) FROM shop.mt_events WHERE type = 'product_item_added' "
        "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"
    ).fetchone()
    other = project.run(
        *STEP, cart, "--python", "next_projections:cart_summary", "--output", "json"
    )
    assert (other.code, other.json["parts_at"]["version"]) == (1, first)
    parted = other.json["steps"][first - 1]["other"]
    assert {each["path"] for each in parted["differs"]} == {"items", "total"}
    assert (
        f"part at {cart} @{first}"
        in project.run(*STEP, cart, "--python", "next_projections:cart_summary").out
    )
    same = project.ok(*STEP, cart, "--python", "same_projections:cart_summary", "--output", "json")
    assert same.json["parts_at"] is None
    keyless = NEXT.replace('@fold(key="stream")', "@fold(key=lambda event: 1 / 0)")
    assert keyless != NEXT
    project.write("keyless_projections.py", keyless)
    fails = project.run(
        *STEP, cart, "--python", "keyless_projections:cart_summary", "--output", "json"
    )
    assert fails.code == 1
    assert "its key cannot be made: ZeroDivisionError" in json.dumps(fails.json["steps"][0])
    unknown = project.run(*STEP, cart, "--python", "nowhere:cart_summary")
    assert (unknown.code, "no Python module 'nowhere'" in unknown.err) == (2, True)


CLIENTS = """
from esops import fold

@fold(key=lambda event: (event.json()["ClientId"][:1], len(event.stream)))
def clients(row, event):
    carts = [*(row["carts"] if row else []), {"id": event.stream, "at": event.position[0]}]
    return {"carts": carts, "many": len(carts)}
"""
CLIENTS_DDL = """
CREATE TABLE {table} (client text, size integer, carts jsonb, many numeric(8, 2),
PRIMARY KEY (client, size))
"""


def test_a_key_of_several_streams_and_columns_takes_one_pass_over_the_log(dsn, connection, project):
    shop.make(dsn, 600)
    shop.configure(
        project,
        dsn,
        code=CLIENTS,
        ddl=CLIENTS_DDL,
        projection_options='events = ["shopping_cart_opened"]',
    )
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace(":cart_summary", ":clients"))
    client, size, positions = connection.execute(
        "SELECT left(data ->> 'ClientId', 1), length(stream_id), array_agg(seq_id ORDER BY seq_id) "
        "FROM shop.mt_events WHERE type = 'shopping_cart_opened' GROUP BY 1, 2 "
        "ORDER BY count(*) DESC, 1 LIMIT 1"
    ).fetchone()
    key = json.dumps({"client": client, "size": size})
    assert len(positions) > 1
    done = project.ok(*STEP, key, "--output", "json")
    assert [each["event"]["position"] for each in done.json["steps"]] == [*map(str, positions)]
    assert json.loads(done.json["key"]) == {"client": client, "size": size}
    last = done.json["steps"][-1]
    assert last["after"]["many"] == len(positions)
    [path] = [each["path"] for each in last["changed"] if each["path"].startswith("carts")]
    assert path == f"carts[{len(positions) - 1}]"
    assert "all events of the log are read" in done.err
    early = project.ok(*STEP, key, "--at", str(positions[0]), "--output", "json").json
    assert len(early["steps"]) == 1
    alone = project.run(*STEP, client)
    assert (alone.code, '{"client": "…", "size": "…"}' in alone.err) == (2, True)
    nobody = project.run(*STEP, json.dumps({"client": "nobody", "size": 3}))
    assert (nobody.code, "no event of the key" in nobody.err) == (2, True)


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_names_and_payloads_reach_neither_terminal_nor_page_as_they_are(
    option, dsn, connection, project
):
    shop.make(dsn, 50)
    shop.configure(project, dsn)
    connection.execute(
        "INSERT INTO shop.mt_events (seq_id, id, stream_id, version, data, type, timestamp, "
        "mt_dotnet_type, is_archived) SELECT 1000, gen_random_uuid(), stream_id, max(version) + 1, "
        "jsonb_build_object('ClientId', '</script><img src=x>' || chr(27)), "
        "'shopping_cart_opened', now(), 'x', false FROM shop.mt_events GROUP BY stream_id LIMIT 1"
    )
    (cart,) = connection.execute(
        "SELECT stream_id FROM shop.mt_events WHERE seq_id = 1000"
    ).fetchone()
    if option == "--output":
        assert "\x1b" not in project.ok(*STEP, cart).out
    else:
        project.ok(*STEP, cart, "--report", "step.html")
        text = (project.folder / "step.html").read_text()
        assert "<img" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize("kind", thorough_but(["handlers", "sql", "process"], "sql"))
def test_rows_of_other_kinds_are_stepped_through_in_temporary_tables(
    kind, dsn, connection, project
):
    shop.make(dsn, 150)
    kinds.configure(project, dsn, "fold")
    cart, length = longest(connection)
    fold = project.ok(*STEP, cart, "--output", "json").json
    kinds.configure(project, dsn, kind)
    project.ok("rebuild", "--blue-green")
    before = writes(connection)
    done = project.ok(*STEP, cart, "--output", "json")
    found = done.json
    assert [each["after"] for each in found["steps"]] == [each["after"] for each in fold["steps"]]
    assert [each["event"] for each in found["steps"]] == [each["event"] for each in fold["steps"]]
    assert found["served"]["differs"] == []
    assert all((each["microseconds"] is None) == (kind == "process") for each in found["steps"])
    assert "all events of the log are read" in done.err
    assert writes(connection) == before
    if kind == "process":
        return
    at = found["steps"][2]["event"]["position"]
    assert len(project.ok(*STEP, cart, "--at", at, "--output", "json").json["steps"]) == 3
    nobody = project.run(*STEP, "nobody")
    assert (nobody.code, "no event of store shop touches the row nobody" in nobody.err) == (2, True)
    refused = project.run(*STEP, cart, "--python", "shop_handlers:cart_summary")
    assert (refused.code, "only for a fold" in refused.err) == (6, True)


def test_a_handler_that_fails_is_shown_with_its_lines_and_nothing_it_writes_elsewhere_stays(
    dsn, connection, project
):
    shop.make(dsn, 100)
    connection.execute("CREATE TABLE log (stream text)")
    kinds.configure(project, dsn, "handlers")
    cart, _ = longest(connection)
    body = "    data = event.json()\n"
    code = kinds.HANDLERS.replace(
        body, body + "    if event.version == 3:\n        raise KeyError('quantity')\n"
    )
    project.write("shop_handlers.py", code)
    failed = project.run(*STEP, cart, "--output", "json")
    last = failed.json["steps"][-1]
    assert (failed.code, failed.json["stopped"]) == (1, True)
    assert last["error"].startswith("KeyError: 'quantity' (in changed")
    assert "shop_handlers.py" in "\n".join(last["traceback"])
    write = "    write.execute('INSERT INTO log VALUES (%s)', event.stream)\n"
    project.write("shop_handlers.py", kinds.HANDLERS.replace(body, body + write))
    refused = project.run(*STEP, cart, "--output", "json")
    assert "something else than the projection's tables" in refused.json["steps"][-1]["error"]
    assert connection.execute("SELECT count(*) FROM log").fetchone() == (0,)
