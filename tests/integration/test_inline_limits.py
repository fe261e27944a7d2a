"""What stands against a switch of a table that the application writes, and what goes with it."""

from __future__ import annotations

import threading

import psycopg
import pytest

from tests.integration.test_inline_switch import configure
from tests.support import inline_writers
from tests.support.inline_writers import DDL, Application, logic
from tests.support.soak import rounds

GREEN = DDL.split(";")[0].replace("mt_doc_cart (", "{table} (")
LOSSES = {
    "foreign key fk": (
        "ALTER TABLE mt_doc_cart ADD CONSTRAINT fk FOREIGN KEY (mt_dotnet_type) REFERENCES kinds",
        "ALTER TABLE public.mt_doc_cart VALIDATE CONSTRAINT fk",
    ),
    "rule ru": (
        "CREATE RULE ru AS ON DELETE TO mt_doc_cart DO ALSO NOTIFY x",
        "DROP RULE ru ON public.mt_doc_cart",
    ),
    "materialised view public.mv": (
        "CREATE MATERIALIZED VIEW mv AS SELECT id FROM mt_doc_cart",
        "CREATE MATERIALIZED VIEW public.mv",
    ),
}
DDLS = {
    "it lacks the column mt_dotnet_type": GREEN.replace(", mt_dotnet_type varchar", ""),
    "its new column need is NOT NULL": GREEN.replace("id varchar", "need int NOT NULL, id varchar"),
    "makes the values of its column mt_version": GREEN.replace(
        "mt_version bigint NOT NULL DEFAULT 0",
        "mt_version bigint GENERATED ALWAYS AS (length(id)) STORED",
    ),
    "it lacks the unique index u": GREEN,
}


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    configure(project, dsn)
    with psycopg.connect(dsn, autocommit=True) as writer:
        for n in range(4):
            inline_writers.append(writer, f"cart-{n % 2}", logic(1), 1)
    return project


def test_what_would_be_lost_is_refused(carts, connection):
    connection.execute(
        "CREATE TABLE kinds (v varchar PRIMARY KEY); INSERT INTO kinds VALUES ('Shop.Cart')"
    )
    for words, (make, by_hand) in LOSSES.items():
        connection.execute(make)
        refused = carts.run("rebuild", "--blue-green", "--dry-run")
        assert (refused.code, words in refused.err, by_hand in refused.err) == (6, True, True), (
            refused.err
        )
        # Built until the moment at which it may be away.
        assert words in carts.ok("rebuild", "--blue-green", "--dry-run", "--postpone").out
        kind, name = (("MATERIALIZED VIEW", "mv"), ("RULE", "ru ON mt_doc_cart"))["rule" in words]
        if "fk" in words:
            connection.execute("ALTER TABLE mt_doc_cart DROP CONSTRAINT fk")
        else:
            connection.execute(f"DROP {kind} {name}")


def test_a_new_table_that_would_stop_appends_is_refused(carts, connection, dsn):
    connection.execute("CREATE UNIQUE INDEX u ON mt_doc_cart (mt_version, id)")
    for words, ddl in DDLS.items():
        carts.write("carts.sql", ddl)
        configure(carts, dsn, ddl="carts.sql")
        refused = carts.run("rebuild", "--blue-green", "--dry-run")
        assert (refused.code, words in refused.err) == (6, True), refused.err


def test_publications_go_with_the_name(carts, connection):
    connection.execute("CREATE PUBLICATION p FOR TABLE mt_doc_cart (id, data) WHERE (id <> 'x')")
    carts.ok("rebuild", "--blue-green")
    published = connection.execute(
        "SELECT tablename, attnames, rowfilter FROM pg_publication_tables"
    ).fetchall()
    assert published == [("mt_doc_cart", ["id", "data"], "((id)::text <> 'x'::text)")]


def test_a_view_that_is_read_all_the_time(carts, connection, dsn):
    connection.execute("CREATE VIEW v AS SELECT * FROM mt_doc_cart")
    stop, failures = threading.Event(), list[str]()

    def read() -> None:
        with psycopg.connect(dsn, autocommit=True) as reader:
            while not stop.is_set():
                try:
                    reader.execute("SELECT count(*), pg_sleep(0.02) FROM v")
                except psycopg.Error as error:
                    failures.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(rounds(1, 2))]
    for each in threads:
        each.start()
    application = Application(dsn, streams=20, rest=rounds(2, 1) / 100)
    try:
        with application.at_work([logic(1)] * 2, readers=1):
            carts.ok("rebuild", "--blue-green")
    finally:
        stop.set()
        for each in threads:
            each.join()
    assert failures == application.failures == []
    assert inline_writers.wrong(connection, logic(1)) == []


def test_what_comes_at_the_last_moment_is_not_applied_under_the_lock(carts, connection, dsn):
    carts.patch(
        f"""
        import psycopg
        import esops.running.visible as v
        import esops.rebuild.inline_switch as s
        from datetime import timedelta
        v._PIECE = 100
        wait = s._wait_for_little
        def waited(*given):
            s._UNDER_LOCK = timedelta(seconds=1)
            return wait(*given)
        s._wait_for_little = waited
        lock_statement = s.lock_statement
        def burst(connection, what):
            if not what.target.events:
                return lock_statement(connection, what)  # of the plan
            s.lock_statement, s._UNDER_LOCK = lock_statement, timedelta(0)
            with psycopg.connect({dsn!r}) as other:
                other.execute(
                    "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp) "
                    "SELECT nextval('mt_events_sequence'), gen_random_uuid(), 'cart-1', n, '{{}}', "
                    "'other', now() FROM generate_series(3, 3000) n")
                other.execute("UPDATE mt_doc_cart SET mt_version = 3000 WHERE id = 'cart-1'")
                other.execute("UPDATE mt_streams SET version = 3000 WHERE id = 'cart-1'")
            return lock_statement(connection, what)
        s.lock_statement = burst
        """.replace("\n        ", "\n")
    )
    lock = carts.ok("rebuild", "--blue-green", "--output", "json").json["lock"]
    assert lock["tries"] > 1
    assert lock["events"] < 100
    assert inline_writers.wrong(connection, logic(1)) == []
