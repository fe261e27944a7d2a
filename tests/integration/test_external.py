"""A version that the application builds: begun by a program, watched, verified while both sides are
written, switched, retired.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.support import application, shop
from tests.support.cases import thorough_but
from tests.support.waiting import until

ROOT = Path(__file__).parent.parent.parent
EVENTS = 300


class Application:
    """The daemons of an application's versions, begun by the tests or by the `start` program."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn, self.folder = dsn, folder

    def command(self, version: int, *options: str) -> list[str]:
        where = str(self.folder / f"daemon{version}.pid")
        return [
            "env",
            f"PYTHONPATH={ROOT}",
            sys.executable,
            "-m",
            "tests.support.application",
            self.dsn,
            str(version),
            *options,
            "--daemon",
            where,
        ]

    def start(self, version: int, *options: str) -> None:
        subprocess.run(self.command(version, *options), check=True)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            table = application.table(version)
            until(
                lambda: (
                    connection.execute("SELECT to_regclass(%s)", (table,)).fetchone()[0] is not None
                )
            )

    def stop(self, version: int) -> None:
        file = self.folder / f"daemon{version}.pid"
        if file.exists():
            os.kill(int(file.read_text()), signal.SIGKILL)
            file.unlink()

    def stop_all(self) -> None:
        for file in self.folder.glob("daemon*.pid"):
            self.stop(int(file.stem.removeprefix("daemon")))


@pytest.fixture
def app(dsn, tmp_path):
    shop.make(dsn, EVENTS)
    running = Application(dsn, tmp_path)
    yield running
    running.stop_all()


def configure(
    project,
    dsn: str,
    app: Application,
    version: int,
    more: str = "",
    tables: str = "shop.mt_doc_cartsummary",
) -> None:
    begin = str(app.command(version)).replace("'", '"')
    hook = (
        ""
        if "switch" in more
        else 'switch = "hook"\nhooks.switch = ["sh", "-c", "echo $ESOPS_TO_VERSION > serving"]'
    )
    project.write(
        "esops.toml",
        f"""
[stores.shop]
dsn = "{dsn}"
schema = "shop"
append = "quick"

[projections.cart_summary]
kind = "external"
start = {begin}
checkpoint = "{application.shard(version)}"
tables = ["{tables}"]
{hook}
{more}
""",
    )


def documents(connection, version: int) -> dict:
    rows = connection.execute(f"SELECT id, data FROM {application.table(version)}").fetchall()
    return {
        name: (d["client"], d["items"], round(d["total"], 2), d["status"], d["position"])
        for name, d in rows
    }


def truth(connection) -> dict:
    (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
    return {
        name: (c[0], c[1], float(c[2]), c[3], c[4])
        for name, c in shop.truth(connection, last).items()
    }


@pytest.mark.thorough
def test_martens_versions_are_begun_watched_verified_switched_and_retired(
    app, project, dsn, connection
):
    app.start(1)
    configure(project, dsn, app, 2)
    plan = project.ok("rebuild", "--blue-green", "--dry-run", "--verbose").out
    assert "shop.mt_doc_cartsummary_2" in plan
    assert "watch the application's checkpoint CartSummary:V2:All" in plan
    assert "-m tests.support.application" in plan
    assert connection.execute("SELECT to_regclass('shop.mt_doc_cartsummary_2')").fetchone() == (
        None,
    )
    with shop.Workload() as workload:
        workload.add("writer", dsn, rate=150)
        done = project.ok("rebuild", "--blue-green", "--output", "json")
        told = done.json
        assert (told["state"], told["from_version"], told["to_version"]) == ("switched", 1, 2), (
            done.err
        )
        assert told["verification"]["differing"] == 0
        assert told["events"] >= EVENTS
        assert told["rows"] > 0
        assert "start: " in done.err
        assert (project.folder / "serving").read_text().strip() == "2"
        workload.stop()
    until(lambda: documents(connection, 2) == truth(connection))
    shown = project.ok("projection", "show", "cart_summary", "--output", "json").json
    assert (shown["kind"], shown["active"]) == ("external", 2)
    assert [(each["state"], each["lag_events"]) for each in shown["versions"]] == [
        ("standby", 0),
        ("active", 0),
    ]
    assert (
        "not followed: the application keeps it fresh" in project.ok("run", "--until-caught-up").err
    )
    codes = [each["code"] for each in project.run("doctor", "--output", "json").json["findings"]]
    assert "ESOPS-D022" not in codes, "the application keeps it fresh"
    metrics = project.ok("metrics").out
    assert "esops_version_rows{" in metrics
    assert "esops_version_followed{" not in metrics
    assert {each["kept_by"] for each in shown["versions"]} == {"application"}
    refused = project.run("projection", "retire", "cart_summary", "--yes")
    # V1 still stands at its last event and was moved just now.
    assert refused.code == 6
    assert "still keeps v1 fresh" in refused.err
    project.ok("projection", "rollback", "cart_summary")
    assert (project.folder / "serving").read_text().strip() == "1"
    project.ok("projection", "switch", "cart_summary", "--to", "2")
    app.stop(1)
    shop.more(dsn, 100)
    until(lambda: documents(connection, 2) == truth(connection))
    back = project.run("projection", "rollback", "cart_summary")
    assert back.code == 6
    connection.execute(
        "UPDATE shop.mt_event_progression SET last_updated = now() - interval '1 minute' WHERE "
        "name = 'CartSummary:All'"
    )
    project.ok("projection", "retire", "cart_summary", "--yes")
    assert connection.execute("SELECT to_regclass('shop.mt_doc_cartsummary')").fetchone() == (None,)


def test_a_view_is_pointed_once_green_is_past_all_that_readers_saw(app, project, dsn, connection):
    """Readers by the view never see a cart go back, whichever of the two versions is the faster."""
    configure(
        project,
        dsn,
        app,
        2,
        'switch = "view"\nbuilt = ["shop.mt_doc_cartsummary_2"]',
        tables="cart_summary",
    )
    first = project.ok("rebuild", "--blue-green", "--output", "json").json
    assert (first["state"], first["from_version"], first["verification"]["method"]) == (
        "switched",
        None,
        "none",
    )
    configure(
        project,
        dsn,
        app,
        3,
        'switch = "view"\nbuilt = ["shop.mt_doc_cartsummary_3"]',
        tables="cart_summary",
    )
    with shop.Workload() as workload, psycopg.connect(dsn, autocommit=True) as reader:
        workload.add("writer", dsn, rate=200)
        app.start(3, "--slow", "0.3")
        process = project.start("rebuild", "--blue-green", "--output", "json")
        seen = 0
        while process.poll() is None:
            (now,) = reader.execute(
                "SELECT max((data ->> 'position')::bigint) FROM cart_summary"
            ).fetchone()
            assert now >= seen, "time moved back"
            seen = now
            time.sleep(0.01)
        out, err = process.communicate()
        assert process.returncode == 0, err
        workload.stop()
    assert '"switched"' in out
    (view,) = connection.execute(
        "SELECT table_name FROM information_schema.view_table_usage WHERE view_name = "
        "'cart_summary'"
    ).fetchone()
    assert view == "mt_doc_cartsummary_3"


@pytest.mark.parametrize("writers", thorough_but([0, 1], 0))
def test_rows_that_stay_different_stop_it(app, project, dsn, connection, writers):
    app.start(1)
    until(lambda: len(documents(connection, 1)) == len(truth(connection)))
    configure(project, dsn, app, 2)
    app.start(2)
    until(lambda: documents(connection, 2) == truth(connection))
    name = connection.execute("SELECT id FROM shop.mt_doc_cartsummary_2 LIMIT 1").fetchone()[0]
    connection.execute(
        """UPDATE shop.mt_doc_cartsummary_2 SET data = data || '{"items": -7}' WHERE id = %s""",
        (name,),
    )
    with shop.Workload() as workload:
        for _ in range(writers):  # whose rows only lag
            workload.add("writer", dsn, rate=300)
        result = project.run("rebuild", "--blue-green", "--output", "json")
        workload.stop()
    assert result.code == 1, result.err
    found = result.json["verification"]
    assert found["differing"] == 1
    assert [each["key"] for each in found["samples"]] == [{"id": name}]
    assert not (project.folder / "serving").exists()
    assert "checking again" in result.err
    connection.execute(
        "UPDATE shop.mt_doc_cartsummary_2 g SET data = b.data FROM shop.mt_doc_cartsummary b WHERE "
        "b.id = g.id AND g.id = %s",
        (name,),
    )
    project.ok("rebuild", "--blue-green", "--resume")
    assert (project.folder / "serving").read_text().strip() == "2"


def test_an_application_that_stands_still_pauses_it_with_what_is_missing(
    app, project, dsn, connection
):
    configure(project, dsn, app, 2, 'timeout = "2s"')
    text = (project.folder / "esops.toml").read_text()
    project.write(
        "esops.toml",
        "\n".join(
            'start = ["true"]' if line.startswith("start") else line for line in text.splitlines()
        ),
    )
    result = project.run("rebuild", "--blue-green")
    assert result.code == 5
    assert (
        f"{EVENTS} events behind: the table shop.mt_doc_cartsummary_2 does not exist" in result.err
    )
    application.create(connection, 2)
    result = project.run("rebuild", "--blue-green", "--resume")
    assert result.code == 5
    assert "its checkpoint CartSummary:V2:All is at" in result.err
    app.start(2)
    project.ok("rebuild", "--blue-green", "--resume")


def test_given_up_tested_or_put_off_it_leaves_the_applications_tables_alone(
    app, project, dsn, connection
):
    configure(project, dsn, app, 2)
    assert "left to the application" in project.ok("rebuild", "--blue-green", "--test-only").out
    stands = project.ok("rebuild", "--blue-green", "--no-switch", "--output", "json").json
    assert stands["state"] == "verified"
    taken = project.run("rebuild", "--blue-green")
    assert taken.code == 6
    assert "exists already" in taken.err
    project.ok("projection", "switch", "cart_summary", "--to", str(stands["to_version"]))
    assert (project.folder / "serving").read_text().strip() == str(stands["to_version"])
    configure(project, dsn, app, 3, 'timeout = "1s"')
    text = (project.folder / "esops.toml").read_text()
    project.write(
        "esops.toml",
        "\n".join("" if line.startswith("start") else line for line in text.splitlines()),
    )
    assert project.run("rebuild", "--blue-green").code == 5
    application.create(connection, 3)
    given_up = project.ok("rebuild", "--blue-green", "--abort", "--yes")
    assert "What the application has built stays" in given_up.out
    assert connection.execute(
        "SELECT to_regclass('shop.mt_doc_cartsummary_3') IS NOT NULL"
    ).fetchone() == (True,)


def test_what_cannot_be_done_is_refused_before(app, project, dsn, connection):
    application.create(connection, 1)
    for change, code, words in (
        (("--workers", "2"), 2, "--workers has no effect"),
        (("--max-rate", "10"), 2, "--max-rate has no effect"),
    ):
        configure(project, dsn, app, 2)
        result = project.run("rebuild", "--blue-green", *change)
        assert result.code == code
        assert words in result.err
    assert "Add --blue-green" in project.run("rebuild", "--yes").err
    configure(project, dsn, app, 1)
    result = project.run("rebuild", "--blue-green")
    assert result.code == 2
    assert "projections.cart_summary.built is missing" in result.err
    configure(project, dsn, app, 2, 'switch = "view"')
    result = project.run("rebuild", "--blue-green")
    assert result.code == 6
    assert "would have to rename" in result.err
    configure(project, dsn, app, 2, 'switch = "rename"')
    assert "keep their names" in project.run("rebuild", "--blue-green").err
    configure(project, dsn, app, 2, 'built = ["a", "b"]')
    assert "name one table for each" in project.run("rebuild", "--blue-green").err
