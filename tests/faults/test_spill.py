"""Loads that spill, killed at every step, with their files lost, damaged or without room: each comes
to the fold of all events in the end.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import signal
import time

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from esops.demo import store
from esops.readmodel import spills
from esops.running.spill.directory import PREFIX
from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.databases import database
from tests.support.soak import SOAK, rounds
from tests.support.waiting import finish, kill, until

thorough = pytest.mark.thorough
EVENTS = 10_000
SMALL = """
from esops.running import version_tables
from esops.running.spill import writing
from esops.stores.postgres import bulk

tables = version_tables.VersionTables
version_tables.VersionTables = lambda **given: tables(
    **{**given, "cache": given["cache"] // 4}
)
bulk.BulkReader.__init__.__defaults__ = (bulk.BATCH_BYTES // 4, None)
writing._LEAST //= 4
"""
"""For a quarter of the events that fill the least memory and several batches."""
DIE = (
    SMALL
    + """
import importlib, json, os, sys

def patch(module, name, when, count):
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for each in path:
        owner = getattr(owner, each)
    inner, calls = getattr(owner, last), [0]
    def die():
        if sys.argv[0].endswith("worker.py"):
            os.kill(os.getppid(), 9)
        os.kill(os.getpid(), 9)
    def dying(*arguments, **options):
        calls[0] += 1
        if when == "before" and calls[0] == count:
            die()
        made = inner(*arguments, **options)
        if when == "after" and calls[0] == count:
            die()
        return made
    setattr(owner, last, dying)

if os.environ.get("KEEP"):
    from esops.running.spill import applier
    applier.KEEP_EVERY_SECONDS = 0.0
if os.environ.get("LOSE"):
    from esops.errors import ConnectionLost
    from esops.running.spill import writing

    owner, name, numbers = json.loads(os.environ["LOSE"])
    owner, calls = getattr(writing, owner), [0]
    whole = getattr(owner, name)

    def losing(*arguments):
        calls[0] += 1
        made = whole(*arguments)
        if calls[0] in numbers:
            raise ConnectionLost("the server closed the connection")
        return made

    setattr(owner, name, losing)
if os.environ.get("DIE"):
    patch(*json.loads(os.environ["DIE"]))
"""
)
SPILLS, FILES = "esops.readmodel.spills", "esops.running.spill.directory"
POINTS = {
    "before there is a row": (SPILLS, "begin", "before", 1),
    "with a row and no directory": (SPILLS, "begin", "after", 1),
    "with a directory of no lock": (FILES, "_write_whole", "after", 1),
    "in the middle of a frame": (FILES, "_append", "after", 5),
    "before anything is certain": (FILES, "SpillDirectory.write", "after", 1),
    "while the manifest is written": (FILES, "_write_whole", "before", 2),
    "between the manifest and the row": (SPILLS, "complete", "before", 1),
    "before the first partition is in the table": (SPILLS, "advance", "before", 1),
    "in the transaction of the first partition": (SPILLS, "advance", "after", 1),
    "before the file of a partition is deleted": (FILES, "SpillDirectory.forget", "before", 1),
    "in the middle of the partitions": (SPILLS, "advance", "after", 7),
    "in the transaction of the last one": (SPILLS, "advance", "after", 16),
    "before the last transaction": (SPILLS, "end", "before", 1),
    "in the last transaction": (SPILLS, "end", "after", 1),
    "before the directory is deleted": (FILES, "SpillDirectory.remove", "before", 1),
}


@pytest.fixture(scope="module")
def template(server):
    """A database with the shop, of which each test gets a copy."""
    with database(server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            store.create(connection)
            store.generate(connection, EVENTS, window=EVENTS // 10)
        yield conninfo_to_dict(dsn)["dbname"]


@pytest.fixture
def dsn(server, template):
    with database(server, template) as dsn:
        yield dsn


@pytest.fixture
def carts(dsn, connection, project, tmp_path):
    """A shop whose carts are all in use at the same time, and very little memory."""
    project.folder_of_spills = tmp_path / "spills"

    def configure(options="", **more):
        shop.configure(
            project, dsn,
            projection_options=f'cache = "1MB"\nspill = "{project.folder_of_spills}"\n{options}',
            **more,
        )  # fmt: skip

    project.reconfigure, project.dsn = configure, dsn
    configure()
    project.patch(DIE)
    return project


def die(project, point, *arguments):
    """Run a command that is killed at a point."""
    project.environment["DIE"] = json.dumps(point)
    process = project.start("rebuild", "--blue-green", *arguments)
    _, err = finish(process)
    del project.environment["DIE"]
    assert process.returncode == -signal.SIGKILL, err
    return err


def directories(project):
    return list(project.folder_of_spills.glob(f"{PREFIX}*"))


def check(connection, project, version=1):
    assert shop.check_version(connection, version) > 0
    events = connection.execute("SELECT events FROM esops.versions WHERE version = %s", (version,))
    assert events.fetchone() == (EVENTS,)
    assert connection.execute("SELECT * FROM esops.spills").fetchall() == []
    assert connection.execute("SELECT * FROM esops.dead_letters").fetchall() == []
    assert directories(project) == []


SERIES = [
    "in the middle of a frame",
    "between the manifest and the row",
    "in the middle of the partitions",
    "in the last transaction",
]
"""Of each phase of a spill the moment at which most is undone."""


@pytest.mark.parametrize("point", thorough_but(POINTS, *SERIES))
def test_killed_at_each_step_and_resumed(connection, carts, point):
    die(carts, POINTS[point])
    again = carts.ok("rebuild", "--blue-green", "--resume")
    check(connection, carts)
    # Nothing that was certain is done again.
    assert "begins again" not in again.err


@pytest.mark.parametrize(
    "point",
    [
        (FILES, "_append", "after", 70),
        *(
            pytest.param(point, marks=thorough)
            for point in (
                (FILES, "SpillDirectory.keep", "before", 2),
                (FILES, "SpillDirectory.keep", "after", 2),
                (FILES, "SpillDirectory.write", "after", 3),
                (FILES, "_sync", "after", 40),
            )
        ),
    ],
)
def test_killed_between_two_manifests_it_continues_at_the_last_one(connection, carts, point):
    carts.environment["KEEP"] = "1"
    die(carts, point)
    (directory,) = directories(carts)
    kept = json.loads((directory / "manifest.json").read_text())
    assert 0 < int(kept["position"]) < EVENTS
    assert sum(kept["counts"]) == int(kept["position"])
    again = carts.ok("rebuild", "--blue-green", "--resume")
    assert "cannot be used" not in again.err
    assert directories(carts) == []
    check(connection, carts)


# In make test a directory is lost in test_the_total_that_is_shown_is_that_of_the_load.
@pytest.mark.parametrize("point", thorough_but(POINTS))
def test_killed_and_its_directory_lost(connection, carts, point):
    die(carts, POINTS[point])
    shutil.rmtree(carts.folder_of_spills, ignore_errors=True)
    row = connection.execute("SELECT partition, done FROM esops.spills").fetchone()
    again = carts.ok("rebuild", "--blue-green", "--resume")
    check(connection, carts)
    applied = row is not None and row != (0, 0)
    assert ("begins again" in again.err) == applied
    assert ("cannot be used" in again.err) == (row is not None)


DAMAGES = ["cut off", "changed", "no manifest", "another spill's"]
DAMAGED_AT = ["between the manifest and the row", "in the middle of the partitions"]


@pytest.mark.parametrize(
    ("point", "damage"),
    [
        (DAMAGED_AT[0], "changed"),
        *(
            pytest.param(*case, marks=thorough)
            for case in itertools.product(DAMAGED_AT, DAMAGES)
            if case != (DAMAGED_AT[0], "changed")
        ),
    ],
)
def test_killed_and_its_files_damaged(connection, carts, point, damage):
    die(carts, POINTS[point])
    (directory,) = directories(carts)
    file = sorted(directory.glob("*.events"))[-1]
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "changed":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "no manifest":
        (directory / "manifest.json").unlink()
    else:
        owner = json.loads((directory / "owner.json").read_text())
        (directory / "owner.json").write_text(json.dumps({**owner, "spill": "other"}))
    again = carts.ok("rebuild", "--blue-green", "--resume")
    shutil.rmtree(directory, ignore_errors=True)
    check(connection, carts)
    if damage != "no manifest":
        assert "cannot be used" in again.err


@thorough
def test_killed_at_random_moments_until_it_comes_through(connection, carts):
    chance, resumed = random.Random(5), ()
    for _ in range(rounds(6, 60)):
        process = carts.start("rebuild", "--blue-green", *resumed, "--quiet")
        until(lambda running=process: _journal(connection) or running.poll() is not None)
        time.sleep(chance.random() * 1.2)
        if not kill(process):
            break
        resumed = ("--resume",)
    else:
        carts.ok("rebuild", "--blue-green", "--resume", "--quiet")
    check(connection, carts)


def _journal(connection):
    found = connection.execute("SELECT to_regclass('esops.rebuilds')").fetchone()
    return found[0] and connection.execute("SELECT count(*) FROM esops.rebuilds").fetchone()[0]


LOST = {
    "with events that are not written": ("PartitionWriter", "add", [2, 3, 5]),
    "while keys are made": ("PartitionWriter", "_partitions_of", [2, 7]),
}


@pytest.mark.parametrize("moment", thorough_but(LOST, "with events that are not written"))
def test_a_connection_lost_while_events_are_written_doubles_none(connection, carts, moment):
    carts.environment["LOSE"] = json.dumps(LOST[moment])
    done = carts.ok("rebuild", "--blue-green")
    assert "can be reached again" in done.err
    assert f"{EVENTS:,} events up to position {EVENTS}" in done.err
    check(connection, carts)
    assert directories(carts) == []


def test_a_directory_that_nobody_may_write_to(connection, carts):
    carts.folder_of_spills.write_text("a file")
    done = carts.ok("rebuild", "--blue-green")
    assert "without spilling" in done.err
    carts.folder_of_spills.unlink()
    check(connection, carts)


@pytest.mark.parametrize("bytes_", thorough_but([2_000, 5_000, 12_000], 12_000))
def test_files_that_cannot_grow(connection, carts, bytes_):
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_}, {bytes_}))"
    carts.patch(f"{SMALL}\n{limit}")
    done = carts.ok("rebuild", "--blue-green")
    assert "cannot be written to" in done.err
    check(connection, carts)


@pytest.mark.parametrize("limit", thorough_but(["1kB", "150kB", "100kB"]))
def test_a_bound_that_takes_several_rounds(connection, carts, limit):
    carts.reconfigure(f'spill_limit = "{limit}"')
    done = carts.ok("rebuild", "--blue-green")
    check(connection, carts)
    assert ("without spilling" in done.err) == (limit == "1kB")
    if limit != "1kB":
        assert done.err.count("do not fit into memory") > 1


@thorough
def test_no_spill_at_all(connection, carts):
    carts.reconfigure('spill_limit = "0kB"')
    done = carts.ok("rebuild", "--blue-green")
    assert "partitions" not in done.err
    check(connection, carts)


POISON = shop.PROJECTION.replace(
    "    at = event.position[0]\n",
    "    at = event.position[0]\n    assert at not in (1250, 7501), 'bad luck'\n",
)


def test_a_poison_event_stops_it_and_then_becomes_a_dead_letter(connection, carts):
    carts.reconfigure(code=POISON)
    stopped = carts.run("rebuild", "--blue-green")
    assert stopped.code != 0
    assert "bad luck" in stopped.err
    row = connection.execute("SELECT until FROM esops.spills").fetchone()
    assert row == (str(EVENTS),)
    carts.reconfigure('on_error = "dead-letter"', code=POISON)
    done = carts.run("rebuild", "--blue-green", "--resume", "--max-dead-letters", "2")
    assert "serves now" in done.out, done.err
    found = connection.execute("SELECT position FROM esops.dead_letters ORDER BY position::int")
    assert found.fetchall() == [("1250",), ("7501",)]
    expected = _without(connection, 1250, 7501)
    assert shop.table(connection, "cart_summary__v1") == expected
    assert connection.execute("SELECT rows, events FROM esops.versions").fetchone() == (
        len(expected), EVENTS,
    )  # fmt: skip
    assert directories(carts) == []


def _without(connection, *positions):
    connection.execute(
        "CREATE SCHEMA parted; CREATE TABLE parted.mt_events AS SELECT * FROM shop.mt_events"
    )
    connection.execute("DELETE FROM parted.mt_events WHERE seq_id = ANY(%s)", (list(positions),))
    return shop.truth(connection, EVENTS, "parted")


def test_other_code_that_is_accepted_begins_the_load_again(connection, carts):
    die(carts, POINTS["in the middle of the partitions"])
    carts.reconfigure(code=shop.PROJECTION + "\nOTHER = 1\n")
    carts.write(
        "shop_projections.py",
        shop.PROJECTION.replace("data, kind =", "kind, data =").replace(
            "event.json(), event.type", "event.type, event.json()"
        ),
    )
    refused = carts.run("rebuild", "--blue-green", "--resume")
    assert refused.code != 0
    again = carts.ok("rebuild", "--blue-green", "--resume", "--accept-code")
    assert "the code has changed" in again.err
    check(connection, carts)


@thorough
def test_the_installed_command_is_killed_and_resumed(connection, carts):
    installed = carts.installed
    die(installed, POINTS["in the middle of the partitions"])
    installed.ok("rebuild", "--blue-green", "--resume")
    check(connection, carts)


@thorough
@pytest.mark.parametrize("point", DAMAGED_AT)
def test_resumed_without_a_switch(connection, carts, point):
    die(carts, POINTS[point], "--no-switch")
    assert carts.run("projection", "switch", "cart_summary", "--to", "1", "--yes").code != 0
    carts.ok("rebuild", "--blue-green", "--resume")
    check(connection, carts)
    state = connection.execute("SELECT state FROM esops.versions").fetchone()
    assert state == ("standby",)


@pytest.mark.parametrize("point", thorough_but(DAMAGED_AT, "between the manifest and the row"))
def test_after_an_erasure_nothing_of_its_files_is_used(dsn, connection, carts, point):
    die(carts, POINTS[point])
    spills.outdate([dsn], "shop", "events were erased since")
    again = carts.ok("rebuild", "--blue-green", "--resume")
    assert "events were erased since" in again.err
    check(connection, carts)


def test_aborted_it_leaves_no_files(connection, carts):
    die(carts, POINTS["in the middle of the partitions"])
    assert directories(carts)
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    assert directories(carts) == []
    assert connection.execute("SELECT * FROM esops.spills").fetchall() == []


def test_files_that_a_killed_process_left_go_with_the_next_spill(connection, carts):
    die(carts, POINTS["before the directory is deleted"])
    shutil.copytree(directories(carts)[0], carts.folder_of_spills / f"{PREFIX}other")
    carts.ok("rebuild", "--blue-green", "--resume")
    carts.ok("rebuild", "--blue-green")
    check(connection, carts, 2)


@thorough
def test_several_processes_spill_each_for_itself(connection, carts):
    carts.ok("rebuild", "--blue-green", "--workers", "2")
    check(connection, carts)


@pytest.mark.parametrize(
    ("point", "lost"),
    [
        ("in the middle of the partitions", False),
        pytest.param("in the middle of the partitions", True, marks=thorough),
        *(
            (point, lost)
            for point in ("in the middle of a frame", "between the manifest and the row")
            for lost in (False, True)
            if SOAK
        ),
    ],
)
def test_several_processes_of_which_each_is_killed(connection, carts, point, lost):
    carts.environment["DIE"] = json.dumps(POINTS[point])
    carts.run("rebuild", "--blue-green", "--workers", "2")
    del carts.environment["DIE"]
    spilled = connection.execute("SELECT count(*) FROM esops.spills").fetchone()[0]
    assert spilled > 0
    if lost:
        shutil.rmtree(carts.folder_of_spills)
    carts.ok("rebuild", "--blue-green", "--resume")
    check(connection, carts)


def test_stopped_and_paused_and_resumed(connection, carts):
    carts.patch(
        f"{SMALL}\nimport time\nfrom esops.running.spill import directory as d\nw = d.SpillDirectory.forget\n"
        "d.SpillDirectory.forget = lambda *a: (time.sleep(0.3), w(*a))"
    )
    resumed = ()
    for _ in range(3):
        stood = _folded(connection)
        process = carts.start("rebuild", "--blue-green", *resumed)
        until(lambda stood=stood: _folded(connection) != stood)
        process.terminate()
        _, err = finish(process)
        assert "paused" in err
        assert process.returncode not in (0, -signal.SIGKILL)
        resumed = ("--resume",)
    stood = _folded(connection)
    process = carts.start("rebuild", "--blue-green", "--resume")
    until(lambda: _folded(connection) != stood)
    carts.ok("projection", "pause", "cart_summary")
    until(lambda: _stands(connection))
    assert _folded(connection) is not None, "it was not done before it was paused"
    carts.ok("projection", "resume", "cart_summary")
    out, err = finish(process)
    assert process.returncode == 0, err
    check(connection, carts)


def _folded(connection):
    """Which partition, and how many events of it; None before all is spilled."""
    if connection.execute("SELECT to_regclass('esops.spills')").fetchone()[0] is None:
        return None
    rows = "SELECT partition, done FROM esops.spills WHERE until IS NOT NULL"
    return connection.execute(rows).fetchone()


def _stands(connection) -> bool:
    """Whether nothing is folded for longer than a partition takes here."""
    before = _folded(connection)
    time.sleep(1)
    return _folded(connection) == before


def test_a_rate_is_kept(connection, carts):
    begin = time.monotonic()
    carts.ok("rebuild", "--blue-green", "--max-rate", "3000")
    assert time.monotonic() - begin > 1.5
    check(connection, carts)


@thorough
def test_in_ranges_each_range_spills(connection, carts):
    carts.reconfigure('spill_limit = "0kB"')
    carts.ok("rebuild", "--blue-green")
    carts.reconfigure()
    done = carts.ok("rebuild", "--ranges", "2", "--yes")
    assert done.err.count("partitions; ") or "partitions" in done.err
    check(connection, carts)
    assert list(itertools.chain(directories(carts))) == []


def test_one_of_two_that_share_a_read_spills(connection, carts):
    """The one that leaves the shared read does not hold up the other."""
    carts.write(
        "esops.toml",
        (carts.folder / "esops.toml").read_text()
        + '\n[projections.other]\npython = "shop_projections:cart_summary"\ntables = ["other"]\n'
        'ddl = "cart_summary.sql"\n',
    )
    process = carts.start("rebuild", "cart_summary", "other", "--blue-green")
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "do not fit into memory" in err
    check(connection, carts)
    assert connection.execute(
        "SELECT count(*) FROM (SELECT * FROM cart_summary__v1 EXCEPT SELECT * FROM other__v1) AS o"
    ).fetchone() == (0,)
    assert directories(carts) == []


CHATTY = """
from datetime import timedelta
from esops.running import progress_reports
from esops.term import progress
progress.PLAIN_EVERY = progress_reports.REPORT_EVERY = timedelta(0)
"""


def progress_in(err: str) -> list[tuple[int, int]]:
    """How many events were applied, of how many."""
    shown = re.findall(r"events applied: ([0-9,]+) of ([0-9,]+)", err)
    return [(int(done.replace(",", "")), int(of.replace(",", ""))) for done, of in shown]


@pytest.mark.parametrize(
    "how", thorough_but(["in rounds", "begun again", "in processes"], "in rounds", "begun again")
)
def test_the_total_that_is_shown_is_that_of_the_load(connection, carts, how):
    """The position stays while a spill is folded, and a lost spill counts no more."""
    carts.patch(DIE + CHATTY)
    carts.reconfigure('spill_limit = "600kB"' if how == "in rounds" else "")
    if how == "in processes":
        done = carts.ok("rebuild", "--blue-green", "--workers", "2")
    elif how == "begun again":
        die(carts, POINTS["in the middle of the partitions"])
        shutil.rmtree(carts.folder_of_spills)
        done = carts.ok("rebuild", "--blue-green", "--resume")
        assert "begins again" in done.err
    else:
        done = carts.ok("rebuild", "--blue-green")
        assert done.err.count("do not fit into memory") > 1
    check(connection, carts)
    shown = progress_in(done.err)
    assert len(shown) > 5
    assert all(so_far <= total <= EVENTS * 1.1 for so_far, total in shown), shown


@thorough
def test_processes_that_esops_has_chosen_may_spill(connection, carts):
    """From the first event on: no column comes late where there is no row yet."""
    carts.patch(
        DIE
        + "\nfrom esops.rebuild.load import measuring\nfrom esops.running.spill import worth\n"
        + "measuring.for_plan = lambda *_: measuring.Workers(2, 'two')\n"
        + "worth.RowsInMemory.forgets_too_much = lambda *_: True\n"
        + "from esops.projections.kinds import fold\nfold._NEARLY = 0.2\n"
        + "from esops.readmodel import spills\nbegin = spills.begin\n"
        + "spills.begin = lambda *a: (print('a spill begins', file=sys.stderr), begin(*a))[1]\n"
    )
    done = carts.ok("rebuild", "--blue-green")
    assert "2 processes" in done.err
    assert done.err.count("a spill begins") == 2
    assert "begins the load again" not in done.err
    check(connection, carts)


def test_a_directory_on_a_disk_that_is_not_there_is_refused(carts, tmp_path):
    shop_options = f'cache = "1MB"\nspill = "{tmp_path}/absent/spills"'
    shop.configure(carts, carts.dsn, projection_options=shop_options)
    for arguments in ([], ["--dry-run"]):
        refused = carts.run("rebuild", "--blue-green", *arguments)
        assert refused.code == 6
        assert f"there is no directory {tmp_path}/absent/spills" in refused.err
    assert not (tmp_path / "absent").exists()
