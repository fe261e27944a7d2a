"""`esops projection check` finds exactly the rows that are not what their events make, and nothing
where all is well.
"""

from __future__ import annotations

import pytest

from esops.check.run import check
from esops.config import load_config
from esops.errors import Stopped
from tests.support import shop
from tests.support.waiting import until

EVENTS = 2_000
BY_CLIENT = """
from esops import fold


def client(event):
    return event.json()["ClientId"]


@fold(key=client)
def cart_summary(row, event):
    return {"events": (row or {"events": 0})["events"] + 1}
"""


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def found(project, *options: str, code: int = 1) -> dict:
    done = project.run("projection", "check", "cart_summary", *options, "--output", "json")
    assert done.code == code, done.err
    return done.json


def test_every_kind_of_fault_is_found_and_nothing_else(carts, connection):
    clean = found(carts, code=0)
    rows = connection.execute("SELECT count(*) FROM cart_summary").fetchone()[0]
    assert (clean["keys"], clean["of"], clean["differing"], clean["finds"]) == (rows, rows, 0, None)
    assert (clean["version"], clean["position"], clean["healed"]) == (1, str(EVENTS), 0)
    keys = [row[0] for row in connection.execute("SELECT cart_id FROM cart_summary ORDER BY 1")]
    connection.execute("UPDATE shop.mt_events SET timestamp = now() - interval '3 days'")
    connection.execute(
        "UPDATE shop.mt_events SET timestamp = now() WHERE stream_id = ANY(%s)", (keys[5:7],)
    )
    assert found(carts, "--since", "1d", code=0)["keys"] == 2
    late, last, before = connection.execute(
        "SELECT stream_id, version, (SELECT max(seq_id) FROM shop.mt_events b "
        "WHERE b.stream_id = e.stream_id AND b.version < e.version) FROM shop.mt_events e "
        "WHERE type LIKE 'shopping_cart_c%%' ORDER BY seq_id DESC LIMIT 1"
    ).fetchone()
    missing, column, surplus = keys[3], keys[9], "never-was"
    assert late not in {missing, column}
    connection.execute("DELETE FROM cart_summary__v1 WHERE cart_id = %s", (missing,))
    connection.execute(
        "UPDATE cart_summary__v1 SET client = client || '!' WHERE cart_id = %s", (column,)
    )
    connection.execute("INSERT INTO cart_summary__v1 VALUES (%s, 'x', 1, 1, 'open', 1)", (surplus,))
    # As a projector leaves a row that has missed the last event.
    connection.execute(
        "UPDATE cart_summary__v1 SET status = 'open', position = %s WHERE cart_id = %s",
        (before, late),
    )
    wrong = found(carts, "--report", str(carts.folder / "check.html"))
    assert (wrong["differing"], wrong["missing"], wrong["surplus"]) == (4, 1, 1)
    assert wrong["columns"] == {"client": 1, "status": 1, "position": 1}
    samples = {each["key"]: each for each in wrong["samples"]}
    assert samples.keys() == {missing, column, surplus, late}
    assert samples[missing]["served"] is None
    assert samples[surplus]["folded"] is None
    assert samples[missing]["from_version"] == 1
    assert samples[late]["from_version"] == last
    assert samples[column]["from_version"] is samples[surplus]["from_version"] is None
    assert samples[column]["served"]["client"] == samples[column]["folded"]["client"] + "!"
    page = (carts.folder / "check.html").read_text()
    assert all(key in page for key in samples)
    recorded = connection.execute(
        "SELECT state, differing, checked FROM esops.checks WHERE id = %s", (wrong["check"],)
    ).fetchone()
    assert recorded == ("done", 4, wrong["keys"])
    no_values = connection.execute("SELECT samples::text FROM esops.checks").fetchall()
    assert not any("client-" in row[0] for row in no_values)
    kept = connection.execute(
        "SELECT key[1], kind FROM esops.check_keys WHERE check_id = %s", (wrong["check"],)
    ).fetchall()
    assert dict(kept) == {
        missing: "missing",
        column: "unlike",
        surplus: "surplus",
        late: "unlike",
    }
    doctor = carts.run("doctor", "--output", "json").json["findings"]
    (finding,) = [each for each in doctor if each["code"] == "ESOPS-D073"]
    assert f"check {wrong['check']} found" in finding["message"]
    assert "4 rows" in finding["message"]
    text = carts.run("projection", "check", "cart_summary", "--keys", f"{missing},{keys[4]}")
    assert text.code == 1
    assert f"{missing}: missing (from version 1 of its stream)" in text.out
    last = text.out.splitlines()[-1]
    assert "2 keys of cart_summary v1 checked" in last
    assert "--from-check" in last
    named = found(carts, "--streams", f"{column},{surplus}")
    assert (named["keys"], named["differing"]) == (2, 2)
    (carts.folder / "keys").write_text(f"{column}\n\n{keys[4]}\nnone\n")
    of_file = found(carts, "--keys-from", str(carts.folder / "keys"))
    assert (of_file["keys"], of_file["differing"]) == (2, 1)
    assert of_file["notes"] == ["1 key has no row, neither in the read model nor by the events"]
    assert found(carts, "--keys", keys[4], code=0)["keys"] == 1
    # A right row that is looked at puts out no alert for wrong ones.
    assert 'esops_check_rows_differing{projection="cart_summary"} 4.0' in carts.ok("metrics").out
    assert carts.run("projection", "check", "cart_summary", "--keys", "none").code == 1
    assert (
        carts.run("projection", "check", "cart_summary", "--keys", "a", "--since", "1d").code == 2
    )


@pytest.mark.thorough
@pytest.mark.parametrize("key", ["stream", "client"])
def test_what_was_found_wrong_is_looked_at_until_it_is_right(dsn, project, connection, key):
    carts = project
    shop.make(dsn, 500)
    shop.configure(project, dsn)
    if key == "client":
        shop.configure(
            project,
            dsn,
            code=BY_CLIENT,
            ddl="CREATE TABLE {table} (client text PRIMARY KEY, events integer);",
            projection_options='events = ["shopping_cart_opened"]',
        )
    carts.ok("rebuild", "--blue-green")
    name, column = ("cart_id", "items") if key == "stream" else ("client", "events")
    wrong = connection.execute(
        f"UPDATE cart_summary__v1 SET {column} = {column} + 1 "
        f"WHERE {name} IN (SELECT {name} FROM cart_summary ORDER BY 1 LIMIT 3) RETURNING {name}"
    ).fetchall()
    keys = sorted(row[0] for row in wrong)
    assert found(carts)["differing"] == 3
    sampled = found(carts, "--sample", "1", "--seed", "other")
    assert {each["key"] for each in sampled["samples"]} >= set(keys)
    status = carts.run("status").out
    assert f"check {sampled['check']} found 3 rows that are not what the events make" in status
    assert f"esops rebuild cart_summary --from-check {sampled['check']}" in status
    back = f"UPDATE cart_summary__v1 SET {column} = {column} - 1 WHERE {name} = %s"
    connection.execute(back, keys[:1])
    assert found(carts, "--keys", keys[0], code=0)["keys"] == 1
    metrics = carts.ok("metrics").out
    assert 'esops_check_rows_differing{projection="cart_summary"} 2.0' in metrics
    carts.ok("rebuild", "cart_summary", "--keys", keys[1], "--yes")
    metrics = carts.ok("metrics").out
    assert 'esops_check_rows_differing{projection="cart_summary"} 1.0' in metrics
    connection.execute(back, keys[2:])
    quiet = carts.ok("projection", "check", "cart_summary", "--sample", "1", "--quiet")
    assert quiet.out == ""
    assert 'esops_check_rows_differing{projection="cart_summary"} 0.0' in carts.ok("metrics").out
    assert "found" not in carts.run("status").out


@pytest.mark.thorough
def test_a_sample_says_what_it_would_have_found_and_can_be_drawn_again(carts, connection):
    connection.execute("UPDATE cart_summary__v1 SET items = items + 1")
    drawn = found(carts, "--sample", "20%", "--seed", "one")
    rows = connection.execute("SELECT count(*) FROM cart_summary").fetchone()[0]
    assert drawn["of"] == rows
    assert 0 < drawn["keys"] < rows
    assert drawn["differing"] == drawn["keys"]
    assert drawn["finds"]["rate"] == 0.001
    assert drawn["finds"]["probability"] == pytest.approx(drawn["keys"] / rows)
    again = found(carts, "--sample", "20%", "--seed", "one")
    assert again["samples"] == drawn["samples"]
    connection.execute("DELETE FROM esops.checks")  # else it looks at the same rows once more
    assert found(carts, "--sample", "7")["keys"] == 7
    text = carts.run("projection", "check", "cart_summary", "--sample", "7").out
    assert "if 1 of 1,000 rows were wrong" in text
    assert "seed" in text


def test_an_application_that_lost_events_is_not_called_wrong(carts, connection):
    keys = [row[0] for row in connection.execute("SELECT cart_id FROM cart_summary ORDER BY 1")]
    connection.execute("DELETE FROM shop.mt_events WHERE stream_id = %s AND version = 1", keys[:1])
    connection.execute("DELETE FROM shop.mt_events WHERE stream_id = %s", keys[1:2])
    unknown = found(carts, code=0)
    assert (unknown["unchecked"], unknown["differing"]) == (2, 0)
    assert unknown["keys"] == len(keys) - 2
    assert {each["key"] for each in unknown["unchecked_samples"]} == set(keys[:2])
    # What nobody knows is said in the sentence that counts, also where nobody wants to read more.
    quiet = carts.ok("projection", "check", "cart_summary", "--quiet").out
    assert "2 keys not checked" in quiet.splitlines()[-1]


def test_a_key_that_a_column_cuts_is_no_other_key(dsn, project, connection):
    shop.make(dsn, 60)
    shop.configure(
        project,
        dsn,
        code=BY_CLIENT.replace('event.json()["ClientId"]', "event.position[0] % 7 / 10"),
        ddl="CREATE TABLE {table} (share numeric(2, 1) PRIMARY KEY, events int NOT NULL);",
    )
    project.ok("rebuild", "--blue-green")
    connection.execute("UPDATE cart_summary__v1 SET events = 0 WHERE share = 0.3")
    cut = found(project, "--keys", "0.26,0.10")
    assert (cut["keys"], cut["differing"]) == (1, 0)
    assert any("such as 0.26" in note for note in cut["notes"])
    left = project.run(
        "rebuild", "cart_summary", "--keys", "0.26,0.10", "--yes", "--output", "json"
    )
    assert (left.code, left.json["absent"], left.json["healed"]) == (1, [["0.26"]], 0)
    assert found(project, "--keys", "0.30")["differing"] == 1


def test_what_cannot_be_checked_is_said(carts, connection, project):
    code = (carts.folder / "shop_projections.py").read_text()
    project.write("shop_projections.py", code.replace('"items": 0', '"items": 1'))
    refused = carts.run("projection", "check", "cart_summary")
    assert refused.code == 6
    assert "code of cart_summary has changed" in refused.err
    project.write("shop_projections.py", code)
    carts.run("projection", "pause", "cart_summary")
    assert found(carts, code=0)["differing"] == 0
    carts.run("projection", "resume", "cart_summary")
    connection.execute("ALTER TABLE cart_summary__v1 RENAME TO elsewhere")
    refused = carts.run("projection", "check", "cart_summary")
    assert refused.code == 6
    assert "does not exist any more" in refused.err
    connection.execute("ALTER TABLE elsewhere RENAME TO cart_summary__v1")
    connection.execute("UPDATE esops.versions SET position = NULL")
    assert "has no checkpoint" in carts.run("projection", "check", "cart_summary").err
    connection.execute("UPDATE esops.versions SET state = 'building'")
    assert "still being built" in carts.run("projection", "check", "cart_summary").err
    assert carts.run("projection", "check", "cart_summary", "--version", "7").code == 2
    connection.execute("TRUNCATE esops.versions CASCADE")
    assert carts.run("projection", "check", "cart_summary").code == 2


def test_one_that_is_stopped_says_so_and_leaves_nothing(carts, connection):
    config, asked = load_config(carts.folder / "esops.toml"), iter([False, True])
    with pytest.raises(Stopped):
        check(config, "cart_summary", stop=lambda: next(asked, True))
    states = connection.execute("SELECT state, reason FROM esops.checks").fetchall()
    assert states == [("stopped", "stopped before all keys were checked; nothing was changed")]
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'esops\\_%' AND relpersistence = 't'"
    # Its session drops them when it ends, a moment after the command.
    until(lambda: connection.execute(left).fetchone() == (0,))
    carts.patch(
        """
import os, signal
from esops.check.by_stream import StreamCheck
StreamCheck.drawn = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert carts.run("projection", "check", "cart_summary").code < 0
    assert connection.execute("SELECT state FROM esops.checks ORDER BY id").fetchall()[1:] == [
        ("running",)
    ]

    def seen():  # the killed process may be there still, until its parent has looked
        with pytest.raises(Stopped):
            check(config, "cart_summary", stop=lambda: True)
        found = connection.execute("SELECT state, reason FROM esops.checks ORDER BY id").fetchall()
        return found[1] == ("failed", "its process was killed")

    until(seen)


def test_dead_letters_stay_left_out_until_they_are_replayed(dsn, project, connection):
    shop.make(dsn, 400)
    poison = (
        '    if event.stream == "cart-00000007" and event.version == 4:\n'
        '        raise ValueError("poison")\n'
    )
    begin = "    data, kind = event.json(), event.type\n"
    code = shop.PROJECTION.replace(begin, poison + begin)
    shop.configure(project, dsn, code=code, projection_options='on_error = "dead-letter"')
    project.run("rebuild", "--blue-green", "--max-dead-letters", "5")
    checked = found(project, code=0)
    assert checked["differing"] == checked["unchecked"] == 0
    assert "1 dead letter" in checked["notes"][0]
    project.ok("projection", "dead-letters", "cart_summary", "discard", "--yes")
    checked = found(project, code=0)
    assert [each["key"] for each in checked["unchecked_samples"]] == ["cart-00000007"]
    assert "poison" in checked["unchecked_samples"][0]["reason"]


@pytest.mark.thorough
def test_new_dead_letters_of_who_follows_do_not_end_a_check(dsn, project, connection):
    """They are made after the check began, and before it looks where the version stands."""
    shop.make(dsn, 60)
    fails = (
        "def client(event):\n    if event.type == 'poison':\n        raise ValueError(event.type)\n"
    )
    code = BY_CLIENT.replace("def client(event):\n", fails)
    code = code.replace('event.json()["ClientId"]', "event.stream")
    ddl = "CREATE TABLE {table} (client text PRIMARY KEY, events int NOT NULL);"
    shop.configure(project, dsn, code=code, ddl=ddl, projection_options='on_error = "dead-letter"')
    project.ok("rebuild", "--blue-green")
    config = load_config(project.folder / "esops.toml")
    (stream,) = connection.execute("SELECT min(stream_id) FROM shop.mt_events").fetchone()

    def follow(_: str) -> None:
        connection.execute(
            "INSERT INTO shop.mt_events (seq_id, id, stream_id, version, data, type, timestamp, "
            "tenant_id, mt_dotnet_type) SELECT nextval('shop.mt_events_sequence'), "
            "gen_random_uuid(), stream_id, version + 1, data, 'poison', now(), tenant_id, '' "
            "FROM shop.mt_events WHERE stream_id = %s ORDER BY version DESC LIMIT 1",
            (stream,),
        )
        assert project.run("run", "--until-caught-up").code == 1

    done = check(config, "cart_summary", say=follow)
    letters = connection.execute("SELECT count(*) FROM esops.dead_letters").fetchone()
    assert (letters, done.found.differing, done.found.unknown) == ((1,), 0, 0)
    assert found(project, "--streams", stream, code=0)["keys"] == 1
    project.ok("rebuild", "cart_summary", "--streams", stream, "--yes")
    project.ok("projection", "dead-letters", "cart_summary", "discard", "--yes")
    refused = project.run("projection", "check", "cart_summary")
    assert refused.code == 6
    assert "run it again" in refused.err
