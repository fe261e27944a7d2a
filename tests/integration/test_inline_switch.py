"""`live = "inline"`: a table that the application writes with each append is rebuilt and exchanged
while it writes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support import inline_writers
from tests.support.databases import database
from tests.support.inline_writers import FOLD, Application, logic
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE, finish, kill, until


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    configure(project, dsn)
    return project


def configure(project, dsn: str, factor: int = 1, **options) -> None:
    project.configure(
        stores={"shop": {"dsn": dsn, "hole_threshold": "1s"}},
        projections={
            "carts": {
                "python": "carts:cart",
                "tables": ["mt_doc_cart"],
                "live": "inline",
                "switch": "rename",
                "verify": {"ignore": ["mt_last_modified"]},
                **options,
            }
        },
    )
    project.write("carts.py", FOLD.format(logic=factor))


def objects(connection) -> set[str]:
    """The names of the table's indexes and constraints, as the library compares them."""
    rows = connection.execute(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'mt_doc_cart' UNION "
        "SELECT conname FROM pg_constraint WHERE conrelid = 'mt_doc_cart'::regclass"
    ).fetchall()
    return {name for (name,) in rows}


def report(who: str, held: list[float], appends: int, longest: float) -> None:
    print(
        f"{who}: {len(held)} switches, {appends} appends, lock held {min(held) * 1000:.0f} to "
        f"{max(held) * 1000:.0f} ms, longest append {longest * 1000:.0f} ms"
    )


def test_of_a_table_that_esops_never_built_nobody_knows_whether_it_has_changed(carts):
    planned = carts.run("plan", "--output", "json")
    (found,) = planned.json["projections"]
    assert list(found["unknown"]) == ["application"]
    assert (planned.code, found["needs"], found["settled"]) == (1, "look", False)


def test_nothing_is_lost_under_writers(carts, connection, dsn):
    names = objects(connection)
    connection.execute("GRANT SELECT ON mt_doc_cart TO PUBLIC")
    application, held = Application(dsn), []
    with application.at_work([logic(1)] * rounds(3, 4), readers=rounds(1, 2)):
        for _ in range(rounds(1, 8)):
            done = carts.ok("rebuild", "--blue-green", "--output", "json").json
            assert done["verification"]["differing"] == 0
            held.append(done["lock"]["held_seconds"])
    assert application.failures == []
    assert inline_writers.wrong(connection, logic(1)) == []
    assert objects(connection) == names
    report("Marten's way", held, application.appends, application.longest)
    # The application goes on by itself; esops does not follow it, and says what comes next.
    with application.at_work([logic(1)], readers=0):
        ran = carts.ok("run", "--until-caught-up")
    assert "the application writes it with each append" in ran.err
    assert inline_writers.wrong(connection, logic(1)) == []
    told = carts.ok("rebuild", "--blue-green").out
    assert "The switch held its lock" in told
    assert "restore the old code" in told


def test_what_is_not_settled_is_in_the_table_all_the_same(carts, connection, dsn):
    """A transaction that has drawn a number and does not end: nothing settles beyond it, and its own
    append goes on into the new table.
    """
    with psycopg.connect(dsn, autocommit=True) as writer:
        for n in range(6):
            inline_writers.append(writer, f"cart-{n % 3}", logic(1), 1)
        with psycopg.connect(dsn) as open_, psycopg.connect(dsn) as behind:
            open_.execute("SELECT nextval('mt_events_sequence')")
            inline_writers.insert(open_, "cart-open", 0)
            for n in range(6):
                inline_writers.append(writer, f"cart-{n % 3}", logic(1), 1)
            inline_writers.insert(behind, "cart-behind", 0)
            done = carts.ok("rebuild", "--blue-green", "--output", "json").json
            assert (done["verification"]["differing"], done["lock"]["events"]) == (0, 6)
            # Both go on into the new table.
            inline_writers.upsert(behind, "cart-behind", {"Id": "cart-behind", "Items": 1}, 1)
            behind.commit()
            inline_writers.upsert(open_, "cart-open", {"Id": "cart-open", "Items": 1}, 1)
            open_.commit()
    assert inline_writers.wrong(connection, logic(1)) == []
    assert len(inline_writers.documents(connection)) == 5


def test_an_append_that_waits_for_the_lock_goes_on_into_the_new_table(carts, connection, dsn):
    """The switch is held up under its lock until somebody waits behind it."""
    with psycopg.connect(dsn, autocommit=True) as writer:
        inline_writers.append(writer, "cart-0", logic(1), 1)
    carts.patch(
        """
        import time
        import esops.rebuild.inline_switch as s
        before = s.carried.run
        def run(connection, done):
            for _ in range(200):
                (n,) = connection.execute(
                    "SELECT count(*) FROM pg_locks WHERE relation = 'mt_doc_cart'::regclass "
                    "AND NOT granted").fetchone()
                if n:
                    break
                time.sleep(0.05)
            return before(connection, done)
        s.carried.run = run
        """.replace("\n        ", "\n")
    )
    rebuild = carts.start("rebuild", "--blue-green")
    with psycopg.connect(dsn) as writer:
        until(
            lambda: connection.execute(
                "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'mt_doc_cart'::regclass AND "
                "mode = 'AccessExclusiveLock' AND granted"
            ).fetchone()[0]
        )
        inline_writers.insert(writer, "cart-1", 0)
        inline_writers.upsert(writer, "cart-1", {"Id": "cart-1", "Items": 1}, 1)
        writer.commit()
    finish(rebuild)
    assert rebuild.returncode == 0
    assert inline_writers.wrong(connection, logic(1)) == []
    assert len(inline_writers.documents(connection)) == 2


def test_writers_do_not_wait_for_an_esops_that_is_stopped_under_its_lock(carts, connection, dsn):
    with psycopg.connect(dsn, autocommit=True) as writer:
        inline_writers.append(writer, "cart-0", logic(1), 1)
        carts.patch(
            "import os, signal\nimport esops.rebuild.inline_switch as s\n"
            "def stop(*_):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    raise SystemExit(9)\n"
            "s.carried.run = stop\n"
        )
        stopped = carts.start("rebuild", "--blue-green")
        until(
            lambda: connection.execute(
                "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'mt_doc_cart'::regclass AND "
                "mode = 'AccessExclusiveLock' AND granted"
            ).fetchone()[0]
        )
        # Nobody ends the process: the server has to.
        writer.execute("SET lock_timeout = '60s'")
        inline_writers.append(writer, "cart-1", logic(1), 1)
        kill(stopped)
        assert len(inline_writers.documents(connection)) == 2
    carts.patch("")
    carts.ok("rebuild", "--blue-green", "--resume")
    assert inline_writers.wrong(connection, logic(1)) == []


def test_a_long_reader_is_waited_for_without_a_lock(carts, connection, dsn):
    with psycopg.connect(dsn, autocommit=True) as writer, psycopg.connect(dsn) as reader:
        inline_writers.append(writer, "cart-0", logic(1), 1)
        reader.execute("SELECT FROM mt_doc_cart")
        plan = carts.ok("rebuild", "--blue-green", "--dry-run").out
        assert "LOCK TABLE" in plan
        rebuild = carts.start("rebuild", "--blue-green", "--output", "json")
        until(
            lambda: (
                connection.execute("SELECT max(state) FROM esops.rebuilds").fetchone()[0]
                == "verified"
                if connection.execute(
                    "SELECT to_regclass('esops.rebuilds') IS NOT NULL"
                ).fetchone()[0]
                else False
            )
        )
        for _ in range(40):
            inline_writers.append(writer, "cart-0", logic(1), 1)
            time.sleep(0.03)
        (waits,) = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        ).fetchone()
        assert waits == 0
        reader.commit()
    out, _ = finish(rebuild)
    # One more where something else has a lock for a moment, such as an autovacuum.
    assert json.loads(out)["lock"]["tries"] <= 2


def test_other_rows_are_found_and_not_switched_to(carts, connection, dsn):
    with psycopg.connect(dsn, autocommit=True) as writer:
        for n in range(4):
            inline_writers.append(writer, f"cart-{n}", logic(1), 1)
    connection.execute("UPDATE mt_doc_cart SET data = data || '{\"Items\": 7}' WHERE id = 'cart-2'")
    differs = carts.run("rebuild", "--blue-green", "--output", "json")
    assert (differs.code, differs.json["verification"]["differing"]) == (1, 1)
    carts.ok("rebuild", "--blue-green", "--resume", "--max-diff", "1")
    assert inline_writers.wrong(connection, logic(1)) == []


def test_a_snapshot_that_would_see_an_empty_table_is_waited_for(carts, connection, dsn):
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as writer:
        inline_writers.append(writer, "cart-0", logic(1), 1)
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        plan = carts.ok("rebuild", "--blue-green", "--dry-run").out
        assert f"session {reader.info.backend_pid}" in plan
        refused = carts.run("rebuild", "--blue-green", "--snapshot-wait", "1s")
        assert (refused.code, "had a snapshot before the switch" in refused.err) == (6, True)
    carts.ok("rebuild", "--blue-green", "--resume")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"switch": "view"}, "ON CONFLICT"),
        ({"switch": "hook", "hooks": {"switch": ["true"]}}, "ON CONFLICT"),
        ({"kind": "handlers"}, "is for folds"),
        ({"checkpoint": "Cart:All"}, "no checkpoint"),
        ({"on_error": "dead-letter"}, "each event in its row"),
    ],
)
def test_settings_that_cannot_be(carts, dsn, options, words):
    configure(carts, dsn, **options)
    refused = carts.run("rebuild", "--blue-green", "--dry-run")
    assert (refused.code, words in refused.err) == (2, True)


def test_refused_where_the_application_does_not_write_it_so(carts, connection, dsn, server):
    refused = carts.run("rebuild", "--blue-green", "--no-switch")
    assert (refused.code, "--postpone" in refused.err) == (6, True)
    assert carts.run("rebuild", "--yes").code == 6
    connection.execute(
        "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('Cart:All', 0)"
    )
    refused = carts.run("rebuild", "--blue-green")
    assert (refused.code, 'checkpoint = "Cart:All"' in refused.err) == (6, True)
    connection.execute("DELETE FROM mt_event_progression; ALTER TABLE mt_doc_cart RENAME TO away")
    refused = carts.run("rebuild", "--blue-green")
    assert (refused.code, "Let the application make it first" in refused.err) == (6, True)
    text = (carts.folder / "esops.toml").read_text()
    text = text.replace("[projections.carts]", '[projections.carts]\nreadmodel = "far"')
    with database(server) as far:
        carts.write("esops.toml", f'{text}\n[readmodels.far]\ndsn = "{far}"\n')
        refused = carts.run("rebuild", "--blue-green")
    assert (refused.code, "not in one Postgres database" in refused.err) == (6, True)


# -- new logic


def test_rows_of_old_and_mixed_logic_are_made_right_under_load(carts, connection, dsn):
    streams = rounds(40, 100)
    application = Application(dsn, streams=streams)
    with application.at_work([logic(1)] * 2):
        until(lambda: len(inline_writers.documents(connection)) > streams // 2)
        configure(carts, dsn, factor=10)
        carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
        shown = carts.ok("projection", "show", "carts").out
        assert "rows may be of the old logic" in shown
        # The old instances are at work, and new ones begin.
        fresh = Application(dsn, streams=streams)
        old = application.appends
        with fresh.at_work([logic(10)] * 2):
            until(lambda: min(fresh.appends, application.appends - old) > streams)
    mixed = len(inline_writers.wrong(connection, logic(10)))
    assert mixed > 10
    assert "rows may be of the old logic" in carts.ok("status").out
    with fresh.at_work([logic(10)] * 2):
        done = carts.ok(
            "projection", "finish", "carts", "--yes", "--longest-session", "1s", "--output", "json"
        ).json
    assert (application.failures, fresh.failures) == ([], [])
    assert inline_writers.wrong(connection, logic(10)) == []
    print(
        f"{mixed} of {done['streams']} rows were wrong; {done['healed']} made right in "
        f"{done['passes']} passes; longest append {fresh.longest * 1000:.0f} ms"
    )
    assert done["unchecked"] == []
    assert "rows may be" not in carts.ok("projection", "show", "carts").out
    assert carts.run("projection", "finish", "carts", "--yes").code == 2


def test_what_finish_does_to_single_rows(carts, connection, dsn):
    """A row that is missing, one too many, one that is locked, one without its first event; what is
    ignored stays.
    """
    with psycopg.connect(dsn, autocommit=True) as writer:
        for n in range(8):
            inline_writers.append(writer, f"cart-{n % 4}", logic(1), 1)
    carts.ok("rebuild", "--blue-green")
    connection.execute(
        "UPDATE mt_doc_cart SET data = data || '{\"Items\": 99}', mt_last_modified = '2020-01-01' "
        "WHERE id <> 'cart-1'; DELETE FROM mt_doc_cart WHERE id = 'cart-0'; "
        "INSERT INTO mt_doc_cart (id, data) VALUES ('elsewhere', '{}'); "
        "DELETE FROM mt_events WHERE stream_id = 'cart-3' AND version = 1"
    )
    shown = carts.ok("status", "--output", "json").json["projections"]
    assert {each["lag_seconds"] for each in shown} == {None}, "nobody knows, so no alert fires"
    quick = ("--yes", "--longest-session", "100ms", "--output", "json")
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT FROM mt_doc_cart WHERE id = 'cart-2' FOR UPDATE")
        finishing = carts.start("projection", "finish", "carts", *quick)
        until(lambda: "cart-0" in inline_writers.documents(connection))
    out, _ = finish(finishing)
    assert (finishing.returncode, json.loads(out)["unchecked"]) == (1, ["cart-3", "elsewhere"])
    assert json.loads(out)["healed"] == 2
    found = inline_writers.documents(connection)
    assert {key: found[key][0].get("Items") for key in sorted(found)} == {
        "cart-0": 2,
        "cart-1": 2,
        "cart-2": 2,
        "cart-3": 99,
        "elsewhere": None,
    }
    kept = connection.execute(
        "SELECT mt_last_modified::date::text FROM mt_doc_cart WHERE id = 'cart-2'"
    )
    assert kept.fetchone() == ("2020-01-01",)
    # Not all is right, so nothing says that it is.
    assert carts.run("projection", "finish", "carts", *quick).code == 1
    configure(carts, dsn, factor=2)
    refused = carts.run("projection", "finish", "carts", *quick)
    assert (refused.code, "has changed since v2 was built" in refused.err) == (6, True)
    assert carts.run("projection", "finish", "carts").code == 2, "nobody has said that they ended"


# -- the real Emmett

PONGO = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    data = (row or {{"data": {{"items": 0}}}})["data"]
    version = (row or {{"_version": 0}})["_version"] + 1
    items = data["items"] + {factor} * event.json()["quantity"]
    return {{
        "data": {{"_id": event.stream, "items": items, "_version": str(version)}},
        "_version": version,
    }}
"""


class EmmettWriters:
    """Emmett's processes; each has one logic for as long as it lives."""

    def __init__(self, script: Path, uri: str) -> None:
        self._script, self._uri = script, uri
        self.told: list[dict] = []

    def make(self) -> None:
        subprocess.run(["node", self._script, self._uri, "make", "1"], check=True, timeout=DEADLINE)

    @contextmanager
    def at_work(self, factors: list[int]):
        running = [
            subprocess.Popen(
                ["node", self._script, self._uri, str(n), str(factor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n, factor in enumerate(factors)
        ]
        try:
            assert [each.stdout.readline() for each in running] == ["ready\n"] * len(running)
            for each in running:
                each.stdin.write("append\n")
                each.stdin.flush()
            yield
        finally:
            answers = [each.communicate(timeout=DEADLINE)[0] for each in running]
        self.told += [json.loads(each) for each in answers]


@pytest.fixture
def emmett(emmett_writer, emmett_uri):
    folder = Path(emmett_writer).parent
    script = shutil.copy(Path(__file__).with_name("emmett_inline.mjs"), folder)
    writers = EmmettWriters(script, emmett_uri)
    writers.make()
    return writers


def configure_pongo(project, dsn: str, factor: int = 1) -> None:
    project.configure(
        stores={"shop": {"dsn": dsn}},
        projections={
            "carts": {
                "python": "carts:carts",
                "tables": ["carts"],
                "events": ["ItemAdded"],
                "live": "inline",
                "switch": "rename",
                "verify": {"ignore": ["_created", "_updated"]},
            }
        },
    )
    project.write("carts.py", PONGO.format(factor=factor))


def wrong_carts(connection, factor: int) -> int:
    """The documents that are missing, too many, or not as the events make them."""
    (number,) = connection.execute(
        """
        SELECT count(*) FROM (
            SELECT stream_id, sum((message_data ->> 'quantity')::int) * %s AS items
              FROM emt_messages WHERE message_type = 'ItemAdded' GROUP BY 1
        ) AS e FULL JOIN carts c ON c._id = e.stream_id
        WHERE (c.data ->> 'items')::int IS DISTINCT FROM e.items
        """,
        (factor,),
    ).fetchone()
    return int(number)


def test_nothing_is_lost_under_emmetts_own_writers(project, dsn, connection, emmett):
    configure_pongo(project, dsn)
    held = []
    with emmett.at_work([1] * rounds(2, 4)):
        until(lambda: connection.execute("SELECT count(*) > 40 FROM carts").fetchone()[0])
        for _ in range(rounds(1, 10)):
            done = project.ok("rebuild", "--blue-green", "--output", "json").json
            assert done["verification"]["differing"] == 0
            held.append(done["lock"]["held_seconds"])
    assert [each for one in emmett.told for each in one["failures"]] == []
    assert wrong_carts(connection, 1) == 0
    appends, longest = (
        sum(each["appends"] for each in emmett.told),
        max(each["longest"] for each in emmett.told) / 1000,
    )
    report("Emmett", held, appends, longest)


@pytest.mark.thorough
def test_emmetts_rows_of_two_logics_are_made_right(project, dsn, connection, emmett):
    configure_pongo(project, dsn)
    with ExitStack() as new:
        with emmett.at_work([1, 1]):
            until(lambda: connection.execute("SELECT count(*) > 100 FROM carts").fetchone()[0])
            configure_pongo(project, dsn, factor=10)
            project.ok("rebuild", "--blue-green", "--max-diff", "100%")
            began = messages(connection)
            new.enter_context(emmett.at_work([10, 10]))
            until(lambda: messages(connection) > began + 200)
        mixed = wrong_carts(connection, 10)
        assert mixed > 10
        finish_ = ("projection", "finish", "carts", "--yes", "--longest-session", "1s")
        done = project.ok(*finish_, "--output", "json").json
    assert [each for one in emmett.told for each in one["failures"]] == []
    assert wrong_carts(connection, 10) == 0
    print(f"Emmett: {mixed} rows were wrong; {done['healed']} made right, {done['passes']} passes")


@pytest.mark.thorough
def test_back_under_emmetts_own_writers(project, dsn, connection, emmett):
    configure_pongo(project, dsn)
    with emmett.at_work([1] * 2):
        until(lambda: connection.execute("SELECT count(*) > 100 FROM carts").fetchone()[0])
        configure_pongo(project, dsn, factor=10)
        project.ok("rebuild", "--blue-green", "--max-diff", "100%")
        seen = messages(connection)
        until(lambda: messages(connection) > seen + 100)
        configure_pongo(project, dsn)
        project.ok("projection", "rollback", "carts")
        project.ok("projection", "finish", "carts", "--yes", "--longest-session", "1s")
    assert [each for one in emmett.told for each in one["failures"]] == []
    assert wrong_carts(connection, 1) == 0


def messages(connection) -> int:
    (number,) = connection.execute("SELECT count(*) FROM emt_messages").fetchone()
    return number
