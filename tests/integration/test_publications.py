"""Logical replication with a real subscriber: what esops makes or renames never stops it unasked."""

from __future__ import annotations

import subprocess
from collections import Counter

import psycopg
import pytest

from tests.support import emmett, shop
from tests.support.databases import QUICK, database, embedded
from tests.support.waiting import until


@pytest.fixture(scope="module")
def publisher():
    """A server whose WAL is decoded; both sides of the replication are databases of it."""
    with embedded(
        {**QUICK, "wal_level": "logical", "wal_retrieve_retry_interval": "'100ms'"}
    ) as server:
        yield server


class Subscriber:
    """A database that replicates another one of its server."""

    def __init__(self, server, source: str, dsn: str) -> None:
        self.server, self.source = server, source
        self.on = psycopg.connect(dsn, autocommit=True)
        self.name = self.on.info.dbname

    def copy_tables(self, *options: str) -> None:
        """Make tables as the publisher has them, without rows."""
        program = self.server.program("pg_dump")
        dump = subprocess.run(
            [program, "--schema-only", "--no-publications", "-d", self.source, *options],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        lines = [line for line in dump.splitlines() if not line.startswith(("\\", "--"))]
        with psycopg.connect(self.on.info.dsn, autocommit=True) as connection:
            connection.execute(
                "\n".join(lines).replace("CREATE SCHEMA", "CREATE SCHEMA IF NOT EXISTS")
            )

    def subscribe(self, publication: str) -> None:
        # Within one server, CREATE SUBSCRIPTION would wait for itself to make the slot.
        with psycopg.connect(self.source, autocommit=True) as source:
            source.execute(
                "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (self.name,)
            )
        self.on.execute(
            f"CREATE SUBSCRIPTION {self.name} CONNECTION '{self.source}' PUBLICATION {publication} "
            f"WITH (create_slot = false)"
        )
        until(self.synced)

    def execute(self, statements: str) -> None:
        """Run statements as the page has them."""
        for each in statements.replace("copy", self.name).split(";"):
            self.on.execute(each)

    def synced(self) -> bool:
        found = self.on.execute("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'")
        return found.fetchone() == (0,)

    def errors(self) -> int:
        found = self.on.execute(
            "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = %s",
            (self.name,),
        )
        return found.fetchone()[0]

    def goes_on(self) -> bool:
        """Whether a row that is written now comes through."""
        with psycopg.connect(self.source, autocommit=True) as source:
            (n,) = source.execute("INSERT INTO shop.beat DEFAULT VALUES RETURNING n").fetchone()
        before = self.errors()
        # Of an error that was under way when the row was written, the next one tells more.
        until(lambda: self.has(n) or self.errors() > before + 2)
        return self.has(n)

    def has(self, n: int) -> bool:
        return self.on.execute("SELECT FROM shop.beat WHERE n = %s", (n,)).fetchone() is not None

    def close(self) -> None:
        self.on.execute(f"ALTER SUBSCRIPTION {self.name} DISABLE")
        self.on.execute(f"ALTER SUBSCRIPTION {self.name} SET (slot_name = NONE)")
        self.on.execute(f"DROP SUBSCRIPTION {self.name}")
        with psycopg.connect(self.source, autocommit=True) as source:
            until(
                lambda: source.execute(
                    "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active",
                    (self.name,),
                ).fetchone() == (0,)
            )  # fmt: skip
            source.execute("SELECT pg_drop_replication_slot(%s)", (self.name,))
        self.on.close()


@pytest.fixture
def dsn(publisher):
    with database(publisher) as dsn:
        yield dsn


@pytest.fixture
def subscriber(publisher, dsn):
    """A subscriber of a shop's database, which has its tables, and a publication of all tables."""
    shop.make(dsn, 50)
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute("CREATE TABLE shop.beat (n serial PRIMARY KEY)")
        source.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    with database(publisher) as there:
        subscriber = Subscriber(publisher, dsn, there)
        subscriber.copy_tables()
        subscriber.subscribe("everything")
        try:
            yield subscriber
        finally:
            subscriber.close()


LATE = """
from esops.rebuild.phases.loading import Loading
before = Loading._provision
def provision(self):
    self._session.connection.execute("CREATE PUBLICATION late FOR TABLES IN SCHEMA public")
    before(self)
Loading._provision = provision
"""


def allow(project, value: str = "allowed") -> None:
    path = project.folder / "esops.toml"
    before = path.read_text().replace('publications = "allowed"\n', "")
    path.write_text(before.replace("[stores.shop]\n", f'[stores.shop]\npublications = "{value}"\n'))


def codes(project) -> set[str]:
    return {each["code"] for each in project.run("doctor", "--output", "json").json["findings"]}


def test_nothing_that_is_published_is_made_until_subscribers_are_prepared(subscriber, dsn, project):
    shop.configure(project, dsn)
    with psycopg.connect(dsn, autocommit=True) as source:
        for arguments in (
            ["rebuild", "--blue-green"],
            ["rebuild", "--blue-green", "--dry-run"],
            ["projection", "pause", "cart_summary"],
            ["run", "--until-caught-up"],
        ):
            refused = project.run(*arguments)
            if arguments[0] != "run":
                assert refused.code == 6, refused.err
                assert "everything (FOR ALL TABLES)" in refused.err
            made = source.execute(
                "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
                "WHERE nspname IN ('esops', 'public')"
            )
            assert made.fetchone() == (0,), arguments
    assert "ESOPS-D059" in codes(project)
    assert subscriber.goes_on()

    # As the page says.
    allow(project)
    assert "ESOPS-D059" not in codes(project)
    subscriber.execute("ALTER SUBSCRIPTION copy DISABLE")
    done = project.ok("rebuild", "--blue-green")
    assert "everything (FOR ALL TABLES) will publish public.cart_summary__v1" in done.err
    subscriber.copy_tables("--schema=esops")
    subscriber.copy_tables("--table=cart_summary__v1")
    subscriber.execute("ALTER SUBSCRIPTION copy ENABLE")
    assert subscriber.goes_on()
    subscriber.execute(
        "ALTER SUBSCRIPTION copy REFRESH PUBLICATION;"
        "CREATE VIEW cart_summary AS SELECT * FROM cart_summary__v1"
    )
    until(subscriber.synced)
    with psycopg.connect(dsn) as source:
        rows = shop.table(source, "cart_summary")
    assert rows
    assert shop.table(subscriber.on, "cart_summary") == rows

    # What is forgotten stops it, until the table is there.
    project.ok("rebuild", "--blue-green")
    assert not subscriber.goes_on()
    subscriber.copy_tables("--table=cart_summary__v2")
    until(subscriber.goes_on)

    # A table is not emptied where its subscribers would not see that.
    allow(project, "refused")
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute("ALTER PUBLICATION everything SET (publish = 'insert, update, delete')")
        assert project.run("rebuild", "--yes").code == 6
        source.execute(
            "ALTER PUBLICATION everything SET (publish = 'insert, update, delete, truncate')"
        )

    # What is allowed for one rebuild is not allowed for all.
    assert "ESOPS-D059" in codes(project)
    for arguments in (["--blue-green"], ["--ranges", "2"]):
        assert project.run("rebuild", "--yes", *arguments).code == 6
    project.ok("rebuild", "--yes")
    assert subscriber.goes_on()


@pytest.mark.thorough
def test_what_cannot_be_published_is_not_refused(server, project, publisher):
    """Schemas that esops does not write to, UNLOGGED tables, and WAL that nobody decodes."""
    with database(publisher) as dsn, psycopg.connect(dsn, autocommit=True) as source:
        shop.make(dsn, 50)
        unlogged = shop.DDL.replace("CREATE TABLE", "CREATE UNLOGGED TABLE")
        for clause, ddl, code in (
            ("FOR TABLES IN SCHEMA public", shop.DDL, 6),
            ("FOR TABLES IN SCHEMA public WITH (publish = '')", shop.DDL, 0),
            ("FOR TABLES IN SCHEMA public", unlogged, 0),
            ("FOR TABLES IN SCHEMA shop", shop.DDL, 0),
            ("FOR ALL TABLES", unlogged, 6),
        ):
            source.execute(f"DROP PUBLICATION IF EXISTS p; CREATE PUBLICATION p {clause}")
            shop.configure(project, dsn, ddl=ddl)
            assert project.run("rebuild", "--blue-green", "--dry-run").code == code, clause
            assert ("ESOPS-D059" in codes(project)) == (code == 6 or ddl is unlogged), clause
        # One that comes up after the plan.
        source.execute("DROP PUBLICATION p")
        shop.configure(project, dsn)
        project.patch(LATE)
        assert project.run("rebuild", "--blue-green").code == 6
        assert source.execute("SELECT to_regclass('cart_summary__v1')").fetchone() == (None,)
        source.execute("DROP PUBLICATION late")
        project.environment.clear()
        project.ok("rebuild", "--blue-green", "--resume")
    with database(server) as dsn, psycopg.connect(dsn, autocommit=True) as source:
        if source.execute("SHOW wal_level").fetchone() != ("logical",):
            shop.make(dsn, 50)
            source.execute("CREATE PUBLICATION p FOR ALL TABLES")
            shop.configure(project, dsn)
            project.ok("rebuild", "--blue-green")
            assert "ESOPS-D059" not in codes(project)


def test_a_table_that_is_published_by_name_is_not_renamed(subscriber, dsn, project):
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute(shop.DDL.format(table="cart_summary"))
        source.execute("DROP PUBLICATION everything")
        source.execute(
            "CREATE PUBLICATION everything FOR TABLE cart_summary (cart_id, client, items, total, "
            "status, position) WHERE (status <> 'x'), shop.beat"
        )
        subscriber.copy_tables("--table=cart_summary")
        subscriber.execute("ALTER SUBSCRIPTION copy REFRESH PUBLICATION")
        until(subscriber.synced)
        for mode in ("rename", "view"):
            shop.configure(project, dsn, projection_options=f'switch = "{mode}"')
            refused = project.run("rebuild", "--blue-green", "--dry-run")
            assert refused.code == 6
            drop = "ALTER PUBLICATION everything DROP TABLE cart_summary"
            assert drop in refused.err
        assert "ESOPS-D059" in codes(project)
        more = "--max-diff", "999"
        built = project.ok("rebuild", "--blue-green", "--no-switch", *more)
        assert "a later switch would be refused" in built.err
        assert '(cart_id, client, items, total, status, "position") WHERE ((status <> ' in built.err
        assert project.run("projection", "switch", "cart_summary").code == 6
        source.execute("INSERT INTO cart_summary VALUES ('c', 'c', 1, 1, 'open', 1)")
        assert subscriber.goes_on()

        # As the page says.
        source.execute(drop)
        project.ok("projection", "switch", "cart_summary", "--allow-stale")
        source.execute("UPDATE cart_summary__v1 SET items = 2")
        assert subscriber.goes_on()
        subscriber.copy_tables("--table=cart_summary__v2")
        source.execute(
            "ALTER PUBLICATION everything ADD TABLE cart_summary__v2 WHERE (status <> 'x')"
        )
        subscriber.execute("ALTER SUBSCRIPTION copy REFRESH PUBLICATION")
        until(subscriber.synced)
        assert len(shop.table(subscriber.on, "cart_summary__v2")) == 5
        assert subscriber.goes_on()
        plan = project.ok("rebuild", "--blue-green", "--dry-run").out
        add = 'ALTER PUBLICATION everything ADD TABLE "public"."cart_summary__v3" WHERE ((status'
        assert add in plan


@pytest.mark.thorough
def test_a_subscriber_moves_to_a_publication_of_schemas(subscriber, dsn, project):
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute("CREATE PUBLICATION application FOR TABLES IN SCHEMA shop")
        (now,) = source.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert subscriber.goes_on()
        until(
            lambda: source.execute(
                "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s",
                (now, subscriber.name),
            ).fetchone() == (True,)
        )  # fmt: skip
        subscriber.execute("ALTER SUBSCRIPTION copy SET PUBLICATION application")
        source.execute("DROP PUBLICATION everything")
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    assert subscriber.goes_on()


def test_a_publication_of_events_carries_private_ones_out_unless_a_filter_keeps_them(
    dsn, dumps, project
):
    with psycopg.connect(dsn, autocommit=True) as source:
        emmett.restore(source, (dumps / "emmett-0.42.0.sql").read_text())
        source.execute("""
            CREATE PUBLICATION all_events FOR TABLE emt_messages;
            CREATE PUBLICATION deletes FOR TABLE emt_messages WITH (publish = 'delete');
            CREATE PUBLICATION other FOR TABLE emt_streams;
            CREATE PUBLICATION confirmed FOR TABLE emt_messages
                WHERE (message_type IN ('ShoppingCartConfirmed', 'ShoppingCartCancelled'))
                WITH (publish = 'insert', publish_via_partition_root);
        """)
    contract = {"types": ["ShoppingCartConfirmed"], "own": ["shipping", "all_*"]}
    assert private_reads(project, dsn, contract) == {
        ("publication confirmed", "ShoppingCartCancelled"): 9
    }
    found = private_reads(project, dsn, {**contract, "own": ["shipping"]})
    assert Counter(where for where, _ in found) == {
        "publication all_events": 4,
        "publication confirmed": 1,
    }


def private_reads(project, dsn, contract):
    project.configure(stores={"shop": {"dsn": dsn}}, contracts={"carts": contract})
    found = project.run("schema", "contracts", "check", "--output", "json").json
    return {
        (each["where"], each["type"]): each["events"]
        for each in found["contracts"][0]["findings"]
        if each["kind"] == "private-read"
    }
