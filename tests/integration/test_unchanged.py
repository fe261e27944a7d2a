"""What the table that serves gets, or loses, between the making of the other one and the switch."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest

from esops.errors import Refused
from esops.readmodel import registry
from esops.rebuild import switch as switching
from esops.rebuild import unchanged
from tests.integration.test_inline_switch import configure
from tests.support import inline_writers
from tests.support.cases import thorough_but
from tests.support.inline_writers import logic
from tests.support.waiting import finish, until

CHANGES = {
    "index new_idx is new": "CREATE INDEX new_idx ON mt_doc_cart ((data->>'Id'))",
    "index u is new": "CREATE UNIQUE INDEX u ON mt_doc_cart (mt_version, id)",
    "index mt_doc_cart_idx_items has gone": "DROP INDEX mt_doc_cart_idx_items",
    "column extra is new": "ALTER TABLE mt_doc_cart ADD COLUMN extra varchar",
    "column mt_version has changed": "ALTER TABLE mt_doc_cart ALTER mt_version TYPE numeric",
    "column mt_dotnet_type has gone": "ALTER TABLE mt_doc_cart DROP mt_dotnet_type",
    "column mt_dotnet_type has changed": "ALTER TABLE mt_doc_cart ALTER mt_dotnet_type "
    "SET DEFAULT 'x'",
    "column data has changed": "ALTER TABLE mt_doc_cart ALTER data SET STATISTICS 7",
    "check ck is new": "ALTER TABLE mt_doc_cart ADD CONSTRAINT ck CHECK (mt_version >= 0)",
    "check old has gone": "ALTER TABLE mt_doc_cart DROP CONSTRAINT old",
    "foreign key fk is new": "ALTER TABLE mt_doc_cart ADD CONSTRAINT fk FOREIGN KEY "
    "(mt_dotnet_type) REFERENCES other NOT VALID",
    "comment on the table is new": "COMMENT ON TABLE mt_doc_cart IS 'hello'",
    "statistics st is new": "CREATE STATISTICS st ON id, mt_version FROM mt_doc_cart",
    "storage option fillfactor=70 is new": "ALTER TABLE mt_doc_cart SET (fillfactor = 70)",
    "replica identity FULL is new": "ALTER TABLE mt_doc_cart REPLICA IDENTITY FULL",
    "rule ru is new": "CREATE RULE ru AS ON DELETE TO mt_doc_cart DO ALSO NOTIFY x",
    "storage UNLOGGED is new": "ALTER TABLE mt_doc_cart SET UNLOGGED",
}
OTHERWISE = {
    "index new_idx is new": "CREATE INDEX ON mt_doc_cart__v2 ((data->>'Id'))",
    "index u is new": "CREATE UNIQUE INDEX ON mt_doc_cart__v2 (mt_version, id)",
    "index mt_doc_cart_idx_items has gone": "DROP INDEX mt_doc_cart_idx_items__v2",
    "statistics st is new": "CREATE STATISTICS ON id, mt_version FROM mt_doc_cart__v2",
}
SERVES, STANDS_BY = "mt_doc_cart", "mt_doc_cart__v2"


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    configure(project, dsn)
    return project


def appended(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as writer:
        for n in range(4):
            inline_writers.append(writer, f"cart-{n % 2}", logic(1), 1)


def postponed(carts, connection):
    process = carts.start("rebuild", "--blue-green", "--postpone")

    def verified() -> bool:
        with suppress(psycopg.errors.UndefinedTable):
            row = connection.execute("SELECT max(state) FROM esops.rebuilds").fetchone()
            return row == ("verified",)
        return False

    until(verified)
    return process


def test_what_serves_has_changed_since_green_was_made(carts, connection, dsn):
    connection.execute(
        "CREATE TABLE other (v varchar PRIMARY KEY); "
        "ALTER TABLE mt_doc_cart ADD CONSTRAINT old CHECK (mt_version > -9)"
    )
    appended(dsn)
    configure(carts, dsn, live="esops")
    carts.ok("rebuild", "--blue-green", "--no-switch")
    source, target = (registry.version(connection, "carts", n) for n in (1, 2))

    def refused() -> str:
        try:
            unchanged.check(connection, source, target, by_rename=True)
        except Refused as refused:
            return refused.message
        return ""

    assert refused() == ""
    for words, change in CHANGES.items():
        with connection.transaction(force_rollback=True):
            connection.execute(change)
            assert words in refused(), words
            # The other table has it as well: nothing is lost.
            connection.execute(OTHERWISE.get(words, change.replace(SERVES, STANDS_BY)))
            assert refused() == "", words
    for change in (
        "GRANT SELECT (id) ON mt_doc_cart TO PUBLIC",
        "CREATE PUBLICATION pb FOR TABLE mt_doc_cart",
        "ALTER INDEX mt_doc_cart_idx_items RENAME TO elsewhere",
        "ALTER TABLE mt_doc_cart ENABLE ROW LEVEL SECURITY",
        "INSERT INTO mt_doc_cart (id, data) VALUES ('new', '{}'); ANALYZE mt_doc_cart",
    ):
        with connection.transaction(force_rollback=True):
            connection.execute(change)
            assert refused() == "", change


@pytest.mark.parametrize("switch", thorough_but(["view", "rename"], "rename"))
def test_later_switches_and_the_way_back(carts, connection, dsn, switch):
    appended(dsn)
    connection.execute("ALTER TABLE mt_doc_cart RENAME TO summary")
    configure(carts, dsn, live="esops", switch=switch, tables=["summary"])
    carts.ok("rebuild", "--blue-green", "--no-switch")
    connection.execute("CREATE INDEX late ON summary (mt_version)")
    for dry in ((), ("--dry-run",)):
        refused = carts.run("projection", "switch", "carts", *dry)
        assert (refused.code, "index late is new" in refused.err) == (6, True)
    connection.execute("CREATE INDEX late_2 ON summary__v2 (mt_version)")
    carts.ok("projection", "switch", "carts")
    now = "summary__v2" if switch == "view" else "summary"
    connection.execute(f"ALTER TABLE {now} ADD CONSTRAINT ck CHECK (mt_version > -5)")
    refused = carts.run("projection", "rollback", "carts", "--allow-stale")
    assert (refused.code, "check ck is new" in refused.err) == (6, True)
    connection.execute("ALTER TABLE summary__v1 ADD CONSTRAINT c2 CHECK (mt_version > -5)")
    carts.ok("projection", "rollback", "carts", "--allow-stale")


def test_nobody_changes_the_table_between_the_check_and_the_rename(
    carts, connection, dsn, monkeypatch
):
    appended(dsn)
    connection.execute("ALTER TABLE mt_doc_cart RENAME TO summary")
    configure(carts, dsn, live="esops", switch="rename", tables=["summary"])
    carts.ok("rebuild", "--blue-green", "--no-switch")
    note, tried = switching.note_names, []

    def checked(own, what):
        connection.execute("SET lock_timeout = '50ms'")
        try:
            connection.execute("CREATE INDEX late ON summary (mt_version)")
        except psycopg.errors.LockNotAvailable:
            tried.append("refused")
        note(own, what)

    monkeypatch.setattr(switching, "note_names", checked)
    carts.ok("projection", "switch", "carts")
    assert set(tried) == {"refused"}


def test_a_column_that_a_deployment_adds_during_the_rebuild(carts, connection, dsn):
    appended(dsn)
    process = postponed(carts, connection)
    connection.execute("ALTER TABLE mt_doc_cart ADD COLUMN client varchar")
    carts.ok("projection", "switch-now", "carts")
    _, err = finish(process)
    assert (process.returncode, "column client is new" in err) == (6, True)
    connection.execute("ALTER TABLE mt_doc_cart__v2 ADD COLUMN client varchar")
    carts.ok("rebuild", "--blue-green", "--resume")
    connection.execute("UPDATE mt_doc_cart SET client = 'acme'")
