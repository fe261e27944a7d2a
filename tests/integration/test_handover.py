"""A read model that the application itself keeps fresh: its checkpoint moves with the switch, or
nothing does.
"""

from __future__ import annotations

import threading
import time
import uuid
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from esops.archive.checkpoint_guard import behind
from esops.config import load_config
from esops.errors import Refused
from esops.events import NewEvent, Position
from esops.rebuild.verification.comparer import Comparer
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.checkpoints import checkpoint_of
from esops.stores.postgres.layouts.marten import liveness
from tests.support import emmett, eventsourcing, kinds, shop
from tests.support.cases import thorough_but
from tests.support.databases import database
from tests.support.waiting import finish, heard, until

EVENTS = 2_000
PROGRESSION = """
CREATE TABLE IF NOT EXISTS shop.mt_event_progression (name varchar PRIMARY KEY, last_seq_id bigint,
last_updated timestamptz DEFAULT transaction_timestamp());
INSERT INTO shop.mt_event_progression VALUES ('HighWaterMark', 2000, now() - interval '1 hour'),
('CartSummary:All', 1500, now() - interval '1 hour');
"""


@pytest.fixture
def carts(dsn, connection, project):
    """The table as the application made it, behind by 500 events; its daemon stands still."""
    shop.make(dsn, EVENTS)
    connection.execute(PROGRESSION)
    shop.configure(
        project,
        dsn,
        projection_options='live = "app"\ncheckpoint = "CartSummary:All"\nswitch = "rename"',
    )
    connection.execute(shop.DDL.replace("{table}", "cart_summary"))
    fill(connection, 1_500)
    return project


def fill(connection, events: int) -> None:
    """As the application's projector does up to there."""
    truth = shop.truth(connection, events)
    with connection.cursor() as cursor, cursor.copy("COPY cart_summary FROM STDIN") as copy:
        for name, cart in truth.items():
            copy.write_row((name, *cart))


def shard(connection) -> int:
    (number,) = connection.execute(
        "SELECT last_seq_id FROM shop.mt_event_progression WHERE name = 'CartSummary:All'"
    ).fetchone()
    looked_away(connection)
    return number


def looked_away(connection) -> None:
    """A session whose last statement was on the daemon's tables is taken for a daemon's."""
    connection.execute("SELECT 1")


def test_the_shard_goes_on_where_green_is(carts, connection, dsn):
    plan = carts.ok("rebuild", "--blue-green", "--dry-run", "--max-diff", "100%").out
    assert "CartSummary:All" in plan
    done = carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    assert "handed over to the application: CartSummary:All at 2000, from 1500" in done.err
    assert "The application keeps it fresh: start its projector" in done.out
    assert shard(connection) == EVENTS
    assert shop.table(connection, "cart_summary") == shop.truth(connection, EVENTS)
    shown = carts.ok("projection", "show", "cart_summary", "--output", "json").json
    assert shown["active"] == 2
    assert shown["versions"][-1]["lag_events"] is None, "where it is is the application's to say"
    assert carts.run("projection", "rollback", "cart_summary").code == 6
    carts.ok("run", "--until-caught-up")
    # What stood before it reads nothing any more, and holds no archive run back.
    config = load_config(carts.folder / "esops.toml")
    with open_store(*config.store("shop")) as store:
        late = behind(config, store, "shop", lambda _: 1)
    assert {each.name for each in late} == {"CartSummary:All"}
    # The application goes on, and a further rebuild hands over again.
    shop.more(dsn, 100)
    connection.execute(
        "UPDATE shop.mt_event_progression SET last_updated = now() - interval '1 hour'"
    )
    looked_away(connection)
    again = carts.ok("rebuild", "--blue-green", "--max-diff", "100%", "--output", "json").json
    assert (again["position"], shard(connection)) == ("2100", 2_100)
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 2_100)


def test_rows_are_compared_where_the_projector_stands(carts, connection):
    """It was stopped before the rebuild, and the writers went on."""
    done = carts.ok("rebuild", "--blue-green", "--output", "json").json
    assert (done["verification"]["differing"], done["verification"]["position"]) == (0, "1500")
    assert (done["position"], shard(connection)) == ("2000", EVENTS)
    assert shop.table(connection, "cart_summary") == shop.truth(connection, EVENTS)


def test_rows_that_move_before_they_are_compared_are_compared_later(carts, connection, monkeypatch):
    """Whoever said that the projector has stopped was wrong."""
    compare = Comparer.where_application_stands

    def moved(self, *standing):
        connection.execute("DELETE FROM cart_summary")
        fill(connection, EVENTS)
        connection.execute(
            "UPDATE shop.mt_event_progression SET last_seq_id = 2000 WHERE name = 'CartSummary:All'"
        )
        looked_away(connection)
        return compare(self, *standing)

    monkeypatch.setattr(Comparer, "where_application_stands", moved)
    done = carts.ok("rebuild", "--blue-green", "--processor-stopped", "--output", "json").json
    assert (done["verification"]["differing"], done["verification"]["position"]) == (0, "2000")


@pytest.mark.thorough
def test_rows_that_differ_where_the_projector_stands_are_compared_when_it_has_read_all(
    carts, connection
):
    """Nothing tells that it has stopped: it may be at work on what differs."""
    connection.execute(
        "UPDATE cart_summary SET items = items + 1 WHERE cart_id = (SELECT min(cart_id) FROM cart_summary)"
    )
    refused = carts.run("rebuild", "--blue-green")
    assert refused.code == 6
    assert "CartSummary:All is at 1500 and does not advance, 500 events before green" in refused.err
    assert "max-diff" not in refused.err
    # It is started, reads all, and stops.
    connection.execute("DELETE FROM cart_summary")
    fill(connection, EVENTS)
    connection.execute(
        "UPDATE shop.mt_event_progression SET last_seq_id = 2000 WHERE name = 'CartSummary:All'"
    )
    looked_away(connection)
    assert "0 differ" in carts.ok("rebuild", "--blue-green", "--resume").out


@pytest.fixture
def impatient(carts):
    """Rebuilds that do not wait a minute for the application's projector, nor for its rows."""
    carts.patch(
        "import datetime as d\n"
        "import esops.rebuild.phases.switching as s, esops.rebuild.verification.comparer as c\n"
        "s._STILLNESS = c._CONVERGE_PATIENCE = d.timedelta(seconds=1)\n"
    )
    return carts


@pytest.mark.parametrize("lock", thorough_but(["DaemonLockId", "the shard's own"], "DaemonLockId"))
def test_refused_while_the_daemon_holds_its_lock(impatient, connection, dsn, lock):
    number = (
        liveness.DAEMON_LOCK
        if lock == "DaemonLockId"
        else liveness.shard_lock("shop", "CartSummary:All")
    )
    with psycopg.connect(dsn, autocommit=True) as daemon:
        daemon.execute("SELECT pg_advisory_lock(%s)", (number,))
        result = impatient.run("rebuild", "--blue-green", "--max-diff", "100%")
        assert result.code == 6
        assert f"its lock {number}" in result.err
        # A lock that is held is proof of life, whatever the operator says.
        assert impatient.run("rebuild", "--blue-green", "--resume", "--processor-stopped").code == 6
        assert shard(connection) == 1_500
        assert shop.table(connection, "cart_summary") == shop.truth(connection, 1_500), (
            "nothing was switched"
        )
    impatient.ok("rebuild", "--blue-green", "--resume")
    assert shard(connection) == EVENTS


def test_refused_while_rows_are_fresh_or_ahead_or_gone(impatient, connection):
    connection.execute(
        "UPDATE shop.mt_event_progression SET last_updated = now() WHERE name = 'CartSummary:All'"
    )
    looked_away(connection)
    result = impatient.run("rebuild", "--blue-green", "--max-diff", "100%")
    assert result.code == 6
    assert "may be running" in result.err
    assert "--processor-stopped" in result.err
    connection.execute(
        "UPDATE shop.mt_event_progression SET last_updated = now() - interval '1 hour', "
        "last_seq_id = 5000; SELECT setval('shop.mt_events_sequence', 5000)"
    )
    looked_away(connection)
    result = impatient.run("rebuild", "--blue-green", "--resume")
    assert result.code == 6
    assert "ahead of 2000" in result.err
    connection.execute(
        "UPDATE shop.mt_event_progression SET name = 'CartSummary:V2:All' WHERE name = "
        "'CartSummary:All'"
    )
    looked_away(connection)
    result = impatient.run("rebuild", "--blue-green", "--resume")
    assert result.code == 6
    assert "has no processor 'CartSummary:All'" in result.err
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 1_500)


def test_that_the_projector_has_stopped_is_said_of_a_moment(impatient, connection, dsn):
    connection.execute("UPDATE shop.mt_event_progression SET last_updated = now()")
    command = ("rebuild", "--blue-green", "--max-diff", "100%")
    with psycopg.connect(dsn, autocommit=True) as daemon:
        daemon.execute("SELECT pg_advisory_lock(4444)")
        result = impatient.run(*command, "--processor-stopped")
        assert result.code == 6
        assert "its lock 4444" in result.err
    looked_away(connection)
    # A resumed rebuild keeps other options, and is to be told this again.
    assert impatient.run("rebuild", "--blue-green", "--resume").code == 6
    impatient.ok("rebuild", "--blue-green", "--resume", "--processor-stopped")
    assert shard(connection) == EVENTS
    text = (impatient.folder / "esops.toml").read_text()
    impatient.write("esops.toml", text.replace('live = "app"\n', ""))
    useless = impatient.run(*command, "--processor-stopped")
    assert useless.code == 2
    assert 'works only with live = "app"' in useless.err


@pytest.mark.thorough
def test_a_row_that_moves_is_at_work_whatever_the_operator_says(impatient, connection, dsn):
    """As of one that was killed, and that something started again meanwhile."""
    command = ("rebuild", "--blue-green", "--max-diff", "100%", "--processor-stopped")
    ended = threading.Event()

    def work() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            while not ended.wait(0.2):
                own.execute(
                    "UPDATE shop.mt_event_progression SET last_seq_id = last_seq_id + 1 WHERE name "
                    "= 'CartSummary:All'"
                )

    working = threading.Thread(target=work)
    working.start()
    try:
        refused = impatient.run(*command)
    finally:
        ended.set()
        working.join()
    assert (refused.code, "has moved while esops looked" in refused.err) == (6, True)
    assert shard(connection) < EVENTS
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 1_500)


def test_a_row_that_moves_between_the_last_look_and_the_switch(carts, connection):
    carts.patch(
        """
        import datetime
        import esops.rebuild.phases.switching as steps
        steps._STILLNESS = datetime.timedelta(seconds=1)
        before = steps.switch.perform
        def perform(connection, *arguments, **named):
            connection.execute("UPDATE shop.mt_event_progression SET last_seq_id = 1700 WHERE name = 'CartSummary:All'")
            return before(connection, *arguments, **named)
        steps.switch.perform = perform
        """
    )
    refused = carts.run("rebuild", "--blue-green", "--max-diff", "100%", "--processor-stopped")
    assert (refused.code, "has moved while esops looked" in refused.err) == (6, True)
    assert shard(connection) == 1_700
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 1_500)


def test_refused_without_a_checkpoint_or_across_databases(carts, server):
    text = (carts.folder / "esops.toml").read_text()
    carts.write("esops.toml", text.replace('checkpoint = "CartSummary:All"\n', ""))
    result = carts.run("rebuild", "--blue-green")
    assert result.code == 6
    assert "checkpoint = " in result.err
    with database(server) as far:
        carts.write("esops.toml", text + f'readmodel = "far"\n[readmodels.far]\ndsn = "{far}"\n')
        result = carts.run("rebuild", "--blue-green")
        assert result.code == 6
        assert "in different databases" in result.err
        assert carts.run("rebuild", "--yes").code == 6, "in place it would write between"


def test_the_switch_and_the_checkpoint_stand_or_fall_together(carts, connection, dsn):
    """A daemon that takes its lock between the last look and the switch: the whole transaction goes
    back.
    """
    carts.write(
        "sitecustomize.py",
        """
        import datetime, os, threading
        import psycopg
        import esops.rebuild.phases.switching as steps
        steps._STILLNESS = datetime.timedelta(seconds=0)
        before = steps.switch.perform
        def perform(connection, *arguments, **named):
            other = psycopg.connect(os.environ["DAEMON"], autocommit=True)
            other.execute("SELECT pg_advisory_lock(4444)")
            try:
                return before(connection, *arguments, **named)
            finally:
                other.close()
        steps.switch.perform = perform
        """,
    )
    carts.environment |= {"PYTHONPATH": str(carts.folder), "DAEMON": dsn}
    result = carts.run("rebuild", "--blue-green", "--max-diff", "100%")
    assert result.code == 6
    assert "its lock 4444" in result.err
    assert shard(connection) == 1_500
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 1_500)
    assert carts.ok("projection", "show", "cart_summary", "--output", "json").json["active"] == 1


def test_rows_that_the_application_writes_meanwhile_are_looked_at_again(impatient, connection, dsn):
    """Its projector is always some events behind, and is stopped by the hook before the switch."""
    text = (impatient.folder / "esops.toml").read_text()
    impatient.write(
        "esops.toml",
        text + '\n[projections.cart_summary.hooks]\nbefore_switch = ["sh", "-c", "touch stop; '
        'sleep 1"]\n',
    )
    connection.execute("TRUNCATE cart_summary")
    statement = kinds.SQL.replace("{table}", "cart_summary")
    reached = 0

    def last(own) -> int:
        return own.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0]

    def project() -> None:
        nonlocal reached
        with psycopg.connect(dsn, autocommit=True) as own:
            while not (impatient.folder / "stop").exists():
                head = now = last(own)
                # However slow the writer is: it is always behind by the newest events.
                while now == head and not (impatient.folder / "stop").exists():
                    time.sleep(0.1)
                    now = last(own)
                with own.transaction():
                    own.execute(
                        statement.replace(":after", str(reached)).replace(":until", str(head))
                    )
                    own.execute(
                        "UPDATE shop.mt_event_progression SET last_seq_id = %s WHERE name = "
                        "'CartSummary:All'",
                        (head,),
                    )
                    looked_away(own)
                reached = head

    writing = threading.Event()

    def write() -> None:
        while not writing.is_set():
            shop.more(dsn, 20)
            time.sleep(0.2)

    threads = [threading.Thread(target=project), threading.Thread(target=write)]
    for each in threads:
        each.start()
    try:
        done = impatient.ok("rebuild", "--blue-green", "--output", "json")
    finally:
        writing.set()
        (impatient.folder / "stop").touch()
        for each in threads:
            each.join()
    assert done.json["verification"]["differing"] == 0
    assert "checking again" in done.err
    assert "agreed within" in done.json["verification"]["note"]
    assert shard(connection) == int(done.json["position"])


@pytest.mark.thorough
def test_an_assertion_about_both_waits_as_the_comparison_does(impatient, connection):
    """The application is behind when it is asked, and has caught up a moment later."""
    text = (impatient.folder / "esops.toml").read_text()
    impatient.write(
        "esops.toml",
        text.replace(
            'live = "app"\n',
            'live = "app"\nverify.assertions = ["SELECT sum(items) = (SELECT sum(items) FROM '
            'cart_summary) FROM {table}"]\n',
        ),
    )
    command = ("rebuild", "--blue-green", "--compare", "none", "--no-switch")
    working = impatient.start(*command)
    heard(working, "1 assertion not true yet; asking again")
    truth = shop.truth(connection, EVENTS)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM cart_summary")
        with cursor.copy("COPY cart_summary FROM STDIN") as copy:
            for name, cart in truth.items():
                copy.write_row((name, *cart))
    finish(working)
    assert working.returncode == 0
    connection.execute("UPDATE cart_summary SET items = items + 1")
    impatient.ok("projection", "retire", "cart_summary", "2", "--yes")
    done = impatient.run(*command, "--output", "json")
    assert done.code == 1
    assert done.json["verification"]["failed_assertions"]


def test_the_locks_number_is_martens(carts):
    """Its deterministic hash, worked out by hand for one character: h1 = ((h << 5) + h) ^ c, h2 =
    h, with h = (5381 << 16) + 5381.
    """
    start = (5381 << 16) + 5381
    signed = lambda value: (value + 2**31) % 2**32 - 2**31  # noqa: E731
    first = signed(signed(signed(start) * 33) ^ ord(":"))
    assert liveness.shard_lock("", "") == abs(signed(first + signed(start) * 1566083941)) + 4444


def refusal(connection, name: str = "CartSummary:All", schema: str = "shop") -> str:
    """Why a shard's progress may not be set now; empty where it may."""
    with connection.transaction(force_rollback=True):
        try:
            liveness.refuse_if_alive(connection, schema, name)
        except Refused as refused:
            return f"{refused.message} {refused.hint}"
    return ""


def test_signs_of_a_daemon_that_holds_no_lock(carts, connection, dsn):
    """9.29 touches its fence alone while it idles; with numbers of each tenant's own, nothing."""
    looked_away(connection)
    assert refusal(connection) == ""
    for fence in ("HighWaterAllocationFence", "HighWaterMark:acme"):
        connection.execute("INSERT INTO shop.mt_event_progression VALUES (%s, 1)", (fence,))
        assert f"{fence} was updated 0 s ago" in refusal(connection)
        connection.execute("DELETE FROM shop.mt_event_progression WHERE name = %s", (fence,))
    # Where it last waited for a gap stays for ever, and may be new.
    connection.execute("INSERT INTO shop.mt_event_progression VALUES ('HighWaterStuckGap', 0)")
    assert refusal(connection) == ""
    connection.execute(
        "CREATE SCHEMA billing; CREATE TABLE billing.mt_event_progression (LIKE "
        "shop.mt_event_progression); CREATE TABLE billing.mt_events (LIKE shop.mt_events)"
    )
    looked_away(connection)
    with psycopg.connect(dsn, autocommit=True) as other:
        for statement, is_daemons in (
            ("SELECT last_value FROM shop.mt_events_sequence", True),
            ("select name from shop.mt_event_progression where name = 'x'", True),
            ("select type from shop.mt_events as d where d.seq_id > 1 and d.seq_id <= 5", True),
            ("select max(seq_id) from shop.mt_events", True),
            # What the application itself does all the time.
            ("select type from shop.mt_events where stream_id = 'a' order by version", False),
            ("UPDATE shop.mt_events SET data = data WHERE seq_id > 100000", False),
            # The daemon of another store in the database.
            ("SELECT name FROM billing.mt_event_progression", False),
            ('SELECT name FROM "billing"."mt_event_progression"', False),
            ('SELECT name FROM "shop"."mt_event_progression"', True),
            ("select max(seq_id) from billing.mt_events", False),
            # What an append of the application does: Marten draws numbers in it, or before it.
            ("select nextval('shop.mt_events_sequence') from generate_series(1, 2)", False),
            (
                (
                    "insert into shop.mt_events (seq_id, id, stream_id, version, data, type) select "
                    "nextval('shop.mt_events_sequence'), id, stream_id, version, data, type from "
                    "shop.mt_events where false"
                ),
                False,
            ),
            ("select max(d.seq_id) from shop.mt_events d where d.stream_id = 'a'", False),
            # Postgres keeps no more than 1,023 bytes of a statement.
            (f"select type from shop.mt_events where type <> '{'x' * 999}' and seq_id > 1", True),
            (f"select type from shop.mt_events where stream_id = '{'x' * 999}'", False),
        ):
            other.execute(statement)
            assert bool(refusal(connection)) is is_daemons, statement
        assert refusal(connection) == ""
        connection.execute("CREATE ROLE blind; GRANT ALL ON SCHEMA shop TO blind")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA shop TO blind; SET ROLE blind")
        try:
            assert "pg_read_all_stats" in refusal(connection)
        finally:
            connection.execute("RESET ROLE; DROP OWNED BY blind; DROP ROLE blind")


def test_a_statement_or_transaction_that_goes_on_is_a_sign_of_life(
    carts, connection, dsn, monkeypatch
):
    """When it began says nothing: a daemon may wait long for its batch."""
    looked_away(connection)
    # No statement is as new as that.
    monkeypatch.setattr(liveness, "_LOOKED", timedelta(0))
    assert refusal(connection) == ""
    with psycopg.connect(dsn) as daemon:
        daemon.execute("UPDATE shop.mt_event_progression SET last_seq_id = 1 WHERE name = 'x'")
        assert "has not ended" in refusal(connection)
        daemon.rollback()
        assert refusal(connection) == ""
        with connection.transaction():
            connection.execute("LOCK TABLE shop.mt_events")
            loading = threading.Thread(
                target=daemon.execute,
                args=("select d.type from shop.mt_events as d where d.seq_id > 5",),
            )
            loading.start()
            until(lambda: refusal(connection) != "")
            assert "has not ended" in refusal(connection)
        loading.join()


@pytest.mark.parametrize(
    "name", ["ShoppingCart:All:globex", "HighWaterMark:acme", "HighWaterMark:globex", "Old:All"]
)
def test_only_the_tenants_own_projections_are_handed_over(dumps, dsn, connection, name):
    """Their numbers are those of the events that were read; all others count something else."""
    emmett.restore(connection, (dumps / "marten-9.58-v5t.sql").read_text())
    connection.execute("INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('Old:All', 1)")
    connection.execute("UPDATE mt_event_progression SET last_updated = now() - interval '1 hour'")
    before = connection.execute("SELECT * FROM mt_event_progression ORDER BY 1").fetchall()
    looked_away(connection)
    with open_store("s", PostgresSettings(dsn=dsn, tenant="acme")) as store:
        with pytest.raises(Refused, match="bookkeeping|of tenant"), connection.transaction():
            store.sql.set_checkpoint(connection, name, store.head().position)
        looked_away(connection)
        with connection.transaction():
            store.sql.set_checkpoint(connection, "ShoppingCart:All:acme", store.head().position)
    now = connection.execute("SELECT * FROM mt_event_progression ORDER BY 1").fetchall()
    assert {old[0] for old, new in zip(before, now, strict=True) if old != new} == {
        "ShoppingCart:All:acme"
    }


def test_a_tenants_shard_is_behind_the_lock_of_all_tenants(dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / "marten-9.58-v5t.sql").read_text())
    connection.execute("UPDATE mt_event_progression SET last_updated = now() - interval '1 hour'")
    looked_away(connection)
    assert refusal(connection, "ShoppingCart:All:acme", "public") == ""
    with psycopg.connect(dsn, autocommit=True) as daemon:
        # Seen with the real one (facts/marten.md).
        daemon.execute("SELECT pg_advisory_lock(591059440)")
        assert "its lock 591059440" in refusal(connection, "ShoppingCart:All:acme", "public")
        with open_store("s", PostgresSettings(dsn=dsn, tenant="acme")) as store:
            shards = {each.name: (each.alive, each.evidence) for each in store.checkpoints()}
        assert shards["ShoppingCart:All:acme"] == ("yes", "a daemon holds its lock 591059440")
        assert shards["ClientTotals:All:acme"][0] == "unknown"


def test_the_lock_of_a_tenant_whose_name_has_colons():
    assert set(liveness.locks_of("public", "ShoppingCart:All:org:1")) == {
        liveness.DAEMON_LOCK,
        *(
            liveness.shard_lock("public", each)
            for each in ("ShoppingCart:All:org:1", "ShoppingCart:All:org", "ShoppingCart:All")
        ),
    }


def test_a_daemon_that_has_the_label_of_esops(carts, connection, dsn):
    """A pooler leaves a session its label, whoever has it next."""
    looked_away(connection)
    with psycopg.connect(dsn, autocommit=True, application_name="esops run") as other:
        other.execute("select last_seq_id from shop.mt_event_progression")
        assert refusal(connection)
        other.execute('SELECT "last_seq_id" FROM "shop"."mt_event_progression"')
        assert refusal(connection) == ""


def test_what_marten_keeps_beside_the_progress(dumps, dsn, connection, project):
    """EnableExtendedProgressionTracking."""
    emmett.restore(connection, (dumps / "marten-9.58-v7.sql").read_text())
    connection.execute(
        "UPDATE mt_event_progression SET last_updated = now() - interval '1 hour'; "
        "UPDATE mt_event_progression SET heartbeat = now() WHERE name = 'ShoppingCart:All'"
    )
    looked_away(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        found = {each.name: (each.state, each.alive, each.evidence) for each in store.checkpoints()}
    assert found["ShoppingCart:All"][:2] == ("running", "yes")
    assert found["ClientTotals:All"] == ("stopped", "unknown", "")
    state, alive, evidence = found["Poison:All"]
    assert (state, alive) == ("paused", "unknown")
    assert evidence.endswith("at event 138: System.InvalidOperationException: thirteen is refused")
    assert "ShoppingCart:All was updated" in refusal(connection, "ShoppingCart:All", "public")
    assert refusal(connection, "ClientTotals:All", "public") == ""
    project.configure(stores={"s": {"dsn": dsn}})
    assert "paused" in (shown := project.run("status").out)
    assert "thirteen is refused" in " ".join(shown.split())
    doctor = project.run("doctor", "--output", "json").json
    told = [each["message"] for each in doctor["findings"] if each["code"] == "ESOPS-D094"]
    assert len(told) == 1
    assert "thirteen is refused" in told[0]


# -- Emmett and eventsourcing, at the store


@pytest.fixture
def bank(dsn, connection):
    emmett.create(connection)
    connection.execute(emmett.STORE_CHECKPOINT)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(4):
            store.append(f"account-{number}", [NewEvent(str(uuid.uuid4()), "Opened", b"{}")])
        yield store


def processor(connection, checkpoint: str, status: str = "stopped", age: str = "1 hour") -> None:
    connection.execute("DELETE FROM emt_processors")
    connection.execute(
        sql.SQL(
            "INSERT INTO emt_processors (processor_id, last_processed_checkpoint, "
            "last_processed_transaction_id, status, last_updated) "
            "VALUES ('summary', %s, pg_current_xact_id(), %s, now() - {}::interval)"
        ).format(sql.Literal(age)),
        (checkpoint, status),
    )


def checkpoint(connection) -> str:
    return connection.execute("SELECT last_processed_checkpoint FROM emt_processors").fetchone()[0]


def test_versions_of_a_processor_are_told_apart(bank, connection):
    processor(connection, f"{2:019d}")
    rows = [bank.sql.row_of(connection, name) for name in ("summary", "summary/1", "other")]
    assert rows[0] == rows[1] != rows[2] is None
    processor(connection, f"{3:019d}")
    assert bank.sql.row_of(connection, "summary") != rows[0]
    assert checkpoint_of(bank, "summary").position == checkpoint_of(bank, "summary/1").position
    connection.execute(
        "INSERT INTO emt_processors (processor_id, version, last_processed_checkpoint, "
            "last_processed_transaction_id, status) "
        "VALUES ('summary', 2, %s, pg_current_xact_id(), 'running')", (f"{4:019d}",)
    )  # fmt: skip
    assert checkpoint_of(bank, "summary/1").position is not None
    assert "stores none" in checkpoint_of(bank, "summary/2").evidence
    assert checkpoint_of(bank, "summary/3") is None
    with pytest.raises(Refused, match="names several"):
        checkpoint_of(bank, "summary")


def test_an_inline_projection_has_nothing_to_hand_over(bank, connection):
    connection.execute(
        "CREATE TABLE emt_projections (name text, partition text, version int, type varchar(1), "
        "status text); "
        "INSERT INTO emt_projections VALUES ('carts', 'emt:default', 1, 'a', 'active')"
    )
    for name in ("carts", "emt:processor:projector:carts"):
        with pytest.raises(Refused, match="inline, with each append"), connection.transaction():
            bank.sql.set_checkpoint(connection, name, bank.head().position)


def test_emmetts_checkpoint_in_both_forms(bank, connection):
    third = next(iter(bank.read_all())).events[2].position
    processor(connection, f"{1:019d}")
    with connection.transaction():
        bank.sql.set_checkpoint(connection, "summary", third)
    assert checkpoint(connection) == f"{3:019d}"
    # A pair is that of a message: 0.43 looks a number up, and compares what an idle one has.
    last = [event.position for batch in bank.read_all() for event in batch.events][-1]
    processor(connection, f"{1:020d}:{1:019d}")
    with connection.transaction():
        bank.sql.set_checkpoint(connection, "summary/1", Position((last[0] + 15, last[1])))
    assert checkpoint(connection) == f"{last[0]:020d}:{last[1]:019d}"


def in_043(connection, by: str) -> None:
    """The two signs that 0.43 has migrated the tables."""
    if by == "index":
        connection.execute(
            "CREATE INDEX idx_messages_transaction_id_global_position ON emt_messages "
            "(transaction_id, global_position)"
        )
    else:
        connection.execute(
            "CREATE TABLE dmb_migrations (name text); INSERT INTO dmb_migrations VALUES "
            "('emt:postgresql:eventstore:0.43.0:add-messages-poll-index')"
        )


@pytest.mark.parametrize("by", ["index", "migrations"])
def test_the_form_of_a_row_is_no_sign_of_the_version(bank, connection, by):
    """0.43 registers a processor with a number of zeros, and its rows of before keep theirs."""
    events = [event.position for batch in bank.read_all() for event in batch.events]
    in_043(connection, by)
    # A rolled-back append has drawn the last number.
    connection.execute("SELECT nextval('emt_global_message_position')")
    pairs = [f"{each[0]:020d}:{each[1]:019d}" for each in events]
    for before in (f"{0:019d}", f"{2:019d}"):
        processor(connection, before)
        with connection.transaction():
            bank.sql.set_checkpoint(connection, "summary", bank.head().position)
        assert checkpoint(connection) == pairs[-1]
    # Where it is there already, nothing is written: not even in the other form.
    for before in (f"{4:019d}", pairs[-1]):
        processor(connection, before)
        with connection.transaction():
            bank.sql.set_checkpoint(connection, "summary", bank.head().position)
        assert checkpoint(connection) == before
    # A number that no message has: 0.43 could not start from it.
    connection.execute("DELETE FROM emt_messages WHERE global_position = 2")
    processor(connection, f"{2:019d}")
    with connection.transaction():
        bank.sql.set_checkpoint(connection, "summary", events[0])
    assert checkpoint(connection) == pairs[0]
    processor(connection, f"{2:019d}")
    with connection.transaction():
        bank.sql.set_checkpoint(connection, "summary", events[2])
    assert checkpoint(connection) == pairs[2]


def test_a_number_that_can_still_turn_up_is_not_passed(bank, connection, dsn):
    """0.42 keeps a number alone: behind it, a lower one that is committed later would be lost."""
    processor(connection, f"{2:019d}")
    insert = (
        "INSERT INTO emt_messages (stream_position, transaction_id, stream_id, "
        "message_schema_version, message_id, message_type, message_data, message_metadata) "
        "VALUES (1, pg_current_xact_id(), %s, '1', %s, 'Opened', '{}', '{}')"
    )
    with psycopg.connect(dsn) as early, psycopg.connect(dsn) as late:
        early.execute("SELECT pg_current_xact_id()")
        late.execute(insert, ("account-5", "5"))  # number 5, a later id, not committed
        early.execute(insert, ("account-6", "6"))  # number 6, an earlier id
        early.commit()
        assert bank.head().position[1] == 6
        with pytest.raises(Refused, match="events may still be written"), connection.transaction():
            bank.sql.set_checkpoint(connection, "summary", bank.head().position)
        assert checkpoint(connection) == f"{2:019d}"
        late.rollback()
        with connection.transaction():
            bank.sql.set_checkpoint(connection, "summary", bank.head().position)
        assert checkpoint(connection) == f"{6:019d}", "5 was given up"
        # From here on there is a bound: with a writer at work it is not passed.
        late.execute(insert, ("account-7", "7"))
        bank.append("account-8", [NewEvent(str(uuid.uuid4()), "Opened", b"{}")])
        with connection.transaction():
            bank.sql.set_checkpoint(connection, "summary", Position((2**40, 8)))
        assert checkpoint(connection) == f"{6:019d}"


def test_a_processor_of_version_2_has_no_checkpoint_of_its_own(bank, connection):
    processor(connection, f"{1:019d}")
    connection.execute("UPDATE emt_processors SET version = 2")
    for name in ("summary", "summary/2"):
        with pytest.raises(Refused, match="starts from the checkpoint of version 1") as refused:
            bank.sql.set_checkpoint(connection, name, bank.head().position)
        assert "emt:processor:projector:NAME_vN" in refused.value.hint
    assert checkpoint(connection) == f"{1:019d}"


def test_an_old_checkpoint_is_the_highest_below_which_nothing_is_left(bank, connection, dsn):
    """Two transactions whose numbers are in another order than their ids: the one that began first
    drew its number last.
    """
    with psycopg.connect(dsn) as first, psycopg.connect(dsn, autocommit=True):
        first.execute("SELECT pg_current_xact_id()")
        bank.append(
            "account-8", [NewEvent(str(uuid.uuid4()), "Opened", b"{}")]
        )  # number 5, a later id
        first.execute(
            "INSERT INTO emt_messages (stream_position, transaction_id, stream_id, "
            "message_schema_version, message_id, message_type, "
            "message_data, message_metadata) VALUES (1, pg_current_xact_id(), 'account-9', '1', "
            "'x', 'Opened', '{}', '{}')"
        )  # number 6, an earlier id
        first.commit()
    events = [event for batch in bank.read_all() for event in batch.events]
    assert [event.position[1] for event in events] == [1, 2, 3, 4, 6, 5]
    processor(connection, f"{1:019d}")
    with connection.transaction():
        bank.sql.set_checkpoint(connection, "summary", events[4].position)  # seen: 1, 2, 3, 4, 6
    assert checkpoint(connection) == f"{4:019d}", "6 comes again, and 5 is not missed"


@pytest.mark.parametrize(
    ("name", "status", "current", "words"),
    [
        ("summary", "running", 1, "status of its row is 'running', last updated 20"),
        ("summary", "paused", 1, "continue with --resume --processor-stopped"),
        ("summry", "stopped", 1, "Did you mean 'summary'"),
        ("summary", "stopped", 4, "ahead of"),
        ("summary", "stopped", "nowhere", "which is no position"),
    ],
)
def test_emmetts_processor_is_not_forced(bank, connection, name, status, current, words):
    """Nor where its row has not been touched for an hour: an idle one leaves it alone."""
    third = next(iter(bank.read_all())).events[2].position
    before = str(current).rjust(19, "0")
    processor(connection, before, status)
    with pytest.raises(Refused) as refused, connection.transaction():
        bank.sql.set_checkpoint(connection, name, third)
    assert words in f"{refused.value.message} {refused.value.hint}"
    assert checkpoint(connection) == before
    if status != "stopped":
        with connection.transaction():
            bank.sql.set_checkpoint(connection, name, third, stopped=True)
        assert checkpoint(connection) == f"{3:019d}"


@pytest.mark.parametrize("newer", [True, False])
def test_eventsourcings_tracking_row(dsn, connection, newer):
    connection.execute(
        "CREATE TABLE bank_events (originator_id uuid, originator_version bigint, topic text, "
        "state bytea, notification_id bigserial, "
        "PRIMARY KEY (originator_id, originator_version)); CREATE UNIQUE INDEX ON bank_events "
        "(notification_id)"
    )
    key = "application_name" if newer else "application_name, notification_id"
    connection.execute(
        "CREATE TABLE views_tracking (application_name text, notification_id bigint, PRIMARY KEY "
        f"({key})); "
        "INSERT INTO views_tracking VALUES ('Bank', 3);"
        "SELECT setval(pg_get_serial_sequence('bank_events', 'notification_id'), 20)"
    )
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        with connection.transaction():
            store.sql.set_checkpoint(connection, "views/Bank", Position((7,)))
        assert connection.execute(
            "SELECT max(notification_id), count(*) FROM views_tracking"
        ).fetchone() == (
            7,
            1 if newer else 2,
        )
        # Another upstream has numbers of its own.
        connection.execute(
            "INSERT INTO views_tracking (application_name, notification_id) VALUES ('Other', 3)"
        )
        assert [each.name for each in store.checkpoints()] == ["views/Bank"]
        for name, position in (("views/Bank", 5), ("view/Bank", 9), ("views/Other", 9)):
            with pytest.raises(Refused), connection.transaction():
                store.sql.set_checkpoint(connection, name, Position((position,)))
        assert store.checkpoints()[0].position == Position((7,))
    assert threading.active_count() >= 1


def test_eventsourcings_rows_that_follow_another_application(dsn, connection):
    """A follower has a row for each application that it follows, with numbers of that one's."""
    connection.execute("CREATE SCHEMA elsewhere")
    for application, schema in (("bank", "public"), ("orders", "public"), ("other", "elsewhere")):
        eventsourcing.create(connection, application, schema)
    for table, key in (("views", "public"), ("orders", "public"), ("sums", "elsewhere")):
        connection.execute(
            f"CREATE TABLE {key}.{table}_tracking (application_name text PRIMARY KEY, "
            "notification_id bigint)"
        )
    connection.execute(
        "INSERT INTO views_tracking VALUES ('Bank', 3), ('Orders', 9), ('Gone', 4);"
        "INSERT INTO orders_tracking VALUES ('Remote', 2);"
        "INSERT INTO elsewhere.sums_tracking VALUES ('Bank', 1), ('Other', 7), ('Gone', 1);"
        "SELECT setval(pg_get_serial_sequence(name || '_events', 'notification_id'), 20) "
        "FROM unnest(ARRAY['bank', 'orders']) AS name"
    )

    def rows(application: str) -> dict[str, Position | None]:
        with open_store("s", PostgresSettings(dsn=dsn, application=application)) as store:
            return {each.name: each.position for each in store.checkpoints()}

    assert rows("bank") == {"views/Bank": Position((3,)), "elsewhere.sums/Bank": Position((1,))}
    assert rows("orders") == {"views/Orders": Position((9,))}
    with open_store("s", PostgresSettings(dsn=dsn, application="bank")) as store:
        for name in ("views/Orders", "views/Gone", "orders/Remote", "elsewhere.sums/Other"):
            with pytest.raises(Refused), connection.transaction():
                store.sql.set_checkpoint(connection, name, Position((50,)))
        with connection.transaction():
            store.sql.set_checkpoint(connection, "elsewhere.sums/Bank", Position((5,)))
    assert rows("bank")["elsewhere.sums/Bank"] == Position((5,))


def test_names_of_emmetts_processors(bank, connection, project, dsn):
    """A row for each version and partition; and an id may end as a version does."""
    for name, partition in (
        ("mail", "emt:default"),
        ("mail/2", "emt:default"),
        ("twin", "emt:default"),
        ("twin", "b"),
    ):
        connection.execute(
            "INSERT INTO emt_processors (processor_id, partition, last_processed_checkpoint, "
            "last_processed_transaction_id) VALUES (%s, %s, lpad('1', 19, '0'), '0')",
            (name, partition),
        )

    def hand_over(name: str) -> str:
        with pytest.raises(Refused) as refused, connection.transaction():
            bank.sql.set_checkpoint(connection, name, bank.head().position)
            raise Refused("taken", hint="")
        return f"{refused.value.message} {refused.value.hint}"

    for name in ("mail", "mail/1", "mail/2", "mail/2/1", "twin/1/b", "twin/1/emt:default"):
        assert hand_over(name) == "taken ", name
        assert checkpoint_of(bank, name) is not None
    for name in ("twin", "twin/1"):
        assert "Name one of: twin/1/b, twin/1/emt:default." in hand_over(name)
        with pytest.raises(Refused, match="names several") as refused:
            checkpoint_of(bank, name)
        assert "twin/1/b, twin/1/emt:default" in refused.value.hint
    assert "Did you mean 'mail/2'" in hand_over("mail/3")
    project.configure(stores={"s": {"dsn": dsn}})
    config = load_config(project.folder / "esops.toml")
    names = {each.name for each in behind(config, bank, "s", lambda _: 1)}
    assert names == {"mail", "mail/2", "twin/1/b", "twin/1/emt:default"}
