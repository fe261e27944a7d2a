"""`esops run` follows folds together: few sessions and statements, whatever the number of versions,
and what befalls one of them is not the others' trouble.
"""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.databases import embedded
from tests.support.waiting import end, stays, until

# Folds here change what holds for a whole process, such as the precision of decimals.
pytestmark = pytest.mark.own_process
CODE = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    return {"cart_id": event.stream, "events": (row["events"] if row else 0) + 1}
"""
DDL = "CREATE TABLE {table} (cart_id text PRIMARY KEY, events integer NOT NULL);"
SESSIONS = "SELECT {} FROM pg_stat_activity WHERE starts_with(application_name, 'esops ')"


def configure(project, dsn: str, code: dict[str, str], **more: dict[str, str]) -> None:
    """A projection for each name, with its code in a module of its own."""
    text = f'[stores.shop]\ndsn = {json.dumps(dsn)}\nschema = "shop"\nappend = "quick"\n'
    for name, body in code.items():
        text += (
            f'[projections.{name}]\npython = "{name}_code:carts"\ntables = ["{name}"]\n'
            'ddl = "carts.sql"\n' + "".join(f"{k} = {v}\n" for k, v in more.get(name, {}).items())
        )
        project.write(f"{name}_code.py", body)
    project.write("esops.toml", text)
    project.write("carts.sql", DDL)


def rebuild(project, *names: str) -> None:
    project.ok("rebuild", *names, "--blue-green")


def last(connection) -> int:
    return connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0]


def reached(connection, projection: str) -> int:
    """The position that all live versions of a projection have reached."""
    return connection.execute(
        "SELECT min(position::bigint) FROM esops.versions WHERE projection = %s AND state IN "
        "('active', 'standby')",
        (projection,),
    ).fetchone()[0]


def events(connection, table: str) -> int:
    return connection.execute(f"SELECT sum(events) FROM {table}").fetchone()[0]


def followers(connection) -> dict[str, set[str]]:
    """The processes that hold a version's lock, and how many locks each holds."""
    rows = connection.execute(
        "SELECT split_part(application_name, ' ', 2), count(*) FROM pg_locks JOIN pg_stat_activity "
        "USING (pid) WHERE locktype = 'advisory' AND starts_with(application_name, 'esops ') "
        "AND mode = 'ExclusiveLock' GROUP BY 1"
    ).fetchall()
    return dict(rows)


@pytest.mark.thorough
@pytest.mark.slow
def test_over_an_idle_store_statements_and_sessions_are_few_for_however_many_versions(project):
    logged = {"log_statement": "'all'", "log_line_prefix": "'%a|'"}
    with embedded(logged) as server:
        dsn, names = server.dsn(), [f"carts_{n}" for n in range(4)]
        shop.make(dsn, 100)
        configure(project, dsn, dict.fromkeys(names, CODE))
        rebuild(project, *names)
        rebuild(project, *names)
        log = server.folder / "log"

        def statements() -> int:
            return sum(
                line.startswith("esops ") and ("statement: " in line or "execute " in line)
                for line in log.read_text().splitlines()
            )

        host = project.start("run")
        with psycopg.connect(dsn, autocommit=True) as connection:
            try:
                until(lambda: sum(followers(connection).values()) == 8)
                shop.more(dsn, 50)
                until(lambda: all(reached(connection, each) == 150 for each in names))
                (sessions,) = connection.execute(SESSIONS.format("count(*)")).fetchone()
                assert sessions <= 8

                def per_second() -> float:
                    before, since = statements(), time.monotonic()
                    time.sleep(4)
                    return (statements() - before) / (time.monotonic() - since)

                # It looks less often some time after the last event.
                until(lambda: per_second() <= 6)
                assert len(followers(connection)) == 1
            finally:
                end(host)
    assert host.returncode == 0


def test_a_version_of_the_same_code_joins_and_one_of_other_code_does_not(dsn, connection, project):
    shop.make(dsn, 100)
    configure(project, dsn, {"carts": CODE})
    rebuild(project, "carts")
    host = project.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [1])
        rebuild(project, "carts")
        until(lambda: list(followers(connection).values()) == [2])
        configure(project, dsn, {"carts": CODE.replace("+ 1", "+ 2")})
        project.ok("rebuild", "carts", "--blue-green", "--max-diff", "100%")
        until(lambda: sorted(followers(connection).values()) == [1, 2])
        shop.more(dsn, 50)
        until(lambda: reached(connection, "carts") == 150)
        found = [events(connection, f"carts__v{version}") for version in (1, 2, 3)]
        assert found == [150, 150, 300]
    finally:
        end(host)


@pytest.mark.parametrize("how", ["a link is moved", "a folder is renamed"])
def test_code_that_takes_the_place_of_older_code_is_loaded_before_a_version_is_followed(
    dsn, connection, project, how
):
    """A release that was unpacked before `esops run` began: no file that was loaded is younger than
    the process. The code of a library is not in the fingerprint: its files alone tell that it is
    another one.
    """
    shop.make(dsn, 100)
    configure(project, dsn, {"carts": CODE})
    for name, step in (("release_1", 1), ("release_2", 2)):
        (project.folder / name).mkdir()
        project.write(f"{name}/shop_rules.py", f"def step():\n    return {step}\n")
    place, linked = project.folder / "site-packages", how == "a link is moved"
    if linked:
        place.symlink_to("release_1")
    else:
        (project.folder / "release_1").rename(place)
    project.environment["PYTHONPATH"] = str(place)
    project.write(
        "carts_code.py", "from shop_rules import step\n" + CODE.replace("+ 1", "+ step()")
    )
    rebuild(project, "carts")
    host = project.start("run")
    try:
        # The code is loaded by now; its files need not have been looked at yet.
        until(lambda: list(followers(connection).values()) == [1])
        if linked:
            place.unlink()
            place.symlink_to("release_2")
        else:
            # What has been applied, has been loaded and looked at.
            shop.more(dsn, 50)
            until(lambda: reached(connection, "carts") == 150)
            place.rename(project.folder / "release_1")
            (project.folder / "release_2").rename(place)
        project.ok("rebuild", "carts", "--blue-green", "--max-diff", "100%")
        until(lambda: sorted(followers(connection).values()) == [1, 1])
        shop.more(dsn, 50)
        all_events = 150 if linked else 200
        until(lambda: reached(connection, "carts") == all_events)
        found = [events(connection, f"carts__v{version}") for version in (1, 2)]
        assert found == [all_events, 2 * all_events]
    finally:
        _, err = end(host)
    assert "by different code" not in err
    assert "was built by other code" not in err


@pytest.mark.parametrize("how", thorough_but(["--config", "ESOPS_CONFIG", "PWD"], "--config"))
def test_a_moved_link_in_the_name_of_the_configuration_leads_a_new_process_to_the_new_release(
    how, dsn, connection, project
):
    """`current` is a link to the folder of a release, with its esops.toml and its code."""
    shop.make(dsn, 100)
    for number in (1, 2):
        (project.folder / f"release_{number}").mkdir()
        release = replace(project, folder=project.folder / f"release_{number}")
        configure(release, dsn, {"carts": CODE.replace("+ 1", f"+ {number}")})
    current = project.folder / "current"
    current.symlink_to("release_1")
    given = ["--config", "current/esops.toml"] if how == "--config" else []
    if how == "ESOPS_CONFIG":
        project.environment[how] = str(current / "esops.toml")
    elif how == "PWD":
        project.environment[how] = str(current)
        project = replace(project, folder=current)
    project.ok(*given, "rebuild", "carts", "--blue-green")
    host = project.start(*given, "run")
    try:
        until(lambda: list(followers(connection).values()) == [1])
        next_one = current.with_name("next")
        next_one.symlink_to("release_2")
        next_one.rename(current)
        project.ok(*given, "rebuild", "carts", "--blue-green", "--max-diff", "100%")
        until(lambda: sorted(followers(connection).values()) == [1, 1])
        shop.more(dsn, 50)
        until(lambda: reached(connection, "carts") == 150)
    finally:
        _, err = end(host)
    assert [events(connection, f"carts__v{version}") for version in (1, 2)] == [150, 300]
    assert "was built by other code" not in err


@pytest.mark.parametrize("isolate", thorough_but(["false", "true"], "false"))
def test_a_new_version_of_other_code_is_not_followed_before_that_code_is_there(
    isolate, dsn, connection, project
):
    """Its rows would be of both: as where a release is rebuilt from a folder that `esops run` does
    not know.
    """
    shop.make(dsn, 100)
    here, there = (replace(project, folder=project.folder / name) for name in ("one", "two"))
    of = {"isolate": isolate}
    for release, step in ((here, 1), (there, 2)):
        release.folder.mkdir()
        configure(release, dsn, {"carts": CODE.replace("+ 1", f"+ {step}")}, carts=of)
    rebuild(here, "carts")
    host = here.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [1])
        there.ok("rebuild", "carts", "--blue-green", "--max-diff", "100%")
        shop.more(dsn, 50)
        until(lambda: str(here.folder) in here.run("projection", "show", "carts").out)
        positions = "SELECT version, position::bigint FROM esops.versions ORDER BY version"
        until(lambda: connection.execute(positions).fetchall() == [(1, 150), (2, 100)])
        configure(here, dsn, {"carts": CODE.replace("+ 1", "+ 2")}, carts=of)
        until(lambda: reached(connection, "carts") == 150)
    finally:
        _, err = end(host)
    assert [events(connection, f"carts__v{version}") for version in (1, 2)] == [150, 300]
    assert "so it is not followed" in err


def test_what_an_installation_changes_in_the_path_of_python_holds_for_a_new_process(
    dsn, connection, project
):
    """As `pip install -e` of another release does: a .pth file names another folder, and no file
    that was loaded has changed.
    """
    shop.make(dsn, 100)
    for number in (1, 2):
        (project.folder / f"release_{number}" / "site-packages").mkdir(parents=True)
        project.write(
            f"release_{number}/site-packages/shop_rules.py", f"def step():\n    return {number}\n"
        )
    (project.folder / "packages").mkdir()
    named = project.folder / "release_{}" / "site-packages"
    project.write("packages/shop.pth", str(named).format(1) + "\n")
    project.patch(f"import site\nsite.addsitedir({str(project.folder / 'packages')!r})\n")
    code = "from shop_rules import step\n" + CODE.replace("+ 1", "+ step()")
    configure(project, dsn, {"carts": code})
    rebuild(project, "carts")
    host = project.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [1])
        project.write("packages/shop.pth", str(named).format(2) + "\n")
        project.ok("rebuild", "carts", "--blue-green", "--max-diff", "100%")
        until(lambda: sum(followers(connection).values()) == 2)
        shop.more(dsn, 50)
        until(lambda: reached(connection, "carts") == 150)
    finally:
        end(host)
    assert [events(connection, f"carts__v{version}") for version in (1, 2)] == [150, 300]


@pytest.mark.thorough
def test_a_process_says_that_it_follows_a_version_once_it_has_looked_at_the_code(
    dsn, connection, project
):
    shop.make(dsn, 100)
    configure(project, dsn, {"carts": CODE})
    rebuild(project, "carts")
    host = project.start("--log-format", "json", "run")
    try:
        until(lambda: list(followers(connection).values()) == [1])
        configure(project, dsn, {"carts": CODE.replace("+ 1", "+ 2")})
        project.ok("rebuild", "carts", "--blue-green", "--max-diff", "100%")
        until(lambda: sorted(followers(connection).values()) == [1, 1])
    finally:
        _, err = end(host)
    said = [json.loads(line) for line in err.splitlines() if '"following"' in line]
    assert [each["version"] for each in said] == [1, 2]
    assert said[0]["pid"] != said[1]["pid"]


@pytest.mark.thorough
@pytest.mark.parametrize("isolate", thorough_but(["false", "true"], "false"))
def test_a_version_that_is_retired_while_events_come_ends_without_an_error(
    isolate, dsn, connection, project
):
    """What is known of its state may be older than its tables' end."""
    project.patch(
        "import esops.running.orders as orders, esops.running.turns as turns\n"
        "turns.IDLE_EVERY = orders._AT_BEGINNING = 60.0\n"
    )
    shop.make(dsn, 100)
    configure(project, dsn, {"carts": CODE}, carts={"isolate": isolate})
    rebuild(project, "carts")
    rebuild(project, "carts")
    host = project.start("run")
    try:
        until(lambda: sum(followers(connection).values()) == 2)
        project.ok("projection", "retire", "carts", "1", "--yes")
        shop.more(dsn, 50)
        until(lambda: reached(connection, "carts") == 150)
        until(lambda: sum(followers(connection).values()) == 1)
    finally:
        _, err = end(host)
    assert "defect" not in err
    assert "[error" not in err


POISON = CODE.replace("    return", "    assert event.position[0] != 120, 'bad luck'\n    return")


def test_a_version_that_fails_leaves_the_others_alone_and_takes_its_corrected_code(
    dsn, connection, project
):
    shop.make(dsn, 100)
    configure(project, dsn, {"good": CODE, "bad": POISON})
    rebuild(project, "good", "bad")
    host = project.start("run")
    try:
        shop.more(dsn, 50)
        until(lambda: reached(connection, "good") == 150)
        until(lambda: reached(connection, "bad") == 119)
        until(lambda: "bad luck" in project.run("projection", "show", "bad").out)
        shop.more(dsn, 50)
        until(lambda: reached(connection, "good") == 200)
        project.write("bad_code.py", CODE)
        until(lambda: reached(connection, "bad") == 200)
        assert events(connection, "bad") == events(connection, "good") == 200
    finally:
        end(host)
    assert host.returncode == 0


def test_code_that_does_not_come_back_is_set_apart(dsn, connection, project):
    project.patch("import esops.running.turns as turns\nturns._TO_APPLY = 2.0\n")
    shop.make(dsn, 100)
    stuck = CODE.replace(
        "    return",
        "    import time\n    while event.position[0] == 120: time.sleep(1)\n    return",
    )
    code = {"first": CODE, "second": CODE, "stuck": stuck}
    configure(project, dsn, code)
    rebuild(project, *code)
    host = project.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [3])
        shop.more(dsn, 50)
        for each in ("first", "second"):
            until(lambda each=each: reached(connection, each) == 150)
        until(lambda: sorted(followers(connection).values()) == [1, 2])
        shop.more(dsn, 50)
        for each in ("first", "second"):
            until(lambda each=each: reached(connection, each) == 200)
        assert reached(connection, "stuck") <= 119
        for each in ("first", "second"):
            assert events(connection, each) == 200
    finally:
        _, err = end(host)
    assert "did not come back" in err


def test_what_one_fold_sets_for_itself_is_not_in_force_in_others(dsn, connection, project):
    shop.make(dsn, 100)
    exact = """
from decimal import Decimal, getcontext
from esops import fold

@fold(key="stream")
def carts(row, event):
    return {"cart_id": event.stream, "events": int(
        Decimal(row["events"] if row else 0) + Decimal(1_234_567))}
"""
    coarse = exact.replace("    return", "    getcontext().prec = 3\n    return")
    code = {"coarse": coarse, "first": exact, "other": coarse, "second": exact}
    configure(project, dsn, code)
    rebuild(project, *code)
    host = project.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [4])
        shop.more(dsn, 60)
        for each in code:
            until(lambda each=each: reached(connection, each) == 160)
    finally:
        end(host)
    for each in ("first", "second"):
        assert events(connection, each) == 160 * 1_234_567


def test_arithmetic_that_a_module_sets_when_it_is_imported_is_in_force_for_all_that_use_it(
    dsn, connection, project
):
    """And for nobody else."""
    shop.make(dsn, 100)
    exact = """
from decimal import Decimal
from esops import fold

@fold(key="stream")
def carts(row, event):
    return {"cart_id": event.stream, "events": int(Decimal(0) + Decimal(1_234_567))}
"""
    uses = exact.replace("from esops", "import setting\nfrom esops", 1)
    project.write("setting.py", "import decimal\ndecimal.getcontext().prec = 3\n")
    code = {"first": exact, "one": uses, "second": exact}
    configure(project, dsn, code)
    project.ok("rebuild", *code, "--blue-green")
    rebuild(project, "one")
    host = project.start("run")
    try:
        shop.more(dsn, 60)
        for each in code:
            until(lambda each=each: reached(connection, each) == 160)
    finally:
        _, err = end(host)
    assert "when it was imported" in err
    for table, number in (
        ("first", 1_234_567), ("second", 1_234_567), ("one", 1_230_000),
        ("one__v1", 1_230_000),
    ):  # fmt: skip
        found = connection.execute(f"SELECT DISTINCT events FROM {table}").fetchall()
        assert found == [(number,)], table


ENDINGS = {
    "sys": "raise SystemExit(0)",
    "base": "raise BaseException('no error at all')",
    "cancelled": "import asyncio\n        raise asyncio.CancelledError",
}


@pytest.mark.parametrize("how", thorough_but(ENDINGS, "sys"))
def test_code_that_would_end_the_process_fails_at_its_event(dsn, connection, project, how):
    shop.make(dsn, 100)
    ending = CODE.replace(
        "    return", f"    if event.position[0] == 120:\n        {ENDINGS[how]}\n    return"
    )
    code = {"first": CODE, "ending": ending}
    configure(project, dsn, code)
    rebuild(project, *code)
    shop.more(dsn, 50)
    done = project.run("run", "--until-caught-up")
    assert done.code not in {0, None}, done.err
    assert "cannot project event" in done.err
    assert reached(connection, "ending") == 119
    host = project.start("run")
    try:
        shop.more(dsn, 50)
        until(lambda: reached(connection, "first") == 200)
        stays(lambda: reached(connection, "ending") == 119, 1)
        shop.more(dsn, 50)
        until(lambda: reached(connection, "first") == 250)
    finally:
        end(host)


def test_a_process_that_ends_without_a_word_has_not_caught_up(dsn, connection, project):
    shop.make(dsn, 100)
    ending = CODE.replace(
        "    return",
        "    import os\n    if event.position[0] == 120:\n        os._exit(0)\n    return",
    )
    configure(project, dsn, {"ending": ending})
    rebuild(project, "ending")
    shop.more(dsn, 50)
    done = project.run("run", "--until-caught-up")
    assert done.code not in {0, None}, done.err
    assert "without a word" in done.err
    assert "1 version caught up" not in done.err


def test_a_lock_on_a_table_holds_up_nobody_else_and_is_waited_for(dsn, connection, project):
    project.patch("import esops.running.turns as turns\nturns._TO_APPLY = 3.0\n")
    shop.make(dsn, 100)
    code = {"first": CODE, "second": CODE, "third": CODE}
    configure(project, dsn, code)
    rebuild(project, *code)
    host = project.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [3])
        before = followers(connection)
        with psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE first__v1 IN SHARE MODE")
            for n in range(1, 5):
                shop.more(dsn, 50)
                for each in ("second", "third"):
                    until(lambda each=each, n=n: reached(connection, each) == 100 + 50 * n)
                time.sleep(1)
            assert reached(connection, "first") == 100
        until(lambda: reached(connection, "first") == 300)
        assert events(connection, "first") == 300
        assert followers(connection) == before
    finally:
        _, err = end(host)
    assert "waits for a lock" in err
    assert "did not come back" not in err


def test_a_paused_projection_waits_and_the_others_do_not(dsn, connection, project):
    shop.make(dsn, 100)
    configure(project, dsn, {"first": CODE, "second": CODE})
    rebuild(project, "first", "second")
    host = project.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [2])
        project.ok("projection", "pause", "first")
        stays(lambda: reached(connection, "first") == 100, 0.5)  # it looks as often as that
        shop.more(dsn, 50)
        until(lambda: reached(connection, "second") == 150)
        stays(lambda: reached(connection, "first") == 100, 1)
        project.ok("projection", "resume", "first")
        until(lambda: reached(connection, "first") == 150)
        project.ok("projection", "throttle", "first", "--max-rate", "100")
        shop.more(dsn, 200)
        until(lambda: reached(connection, "first") == 350)
    finally:
        end(host)
    assert events(connection, "first") == 350


def test_isolate_gives_each_version_a_process(dsn, connection, project):
    shop.make(dsn, 100)
    configure(project, dsn, {"first": CODE, "apart": CODE}, apart={"isolate": "true"})
    rebuild(project, "first", "apart")
    rebuild(project, "apart")
    host = project.start("run")
    try:
        until(lambda: list(followers(connection).values()) == [1, 1, 1])
        shop.more(dsn, 50)
        for each in ("first", "apart"):
            until(lambda each=each: reached(connection, each) == 150)
    finally:
        end(host)


def test_a_version_that_is_retired_is_let_go_and_one_far_behind_catches_up(
    dsn, connection, project
):
    shop.make(dsn, 100)
    configure(project, dsn, {"carts": CODE, "others": CODE})
    rebuild(project, "carts", "others")
    rebuild(project, "carts")
    shop.more(dsn, 30_000)
    host = project.start("run")
    try:
        for each in ("carts", "others"):
            until(lambda each=each: reached(connection, each) == 30_100)
        project.ok("projection", "retire", "carts", "--yes")
        until(lambda: sum(followers(connection).values()) == 2)
        shop.more(dsn, 50)
        until(lambda: reached(connection, "carts") == 30_150)
    finally:
        end(host)
    assert events(connection, "carts") == events(connection, "others") == 30_150


# -- the look at the store


def test_a_look_at_an_idle_store_is_one_statement(dsn, connection, monkeypatch):
    shop.make(dsn, 100)
    with open_store("shop", PostgresSettings(dsn=dsn, schema="shop", append="quick")) as store:
        until(lambda: store.newest(None) == (100,))
        asked = []
        execute = psycopg.Connection.execute
        monkeypatch.setattr(
            psycopg.Connection,
            "execute",
            lambda self, *given, **more: asked.append(1) or execute(self, *given, **more),
        )
        for _ in range(10):
            store.newest(None)
        assert len(asked) <= 15, "some looks also compare the table with its sequence"
        # A number that was drawn and rolled back is no reason to search for it each time, for ever.
        monkeypatch.undo()
        shop.more(dsn, 10)
        assert until(lambda: store.newest(None)) == (110,)


@pytest.mark.parametrize("append", ["quick", "auto"])
def test_a_number_that_is_drawn_long_before_it_is_committed_is_seen(append, dsn, connection):
    shop.make(dsn, 100)
    settings = PostgresSettings(dsn=dsn, schema="shop", append=append)
    with open_store("shop", settings) as store, psycopg.connect(dsn) as writer:
        until(lambda: store.newest(None) == (100,))
        writer.execute(
            "INSERT INTO shop.mt_events (seq_id, id, stream_id, version, data, type, timestamp, "
            "tenant_id, mt_dotnet_type, is_archived) SELECT nextval('shop.mt_events_sequence'), "
            "gen_random_uuid(), stream_id, version + 1000, data, type, timestamp, tenant_id, "
            "mt_dotnet_type, is_archived FROM shop.mt_events WHERE seq_id = 100"
        )
        for _ in range(5):
            assert store.newest(None) == (100,)
        writer.commit()
        until(lambda: store.newest(None) == (101,))
        # And one that is rolled back holds nothing up.
        writer.execute("SELECT nextval('shop.mt_events_sequence')")
        writer.rollback()
        for _ in range(5):
            assert store.newest(None) == (101,)


def test_it_is_told_of_new_events(dsn, connection):
    shop.make(dsn, 10)
    with open_store("shop", PostgresSettings(dsn=dsn, schema="shop", append="quick")) as store:
        store.wait(timedelta(0))
        waiting = threading.Thread(target=lambda: store.wait(timedelta(hours=1)), daemon=True)
        waiting.start()
        connection.execute("SELECT pg_notify('mt_events_appended', '')")
        waiting.join(60)
        assert not waiting.is_alive()
        assert store.newest(None) == (10,)


def test_notifications_are_not_collected_while_nobody_waits_for_them(dsn, connection):
    """Of a store that is never idle, where each look follows the one before."""
    shop.make(dsn, 10)
    with open_store("shop", PostgresSettings(dsn=dsn, schema="shop", append="quick")) as store:
        store.wait(timedelta(0))
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(5):
                connection.execute(
                    "SELECT pg_notify('mt_events_appended', %s || '-' || n) "
                    "FROM generate_series(1, 2000) n",
                    (str(number),),
                )
                assert store.newest(None) == (10,)
            assert tracemalloc.get_traced_memory()[0] - before < 500_000
        finally:
            tracemalloc.stop()
        # They are a reason to look all the same.
        waiting = threading.Thread(target=lambda: store.wait(timedelta(hours=1)), daemon=True)
        waiting.start()
        waiting.join(60)
        assert not waiting.is_alive()
