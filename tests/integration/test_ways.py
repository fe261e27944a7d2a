"""Other ways through a rebuild: hooks, a test only, blue that goes by itself, readers moved by a
hook, and in place.
"""

from __future__ import annotations

import json
import os
import sys

import psycopg
import pytest

from esops.demo import store
from tests.support import shop
from tests.support.waiting import end, finish, heard, kill, until

EVENTS = 1_500

HOOK = """#!/bin/sh
echo "$ESOPS_HOOK $ESOPS_PROJECTION $ESOPS_STATE $ESOPS_FROM_VERSION>$ESOPS_TO_VERSION $ESOPS_EVENTS $ESOPS_REASON" >> told
echo "said by $ESOPS_HOOK"
if [ -e "fail-$ESOPS_HOOK" ]; then exit 7; fi
if [ -e "hang-$ESOPS_HOOK" ]; then sleep 30; fi
"""
HOOKS = """
[projections.cart_summary.hooks]
before_catch_up = ["./hook"]
before_switch = ["./hook"]
after_switch = ["./hook"]
on_failure = ["./hook"]
timeout = "60s"
"""


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    return project


@pytest.fixture
def hooked(carts):
    text = (carts.folder / "esops.toml").read_text()
    carts.write("esops.toml", text + HOOKS)
    path = carts.folder / "hook"
    path.write_text(HOOK)
    path.chmod(0o755)
    return carts


def told(project) -> list[str]:
    return (project.folder / "told").read_text().splitlines()


def test_hooks_are_told_what_happens(hooked):
    done = hooked.ok("rebuild", "--blue-green")
    assert told(hooked) == [
        "before-catch-up cart_summary provisioned >1 0 ",
        f"before-switch cart_summary verified >1 {EVENTS} ",
        f"after-switch cart_summary switched >1 {EVENTS} ",
    ]
    assert "said by before-switch" in done.err


@pytest.mark.parametrize(
    ("hook", "code", "state"),
    [
        pytest.param("before-catch-up", 5, "paused", marks=pytest.mark.thorough),
        ("before-switch", 5, "paused"),
        ("after-switch", 1, "switched"),
    ],
)
def test_a_hook_that_fails_is_heeded(hooked, connection, hook, code, state):
    (hooked.folder / f"fail-{hook}").touch()
    result = hooked.run("rebuild", "--blue-green")
    assert result.code == code, result.err
    assert f"hook {hook} ended with exit code 7" in result.err
    assert connection.execute("SELECT state FROM esops.rebuilds").fetchone() == (state,)
    assert ("on-failure" in told(hooked)[-1]) == (state == "paused")
    (hooked.folder / f"fail-{hook}").unlink()
    if hook == "after-switch":
        assert hook_is_owed(hooked)
        assert "switched" in hooked.ok("rebuild", "--blue-green", "--resume", "--dry-run").out
    hooked.ok("rebuild", "--blue-green", "--resume")
    assert told(hooked)[-1].startswith("after-switch ")
    assert not hook_is_owed(hooked)
    shop.check_version(connection, 1)


def hook_is_owed(project) -> bool:
    """Whether status and doctor say that the hook after the switch is left to run."""
    shown = project.run("status", "--output", "json")
    (rebuild,) = shown.json["rebuilds"]
    assert shown.code == (not rebuild["ok"])
    found = project.run("doctor", "--output", "json").json["findings"]
    assert ("ESOPS-D100" in {each["code"] for each in found}) == (not rebuild["ok"])
    return not rebuild["ok"]


def test_a_hook_that_a_kill_has_prevented_is_run_on_resume(hooked, connection):
    hooked.patch(
        "import os\nfrom esops.rebuild import switch\nperform = switch.perform\n"
        "def and_die(*given, **more):\n"
        "    perform(*given, **more)\n"
        "    os.kill(os.getpid(), 9)\n"
        "switch.perform = and_die\n"
    )
    assert hooked.run("rebuild", "--blue-green").code == -9
    assert connection.execute("SELECT state FROM esops.rebuilds").fetchone() == ("switched",)
    assert told(hooked)[-1].startswith("before-switch ")
    assert hook_is_owed(hooked)
    (hooked.folder / "fail-after-switch").touch()
    assert hooked.run("rebuild", "--blue-green", "--resume").code == 1
    assert hook_is_owed(hooked)
    (hooked.folder / "fail-after-switch").unlink()
    hooked.ok("rebuild", "--blue-green", "--resume")
    assert not hook_is_owed(hooked)
    ran = told(hooked)
    hooked.ok("rebuild", "--blue-green", "--resume")
    assert told(hooked) == ran


def test_what_a_hook_leaves_running_is_not_waited_for(hooked):
    hooked.write(
        "hook",
        "#!/bin/sh\nsh -c 'while [ -e told ]; do sleep 0.1; done' &\necho $ESOPS_HOOK > told\n",
    )
    hooked.ok("rebuild", "--blue-green")
    (hooked.folder / "told").unlink()


def test_a_hook_that_takes_too_long_is_ended(hooked, connection):
    text = (hooked.folder / "esops.toml").read_text()
    hooked.write("esops.toml", text.replace('timeout = "60s"', 'timeout = "2s"'))
    (hooked.folder / "hang-before-switch").touch()
    result = hooked.run("rebuild", "--blue-green")
    assert result.code == 5
    assert "took longer than 2 s" in result.err
    assert "took longer than 2 s" in told(hooked)[-1]
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)


@pytest.mark.thorough
def test_a_test_only_does_everything_but_the_switch(carts, connection, dsn):
    carts.ok("rebuild", "--blue-green")
    before = shop.table(connection, "cart_summary")
    done = carts.ok("rebuild", "--blue-green", "--test-only", "--output", "json").json
    assert (done["state"], done["verification"]["differing"], done["events"]) == (
        "tested",
        0,
        EVENTS,
    )
    assert connection.execute("SELECT to_regclass('cart_summary__v2')").fetchone() == (None,)
    assert shop.table(connection, "cart_summary") == before
    assert carts.ok("rebuild", "--blue-green", "--output", "json").json["to_version"] == 3
    assert carts.run("rebuild", "--blue-green", "--test-only", "--no-switch").code == 2


def test_blue_is_retired_by_itself_after_a_while(carts, connection):
    carts.ok("rebuild", "--blue-green")
    carts.ok("rebuild", "--blue-green", "--retire-after", "2s")
    carts.patch(
        "import datetime\nfrom esops.running import host\n"
        "host._CHORE_EVERY = datetime.timedelta(seconds=0.5)\n"
    )
    assert connection.execute("SELECT to_regclass('cart_summary__v1') IS NOT NULL").fetchone() == (
        True,
    )
    process = carts.start("run")
    try:
        until(
            lambda: (
                connection.execute("SELECT to_regclass('cart_summary__v1')").fetchone() == (None,)
            )
        )
    finally:
        _, err = end(process)
    assert "retired v1" in err
    assert carts.ok("projection", "show", "cart_summary", "--output", "json").json["active"] == 2
    assert carts.run("rebuild", "--blue-green", "--retire-after", "2s", "--keep-blue").code == 2


SWITCH = """#!/bin/sh
if [ -e fail-switch ]; then exit 1; fi
echo "$ESOPS_TABLES" > readers
"""


@pytest.mark.thorough
def test_readers_moved_by_a_hook(dsn, connection, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn, projection_options='switch = "hook"\nhooks.switch = ["./move"]')
    path = project.folder / "move"
    path.write_text(SWITCH)
    path.chmod(0o755)
    project.ok("rebuild", "--blue-green")
    assert (project.folder / "readers").read_text() == "public.cart_summary__v1\n"
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,), (
        "no view is made"
    )
    (project.folder / "fail-switch").touch()
    assert project.run("rebuild", "--blue-green").code == 5
    assert project.ok("projection", "show", "cart_summary", "--output", "json").json["active"] == 1
    (project.folder / "fail-switch").unlink()
    project.ok("rebuild", "--blue-green", "--resume")
    assert (project.folder / "readers").read_text() == "public.cart_summary__v2\n"
    project.ok("projection", "rollback", "cart_summary")
    assert (project.folder / "readers").read_text() == "public.cart_summary__v1\n"
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace('hooks.switch = ["./move"]', ""))
    assert project.run("rebuild", "--blue-green").code == 2


LOOKING = """#!{python}
import os, psycopg, time
if os.environ["ESOPS_FROM_VERSION"]:
    time.sleep(1.2)  # longer than readers may wait for names
with psycopg.connect({dsn!r}) as connection:
    name, old = os.environ["ESOPS_TABLES"].split(".")[1], os.environ["ESOPS_FROM_VERSION"]
    if old:
        at = "SELECT max(position) FROM cart_summary__v" + old
        blue = connection.execute(at).fetchone()[0]
        green = connection.execute("SELECT max(position) FROM " + name).fetchone()[0]
        assert green >= blue, (green, blue)
        assert int(os.environ["ESOPS_POSITION"]) == green
    waiting = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE"
        " application_name = 'report' AND backend_xmin IS NOT NULL").fetchone()
    with open("readers", "a") as told:
        print(name, *waiting, file=told)
"""


def test_readers_are_moved_when_no_older_snapshot_is_left_and_green_is_not_behind(
    dsn, connection, project
):
    """A program cannot be rolled back: what can stand against the switch comes before it."""
    shop.make(dsn, 100)
    shop.configure(project, dsn, projection_options='switch = "hook"\nhooks.switch = ["./move"]')
    path = project.folder / "move"
    project.patch(
        "from datetime import timedelta\n"
        "from esops.rebuild import carried\n"
        "carried.WHOLE = timedelta(seconds=1)"
    )
    path.write_text(LOOKING.format(python=sys.executable, dsn=dsn))
    path.chmod(0o755)
    project.ok("rebuild", "--blue-green")

    def readers() -> list[str]:
        return (project.folder / "readers").read_text().splitlines()

    def old_reader() -> psycopg.Connection:
        session = psycopg.connect(dsn, application_name="report")
        session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        session.execute("SELECT 1")
        return session

    assert readers() == ["cart_summary__v1 0"]
    with old_reader():
        refused = project.run("rebuild", "--blue-green", "--snapshot-wait", "0s")
        assert refused.code == 6, refused.err
        assert readers() == ["cart_summary__v1 0"], "moved although it was refused"
    # Blue goes on meanwhile: at the program, green is not behind it.
    shop.more(dsn, 30)
    project.ok("run", "--until-caught-up")
    with old_reader():
        process = project.start("rebuild", "--blue-green", "--resume", "--snapshot-wait", "60s")
        heard(process, "waiting for 1 reader")
        assert readers() == ["cart_summary__v1 0"]
    _, err = finish(process)
    assert process.returncode == 0, err
    assert readers()[1:] == ["cart_summary__v2 0"]
    with old_reader():
        assert (
            project.run("projection", "rollback", "cart_summary", "--snapshot-wait", "0s").code == 6
        )
    assert len(readers()) == 2
    project.ok("projection", "rollback", "cart_summary")
    assert readers()[2:] == ["cart_summary__v1 0"]


# -- in place


@pytest.mark.thorough
def test_in_place_asks_and_then_empties_and_fills(carts, connection, dsn):
    assert carts.run("rebuild", "--yes").code == 6, "there is nothing yet"
    carts.ok("rebuild", "--blue-green")
    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    shop.more(dsn, 200)
    refused = carts.run("rebuild")
    assert refused.code == 2
    assert "needs a confirmation" in refused.err
    plan = carts.ok("rebuild", "--dry-run").out
    assert "TRUNCATE public.cart_summary__v1" in plan
    assert "readers see the tables empty" in plan
    done = carts.ok("rebuild", "--yes", "--output", "json").json
    assert (done["state"], done["from_version"], done["to_version"], done["events"]) == (
        "rebuilt",
        1,
        1,
        EVENTS + 200,
    )
    shop.check_version(connection, 1)
    assert shop.table(connection, "cart_summary") == shop.truth(connection, EVENTS + 200)
    assert carts.run("rebuild", "--yes", "--max-diff", "3").code == 2
    shop.more(dsn, 100)
    carts.ok("run", "--until-caught-up")
    shop.check_version(connection, 1)
    carts.ok("rebuild", "--blue-green")
    shop.check_version(connection, 2)


def test_an_event_that_stops_it_in_place_leaves_a_way_on_and_status_says_so(carts, connection):
    carts.ok("rebuild", "--blue-green")
    code = (carts.folder / "shop_projections.py").read_text()
    broken = code.replace(
        "    at = event", "    if event.version == 3: raise ValueError('no')\n    at = event", 1
    )
    assert broken != code
    carts.write("shop_projections.py", broken)
    stopped = carts.run("rebuild", "--yes")
    assert stopped.code == 6
    assert "The rows from before are gone" in stopped.err
    assert "esops rebuild cart_summary --resume`: it begins again" in stopped.err
    status = carts.run("status", "--output", "json")
    [entry] = status.json["rebuilds"]
    assert (status.code, entry["ok"]) == (1, False)
    assert "serves a part of its rows" in entry["detail"]
    carts.write("shop_projections.py", code)
    assert "it begins again" in carts.ok("rebuild", "--resume").err
    shop.check_version(connection, 1)
    assert shop.table(connection, "cart_summary") == shop.truth(connection, EVENTS)
    carts.ok("status")


def test_in_place_is_refused_while_somebody_follows(carts, connection):
    carts.ok("rebuild", "--blue-green")
    process = carts.start("run")
    try:
        until(
            lambda: carts.ok("projection", "show", "cart_summary", "--output", "json").json[
                "versions"
            ][0]["followed_by"]
        )
        result = carts.run("rebuild", "--yes")
        assert result.code == 4
        assert "Stop `esops run`" in result.err
    finally:
        end(process)
    shop.check_version(connection, 1)


def test_a_long_reader_makes_in_place_wait_and_then_give_way(carts, connection, dsn):
    carts.ok("rebuild", "--blue-green")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM cart_summary")
        process = carts.start("rebuild", "--yes")
        heard(process, "waiting for")
        assert connection.execute("SELECT count(*) FROM cart_summary").fetchone() == (
            EVENTS // 10,
        ), "others still read"
        reader.rollback()
    _, err = finish(process)
    assert process.returncode == 0, err
    shop.check_version(connection, 1)


def test_a_table_that_esops_does_not_know_is_filled_under_its_own_name(carts, connection):
    connection.execute(shop.DDL.replace("{table}", "cart_summary"))
    connection.execute("INSERT INTO cart_summary VALUES ('old', 'c', 1, 1, 'open', 1)")
    carts.ok("rebuild", "--yes")
    assert shop.table(connection, "cart_summary") == shop.truth(connection, EVENTS)
    assert connection.execute(
        "SELECT relkind::text FROM pg_class WHERE relname = 'cart_summary'"
    ).fetchone() == ("r",)
    carts.ok("rebuild", "--blue-green")
    assert connection.execute(
        "SELECT relkind::text FROM pg_class WHERE relname = 'cart_summary'"
    ).fetchone() == ("v",)
    shop.check_version(connection, 2)
    assert os.path.exists(carts.folder / "esops.toml")


# -- in place, by ranges


def test_ranges_are_replaced_one_by_one_and_nothing_is_ever_empty(carts, connection, dsn):
    carts.ok("rebuild", "--blue-green")
    right = shop.table(connection, "cart_summary")
    connection.execute(
        "UPDATE cart_summary__v1 SET items = -1 WHERE cart_id IN (SELECT cart_id FROM cart_summary "
        "LIMIT 5)"
    )
    connection.execute(
        "DELETE FROM cart_summary__v1 WHERE cart_id IN (SELECT cart_id FROM cart_summary WHERE "
        "items >= 0 LIMIT 7)"
    )
    connection.execute(
        "INSERT INTO cart_summary__v1 SELECT 'nobody-' || n, 'c', 1, 1, 'open', 1 FROM "
        "generate_series(1, 20) n"
    )
    before = dict(connection.execute("SELECT cart_id, xmin::text FROM cart_summary__v1").fetchall())
    plan = carts.ok("rebuild", "--dry-run", "--ranges", "4").out
    assert "in 4 ranges of keys" in plan
    assert "some rows are made by the old code" in plan
    process = carts.start("rebuild", "--yes", "--ranges", "4", "--output", "json")
    least = len(right)
    with psycopg.connect(dsn, autocommit=True) as reader:
        while process.poll() is None:
            least = min(least, reader.execute("SELECT count(*) FROM cart_summary").fetchone()[0])
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert least >= len(right) - 7, "rows that were there were gone for a moment"
    assert json.loads(out)["state"] == "rebuilt"
    assert "range 4 of 4" in err
    assert shop.table(connection, "cart_summary") == right
    shop.check_version(connection, 1)
    after = dict(connection.execute("SELECT cart_id, xmin::text FROM cart_summary__v1").fetchall())
    assert sum(after[name] != before.get(name) for name in after) == 12, (
        "only what differed was written"
    )
    assert connection.execute("SELECT version, state FROM esops.versions").fetchall() == [
        (1, "active")
    ]
    assert connection.execute(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'cart_summary\\_\\_v2%'"
    ).fetchone() == (0,)
    shop.more(dsn, 100)
    carts.ok("run", "--until-caught-up")
    shop.check_version(connection, 1)


def test_an_answer_that_is_lost_after_a_range_took_its_place_does_no_harm(carts, connection):
    """The transaction has committed, and the connection dies before it is told: what is done again
    must see that it is done.
    """
    carts.ok("rebuild", "--blue-green")
    carts.write(
        "sitecustomize.py",
        """
        import esops.rebuild.session as session
        from esops.errors import ConnectionLost
        before, lost = session.Session.do, []
        def do(self, work):
            def once(connection):
                done = work(connection)
                name = getattr(work, "__qualname__", "")
                if "_in_short_tries" in name or "fill" in name:
                    if len(lost) % 2 == 0:
                        lost.append(name)
                        raise ConnectionLost("the answer is lost")
                    lost.append(name)
                return done
            return before(self, once)
        session.Session.do = do
        """,
    )
    carts.environment["PYTHONPATH"] = str(carts.folder)
    done = carts.ok("rebuild", "--yes", "--ranges", "3")
    assert done.err.count("the answer is lost") >= 4
    shop.check_version(connection, 1)


def test_between_ranges_nobody_follows_and_other_code_does_not_go_on(carts, connection, dsn):
    carts.ok("rebuild", "--blue-green")
    process = carts.start(
        "rebuild", "--yes", "--ranges", "4", "--batch-size", "50", "--max-rate", "200"
    )
    until(lambda: connection.execute("SELECT count(*) FROM esops.versions").fetchone() == (2,))
    # A range or two have taken their places, and not the last one.
    heard(process, "range 2 of 4")
    kill(process)
    shop.more(dsn, 100)
    standing = connection.execute("SELECT max(position) FROM cart_summary").fetchone()
    # It is not caught up, and no deployment may take it for fresh.
    lock = "(hashtextextended('esops:rebuild:cart_summary', 0))"
    until(lambda: connection.execute(f"SELECT pg_try_advisory_lock{lock}").fetchone() == (True,))
    working = carts.run("run", "--until-caught-up")
    assert (working.code, "are being replaced by ranges" in working.err) == (4, True)
    connection.execute(f"SELECT pg_advisory_unlock{lock}")
    for command in (("run", "--until-caught-up"), ("wait", "cart_summary", "--timeout", "5s")):
        left = carts.run(*command)
        assert (left.code, "are being replaced by ranges" in left.err) == (6, True), left.err
        assert "esops rebuild cart_summary --resume" in left.err
    assert connection.execute("SELECT max(position) FROM cart_summary").fetchone() == standing
    text = (carts.folder / "shop_projections.py").read_text()
    carts.write("shop_projections.py", text.replace('"items": 0', '"items": 1'))
    refused = carts.run("rebuild", "--resume")
    assert refused.code == 6
    assert "some rows are already made by it" in refused.err
    assert carts.run("rebuild", "--abort").code == 6
    carts.write("shop_projections.py", text)
    carts.ok("rebuild", "--resume")
    shop.check_version(connection, 1)


def test_ranges_of_which_none_is_replaced_can_be_aborted(dsn, connection, project):
    """The version has its checkpoint again, and what tells its log from another."""
    shop.make(dsn, 100)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")

    def noted() -> list[tuple]:
        return connection.execute(
            "SELECT v.version, v.position, v.events, v.rows, v.fingerprint, v.applied, m.position, "
            "m.mark FROM esops.versions v LEFT JOIN esops.marks m USING (projection, version)"
        ).fetchall()

    before = noted()
    broken = shop.PROJECTION.replace("data, kind =", "raise ValueError('broken')\n    data, kind =")
    project.write("shop_projections.py", broken)
    stopped = project.run("rebuild", "--yes", "--ranges", "2")
    assert stopped.code == 6
    assert "No row is changed yet" in stopped.err
    assert noted() != before
    preview = project.ok("rebuild", "--abort", "--dry-run", "--output", "json").json
    assert (preview["possible"], preview["drops"]) == (True, ["public.cart_summary__v2"])
    project.ok("rebuild", "--abort")
    assert noted() == before
    left = "SELECT (SELECT count(*) FROM esops.shards), to_regclass('cart_summary__v2') IS NULL"
    assert connection.execute(left).fetchone() == (0, True)
    project.write("shop_projections.py", shop.PROJECTION)
    shop.more(dsn, 20)
    project.ok("run", "--until-caught-up")
    shop.check_version(connection, 1)


def test_ranges_are_for_what_the_server_can_deal(carts, dsn, project):
    carts.ok("rebuild", "--blue-green")
    assert carts.run("rebuild", "--blue-green", "--ranges", "3").code == 2
    text = (carts.folder / "shop_projections.py").read_text()
    carts.write(
        "shop_projections.py",
        text.replace('@fold(key="stream")', "@fold(key=lambda event: event.stream)"),
    )
    result = carts.run("rebuild", "--yes", "--ranges", "3")
    assert result.code == 6
    assert "--ranges: only for a fold that is keyed by the stream" in result.err


def test_a_projection_moves_to_a_store_whose_positions_are_others(dsn, project, connection):
    """Neither a rebuild nor a way back takes the positions of one log for those of the other."""
    shop.make(dsn, 300)
    store.create(connection, "fresh")
    store.generate(connection, 200, "fresh", first_cart=5_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    shop.configure(project, dsn, projection_options='store = "fresh"')
    text = (project.folder / "esops.toml").read_text()
    project.write(
        "esops.toml",
        f'{text}[stores.fresh]\ndsn = {json.dumps(dsn)}\nschema = "fresh"\nappend = "quick"\n',
    )
    in_place = project.run("rebuild", "--yes")
    assert in_place.code == 6
    assert "was made of store shop" in in_place.err
    asked = project.run("rebuild", "--blue-green", "--compare", "exact")
    assert asked.code == 1, asked.err
    assert "it was compared as it is" in asked.out + asked.err
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
    project.ok("rebuild", "--blue-green")
    shop.more(dsn, 50)
    shown = project.run("status", "--output", "json").json["projections"]
    assert {each["store"]: each["lag_events"] for each in shown} == {"shop": 50, "fresh": 0}
    project.ok("projection", "rollback", "cart_summary")
    assert shop.check_version(connection, 1) > 0
    assert shop.truth(connection, 350) == shop.table(connection, "cart_summary")
    assert shop.truth(connection, 200, "fresh") == shop.table(connection, "cart_summary__v3")
