"""`esops run`: each version by its own code, whatever is deployed meanwhile."""

from __future__ import annotations

import json
import time
import uuid

import pytest

from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, shop
from tests.support.waiting import end, until

NEW_CODE = shop.PROJECTION.replace('kind.rpartition("_")[2]', 'kind.rpartition("_")[2].upper()')


def position(connection, version: int) -> int:
    return int(
        connection.execute(
            "SELECT position FROM esops.versions WHERE version = %s", (version,)
        ).fetchone()[0]
    )


def wait_for(connection, version: int, number: int) -> None:
    until(lambda: position(connection, version) >= number)


def statuses(connection, version: int, after: int) -> set[str]:
    rows = connection.execute(
        f"SELECT DISTINCT status FROM cart_summary__v{version} WHERE cart_id IN "
        "(SELECT stream_id FROM shop.mt_events WHERE type = 'shopping_cart_opened' AND seq_id > "
        "%s)",
        (after,),
    ).fetchall()
    return {row[0] for row in rows}


def write(dsn) -> None:
    shop.more(dsn, 200)


def test_a_running_host_keeps_the_old_version_by_the_old_code_and_takes_the_new_one_over(
    dsn, connection, project
):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    host = project.start("run", "cart_summary")
    try:
        write(dsn)
        wait_for(
            connection,
            1,
            connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0],
        )
        shop.configure(project, dsn, code=NEW_CODE)
        project.ok("rebuild", "--blue-green", "--max-diff", "100%")
        switched = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0]
        write(dsn)
        last = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0]
        assert last > switched
        for version in (1, 2):
            wait_for(connection, version, last)
        assert statuses(connection, 1, switched) == {"confirmed", "canceled"}
        assert statuses(connection, 2, switched) == {"CONFIRMED", "CANCELED"}
        project.ok("projection", "rollback", "cart_summary")
        project.ok("projection", "switch", "cart_summary", "--to", "2")
        project.ok("projection", "retire", "cart_summary", "--yes")
        write(dsn)
        wait_for(
            connection,
            2,
            connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0],
        )
    finally:
        out, err = end(host)
    assert host.returncode == 0
    assert "Traceback" not in err
    assert "error" not in err


def test_a_restarted_host_does_not_mix_two_codes_in_a_version(dsn, connection, project):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    shop.configure(project, dsn, code=NEW_CODE)
    project.ok("rebuild", "--blue-green", "--max-diff", "100%")
    host = project.start("run")
    try:
        write(dsn)
        wait_for(
            connection,
            2,
            connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0],
        )
        assert position(connection, 1) == 1_000
        refused = project.run("projection", "rollback", "cart_summary")
        assert (refused.code, "would serve old data" in refused.err) == (6, True)
    finally:
        err = end(host)[1]
    assert "built by different code" in err


METHOD = "class Kinds:\n    def end(self, kind): return kind.rpartition('_')[2]\n" + (
    shop.PROJECTION.replace('kind.rpartition("_")[2]', "Kinds().end(kind)")
)


@pytest.mark.thorough
def test_a_changed_method_leaves_a_standby_alone_and_an_older_fingerprint_is_noted_anew(
    dsn, connection, project
):
    shop.make(dsn, 100)
    shop.configure(project, dsn, code=METHOD)
    project.ok("rebuild", "--blue-green")
    noted = connection.execute("SELECT fingerprint FROM esops.versions").fetchone()[0]
    first = project.python(
        "from pathlib import Path; from esops.config import load_config; "
        "from esops.projections.definition import load_definition; "
        "from esops.projections.first_fingerprint import first_fingerprint; "
        "config = load_config(Path('esops.toml')); "
        "print(first_fingerprint(load_definition(config.projection('cart_summary'), "
        "config.directory, 'test')))"
    )
    connection.execute("UPDATE esops.versions SET fingerprint = %s", (first,))
    assert "noted in the new way" in project.ok("run", "--until-caught-up").err
    found = connection.execute("SELECT fingerprint FROM esops.versions").fetchone()[0]
    assert found == noted
    project.ok("rebuild", "--blue-green")
    write(dsn)
    shop.configure(project, dsn, code=METHOD.replace("[2]", "[2].upper()"))
    project.run("run", "--until-caught-up")
    assert position(connection, 1) == 100
    assert position(connection, 2) > 100


@pytest.mark.thorough
def test_followers_on_emmett_rest_when_nothing_comes(dsn, connection, project):
    """Its order is by transaction ids, which a follower's own checkpoints use up: two must not
    drive each other on for ever.
    """
    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for n in range(20):
            store.append(f"cart-{n}", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])
    project.write(
        "esops.toml",
        f"[stores.s]\ndsn = {json.dumps(dsn)}\n[projections.totals]\npython = "
        '"totals:totals"\ntables = ["totals"]\nddl = "totals.sql"\n',
    )
    project.write(
        "totals.py",
        "from esops import fold\n@fold(key='stream')\ndef totals(row, event):\n    return {'id': "
        "event.stream}\n",
    )
    project.write("totals.sql", "CREATE TABLE {table} (id text PRIMARY KEY);")
    for _ in range(2):
        project.ok("rebuild", "totals", "--blue-green")
    project.ok("run", "--until-caught-up")
    host = project.start("run")
    try:

        def followers() -> int:
            return connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND "
                "mode = 'ExclusiveLock'"
            ).fetchone()[0]

        def transactions() -> int:
            return connection.execute(
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
            ).fetchone()[0]

        until(lambda: followers() >= 2)
        last = [0, 0]

        def rest() -> bool:
            """Two looks a second apart, and hardly a transaction between them."""
            time.sleep(1)
            last[:] = [last[1], transactions()]
            return last[1] - last[0] <= 3

        until(rest)
        with open_store("s", PostgresSettings(dsn=dsn)) as store:
            store.append("cart-new", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])
        for version in (1, 2):
            count = f"SELECT count(*) FROM totals__v{version}"
            until(lambda count=count: connection.execute(count).fetchone() == (21,))
    finally:
        end(host)
