"""Chosen rows are made right at the version's checkpoint, whatever follows it at the same time."""

from __future__ import annotations

import json

import pytest

from esops.postgres.connection import connect
from esops.readmodel import locks
from tests.integration import test_inline_finish, test_inline_switch
from tests.support import emmett, inline_writers, kinds, shop
from tests.support.cases import thorough_but
from tests.support.waiting import end, until

TABLE = "cart_summary__v1"
QUICK = ("--longest-session", "100ms")


@pytest.fixture
def served(dsn, connection, project):
    """A shop of which a version serves, and is not followed."""
    shop.make(dsn, 600)
    shop.configure(project, dsn)
    project.ok("rebuild", "cart_summary", "--blue-green")
    return project


def keys(connection, number: int) -> list[str]:
    rows = connection.execute(
        f"SELECT cart_id FROM {TABLE} ORDER BY md5(cart_id) LIMIT %s", (number,)
    )
    return [row[0] for row in rows]


def spoil(connection, wrong: list[str]) -> None:
    """A row that is missing, one too many, and others with another value."""
    missing, *others = wrong
    connection.execute(f"DELETE FROM {TABLE} WHERE cart_id = %s", (missing,))
    connection.execute(
        f"UPDATE {TABLE} SET total = total + 1, items = items - 1 WHERE cart_id = ANY(%s)",
        (others,),
    )
    connection.execute(
        f"INSERT INTO {TABLE} SELECT 'nobody', client, items, total, status, position FROM {TABLE} "
        "LIMIT 1"
    )
    connection.execute("UPDATE esops.versions SET rows = (SELECT count(*) FROM cart_summary__v1)")


def test_only_the_rows_that_are_wrong_are_written_and_the_checkpoint_stays(served, connection):
    wrong = keys(connection, 5)
    before = connection.execute("SELECT position, events FROM esops.versions").fetchall()
    spoil(connection, wrong)
    right = [each for each in keys(connection, 20) if each not in wrong]
    rows = f"SELECT cart_id, xmin FROM {TABLE} WHERE cart_id = ANY(%s) ORDER BY 1"
    untouched = connection.execute(rows, (right,)).fetchall()
    chosen = ",".join([*wrong, *right, "nobody"])
    shown = served.run("rebuild", "cart_summary", "--keys", chosen, "-n", "--output", "json")
    assert shown.code == 0, shown.err
    assert (shown.json["healed"], shown.json["differing"]) == (0, 6)
    done = served.ok("rebuild", "cart_summary", "--keys", chosen, "--yes", "--output", "json").json
    assert {name: done[name] for name in ("inserted", "updated", "deleted", "healed")} == {
        "inserted": 1,
        "updated": 4,
        "deleted": 1,
        "healed": 6,
    }
    shop.check_version(connection, 1)
    assert connection.execute(rows, (right,)).fetchall() == untouched
    assert connection.execute("SELECT position, events FROM esops.versions").fetchall() == before
    again = served.run("rebuild", "cart_summary", "--streams", chosen, "--yes", "--output", "json")
    # Of the row that was too many there is nothing left.
    assert (again.code, again.json["healed"], again.json["absent"]) == (1, 0, [["nobody"]])


BY_CLIENT = """
from esops import fold

@fold(key=lambda event: event.stream)
def cart_summary(row, event):
""" + shop.PROJECTION.partition("def cart_summary(row, event):\n")[2]


@pytest.mark.parametrize(
    "kind",
    thorough_but(["key function", "handlers", "sql", "process"], "sql"),
)
def test_rows_of_each_kind(kind, dsn, connection, project):
    shop.make(dsn, 400)
    if kind == "key function":
        shop.configure(project, dsn, code=BY_CLIENT)
    else:
        kinds.configure(project, dsn, kind)
    project.ok("rebuild", "cart_summary", "--blue-green")
    wrong = keys(connection, 4)
    spoil(connection, wrong)
    lines = "\r\n".join([*wrong, "nobody", "no\u2028thing"])
    chosen = project.write("keys.txt", f"\ufeff{lines}\r\n")
    done = project.run(
        "rebuild", "cart_summary", "--keys-from", str(chosen), "-y", "--output", "json"
    )
    assert (done.code, done.json["healed"]) == (1, 5)
    assert done.json["absent"] == [["no\u2028thing"]]
    (position,) = connection.execute("SELECT position::int FROM esops.versions").fetchone()
    assert shop.table(connection, TABLE) == shop.truth(connection, position)


def test_a_row_in_a_followers_memory_is_not_written_over_one_made_right(served, dsn, connection):
    (wrong,) = keys(connection, 1)
    connection.execute(f"UPDATE {TABLE} SET total = 1000000 WHERE cart_id = %s", (wrong,))
    total = f"SELECT total, position FROM {TABLE} WHERE cart_id = '{wrong}'"

    def add() -> int:
        """One more event for the cart, and its position in the row."""
        data = json.dumps({"ProductId": "p", "Quantity": 1, "UnitPrice": 1})
        connection.execute(
            "INSERT INTO shop.mt_events (seq_id, id, stream_id, version, data, type, timestamp, "
            "tenant_id, mt_dotnet_type) SELECT nextval('shop.mt_events_sequence'), "
            "gen_random_uuid(), stream_id, max(version) + 1, %s, 'product_item_added', now(), "
            "min(tenant_id), '' FROM shop.mt_events WHERE stream_id = %s GROUP BY stream_id",
            (data, wrong),
        )
        (at,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
        until(lambda: connection.execute(total).fetchone()[1] == at)
        return at

    host = served.start("run")
    try:
        add()
        assert connection.execute(total).fetchone()[0] > 900_000
        served.ok("rebuild", "cart_summary", "--keys", wrong, "--yes")
        add()
    finally:
        end(host)
    shop.check_version(connection, 1)


def test_what_is_refused(served, dsn, connection):
    (key,) = keys(connection, 1)
    connection.execute(f"UPDATE {TABLE} SET total = total + 1 WHERE cart_id = %s", (key,))
    with connect(dsn, "run cart_summary v1") as older:
        locks.take(older, locks.version_lock("cart_summary", 1))
        refused = served.run("rebuild", "cart_summary", "--keys", key, "--yes")
        assert refused.code == 6
        assert "esops that would write old rows" in refused.err
        locks.give_back(older, locks.version_lock("cart_summary", 1))
        locks.take(older, locks.rebuild_lock("cart_summary"))
        assert served.run("rebuild", "cart_summary", "--keys", key, "--yes").code == 4
    wrong = served.run("rebuild", "cart_summary", "--keys", key, "--blue-green")
    assert (wrong.code, "--blue-green" in wrong.err) == (2, True)
    for none in ('["a", "b"]', '["a", "b"], ["c", "d"]', '[null, "a"]', "a\nb", "a\udcff"):
        assert served.run("rebuild", "cart_summary", "--keys", none, "-y").code == 2
    # Of a stream that has lost its first event nobody knows the row.
    connection.execute("DELETE FROM shop.mt_events WHERE stream_id = %s AND version = 1", (key,))
    left = served.run("rebuild", "cart_summary", "--streams", key, "--yes")
    assert left.code == 1
    assert "left as it is" in left.out
    served.write("shop_projections.py", shop.PROJECTION.replace("sign * data", "2 * sign * data"))
    changed = served.run("rebuild", "cart_summary", "--keys", key, "--yes")
    assert changed.code == 6
    assert "code of cart_summary has changed" in changed.err


@pytest.mark.thorough
def test_rows_that_the_application_writes_with_each_append(dsn, connection, project):
    inline_writers.create(connection)
    test_inline_switch.configure(project, dsn)
    test_inline_finish.seed(dsn)
    project.ok("rebuild", "--blue-green")
    test_inline_finish.spoil(connection, "cart-1")
    connection.execute("DELETE FROM mt_doc_cart WHERE id = 'cart-0'")
    chosen = ("rebuild", "carts", "--keys", "cart-0,cart-1,cart-2", "--output", "json", *QUICK)
    assert project.ok(*chosen, "--dry-run").json["differing"] == 2
    assert project.ok(*chosen, "--yes").json["healed"] == 2
    assert test_inline_finish.items(connection) == test_inline_finish.RIGHT
    unknown = project.run("rebuild", "carts", "--keys", "cart-1,nope", "-y", "--output", "json")
    assert (unknown.code, unknown.json["absent"], unknown.json["unknown"]) == (1, [["nope"]], [])


def test_what_a_check_found_wrong_is_made_right(served, connection):
    wrong = keys(connection, 5)
    spoil(connection, wrong)
    found = served.run("projection", "check", "cart_summary", "--output", "json")
    assert (found.code, found.json["differing"]) == (1, 6)
    number = str(found.json["check"])
    # Of these, one is made right before.
    served.ok("rebuild", "cart_summary", "--keys", wrong[0], "--yes")
    done = served.ok("rebuild", "cart_summary", "--from-check", number, "--yes", "--output", "json")
    assert (done.json["keys"], done.json["healed"]) == (5, 5)
    again = served.ok(
        "rebuild", "cart_summary", "--from-check", number, "--yes", "--output", "json"
    )
    assert again.json["keys"] == 0
    kept = "SELECT healed, (SELECT count(*) FROM esops.check_keys) FROM esops.checks WHERE id = %s"
    assert connection.execute(kept, (number,)).fetchone() == (6, 0)
    spoil(connection, wrong)
    healed = served.ok("projection", "check", "cart_summary", "--heal", "-y", "--output", "json")
    assert (healed.json["differing"], healed.json["healed"]) == (6, 6)
    shop.check_version(connection, 1)
    assert served.run("rebuild", "cart_summary", "--from-check", "99", "--yes").code == 2


def test_dead_letters_stay_left_out(dsn, connection, project):
    fails = '    if kind.endswith("confirmed") and at % 2:\n        raise ValueError(at)\n'
    at = "    at = event.position[0]\n"
    shop.make(dsn, 300)
    shop.configure(
        project,
        dsn,
        code=shop.PROJECTION.replace(at, at + fails),
        projection_options='on_error = "dead-letter"',
    )
    project.run("rebuild", "cart_summary", "--blue-green", "--max-dead-letters", "100%")
    assert connection.execute("SELECT count(*) FROM esops.dead_letters").fetchone()[0]
    before = shop.table(connection, TABLE)
    spoil(connection, keys(connection, 20))
    chosen = project.write("keys.txt", "\n".join([*before, "nobody"]))
    done = project.ok("rebuild", "--keys-from", str(chosen), "--yes", "--output", "json").json
    assert (done["healed"], done["unknown"]) == (21, [])
    assert shop.table(connection, TABLE) == before


def guard(connection, table: str, events: str, returns: str = "NULL") -> None:
    connection.execute(
        "CREATE OR REPLACE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"{'' if returns == 'NULL' else 'NEW.total = 7;'} RETURN {returns}; END $$"
    )
    connection.execute(f"DROP TRIGGER IF EXISTS guard ON {table}")
    connection.execute(
        f"CREATE TRIGGER guard BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION guard()"
    )


@pytest.mark.parametrize("returns", thorough_but(["NULL", "NEW"], "NULL"))
def test_what_the_table_does_not_take_without_a_word_is_not_called_right(
    returns, served, connection
):
    wrong = keys(connection, 4)
    spoil(connection, wrong)
    guard(
        connection, TABLE, "UPDATE OR INSERT" + (" OR DELETE" if returns == "NULL" else ""), returns
    )
    before = shop.table(connection, TABLE)
    chosen = ("rebuild", "cart_summary", "--keys", ",".join([*wrong, "nobody"]), "--yes")
    left = served.run(*chosen, "--output", "json")
    assert left.code == 1, left.err
    taken = 1 if returns == "NEW" else 0  # nothing keeps rows from being deleted then
    assert (left.json["healed"], left.json["deleted"]) == (taken, taken)
    assert {each["key"][0] for each in left.json["unfit"]} == {*wrong, "nobody"} - (
        {"nobody"} if taken else set()
    )
    after = shop.table(connection, TABLE)
    assert after == {key: row for key, row in before.items() if not taken or key != "nobody"}
    assert "a trigger, a rule or row security" in served.run(*chosen).out


@pytest.mark.thorough
def test_a_table_of_the_application_that_does_not_take_rows_is_named(dsn, connection, project):
    inline_writers.create(connection)
    test_inline_switch.configure(project, dsn)
    test_inline_finish.seed(dsn)
    project.ok("rebuild", "--blue-green")
    test_inline_finish.spoil(connection, "cart-1")
    connection.execute("DELETE FROM mt_doc_cart WHERE id = 'cart-0'")
    guard(connection, "mt_doc_cart", "UPDATE OR INSERT")
    chosen = ("rebuild", "carts", "--keys", "cart-0,cart-1,cart-2", "--output", "json", "--yes")
    left = project.run(*chosen)
    assert (left.code, left.json["healed"]) == (1, 0)
    assert [each["key"] for each in left.json["unfit"]] == [["cart-0"], ["cart-1"]]
    assert all("not taken" in each["reason"] for each in left.json["unfit"])


OWN = """
CREATE TABLE {table} (
    cart_id text PRIMARY KEY, client text NOT NULL, items integer NOT NULL,
    total numeric(12, 2) NOT NULL, status text NOT NULL, position bigint NOT NULL,
    created timestamptz NOT NULL DEFAULT clock_timestamp(), number serial,
    own bigint GENERATED ALWAYS AS IDENTITY, token uuid DEFAULT gen_random_uuid(), filled text,
    read boolean NOT NULL DEFAULT false
);
"""
FILL = """
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN NEW.filled = clock_timestamp()::text; RETURN NEW; END $$;
CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON cart_summary__v1 FOR EACH ROW EXECUTE FUNCTION fill();
ALTER TABLE cart_summary__v1 ADD note text;
UPDATE cart_summary__v1 SET note = 'important', read = true;
"""


@pytest.mark.parametrize("kind", thorough_but(["fold", "handlers"], "fold"))
def test_what_the_table_fills_in_by_itself_is_neither_compared_nor_written(
    kind, dsn, connection, project
):
    shop.make(dsn, 200)
    if kind == "fold":
        shop.configure(project, dsn, ddl=OWN)
    else:
        kinds.configure(project, dsn, kind)
        project.write("cart_summary.sql", OWN)
    project.ok("rebuild", "cart_summary", "--blue-green")
    connection.execute(FILL)
    own = f"SELECT cart_id, created, number, own, token, note, read FROM {TABLE} ORDER BY 1"
    before = {row[0]: row[1:] for row in connection.execute(own)}
    clean = project.run("projection", "check", "cart_summary", "--output", "json")
    assert (clean.code, clean.json["differing"]) == (0, 0), clean.out
    missing, *others = wrong = keys(connection, 4)
    spoil = f"UPDATE {TABLE} SET total = total + 1 WHERE cart_id = ANY(%s)"
    connection.execute(spoil, (others,))
    connection.execute(f"DELETE FROM {TABLE} WHERE cart_id = %s", (missing,))
    chosen = ",".join(keys(connection, 20) + wrong)
    done = project.ok("rebuild", "cart_summary", "--keys", chosen, "-y", "--output", "json").json
    assert (done["updated"], done["inserted"], done["unfit"]) == (3, 1, [])
    after = {row[0]: row[1:] for row in connection.execute(own)}
    inserted, old = after.pop(missing), before.pop(missing)
    assert after == before
    # It gets what a row gets that is inserted now; nothing else has drawn a number.
    assert inserted[0] > old[0]
    assert inserted[1] == len(before) + 2
    assert shop.table(connection, TABLE) == shop.truth(connection, 200)
    assert project.run("projection", "check", "cart_summary").code == 0


@pytest.mark.thorough
def test_columns_that_the_application_fills_in_by_itself_stay(dsn, connection, project):
    inline_writers.create(connection)
    test_inline_switch.configure(project, dsn)
    test_inline_finish.seed(dsn)
    project.ok("rebuild", "--blue-green")
    connection.execute(
        "ALTER TABLE mt_doc_cart ADD made_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
        "ADD number serial, ADD note text"
    )
    connection.execute("UPDATE mt_doc_cart SET note = 'important'")
    own = "SELECT id, made_at, number, note FROM mt_doc_cart ORDER BY 1"
    before = connection.execute(own).fetchall()
    assert project.ok("projection", "check", "carts", "--output", "json").json["differing"] == 0
    test_inline_finish.spoil(connection, "cart-1")
    chosen = (
        "rebuild",
        "carts",
        "--keys",
        "cart-0,cart-1,cart-2",
        "--output",
        "json",
        "--yes",
        *QUICK,
    )
    assert project.ok(*chosen).json["healed"] == 1
    assert test_inline_finish.items(connection) == test_inline_finish.RIGHT
    assert connection.execute(own).fetchall() == before
    (last,) = connection.execute("SELECT last_value FROM mt_doc_cart_number_seq").fetchone()
    assert last == len(before)


@pytest.mark.thorough
def test_a_stream_of_several_tenants_is_made_right_in_each(dumps, dsn, project, connection):
    emmett.restore(connection, (dumps / "marten-9.58-v2.sql").read_text())
    project.configure(
        stores={"s": {"dsn": dsn, "schema": "es"}},
        projections={"p": {"python": "p:p", "tables": ["p"], "ddl": "p.sql"}},
    )
    project.write(
        "p.sql", "CREATE TABLE {table} (tenant text, id text, n int, PRIMARY KEY (tenant, id));"
    )
    project.write(
        "p.py",
        "from esops import fold\n\n@fold(key='stream')\ndef p(row, event):\n"
        "    return {'n': (row['n'] if row else 0) + 1}\n",
    )
    project.ok("rebuild", "p", "--blue-green")
    (twice,) = connection.execute(
        "SELECT id FROM p GROUP BY id HAVING count(*) = 3 ORDER BY 1 LIMIT 1"
    ).fetchone()
    right = connection.execute("SELECT * FROM p ORDER BY 1, 2").fetchall()
    connection.execute("UPDATE p__v1 SET n = 100 WHERE id = %s", (twice,))
    done = project.ok("rebuild", "p", "--streams", twice, "--yes", "--output", "json").json
    assert (done["keys"], done["updated"]) == (3, 3)
    assert connection.execute("SELECT * FROM p ORDER BY 1, 2").fetchall() == right
