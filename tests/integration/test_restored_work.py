"""Work that was under way when the store was restored to an earlier time or failed over: loads by
several processes, rebuilds in place, archive runs, and processes that follow.
"""

from __future__ import annotations

import json
import threading
from contextlib import closing

import psycopg
import pytest

from esops.config import load_config
from esops.demo.store import generate
from esops.errors import AnotherLog, ConnectionLost
from esops.events import EventFilter, Position
from esops.readmodel import registry
from esops.running.code import code_of
from esops.running.followed_version import SharedRunner
from esops.running.heads import HeadWatch
from esops.running.work import Work
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_restored_store import (
    NAME,
    append,
    backup,
    check_refused,
    configure,
    models,
    recover,
    set_up_emmett,
)
from tests.support import emmett, marten, shop
from tests.support.databases import database
from tests.support.restoring import backups
from tests.support.waiting import end, heard, stays, until

__all__ = ["backup", "models"]


def stopped_in_its_load(project, models, *options: str) -> None:
    """A rebuild that several shards had begun, and that was asked to stop."""
    process = project.start("rebuild", *options, "--max-rate", "300")
    until(
        lambda: (
            models.execute(
                "SELECT count(*) FROM esops.shards WHERE position IS NOT NULL"
            ).fetchone()[0]
            or models.execute(
                "SELECT max(position) FROM esops.versions WHERE state = 'building'"
            ).fetchone()[0]
            is not None
        )
    )
    end(process)
    assert process.returncode == 5


@pytest.mark.thorough
def test_a_load_by_several_processes_is_not_resumed_on_another_history(
    dsn, models, backup, project
):
    shop.make(dsn, 2_000)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    backup.take()
    shop.more(dsn, 1_000)
    models.execute("UPDATE esops.versions SET state = 'standby'")  # blue plays no part here
    models.execute("UPDATE esops.versions SET state = 'retired'")
    models.execute("UPDATE esops.projections SET active_version = NULL")
    models.execute(f"DROP VIEW {NAME}")
    stopped_in_its_load(project, models, "--blue-green", "--workers", "2")
    backup.restore()
    shop.more(dsn, 1_500)
    check_refused(project, ("rebuild", "--blue-green", "--resume"))
    planned = project.run("projection", "recover", NAME, "--dry-run", "--output", "json").json
    assert [each["outcome"] for each in planned["versions"]] == ["abort"]
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
    project.ok("rebuild", "--blue-green")
    with psycopg.connect(dsn) as store:
        assert shop.table(models, NAME) == shop.truth(store, 3_500)


def test_a_rebuild_in_place_by_ranges_is_not_resumed_on_another_history(
    dsn, models, backup, project
):
    shop.make(dsn, 2_000)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    backup.take()
    shop.more(dsn, 1_000)
    project.ok("run", "--until-caught-up")
    stopped_in_its_load(project, models, "--ranges", "3", "--yes")
    backup.restore()
    shop.more(dsn, 1_500)
    check_refused(project, ("rebuild", "--resume"))
    # It cannot be aborted, and is begun again.
    found = recover(project, code=1)
    assert found[1]["outcome"] == "rebuild"
    assert models.execute("SELECT count(*) FROM esops.shards").fetchone() == (0,)
    project.ok("rebuild", "--yes")
    with psycopg.connect(dsn) as store:
        assert shop.table(models, NAME) == shop.truth(store, 3_500)
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0


def test_a_process_that_follows_notices_when_it_connects_again(dsn, models, backup, project):
    shop.make(dsn, 1_000)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    backup.take()
    host = project.start("run")

    def at() -> int:
        return int(models.execute("SELECT position FROM esops.versions").fetchone()[0])

    try:
        shop.more(dsn, 100)
        until(lambda: at() == 1_100)
        before = shop.table(models, NAME)
        backup.restore()
        shop.more(dsn, 300)
        # While the database was being restored it may have been gone, and the version's process
        # ended for that: it is started again after two seconds.
        heard(host, "is not the log that the checkpoint was taken in")
        stays(lambda: (at(), shop.table(models, NAME)) == (1_100, before), 1)
    finally:
        end(host)
    check_refused(project, ("run", "--until-caught-up"))


def lose_events(dsn: str) -> None:
    """The store loses its newest events and its connections, as in a crash after commits that were
    asynchronous, and others take their numbers.
    """
    with psycopg.connect(dsn, autocommit=True) as store:
        store.execute("DELETE FROM shop.mt_events WHERE seq_id > 100")
        store.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = "
            "current_database() AND starts_with(application_name, 'esops ')"
        )
        generate(store, 60, after=100, first_cart=100_000)


def test_a_version_notices_lost_events_where_another_one_has_found_the_connection_lost(
    dsn, models, project
):
    """Several share a store: the others find a connection that was made for the first."""
    shop.make(dsn, 100)
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    config = load_config(project.folder / "esops.toml")
    definition, _ = code_of(config, registry.version(models, NAME, 1))
    work = Work.on(NAME, 1, definition, config.projection(NAME))
    with open_store(*config.store("shop")) as store:
        runner = SharedRunner(store, config.readmodel_of(NAME).dsn, work)
        with closing(runner):
            shop.more(dsn, 50)
            assert runner.advance(Position((150,)))
            store.rest()  # as the threads do after their turns
            lose_events(dsn)
            with pytest.raises(ConnectionLost):
                store.ping()
            store.ping()
            with pytest.raises(AnotherLog, match=f"^{NAME} v1 ") as refused:
                runner.advance(Position((160,)))
    assert refused.value.hint.endswith(f"recover {NAME}.")
    assert models.execute("SELECT position FROM esops.versions").fetchall() == [("150",)]


def test_events_that_a_store_has_lost_are_not_given_from_memory(dsn):
    shop.make(dsn, 100)
    stop, events = threading.Event(), EventFilter()
    settings = PostgresSettings(dsn=dsn, schema="shop", append="quick")
    early, late, now = (Position((number,)) for number in (100, 150, 160))
    watch = HeadWatch(lambda: open_store("shop", settings), stop, lambda: None)
    try:
        watch.know(early, watch.opening)
        until(lambda: watch.last == early)
        shop.more(dsn, 50)
        until(lambda: watch.last == late)
        assert watch.newest.between(early, late, events) is not None
        lose_events(dsn)
        until(lambda: watch.opening == 1)
        assert watch.head() == (False, None)
        assert watch.newest.between(early, late, events) is None
        # What was recognised before the loss says nothing of the log of now.
        watch.know(late, 0)
        stays(lambda: watch.head() == (False, None), 0.3)
        watch.know(early, 1)
        until(lambda: watch.last == now)
        assert watch.newest.between(early, now, events) is None
    finally:
        stop.set()
        watch.join(10)


ARCHIVE = """
[archives.cold]
repository = "cold"
[archives.cold.policies.old-carts]
store = "shop"
category = "cart"
remove = "delete"
never_younger_than = "0s"
"""
STOPPED = "import esops.archive.run as run\ndef stop(*_):\n    raise run.Stopped('stopped')\nrun.remove_archived = stop\n"


def test_an_archive_run_neither_resumes_nor_removes_on_another_history(
    dsn, models, backup, project, connection
):
    shop.make(dsn, 1_000)
    marten.create_archive_function(connection, marten.Variant(schema="shop", text_ids=True))
    connection.close()
    configure(project, dsn, models)
    project.ok("rebuild", "--blue-green")
    with (project.folder / "esops.toml").open("a") as file:
        file.write(ARCHIVE)
    backup.take()
    shop.more(dsn, 200)
    project.ok("run", "--until-caught-up")
    environment = dict(project.environment)
    project.patch(STOPPED)
    assert project.run("archive", "run", "old-carts").code == 5
    project.environment.clear()
    project.environment.update(environment)
    backup.restore()
    shop.more(dsn, 300)
    refused = project.run("archive", "run", "old-carts")
    assert (refused.code, "--start-again" in refused.err) == (6, True)
    with psycopg.connect(dsn) as store:
        kept = store.execute("SELECT count(*) FROM shop.mt_events").fetchone()
    assert kept == (1_300,)
    # The read model has read others of the same numbers: nothing is removed that it did not read.
    check_refused(project, ("archive", "run", "old-carts", "--start-again"))
    recover(project, code=1)
    project.ok("rebuild", "--blue-green", "--without-archived")
    project.ok("projection", "retire", NAME, "--yes")
    project.ok("archive", "run", "old-carts")
    project.ok("run", "--until-caught-up")
    assert project.run("status").code == 0


def test_a_read_model_restored_to_before_an_archive_run_is_not_caught_up(
    dsn, server, project, connection
):
    shop.make(dsn, 500)
    marten.create_archive_function(connection, marten.Variant(schema="shop", text_ids=True))
    shop.configure(project, dsn)
    with database(server) as rows, (project.folder / "esops.toml").open("a") as file:
        file.write(f"[readmodels.main]\ndsn = {json.dumps(rows)}\n{ARCHIVE}")
        file.flush()
        with backups(server, rows) as backup:
            project.ok("rebuild", "--blue-green", "--without-archived")
            backup.take()
            shop.more(dsn, 300)
            project.ok("run", "--until-caught-up")
            project.ok("archive", "run", "old-carts")
            backup.restore()
        done = project.run("run", "--until-caught-up")
        assert (done.code, "and removed" in done.err, 'archive = "cold"' in done.err) == (
            6,
            True,
            True,
        ), done
        text = (project.folder / "esops.toml").read_text()
        project.write(
            "esops.toml", text.replace("[stores.shop]", '[stores.shop]\narchive = "cold"')
        )
        project.ok("run", "--until-caught-up")
        with psycopg.connect(rows) as on:
            events = on.execute("SELECT events FROM esops.versions").fetchone()
    assert events == (800,)


def test_a_failover_that_lost_events_is_refused_and_one_that_lost_none_is_not(
    own_server, server, models, project
):
    primary = own_server.dsn()
    with psycopg.connect(primary, autocommit=True) as on:
        emmett.create(on)
    append(primary, 10)
    with own_server.replica() as replica, database(server) as other:
        set_up_emmett(project, primary, models)
        project.ok("rebuild", NAME, "--blue-green")
        with psycopg.connect(replica.dsn(), autocommit=True) as on:
            with psycopg.connect(primary) as there:
                (written,) = there.execute("SELECT pg_current_wal_lsn()").fetchone()
            until(
                lambda: on.execute(
                    "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (written,)
                ).fetchone()[0]
            )
            on.execute("ALTER SYSTEM SET primary_conninfo = ''")
            on.execute("SELECT pg_reload_conf()")
            until(lambda: not on.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone()[0])
        append(primary, 5, first=100)  # these never get there
        with psycopg.connect(other, autocommit=True) as late:
            late.dsn_given = other
            set_up_emmett(project, primary, late)
            project.ok("rebuild", NAME, "--blue-green")
            own_server.stop("immediate")
            with psycopg.connect(replica.dsn(), autocommit=True) as on:
                on.execute("SELECT pg_promote()")
            append(replica.dsn(), 20, first=200)
            set_up_emmett(project, replica.dsn(), late)
            check_refused(project, ("run", "--until-caught-up"))
        set_up_emmett(project, replica.dsn(), models)
        project.ok("run", "--until-caught-up")
        assert models.execute(f"SELECT count(*) FROM {NAME}").fetchone() == (30,)
        own_server.restart()
