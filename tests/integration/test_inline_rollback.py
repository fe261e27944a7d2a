"""What comes after a switch of a table that the application writes: back to the version before, and
an end to rows of two logics where no single row can be made again.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.test_inline_switch import configure, objects, report
from tests.support import inline_writers, marten
from tests.support.cases import thorough_but
from tests.support.inline_writers import FOLD, Application, logic
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE, until

GROUPS = """
from esops import fold

@fold(key=lambda event: event.stream[0])
def cart(row, event):
    items = (row["data"]["Items"] if row else 0) + {factor} * event.json()["Quantity"]
    return {{"data": {{"Id": event.stream[0], "Items": items}}, "mt_dotnet_type": "Shop.Cart"}}
"""


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    configure(project, dsn)
    return project


def append(dsn: str, *streams: str, factor: int = 1) -> None:
    with psycopg.connect(dsn, autocommit=True) as writer:
        for stream in streams:
            inline_writers.append(writer, stream, logic(factor), 1)


def switched(carts, dsn: str, factor: int) -> None:
    """Switched to new logic, by the code that esops.toml names from then on."""
    configure(carts, dsn, factor=factor)
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")


def mixed(carts, logic: str = "the old logic") -> bool:
    return f"rows may be of {logic} or of both" in carts.ok("status").out


def test_back_under_writers(carts, connection, dsn):
    """The same logic, so that rows are right at each moment: nothing is missing, and nothing is
    applied twice.
    """
    names = objects(connection)
    few = rounds(40, 100)
    application, held = Application(dsn, streams=2 * few), []
    with application.at_work([logic(1)] * rounds(2, 4), readers=rounds(1, 2)):
        until(lambda: len(inline_writers.documents(connection)) > few)
        carts.ok("rebuild", "--blue-green")
        for number in range(rounds(2, 8)):
            began = application.appends
            until(lambda: application.appends > began + few)  # noqa: B023
            way = ("switch", "--to", "2") if number % 2 else ("rollback",)
            done = carts.ok(
                "projection", way[0], "carts", *way[1:], "--accept-code", "--output", "json"
            )
            assert done.json["verification"]["differing"] == 0
            assert done.json["events"] >= few
            held.append(done.json["lock"]["held_seconds"])
    assert application.failures == []
    assert inline_writers.wrong(connection, logic(1)) == []
    assert objects(connection) == names
    report("Back and forth", held, application.appends, application.longest)


@pytest.mark.thorough
def test_back_from_new_logic(carts, connection, dsn):
    old = Application(dsn, streams=100)
    with old.at_work([logic(1)] * 4):
        until(lambda: len(inline_writers.documents(connection)) > 80)
        switched(carts, dsn, 10)
    new = Application(dsn, streams=100)
    with new.at_work([logic(10)] * 2):
        until(lambda: new.appends > 100)
    # At night: the code before is put back, here and there, and one instance is forgotten.
    configure(carts, dsn, factor=1)
    with old.at_work([logic(1)] * 4):
        with new.at_work([logic(10)]):
            told = carts.ok("projection", "rollback", "carts").out
            assert "esops projection finish carts" in told
            began = new.appends
            until(lambda: new.appends > began + 20)
        assert mixed(carts, "the logic of v2")
        quick = ("--yes", "--longest-session", "1s")
        carts.ok("projection", "finish", "carts", *quick)
    assert (old.failures, new.failures) == ([], [])
    assert inline_writers.wrong(connection, logic(1)) == []
    assert not mixed(carts, "the logic of v2")
    refused = carts.run("projection", "rollback", "carts")
    assert (refused.code, "switch carts --to 2" in refused.err) == (6, True)
    # The rollback is what there is last, and the next rebuild is from where it led.
    last = carts.ok("rebuild", "--blue-green", "--resume", "--output", "json").json
    assert (last["state"], last["from_version"], last["to_version"]) == ("switched", 2, 1)
    after = carts.ok("rebuild", "--blue-green", "--output", "json").json
    assert (after["from_version"], after["verification"]["differing"]) == (1, 0)
    assert not mixed(carts)


def rows(connection) -> dict[str, int]:
    found = inline_writers.documents(connection)
    return {key: data["Items"] for key, (data, _) in sorted(found.items())}


def test_what_was_not_settled_at_the_switch_is_applied_once(carts, connection, dsn):
    """Events that the old table has although earlier ones were open, and the earlier ones, which it
    lacks; a row that was deleted, one that is new, and one that nothing happened to.
    """
    append(dsn, "cart-0", "cart-1", "cart-2", "cart-quiet")
    configure(carts, dsn, factor=10)
    with psycopg.connect(dsn) as open_, psycopg.connect(dsn) as dropped:
        for each in (open_, dropped):
            each.execute("SELECT nextval('mt_events_sequence')")
        inline_writers.insert(open_, "cart-open", 0)
        append(dsn, "cart-0", "cart-1")
        carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
        # Of the old logic, into the new table.
        inline_writers.upsert(open_, "cart-open", {"Id": "cart-open", "Items": 1}, 1)
        open_.commit()
    append(dsn, "cart-1", "cart-new", factor=10)
    configure(carts, dsn, factor=1)
    plan = carts.ok("projection", "rollback", "carts", "--dry-run")
    assert "LOCK TABLE" in plan.out
    # Of cart-open, cart-1 and cart-new.
    assert "4 rows of v1 were looked at, and are right" in plan.err
    assert rows(connection)["cart-quiet"] == 10
    done = carts.ok("projection", "rollback", "carts", "--output", "json").json
    assert (done["events"], done["from_version"], done["to_version"]) == (3, 2, 1)
    assert mixed(carts, "the logic of v2")
    assert rows(connection) == {
        "cart-0": 2,
        "cart-1": 3,
        "cart-2": 1,
        "cart-new": 1,
        "cart-open": 1,
        "cart-quiet": 1,
    }
    # And forward again, to the table that stood still meanwhile, by its own code only.
    append(dsn, "cart-0", "cart-quiet")
    refused = carts.run("projection", "switch", "carts", "--to", "2")
    assert (refused.code, "was made by other code" in refused.err) == (6, True)
    configure(carts, dsn, factor=10)
    # One of its rows is of the old logic: that is seen, and can be made right afterwards.
    refused = carts.run("projection", "switch", "carts", "--to", "2")
    assert (refused.code, "1 are not what the code" in refused.err) == (6, True)
    carts.ok("projection", "switch", "carts", "--to", "2", "--accept-code")
    carts.ok("projection", "finish", "carts", "--yes", "--longest-session", "100ms")
    assert inline_writers.wrong(connection, logic(10)) == []
    assert rows(connection)["cart-0"] == 30
    assert rows(connection)["cart-quiet"] == 20
    # A version that esops made is known by its code, and is gone back to without a word more.
    configure(carts, dsn, factor=1)
    carts.ok("projection", "rollback", "carts")
    assert inline_writers.wrong(connection, logic(1)) == []


def test_refused_where_the_code_is_not_that_of_the_version(carts, connection, dsn):
    append(dsn, "cart-0", "cart-1")
    switched(carts, dsn, 10)
    append(dsn, "cart-2", factor=10)

    def refused(*options: str) -> str:
        done = carts.run("projection", "rollback", "carts", *options)
        assert done.code == 6
        assert rows(connection) == {"cart-0": 10, "cart-1": 10, "cart-2": 10}
        return done.err

    assert "still names the code of v2" in refused()
    # The application alone made v1: what the code makes of the events tells.
    configure(carts, dsn, factor=3)
    assert "of 2 rows of v1 of carts that were looked at, 2 are not" in refused()
    configure(carts, dsn, factor=1)
    connection.execute("UPDATE mt_doc_cart__v1 SET data = '{}' WHERE id = 'cart-1'")
    assert "1 are not what the code in esops.toml makes" in refused("--dry-run")
    connection.execute(
        'UPDATE mt_doc_cart__v1 SET data = \'{"Id": "cart-1", "Items": 1}\' WHERE id = \'cart-1\''
    )
    carts.ok("projection", "rollback", "carts")
    assert rows(connection) == {"cart-0": 1, "cart-1": 1, "cart-2": 1}


def test_refused_where_streams_are_gone_or_a_rebuild_is_not_finished(carts, connection, dsn):
    append(dsn, "cart-0", "cart-1")
    switched(carts, dsn, 10)
    append(dsn, "cart-2", factor=10)
    configure(carts, dsn, factor=1)
    connection.execute(
        "DELETE FROM mt_events WHERE stream_id = 'cart-0'; "
        "DELETE FROM mt_doc_cart WHERE id = 'cart-0'"
    )
    gone = carts.run("projection", "rollback", "carts")
    assert (gone.code, "would come back whose streams are gone" in gone.err) == (6, True)
    append(dsn, "cart-4", "cart-4", factor=10)
    connection.execute("DELETE FROM mt_events WHERE stream_id = 'cart-4' AND version = 1")
    short = carts.run("projection", "rollback", "carts", "--allow-stale")
    assert (short.code, "one is 'cart-4'" in short.err) == (6, True)
    connection.execute(
        "DELETE FROM mt_events WHERE stream_id = 'cart-4'; "
        "DELETE FROM mt_doc_cart WHERE id = 'cart-4'"
    )
    # An unfinished rebuild could not be dropped any more.
    carts.run("rebuild", "--blue-green")
    unfinished = carts.run("projection", "rollback", "carts", "--allow-stale")
    assert (unfinished.code, "--abort" in unfinished.err) == (6, True)
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    carts.ok("projection", "rollback", "carts", "--allow-stale")
    assert rows(connection) == {"cart-0": 1, "cart-1": 1, "cart-2": 1}


def test_refused_where_it_is_not_known_what_the_old_table_has(carts, connection, dsn):
    append(dsn, "cart-0")
    carts.patch("import esops.running.visible as v\nv._MOST_BEYOND = 1\n")
    with psycopg.connect(dsn) as open_:
        open_.execute("SELECT nextval('mt_events_sequence')")
        append(dsn, "cart-0", "cart-1")
        carts.ok("rebuild", "--blue-green")
    refused = carts.run("projection", "rollback", "carts", "--accept-code")
    assert (refused.code, "build it from the events, by the code of v1" in refused.err) == (6, True)


@pytest.mark.parametrize(
    "where",
    thorough_but(
        ["standing.take_up", "inline_switch.perform", "inline_switch.carried.run", "journal.note"],
        "journal.note",
    ),
)
def test_killed_and_begun_again(carts, connection, dsn, where):
    """At the checkpoint, before the switch, under its lock, and before its commit."""
    append(dsn, "cart-0", "cart-1")
    switched(carts, dsn, 10)
    append(dsn, "cart-1", "cart-2", factor=10)
    configure(carts, dsn, factor=1)
    carts.patch(
        "import os, signal\nimport esops.rebuild.going_back as g\n"
        f"before = g.{where}\n"
        "def killed(*args, **options):\n"
        f"    {'before(*args, **options)' if where in ('standing.take_up', 'journal.note') else 'pass'}\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"g.{where} = killed\n"
    )
    killed = carts.start("projection", "rollback", "carts")
    killed.wait(DEADLINE)
    assert killed.returncode != 0
    assert rows(connection) == {"cart-0": 10, "cart-1": 20, "cart-2": 10}
    carts.patch("")
    append(dsn, "cart-2", factor=10)
    # Nobody follows it meanwhile.
    carts.ok("run", "--until-caught-up")
    done = carts.ok("projection", "rollback", "carts", "--output", "json").json
    assert rows(connection) == {"cart-0": 1, "cart-1": 2, "cart-2": 2}
    assert done["to_version"] == 1


# -- rows of several streams


def append_to_group(connection, stream: str, factor: int) -> None:
    """An append whose document is that of all streams with the same first letter."""
    group = stream[0]
    before = connection.execute("SELECT count(*) FROM mt_events WHERE stream_id = %s", (stream,))
    (version,) = before.fetchone()
    with connection.transaction():
        inline_writers.insert(connection, stream, version, 1)
        row = connection.execute(
            "SELECT (data ->> 'Items')::int FROM mt_doc_cart WHERE id = %s", (group,)
        ).fetchone()
        items = (row[0] if row else 0) + factor
        inline_writers.upsert(connection, group, {"Id": group, "Items": items}, 0)


def test_rows_of_several_streams_are_right_after_another_rebuild(carts, connection, dsn):
    """What `finish` prints leads to the end."""
    group(carts, dsn, connection)
    append_to_group(connection, "a2", 1)
    assert mixed(carts)
    refused = carts.run("projection", "finish", "carts", "--yes")
    told = "esops rebuild carts --blue-green --max-diff 100%"
    assert (refused.code, told in refused.err, mixed(carts)) == (6, True, True)
    carts.ok(*told.split()[1:])
    assert not mixed(carts)
    assert rows(connection) == {"a": 30, "b": 10}
    assert carts.run("projection", "finish", "carts", "--yes").code == 2


def group(carts, dsn, connection) -> None:
    """Rows of several streams, switched to new logic; an instance with the old one has gone on."""
    configure(carts, dsn, verify={"ignore": ["mt_last_modified", "mt_version"]})
    for stream in ("a1", "b1"):
        append_to_group(connection, stream, 1)
    carts.write("carts.py", GROUPS.format(factor=10))
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    append_to_group(connection, "a1", 1)


@pytest.mark.thorough
def test_other_rebuilds_do_not_say_that_the_old_code_has_ended(carts, connection, dsn):
    group(carts, dsn, connection)
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    assert mixed(carts)
    assert carts.run("projection", "finish", "carts", "--yes").code == 6
    assert mixed(carts)
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    assert not mixed(carts)
    # The same code again: nobody writes by another.
    carts.ok("rebuild", "--blue-green")
    assert not mixed(carts)
    # Another one: the instances of today are those with the old code.
    carts.write("carts.py", GROUPS.format(factor=7))
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    assert mixed(carts)


@pytest.mark.thorough
def test_rows_of_two_logics_come_back_as_such(carts, connection, dsn):
    """They were made right in another table since."""
    append(dsn, *[f"cart-{number}" for number in range(5)])
    switched(carts, dsn, 10)
    append(dsn, "cart-1")  # by an instance with the old code
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    finish = ("projection", "finish", "carts", "--yes", "--longest-session", "100ms")
    carts.ok(*finish)
    refused = carts.run("projection", "rollback", "carts")
    assert (refused.code, "cart-1" in refused.err) == (6, True)
    carts.ok("projection", "rollback", "carts", "--accept-code")
    assert inline_writers.wrong(connection, logic(10)) == ["cart-1"]
    assert "ESOPS-D097" in carts.run("doctor").out
    carts.ok(*finish)
    assert inline_writers.wrong(connection, logic(10)) == []


@pytest.mark.thorough
def test_what_a_table_got_is_not_lost_by_a_switch_past_other_versions(carts, connection, dsn):
    append(dsn, "cart-1")
    carts.ok("rebuild", "--blue-green")
    connection.execute("CREATE INDEX by_new ON mt_doc_cart ((data ->> 'Id'))")
    carts.ok("rebuild", "--blue-green")
    refused = carts.run("projection", "switch", "carts", "--to", "1", "--accept-code")
    assert (refused.code, "index by_new is new" in refused.err) == (6, True)


def test_a_document_whose_stream_was_deleted_does_not_come_back(carts, connection, dsn):
    """However many rows only the old table has."""
    carts.patch("import esops.rebuild.standing_rows as s\ns.MOST = 2\n")
    append(dsn, *[f"cart-{number}" for number in range(5)], "gone")
    configure(carts, dsn, factor=10)
    left_out = '    if event.stream < "cart-4": return None\n    data = apply'
    carts.write("carts.py", FOLD.format(logic=10).replace("    data = apply", left_out))
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    for table, column in (("mt_events", "stream_id"), ("mt_streams", "id"), ("mt_doc_cart", "id")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = 'gone'")
    configure(carts, dsn, factor=1)
    refused = carts.run("projection", "rollback", "carts")
    assert (refused.code, "streams are gone" in refused.err) == (6, True)
    assert refused.err.count("gone") > 1
    carts.patch("import esops.rebuild.standing_rows as s\ns.MOST_ONLY_HERE = 2\n")
    refused = carts.run("projection", "rollback", "carts")
    assert refused.code == 6


@pytest.mark.parametrize("order", thorough_but(["tenant_id, id", "id, tenant_id"], "tenant_id, id"))
def test_rows_are_looked_at_whether_the_tenant_comes_first_or_last(project, connection, dsn, order):
    marten.create(connection, marten.Variant(text_ids=True, conjoined=True))
    tenant = "tenant_id varchar NOT NULL, id varchar NOT NULL, data"
    ddl = inline_writers.DDL.replace("id varchar NOT NULL, data", tenant)
    connection.execute(ddl.replace("PRIMARY KEY (id)", f"PRIMARY KEY ({order})"))
    for name in ("cart-1", "red"):
        connection.execute(
            f"""
            INSERT INTO mt_streams (tenant_id, id, version) VALUES ('red', '{name}', 1);
            INSERT INTO mt_events (seq_id, id, stream_id, tenant_id, version, data, type, timestamp)
            VALUES (nextval('mt_events_sequence'), gen_random_uuid(), '{name}', 'red', 1,
                    '{{"Quantity": 1}}', 'item_added', now());
            INSERT INTO mt_doc_cart (tenant_id, id, data, mt_version, mt_dotnet_type)
            VALUES ('red', '{name}', '{{"Id": "{name}", "Items": 1}}', 1, 'Shop.Cart');
            """
        )
    configure(project, dsn, factor=10)
    project.ok("rebuild", "--blue-green", "--max-diff", "100%")
    configure(project, dsn, factor=3)  # of neither version
    refused = project.run("projection", "rollback", "carts")
    assert (refused.code, "2 are not what the code" in refused.err) == (6, True)
