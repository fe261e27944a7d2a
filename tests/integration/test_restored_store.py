"""A store that was restored to an earlier time, moved or replaced, under read models that know more.

Every command refuses, status and doctor say so, and `esops projection recover` is the way out. What
is still the same log (a failover, a copy, removed events) goes on.
"""

from __future__ import annotations

import json
import uuid

import psycopg
import pytest

from esops.demo.store import generate
from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, shop
from tests.support.cases import thorough_but
from tests.support.databases import database
from tests.support.restoring import backups

NAME = "cart_summary"


@pytest.fixture
def models(server):
    """A database for read models, apart from the store's."""
    with database(server) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        connection.dsn_given = dsn
        yield connection


@pytest.fixture
def backup(server, dsn):
    with backups(server, dsn) as made:
        yield made


def configure(project, dsn, models, **options) -> None:
    shop.configure(project, dsn, **options)
    with (project.folder / "esops.toml").open("a") as file:
        file.write(f"[readmodels.main]\ndsn = {json.dumps(models.dsn_given)}\n")


def codes(project) -> set[str]:
    found = project.run("doctor", "--output", "json").json
    return {each["code"] for each in found["findings"]}


def recover(project, *options: str, code: int = 0) -> dict[int, dict]:
    done = project.run("projection", "recover", NAME, "--yes", "--output", "json", *options)
    assert done.code == code, done.err + done.out
    return {each["version"]: each for each in done.json["versions"]}


def check_refused(project, *commands: tuple[str, ...]) -> None:
    for command in commands:
        done = project.run(*command)
        assert done.code == 6, (command, done.out, done.err)
        assert f"esops projection recover {NAME}" in done.err, (command, done.err)


ALL = (
    ("run", "--until-caught-up"),
    ("rebuild", "--blue-green"),
    ("rebuild", "--blue-green", "--dry-run"),
    ("rebuild", "--yes"),
    ("rebuild", "--ranges", "3", "--yes"),
    ("projection", "rollback", NAME),
    ("projection", "switch", NAME, "--to", "1"),
)


def check_found(project, code: str) -> None:
    """Status, doctor and metrics say so."""
    status = project.run("status", "--output", "json")
    assert status.code == 1
    assert not status.json["stores"][0]["ok"]
    assert {each["ok"] for each in status.json["projections"] if each["state"] == "active"} == {
        False
    }
    assert code in codes(project)
    assert "ESOPS-D022" not in codes(project)  # `esops run` refuses it
    assert f'esops_version_of_log{{projection="{NAME}"' in project.ok("metrics").out
    assert 'state="active",version="2"} 0.0' in project.ok("metrics").out.replace(
        'version="2",state="active"', 'state="active",version="2"'
    )
    assert project.run("projection", "show", NAME).code == 0


@pytest.mark.parametrize(
    "beyond", thorough_but([False, True], True), ids=["head before it", "head beyond it again"]
)
def test_a_store_restored_to_an_earlier_time_is_refused_and_recovered_by_a_rebuild(
    dsn, models, backup, project, beyond
):
    """As it was reported: 100 events were never applied, with exit code 0 and lag 0."""
    shop.make(dsn, 900)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    backup.take()
    shop.more(dsn, 100)
    project.ok("rebuild", "--blue-green")
    backup.restore()
    if beyond:
        shop.more(dsn, 150)
    check_refused(project, *ALL)
    check_found(project, "ESOPS-D040")
    project.run("projection", "recover", NAME, "--dry-run")
    before = models.execute("SELECT position FROM esops.versions ORDER BY version").fetchall()
    planned = project.run("projection", "recover", NAME, "--dry-run", "--output", "json")
    assert planned.code == 1  # as the real one
    planned = planned.json
    assert [each["outcome"] for each in planned["versions"]] == ["fine", "rebuild"]
    assert (
        models.execute("SELECT position FROM esops.versions ORDER BY version").fetchall() == before
    )
    assert project.run("projection", "recover", NAME).code == 2  # nobody to ask
    found = recover(project, code=1)
    # v1 stood still before the lost events came.
    assert (found[1]["command"], found[2]["command"]) == (
        None,
        f"esops rebuild {NAME} --blue-green",
    )
    # Given up: it serves, and nothing says that it is fresh, until it is rebuilt.
    assert project.run("run", "--until-caught-up").code == 6
    assert project.run("status").code == 1
    project.ok("rebuild", "--blue-green")
    head = 1_050 if beyond else 900
    with psycopg.connect(dsn) as store:
        assert shop.table(models, NAME) == shop.truth(store, head)
    # What was given up stands by: nothing follows it, and nobody is moved back to it unasked.
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0
    for words in (["switch", NAME, "--to", "2"], ["rollback", NAME]):
        for more in ([], ["--allow-stale"]):
            done = project.run("projection", *words, *more)
            assert done.code == 6
            assert "v2 was given up, and has rows of events that store" in done.err
    shown = {
        each["version"]: each
        for each in project.ok("status", "--output", "json").json["projections"]
    }
    assert shown[2]["detail"].startswith("it was given up: ")
    assert (shown[2]["lag_events"], shown[2]["lag_seconds"]) == (None, None)
    assert shown[3]["detail"] is None
    given_up = next(
        line
        for line in project.ok("metrics").out.splitlines()
        if line.startswith("esops_version_of_log") and 'version="2"' in line
    )
    assert given_up.endswith(" 0.0")
    project.ok("projection", "retire", NAME, "--yes")
    assert "ESOPS-D040" not in codes(project)


def test_a_version_of_which_no_lost_event_was_applied_is_set_back(dsn, models, backup, project):
    """It takes one type of events, and the lost ones are of others."""
    shop.make(dsn, 900)
    options = 'events = ["shopping_cart_opened"]'
    configure(project, dsn, models, projection_options=options)
    project.ok("rebuild", "--blue-green")
    backup.take()
    with psycopg.connect(dsn, autocommit=True) as store:
        store.execute("INSERT INTO shop.mt_streams (id, version) VALUES ('lost', 100)")
        store.execute(
            "INSERT INTO shop.mt_events SELECT nextval('shop.mt_events_sequence'), "
            "gen_random_uuid(), 'lost', n, '{}', 'note', now() FROM generate_series(1, 100) n"
        )
    project.ok("run", "--until-caught-up")
    backup.restore()
    shop.more(dsn, 150)
    check_refused(project, ("run", "--until-caught-up"))
    found = recover(project)
    assert found[1]["outcome"] == "set back"
    assert int(found[1]["to"]) <= 900
    project.ok("run", "--until-caught-up")
    with psycopg.connect(dsn) as store:
        opened = store.execute(
            "SELECT count(*) FROM shop.mt_events WHERE type = 'shopping_cart_opened'"
        ).fetchone()
    assert models.execute(f"SELECT count(*) FROM {NAME}").fetchone() == opened
    assert project.run("status").code == 0


def test_what_is_still_the_same_log_goes_on(dsn, models, backup, project, connection):
    """A copy of all of it in another database, removed events, a server that starts again."""
    shop.make(dsn, 900)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    connection.close()
    backup.take()
    backup.restore()  # the same events, in another database
    project.ok("run", "--until-caught-up")
    with psycopg.connect(dsn, autocommit=True) as store:
        # Deleted, and the stream's row still says that it had them.
        store.execute("DELETE FROM shop.mt_events WHERE seq_id BETWEEN 870 AND 895")
    shop.more(dsn, 100)
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0


def test_events_that_are_gone_without_a_trace_are_refused_until_somebody_vouches_for_it(
    dsn, models, backup, project, connection
):
    shop.make(dsn, 900)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    connection.close()
    backup.take()
    backup.restore()
    with psycopg.connect(dsn, autocommit=True) as store:
        store.execute("DELETE FROM shop.mt_events WHERE seq_id > 890")
        store.execute(
            "UPDATE shop.mt_streams s SET version = (SELECT coalesce(max(version), 0) "
            "FROM shop.mt_events e WHERE e.stream_id = s.id)"
        )
    check_refused(project, ("run", "--until-caught-up"))
    assert recover(project, "--accept-removed")[1]["outcome"] == "kept"
    with psycopg.connect(dsn, autocommit=True) as store:
        generate(store, 100, after=1_000, first_cart=5_000)
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0


@pytest.mark.thorough
def test_a_deleted_event_is_no_other_log_while_the_server_runs(dsn, models, project, connection):
    shop.make(dsn, 900)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    connection.execute("DELETE FROM shop.mt_events WHERE seq_id > 890")
    connection.execute(
        "DELETE FROM shop.mt_streams WHERE id NOT IN (SELECT stream_id FROM shop.mt_events)"
    )
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0


@pytest.mark.parametrize(
    "junk", thorough_but(["'{}'", "'[]'", "mark - 'events'", "'{\"events\": [[1]]}'"], "'{}'")
)
def test_a_mark_that_somebody_else_wrote_is_refused(junk, dsn, models, project):
    shop.make(dsn, 100)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    models.execute(f"UPDATE esops.marks SET mark = {junk}")
    done = project.run("run", "--until-caught-up")
    assert done.code == 6
    assert "esops.marks" in done.err
    models.execute("DELETE FROM esops.marks")
    project.ok("run", "--until-caught-up")


@pytest.mark.thorough
def test_a_cluster_that_denies_its_identifier_is_recognised_while_a_transaction_runs(
    dsn, models, project
):
    with psycopg.connect(dsn, autocommit=True) as store:
        emmett.create(store)
    append(dsn, 3)
    set_up_emmett(project, dsn, models)
    project.ok("rebuild", NAME, "--blue-green")
    models.execute("UPDATE esops.marks SET mark = jsonb_set(mark, '{log,system}', 'null')")
    with psycopg.connect(dsn) as other:
        other.execute("CREATE TABLE other (n int)")
        append(dsn, 3, first=100)
        done = project.run("run", "--until-caught-up")
        assert done.code == 5, done.err  # held back, and not another cluster
    project.ok("run", "--until-caught-up")
    assert models.execute(f"SELECT count(*) FROM {NAME}").fetchone() == (6,)


def set_up_emmett(project, store: str, models, ordering: str = "native") -> None:
    project.configure(
        stores={"s": {"dsn": store, "ordering": ordering}},
        readmodels={"main": {"dsn": models.dsn_given}},
        projections={NAME: {"python": "carts_code:carts", "tables": [NAME], "ddl": "carts.sql"}},
    )
    project.write(
        "carts_code.py",
        "from esops import fold\n@fold(key='stream')\ndef carts(row, event):\n"
        "    return {'id': event.stream, 'events': (row or {'events': 0})['events'] + 1}\n",
    )
    project.write("carts.sql", "CREATE TABLE {table} (id text PRIMARY KEY, events int NOT NULL);")


def append(store: str, count: int, first: int = 0) -> None:
    """Each event in a transaction of its own, as an application does."""
    with open_store("s", PostgresSettings(dsn=store)) as opened:
        for number in range(first, first + count):
            opened.append(f"cart-{number}", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])


def move_emmett(source: str, target: str) -> None:
    """What pg_dump and pg_restore do: rows as they are, and the sequence where it was."""
    with psycopg.connect(source) as old, psycopg.connect(target, autocommit=True) as new:
        emmett.create(new)
        for table in ("emt_streams", "emt_messages"):
            with (
                old.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as out,
                new.cursor().copy(f"COPY {table} FROM STDIN") as into,
            ):
                for data in out:
                    into.write(data)
        (last,) = old.execute("SELECT last_value FROM emt_global_message_position").fetchone()
        new.execute("SELECT setval('emt_global_message_position', %s)", (last,))


def spend(dsn: str, until: int) -> None:
    """Transactions, until a cluster's next one has at least this id."""
    with psycopg.connect(dsn, autocommit=True) as on:
        on.execute("CREATE TABLE IF NOT EXISTS spent (n int)")
        while (
            on.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()[0]
            < until
        ):
            on.execute(
                "DO $$ BEGIN FOR n IN 1..500 LOOP INSERT INTO spent VALUES (n); COMMIT; "
                "END LOOP; END $$"
            )


def next_transaction(dsn: str) -> int:
    with psycopg.connect(dsn) as on:
        return on.execute(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).fetchone()[0]


def test_transaction_ids_of_another_cluster_are_not_compared(dsn, models, project, own_server):
    """As it was reported: `run` said caught up, and 5 events were never applied."""
    with psycopg.connect(dsn, autocommit=True) as store:
        emmett.create(store)
    spend(dsn, next_transaction(own_server.dsn()) + 5_000)
    append(dsn, 20)
    set_up_emmett(project, dsn, models)
    project.ok("rebuild", NAME, "--blue-green")
    there = own_server.dsn()
    move_emmett(dsn, there)
    append(there, 5, first=100)
    set_up_emmett(project, there, models)
    check_refused(project, ("run", "--until-caught-up"))
    assert project.run("events").code == 6
    assert project.run("status").code == 1
    assert codes(project) & {"ESOPS-D040", "ESOPS-D042"}
    # By position nothing is hidden; the versions have to be made anew.
    set_up_emmett(project, there, models, "position")
    check_refused(project, ("run", "--until-caught-up"), ("rebuild", "--blue-green"))
    assert "ESOPS-D041" in codes(project)
    assert recover(project, code=1)[1]["outcome"] == "rebuild"
    project.ok("rebuild", NAME, "--blue-green")
    assert models.execute(f"SELECT count(*) FROM {NAME}").fetchone() == (25,)
    assert project.run("status").code == 0


@pytest.mark.thorough
def test_a_cluster_whose_transaction_ids_are_all_later_goes_on(dsn, models, project, own_server):
    """As after pg_upgrade, or where the counter was raised: nothing can have been passed."""
    there = own_server.dsn()
    with psycopg.connect(there, autocommit=True) as store:
        emmett.create(store)
    append(there, 20)
    set_up_emmett(project, there, models)
    project.ok("rebuild", NAME, "--blue-green")
    spend(dsn, next_transaction(there) + 100)
    move_emmett(there, dsn)
    append(dsn, 5, first=100)
    set_up_emmett(project, dsn, models)
    project.ok("run", "--until-caught-up")
    assert models.execute(f"SELECT count(*) FROM {NAME}").fetchone() == (25,)
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0


def test_a_changed_ordering_is_refused_with_its_reason(dsn, models, project):
    """It was exit code 70."""
    with psycopg.connect(dsn, autocommit=True) as store:
        emmett.create(store)
    append(dsn, 20)
    set_up_emmett(project, dsn, models)
    project.ok("rebuild", NAME, "--blue-green")
    project.ok("rebuild", NAME, "--blue-green")
    set_up_emmett(project, dsn, models, "position")
    check_refused(project, ("run", "--until-caught-up"), ("rebuild", "--blue-green"))
    check_found(project, "ESOPS-D041")
    set_up_emmett(project, dsn, models)
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0
