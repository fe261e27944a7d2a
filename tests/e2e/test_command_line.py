"""The installed `esops`, as a user meets it: help, mistakes, outputs, exit codes; nothing changed
by a mistake.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import psycopg
import pytest

from tests.support import marten, shop
from tests.support.cases import thorough_in
from tests.support.databases import database
from tests.support.project import Project
from tests.support.waiting import DEADLINE, end


@pytest.fixture
def small(dsn, project):
    shop.make(dsn, 500)
    shop.configure(project, dsn)
    return project


@pytest.fixture(scope="module")
def unchanged(server, warm, tmp_path_factory):
    """A small shop for commands that change nothing: one for all of them, and what is in it."""
    with database(server) as dsn:
        shop.make(dsn, 500)
        project = Project(tmp_path_factory.mktemp("unchanged"), warm=warm)
        shop.configure(project, dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield project, connection


@pytest.mark.installed
def test_the_installed_command_works_as_the_forked_one(small, warm):
    """Most tests run commands in a process that forks; this one compares."""
    forked = Project(small.folder, warm=warm)
    for arguments in (["--version"], ["rebuild", "nope"], ["events", "--limit", "3"]):
        assert small.run(*arguments) == forked.run(*arguments)
    small.ok("rebuild", "--blue-green")


@pytest.mark.thorough
@pytest.mark.installed
def test_the_installed_command_starts_processes(small):
    small.ok("rebuild", "--blue-green", "--workers", "2")
    small.ok("run", "--until-caught-up")


def everything(connection):
    return connection.execute(
        "SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid "
        "= c.relnamespace "
        "WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1, 2"
    ).fetchall()


COMMANDS = [
    [],
    ["rebuild"],
    ["run"],
    ["events"],
    ["projection"],
    *(
        ["projection", each]
        for each in ("list", "show", "versions", "switch", "rollback", "retire", "dead-letters")
    ),
    ["demo"],
    *(["demo", each] for each in ("up", "down", "status")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_begins_with_an_example_and_groups_its_options(command, project):
    text = project.ok(*command, "--help").out
    assert text.startswith("Usage: esops")
    assert text.index("Example:\n  esops") < text.index("Options")
    assert "Options that work everywhere:" in text


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['esops', '--help']; from esops.cli import main\ntry: "
        "main()\nexcept SystemExit: pass\nprint([m for m in ('pyarrow', 'psycopg', "
        "'pydantic.main', 'rich', 'structlog', 'adbc_driver_manager', 'orjson') if m in "
        "sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stderr.strip() == "[]"


def test_a_command_that_is_recorded_loads_nothing_of_archives_where_there_is_none(project):
    """What archives need takes a third of a command's start."""
    shop.configure(project, "host=/nowhere dbname=none")
    told = project.python(
        "import sys; sys.argv = ['esops', 'rebuild', '--blue-green']; from esops.cli import main\n"
        "try: main()\nexcept SystemExit as end: print(end.code)\n"
        "print([m for m in ('pyarrow.parquet', 'obstore', 'esops.archive_format.lease') if m in "
        "sys.modules])"
    )
    assert told == "3\n[]"


def test_version(project):
    assert project.ok("--version").out.startswith("esops 0.")


MISTAKES = [
    (
        ["rebuild", "cart_sumary", "--blue-green"],
        2,
        "there is no projection named 'cart_sumary'",
        "Did you mean 'cart_summary'?",
    ),
    (["rebuild", "cart_summary"], 2, "a rebuild in place changes what readers see", "--blue-green"),
    (["rebuild", "--blue-green", "--resume", "--abort"], 2, "together", None),
    (["rebuild", "--blue-green", "--resume"], 2, "cart_summary", "--resume"),
    (["rebuild", "--blue-green", "--abort"], 2, "no unfinished rebuild", None),
    (
        ["rebuild", "--blue-green", "--max-diff", "lots"],
        2,
        "neither a number of rows nor a percentage",
        None,
    ),
    (["rebuild", "--blue-green", "--batch-size", "0"], 2, "--batch-size", "--help"),
    (["rebuild", "--blue-green", "--max-rate", "inf"], 2, "not a finite number", "--help"),
    (["projection", "check", "cart_summary", "--nice", "inf"], 2, "not a finite number", "--help"),
    (
        ["rebuild", "--blue-green", "--store", "shoop"],
        2,
        "there is no store named 'shoop'",
        "Did you mean 'shop'?",
    ),
    (
        ["rebuild", "--blue-green", "--output", "csv"],
        2,
        "--output csv is not possible here",
        "Possible: table, json",
    ),
    (["rebuild", "--bluegreen"], 2, "No such option", "Did you mean '--blue-green'?"),
    (["nonsense"], 2, "No such command", "--help"),
    (["projection", "show", "x"], 2, "no projection named 'x'", None),
    (["projection", "rollback", "cart_summary"], 2, "no version that served before", None),
    (["projection", "switch", "cart_summary"], 2, "no version that stands by", None),
    (["projection", "retire", "cart_summary"], 2, "no version that stands by", None),
    (["events", "--after", "x"], 2, "'x' is not a position", None),
    (["events", "--after", "1:2"], 2, "not a position", None),
    (["events", "--config", "missing.toml"], 2, "no configuration file", None),
    (["run", "cart"], 2, "no projection named 'cart'", None),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    MISTAKES,
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_sentence_a_hint_and_its_code_and_changes_nothing(
    arguments, code, message, hint, unchanged
):
    small, connection = unchanged
    before = everything(connection)
    result = small.run(*arguments)
    assert result.code == code, result.err
    assert result.out == ""
    error = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    if hint is not None:
        assert any(hint in line for line in result.err.splitlines() if line.startswith("hint: "))
    assert everything(connection) == before


BAD_CODE = [
    ("nowhere:cart_summary", None, "there is no Python module 'nowhere'"),
    ("shop_projections:cart_sumary", None, "has no 'cart_sumary'"),
    ("shop_projections", None, "module:function"),
    ("shop_projections:plain", "def plain(row, event): return row", "plain"),
    (
        "shop_projections:cart_summary",
        "import not_there",
        "cannot be imported: No module named 'not_there'",
    ),
    ("shop_projections:cart_summary", "1 / 0", "cannot be imported: ZeroDivisionError"),
    ("shop_projections:cart_summary", "def broken(:", "cannot be imported: SyntaxError"),
]


@pytest.mark.parametrize(
    ("reference", "code", "message"), BAD_CODE, ids=[each[2] for each in BAD_CODE]
)
def test_code_that_is_not_there_or_does_not_load(reference, code, message, small, connection):
    before = everything(connection)
    config = (small.folder / "esops.toml").read_text()
    (small.folder / "esops.toml").write_text(
        config.replace("shop_projections:cart_summary", reference)
    )
    if code is not None:
        (small.folder / "shop_projections.py").write_text(code + "\n")
    result = small.run("rebuild", "--blue-green")
    assert (result.code, message in result.err) == (2, True), result.err
    assert "projections.cart_summary.python" in result.err
    assert everything(connection) == before


BAD_DDL = [
    ("CREATE TABLE {table} (id text);", 2, "no primary key"),
    (
        "CREATE TABLE {table} (a text, b text, PRIMARY KEY (a, b));",
        2,
        "stream",
    ),
    ("CREATE TABLE other (id text PRIMARY KEY);", 2, "does not name {table}"),
    ("CREATE TABLE {table} (id nonsense PRIMARY KEY);", 2, "green's DDL fails"),
    ("CREATE TABEL {table} (id text PRIMARY KEY);", 2, "green's DDL fails"),
    ("-- {table}", 2, "table"),
]


@pytest.mark.parametrize(("ddl", "code", "message"), BAD_DDL, ids=[each[2] for each in BAD_DDL])
def test_ddl_that_makes_no_read_model(ddl, code, message, small, connection):
    before = everything(connection)
    (small.folder / "cart_summary.sql").write_text(ddl)
    result = small.run("rebuild", "--blue-green")
    assert (result.code, message in result.err) == (code, True), result.err
    assert everything(connection) == before


def test_no_ddl_and_no_table_says_what_to_give(small):
    config = (small.folder / "esops.toml").read_text().replace('ddl = "cart_summary.sql"\n', "")
    (small.folder / "esops.toml").write_text(config)
    result = small.run("rebuild", "--blue-green")
    assert (result.code, "cart_summary" in result.err, "ddl" in result.err) == (2, True, True)


def test_a_database_that_is_no_event_store(dsn, project, connection):
    shop.configure(project, dsn)
    result = project.run("rebuild", "--blue-green")
    assert result.code == 2
    assert "holds no event store that esops knows (marten, emmett, messagedb" in result.err
    assert everything(connection) == []


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"dbname": "not_there"}, 3),
        ({"user": "nobody_here"}, 3),
        ({"host": "/nowhere"}, 3),
        ({"port": "1"}, 3),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_wrong_dsn(wrong, code, dsn, project):
    shop.configure(project, psycopg.conninfo.make_conninfo(dsn, **wrong))
    result = project.run("rebuild", "--blue-green")
    assert result.code == code
    assert result.err.startswith("error: ")
    assert "hint: " in result.err


def test_a_dsn_that_libpq_cannot_read(project):
    shop.configure(project, "host=x nonsense=y password=s3cret")
    result = project.run("rebuild", "--blue-green")
    assert result.code == 2
    assert "s3cret" not in result.err


def test_a_role_without_rights_is_told_which_and_nothing_is_changed(small, dsn, connection):
    connection.execute("CREATE ROLE poor LOGIN; GRANT USAGE ON SCHEMA shop TO poor")
    shop.configure(small, psycopg.conninfo.make_conninfo(dsn, user="poor"))
    before = everything(connection)
    try:
        for command in (["events"], ["rebuild", "--blue-green"]):
            result = small.run(*command)
            assert result.code == 3
            assert "denies this role a right: permission denied for" in result.err
        assert everything(connection) == before
    finally:
        connection.execute("DROP OWNED BY poor; DROP ROLE poor")


def test_a_shared_store_wants_a_key_that_tells_tenants_apart(dsn, connection, project):
    marten.create(connection, marten.Variant(schema="shop", conjoined=True, text_ids=True))
    shop.configure(project, dsn)
    result = project.run("rebuild", "--blue-green")
    assert result.code == 6
    assert "tenant" in result.err


def test_live_app_is_built_and_verified_but_not_switched(small, connection):
    config = (small.folder / "esops.toml").read_text()
    (small.folder / "esops.toml").write_text(config + 'live = "app"\n')
    refused = small.run("rebuild", "--blue-green")
    assert (refused.code, "the application keeps cart_summary fresh" in refused.err) == (6, True)
    small.ok("rebuild", "--blue-green", "--no-switch")
    assert connection.execute("SELECT count(*) FROM cart_summary__v1").fetchone() == (50,)


def test_events_in_every_format(small):
    lines = small.ok("events", "--limit", "3").out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["position"] for row in rows] == ["1", "2", "3"]
    assert set(rows[0]) == {
        "id",
        "stream",
        "version",
        "position",
        "type",
        "recorded_at",
        "data",
        "metadata",
    }
    assert rows[0]["recorded_at"].endswith("Z")
    assert small.ok("events", "--limit", "3", "--output", "json").json == rows
    table = list(
        csv.DictReader(io.StringIO(small.ok("events", "--limit", "3", "--output", "csv").out))
    )
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert len(small.ok("events", "--output", "table", "--limit", "3").out.splitlines()) == 3
    opened = small.ok(
        "events", "--type", "shopping_cart_opened", "--type", "shopping_cart_canceled"
    ).out.splitlines()
    assert {json.loads(line)["type"] for line in opened} == {
        "shopping_cart_opened",
        "shopping_cart_canceled",
    }
    assert len(small.ok("events", "--stream", rows[0]["stream"]).out.splitlines()) == 10
    assert small.ok("events", "--after", "498").out.count("\n") == 2
    assert "\x1b" not in small.ok("events", "--output", "table").out


def test_events_follow_ends_on_sigterm_and_shows_what_comes(small, dsn):
    process = small.start("events", "--follow", "--after", "500")
    with shop.Workload() as workload:
        workload.add("writer", dsn, seed=1, rate=100)
        line = process.stdout.readline()
        workload.stop()
    assert int(json.loads(line)["position"]) == 501
    end(process)
    assert process.returncode == 0


@pytest.mark.parametrize(
    "command",
    thorough_in(
        ["events", "events --output csv", "run --verbose 2>&1", "docs configuration", "--help"],
        ["events --output csv", "run --verbose 2>&1"],
    ),
)
def test_a_reader_that_ends_first_ends_the_command_quietly(command, small):
    """With the code that a shell shows for SIGPIPE, and no word of it."""
    if command.startswith("run"):
        small.ok("rebuild", "--blue-green")
    pipe = f"'{small.command()[0]}' {command} | (head -n 1; exec <&-; sleep 0.2)"
    done = subprocess.run(
        ["bash", "-c", f"{pipe}; exit ${{PIPESTATUS[0]}}"],
        cwd=small.folder,
        env=small.environ(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    if command.startswith(("events", "run")):  # the others may have written all before that
        assert done.returncode == 141


@pytest.mark.parametrize(
    "command",
    thorough_in(["--version", "--help", "docs", "events", "status"], ["status"]),
)
def test_what_a_full_disk_does_not_take_is_an_error(command, small):
    done = subprocess.run(
        ["bash", "-c", f"'{small.command()[0]}' {command} > /dev/full"],
        cwd=small.folder,
        env=small.environ(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: stdout cannot be written: No space left on device\n")
    assert done.stderr.count("error:") == 1


def test_rebuild_json_has_the_documented_fields(small):
    done = small.ok("rebuild", "--blue-green", "--output", "json").json
    assert set(done) >= {
        *(
            "rebuild",
            "projection",
            "state",
            "from_version",
            "to_version",
            "events",
            "rows",
            "seconds",
        ),
        *("events_per_second", "position", "verification"),
    }
    assert set(done["verification"]) >= {
        "method",
        "rows_blue",
        "rows_green",
        "differing",
        "samples",
    }
    assert (done["events"], done["rows"], done["position"]) == (500, 50, "500")
    again = small.ok("rebuild", "--blue-green", "--output", "json").json
    assert (again["from_version"], again["to_version"], again["verification"]["method"]) == (
        1,
        2,
        "exact",
    )


def test_dry_run_prints_every_statement_and_changes_nothing(small, connection):
    before = everything(connection)
    text = small.ok("rebuild", "--blue-green", "--dry-run").out
    for statement in (
        "CREATE SCHEMA",
        'CREATE TABLE "public"."cart_summary__v1"',
        'DROP CONSTRAINT "cart_summary__v1_pkey"',
        'ADD CONSTRAINT "cart_summary__v1_pkey" PRIMARY KEY (cart_id);',
        'ANALYZE "public"."cart_summary__v1";',
        'CREATE VIEW "public"."cart_summary" AS SELECT',
        "Nothing was changed",
    ):
        assert statement in text
    assert (
        small.ok("rebuild", "--blue-green", "--dry-run", "--output", "json").json["events"] == 500
    )
    assert everything(connection) == before


def test_list_and_show_before_anything_was_built(small):
    assert small.ok("projection", "list", "--output", "json").json == [
        {
            "projection": "cart_summary",
            "store": "shop",
            "kind": "fold",
            "active": None,
            "former_name": None,
            "paused": None,
            "limits": {},
            "postponed": False,
            "unfinished": None,
            "lag_events": None,
            "versions": 0,
        }
    ]
    assert "never been built" in small.ok("projection", "show", "cart_summary").out
    assert small.ok("projection", "show", "cart_summary", "--output", "json").json["versions"] == []


def test_global_options_stand_anywhere(small):
    first = small.ok("--output", "json", "projection", "list").json
    assert small.ok("projection", "--output", "json", "list").json == first
    assert small.ok("projection", "list", "--output", "json").json == first


def test_log_format_json_is_one_object_a_line(small):
    result = small.ok("rebuild", "--blue-green", "--log-format", "json", "--quiet", "--verbose")
    logged = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    assert any(
        each["event"] == "state" and each["state"] == "catching-up" and each["rebuild"] == 1
        for each in logged
    )


def test_quiet_says_nothing_but_the_result(small):
    result = small.ok("rebuild", "--blue-green", "--quiet")
    assert result.err == ""
    assert result.out.startswith("cart_summary v1")


def test_debug_shows_the_traceback_and_nothing_else_does(small):
    done = subprocess.run(
        small.command("projection", "show", "x", "--debug"),
        cwd=small.folder,
        env=small.environ(),
        capture_output=True,
        text=True,
    )
    assert "Traceback" in done.stderr
    assert done.returncode == 2


@pytest.mark.thorough
def test_run_until_caught_up_follows_all_versions(small, dsn, connection):
    small.ok("rebuild", "--blue-green")
    small.ok("rebuild", "--blue-green")
    shop.more(dsn, 100)
    result = small.ok("run", "--until-caught-up")
    assert "2 versions caught up" in result.err
    assert shop.check_version(connection, 1) == shop.check_version(connection, 2) > 50


def test_progress_in_a_pipe_is_plain_lines(dsn, project):
    shop.make(dsn, 4_000)
    project.patch(
        "import datetime\nfrom esops.term import progress\n"
        "progress.PLAIN_EVERY = datetime.timedelta(seconds=0.2)\n"
    )
    code = shop.PROJECTION.replace(
        "    data, kind", "    import time; time.sleep(0.0002)\n    data, kind"
    )
    shop.configure(project, dsn, code=code)
    err = project.ok("rebuild", "--blue-green", "--batch-size", "500").err
    assert "\x1b" not in err
    assert "\r" not in err
    lines = [line for line in err.splitlines() if " of 4,000, " in line]
    assert lines
    assert all(line.startswith("rebuild cart_summary: events applied: ") for line in lines)
    # The first one may come before there is a rate.
    assert any("left" in line for line in lines)


def test_a_config_by_environment(small, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        small.command("projection", "list"),
        cwd=elsewhere,
        env={**small.environ(), "ESOPS_CONFIG": str(small.folder / "esops.toml")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(elsewhere) == []
