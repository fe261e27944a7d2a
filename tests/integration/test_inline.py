"""Tables that the application writes in the transaction of each append: recognised, and refused to
whoever would write to them as well.
"""

from __future__ import annotations

import pytest

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett

FOLD = """
from esops import fold

@fold(key="stream")
def count(row, event):
    data = (row or {"data": {"events": 0}})["data"]
    return {"data": {"events": data["events"] + 1}}
"""


@pytest.fixture
def restored(dumps, connection):
    def restored(name: str) -> None:
        emmett.restore(connection, (dumps / f"{name}.sql").read_text())

    return restored


def inline(dsn: str) -> set[str]:
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        return {f"{each.schema}.{each.name}" for each in store.inline.tables()}


def configure(project, dsn: str, table: str, **options) -> None:
    project.configure(
        stores={"s": {"dsn": dsn}},
        projections={"p": {"python": "p:count", "tables": [table], **options}},
    )
    project.write("p.py", FOLD)


def codes(project) -> set[str]:
    return {each["code"] for each in project.run("doctor", "--output", "json").json["findings"]}


@pytest.mark.parametrize(
    ("dump", "there_are"),
    [
        ("emmett-0.42.0", {"public.shopping_cart_summary"}),
        ("emmett-0.43.0-beta.39", {"public.shopping_cart_summary", "public.client_totals_v2"}),
        ("marten-9.58-v1", {"public.mt_doc_account"}),
        ("marten-9.58-v2", {"docs.mt_doc_account"}),
        ("marten-9.58-v3", set()),
        # Natural keys: an order is a snapshot that is written inline.
        ("marten-9.58-v5", {"public.mt_doc_order"}),
    ],
)
def test_tables_of_inline_projections_are_known_by_the_librarys_own_tables(
    restored, dsn, dump, there_are
):
    restored(dump)
    found = {each for each in inline(dsn) if not each.endswith("mt_doc_deadletterevent")}
    assert found == there_are


def test_what_says_so_may_change(restored, dsn, connection):
    """A projection that gets a processor, one that is given up, one in another schema, and a table
    of the same name that is not Pongo's.
    """
    restored("emmett-0.43.0-beta.39")
    connection.execute(
        "UPDATE emt_projections SET status = 'inactive' WHERE name = 'client_totals_v2'"
    )
    assert inline(dsn) == {"public.shopping_cart_summary"}
    connection.execute(
        "CREATE SCHEMA docs; ALTER TABLE shopping_cart_summary SET SCHEMA docs; "
        "CREATE SCHEMA own; CREATE TABLE own.shopping_cart_summary (id text PRIMARY KEY, items int)"
    )
    assert inline(dsn) == {"docs.shopping_cart_summary"}
    connection.execute(
        "INSERT INTO emt_processors (processor_id, last_processed_checkpoint, "
        "last_processed_transaction_id, status) VALUES "
        "('emt:processor:projector:shopping_cart_summary', '0', '5', 'stopped')"
    )
    assert inline(dsn) == set()


def test_martens_versions_classes_and_flat_tables(restored, dsn, connection):
    restored("marten-9.58-v5")
    # As Marten makes one of a flat table's functions; the dumps have none.
    connection.execute(
        "CREATE FUNCTION mt_upsert_cart_flat_shoppingcartopened(uuid) RETURNS void LANGUAGE sql "
        "AS ''; CREATE TABLE cart (id uuid PRIMARY KEY)"
    )
    before = inline(dsn)
    assert "public.cart_flat" not in before, "it has a row of progress"
    connection.execute("DELETE FROM mt_event_progression WHERE name = 'CartFlat:All'")
    assert inline(dsn) - before == {"public.cart_flat"}
    connection.execute(
        "UPDATE mt_event_progression SET name = 'ShoppingCart:V2:All' WHERE name = 'ShoppingCart:All'; "
        "CREATE TABLE mt_doc_shoppingcart_2 (LIKE mt_doc_shoppingcart INCLUDING ALL)"
    )
    assert "public.mt_doc_shoppingcart" in inline(dsn)
    assert "public.mt_doc_shoppingcart_2" not in inline(dsn)
    connection.execute(
        "UPDATE mt_event_progression SET name = 'ShoppingCartProjection:All' WHERE name = "
        "'ShoppingCart:V2:All'"
    )
    assert "public.mt_doc_shoppingcart" not in inline(dsn)


@pytest.mark.parametrize(
    ("dump", "table"),
    [("emmett-0.42.0", "shopping_cart_summary"), ("marten-9.58-v1", "mt_doc_account")],
)
def test_nobody_writes_to_a_table_that_the_application_writes(
    restored, project, dsn, connection, dump, table
):
    restored(dump)
    options = {"ddl": "p.sql", "switch": "rename"}
    configure(project, dsn, table, **options)
    key = "_id text" if dump.startswith("emmett") else "id uuid"
    project.write("p.sql", f"CREATE TABLE {{table}} ({key} PRIMARY KEY, data jsonb)")
    assert "ESOPS-D086" in codes(project)
    for command in (
        ("rebuild", "--blue-green", "--dry-run"),
        ("rebuild", "--blue-green", "--max-diff", "100%", "--compare", "counts"),
        ("rebuild", "--dry-run"),
        ("rebuild", "--yes"),
        ("rebuild", "--yes", "--ranges", "4"),
    ):
        refused = project.run(*command)
        assert (refused.code, "in the transaction of each append" in refused.err) == (6, True)
    # What is only built and compared writes to nothing of the application's.
    plan = project.ok("rebuild", "--blue-green", "--no-switch", "--dry-run").out
    assert "in the transaction of each append" in plan
    project.ok("rebuild", "--blue-green", "--no-switch", "--compare", "none")
    refused = project.run("projection", "switch", "p", "--to", "2", "--allow-stale")
    assert (refused.code, "in the transaction of each append" in refused.err) == (6, True)
    # As an esops did that knew nothing of it: what serves is not advanced.
    connection.execute(
        "UPDATE esops.versions SET state = CASE version WHEN 2 THEN 'active' ELSE 'standby' END"
    )
    refused = project.run("run", "--until-caught-up")
    assert (refused.code, "in the transaction of each append" in refused.err) == (6, True)
    assert "ESOPS-D086" in codes(project)


def test_a_table_in_martens_form_that_esops_made_is_its_own(restored, project, dsn, connection):
    restored("marten-9.58-v1")
    ignored = {"ignore": ["mt_last_modified"]}
    configure(project, dsn, "mt_doc_counted", ddl="p.sql", switch="rename", verify=ignored)
    project.write(
        "p.sql",
        "CREATE TABLE {table} (id uuid PRIMARY KEY, data jsonb, "
        "mt_last_modified timestamptz DEFAULT now())",
    )
    for _ in range(2):
        project.ok("rebuild", "--blue-green")
    assert "public.mt_doc_counted" in inline(dsn)
    project.ok("run", "--until-caught-up")
    assert "ESOPS-D086" not in codes(project)
    # Emmett's list is of what the application registered, whoever made the table.
    connection.execute("DROP SCHEMA esops CASCADE")
    assert "ESOPS-D086" in codes(project)
