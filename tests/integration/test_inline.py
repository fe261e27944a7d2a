"""Tables that the application writes, in the transaction of each append or by a processor of its
own: recognised, and refused to whoever would write to them as well.
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


def configure(project, dsn: str, table: str, store: dict | None = None, **options) -> None:
    project.configure(
        stores={"s": {"dsn": dsn, **(store or {})}},
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
        # Under Wolverine, which keeps its envelopes as documents.
        ("marten-9.58-v6", set()),
    ],
)
def test_tables_of_inline_projections_are_known_by_the_librarys_own_tables(
    restored, dsn, dump, there_are
):
    restored(dump)
    assert {*inline(dsn)} == there_are


@pytest.mark.parametrize("own", ["mt_doc_envelope", "mt_doc_deadletterevent"])
def test_a_document_of_the_application_may_have_the_name_of_a_librarys_own(
    restored, dsn, connection, own
):
    """What a projection makes has a number as its revision."""
    restored("marten-9.58-v6")
    connection.execute(
        f"ALTER TABLE {own} DROP COLUMN mt_version, ADD COLUMN mt_version bigint NOT NULL DEFAULT 0"
    )
    assert f"public.{own}" in inline(dsn)


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
    [
        pytest.param("emmett-0.42.0", "shopping_cart_summary", marks=pytest.mark.thorough),
        ("marten-9.58-v1", "mt_doc_account"),
    ],
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


@pytest.mark.thorough
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


def kept(dsn: str) -> dict[str, tuple[str, ...]]:
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        return {f"{each.schema}.{each.name}": each.processors for each in store.inline.kept()}


PRODUCTS, CARTS = "emt:processor:projector:product_stats", "ShoppingCart:All"


@pytest.mark.parametrize(
    ("dump", "there_are"),
    [
        ("emmett-0.43.0-beta.39", {"public.product_stats": (PRODUCTS,)}),
        ("marten-9.58-v1", {"public.mt_doc_shoppingcart": (CARTS,)}),
        ("marten-9.58-v2", {"docs.mt_doc_shoppingcart": (CARTS,)}),
    ],
)
def test_tables_that_a_processor_makes_are_known_by_its_name(restored, dsn, dump, there_are):
    restored(dump)
    found = kept(dsn)
    assert there_are.items() <= found.items()
    assert found.keys().isdisjoint(inline(dsn))


@pytest.mark.parametrize(
    ("dump", "table", "own", "others", "with_each_append"),
    [
        pytest.param(
            "emmett-0.43.0-beta.39",
            "product_stats",
            PRODUCTS,
            ["shipping"],
            "shopping_cart_summary",
            marks=pytest.mark.thorough,
        ),
        (
            "marten-9.58-v1",
            "mt_doc_shoppingcart",
            CARTS,
            ["ClientTotals:All", "HighWaterMark"],
            "mt_doc_account",
        ),
    ],
)
def test_the_table_of_a_processor_is_taken_only_with_its_checkpoint(
    restored, project, dsn, connection, dump, table, own, others, with_each_append
):
    restored(dump)
    store = {}
    if dump.startswith("emmett"):
        store = {"tenant": "emt:default"}
        configure(project, dsn, table, store, switch="rename", live="app", checkpoint=own)
        refused = project.run("rebuild", "--blue-green", "--dry-run")
        assert (refused.code, "store_processor_checkpoint" in refused.err) == (6, True)
        assert "ESOPS-D093" in codes(project)
        connection.execute(emmett.STORE_CHECKPOINT)

    def planned(table: str, **options) -> tuple[int, str, set[str]]:
        configure(project, dsn, table, store, switch="rename", **options)
        done = project.run("rebuild", "--blue-green", "--dry-run")
        found = codes(project) & {"ESOPS-D086", "ESOPS-D093", "ESOPS-D098"}
        return done.code, done.err, found

    code, said, found = planned(table)
    assert (code, found) == (6, {"ESOPS-D086"})
    assert f'checkpoint = "{own}"' in said
    code, _, found = planned(table, live="app", checkpoint=own)
    assert (code, found) == (0, set())
    for name in [*others, own[:-1], "nothing"]:
        code, said, found = planned(table, live="app", checkpoint=name)
        assert (code, found) == (6, {"ESOPS-D093"}), name
        assert name in said
    code, said, found = planned(with_each_append, live="app", checkpoint=others[0])
    assert (code, found) == (6, {"ESOPS-D093"})
    assert 'live = "inline"' in said
    # It could not be rebuilt the other way around either.
    code, said, found = planned(table, live="inline")
    assert (code, found) == (6, {"ESOPS-D098"})
    assert f'checkpoint = "{own}"' in said


@pytest.mark.thorough
def test_a_processor_that_the_application_does_not_run_any_more(restored, project, dsn, connection):
    """What its message says to do."""
    restored("marten-9.58-v1")
    configure(project, dsn, "mt_doc_shoppingcart", switch="rename")
    assert project.run("rebuild", "--blue-green", "--dry-run").code == 6
    connection.execute("DELETE FROM mt_event_progression WHERE name = %s", (CARTS,))
    # Nothing tells then that the application does not write it inline.
    refused = project.run("rebuild", "--blue-green", "--dry-run")
    assert (refused.code, "in the transaction of each append" in refused.err) == (6, True)
    assert "rename it, and let esops make a new one" in refused.err
    connection.execute("ALTER TABLE mt_doc_shoppingcart RENAME TO before")
    ddl = "CREATE TABLE {table} (id uuid PRIMARY KEY, data jsonb, mt_last_modified timestamptz)"
    project.write("p.sql", ddl)
    for _ in range(2):
        configure(project, dsn, "mt_doc_shoppingcart", switch="rename", ddl="p.sql")
        project.ok("rebuild", "--blue-green")
    assert not codes(project) & {"ESOPS-D086"}


@pytest.mark.thorough
def test_an_emmett_projection_that_the_application_does_not_run_any_more(
    restored, project, dsn, connection
):
    """The same."""
    restored("emmett-0.43.0-beta.39")
    for table, statement in (
        ("product_stats", f"DELETE FROM emt_processors WHERE processor_id = '{PRODUCTS}'"),
        ("shopping_cart_summary", "SELECT 1"),
    ):
        configure(project, dsn, table, {"tenant": "emt:default"}, switch="rename")
        refused = project.run("rebuild", "--blue-green", "--dry-run")
        assert (refused.code, "to 'inactive'" in refused.err) == (6, True)
        connection.execute(statement)
        connection.execute(
            "UPDATE emt_projections SET status = 'inactive' WHERE name = %s", (table,)
        )
        project.ok("rebuild", "--blue-green", "--dry-run")


def test_a_table_of_several_shards_is_not_handed_over(restored, project, dsn, connection):
    restored("marten-9.58-v1")
    connection.execute(
        "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('ShoppingCart:Other', 5)"
    )
    configure(project, dsn, "mt_doc_shoppingcart", switch="rename", live="app", checkpoint=CARTS)
    refused = project.run("rebuild", "--blue-green", "--dry-run")
    assert (refused.code, "several processors" in refused.err) == (6, True)


def test_an_emmett_projection_whose_processor_has_a_name_of_its_own(
    restored, project, dsn, connection
):
    restored("emmett-0.43.0-beta.39")
    connection.execute(
        "UPDATE emt_processors SET processor_id = 'orders' WHERE processor_id = %s", (PRODUCTS,)
    )
    # As the library leaves it while that runs, and where it was killed.
    connection.execute(
        "UPDATE emt_projections SET status = 'async_processing' WHERE name = 'product_stats'"
    )
    assert "public.product_stats" not in inline(dsn)
    assert kept(dsn)["public.product_stats"] == ()
    options = {"store": {"tenant": "emt:default"}, "switch": "rename"}
    for live in ("esops", "inline"):
        configure(project, dsn, "product_stats", **options, live=live)
        refused = project.run("rebuild", "--blue-green", "--dry-run")
        assert (refused.code, "async_processing" in refused.err) == (6, True)
    connection.execute(emmett.STORE_CHECKPOINT)
    configure(project, dsn, "product_stats", **options, live="app", checkpoint="orders")
    plan = project.ok("rebuild", "--blue-green", "--dry-run").out
    assert (
        "nothing in the store tells that the processor 'orders' makes public.product_stats" in plan
    )


APPEND = """
INSERT INTO mt_events SELECT (jsonb_populate_record(e, jsonb_build_object(
    'seq_id', nextval('mt_events_sequence'), 'id', gen_random_uuid(), 'version', e.version + 1))).*
FROM mt_events e WHERE stream_id = %(stream)s ORDER BY version DESC LIMIT 1
"""


@pytest.mark.thorough
def test_rows_show_that_each_append_writes_them(restored, project, dsn, connection):
    """Marten keeps the row of progress of a projection that was async once, and a projection may
    have any name.
    """
    restored("marten-9.58-v1")
    streams = [row[0] for row in connection.execute("SELECT id FROM mt_doc_account LIMIT 3")]
    options = {"switch": "rename"}
    later = {"live": "app", "checkpoint": "Ledger:All"}
    connection.execute(
        "UPDATE mt_event_progression SET name = 'Ledger:All' WHERE name = 'ClientTotals:All'"
    )
    dry = ("rebuild", "--blue-green", "--dry-run")
    # A restored database shows nothing: what the operator says is noted, and goes.
    configure(project, dsn, "mt_doc_account", **options, **later)
    assert "nothing in the store tells that the processor 'Ledger:All'" in project.ok(*dry).out
    connection.execute(
        "INSERT INTO mt_event_progression SELECT 'Account:All', 3, now() - interval '1 day'"
    )
    configure(project, dsn, "mt_doc_account", **options, live="inline")
    refused = project.run(*dry)
    assert (refused.code, "delete its row from mt_event_progression" in refused.err) == (6, True)
    for stream in streams:
        with connection.transaction():
            connection.execute(APPEND, {"stream": stream})
            connection.execute(
                "UPDATE mt_doc_account SET mt_last_modified = now() WHERE id = %s", (stream,)
            )
    project.ok(*dry)
    assert "ESOPS-D098" not in codes(project)
    for each in (later, {"live": "app", "checkpoint": "Account:All"}, {}):
        configure(project, dsn, "mt_doc_account", **options, **each)
        refused = project.run(*dry)
        assert (refused.code, 'Set live = "inline"' in refused.err) == (6, True)
        assert codes(project) & {"ESOPS-D086", "ESOPS-D093"}


def test_rows_that_each_append_writes_are_known(restored, dsn, connection):
    """What has a row of progress, and is written in the transactions of its events."""
    restored("marten-9.58-v1")
    connection.execute("INSERT INTO mt_event_progression VALUES ('Account:All', 3)")
    for (stream,) in connection.execute("SELECT id FROM mt_doc_account LIMIT 3").fetchall():
        with connection.transaction():
            connection.execute(APPEND, {"stream": stream})
            connection.execute(
                "UPDATE mt_doc_account SET mt_last_modified = now() WHERE id = %s", (stream,)
            )
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        (table,) = (each for each in store.inline.kept() if each.name == "mt_doc_account")
        assert store.inline.written_with_events(table)


@pytest.mark.parametrize("later", [False, True])
def test_rows_of_a_processor_are_not_taken_for_those_of_appends(restored, dsn, connection, later):
    """Neither where they were restored, nor where something wrote them after the events."""
    restored("marten-9.58-v1")
    if later:
        for (stream,) in connection.execute(
            "SELECT id FROM mt_doc_shoppingcart LIMIT 9"
        ).fetchall():
            connection.execute(APPEND, {"stream": stream})
            connection.execute(
                "UPDATE mt_doc_shoppingcart SET mt_last_modified = now() WHERE id = %s", (stream,)
            )
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        (table,) = (each for each in store.inline.kept() if each.name == "mt_doc_shoppingcart")
        assert not store.inline.written_with_events(table)


@pytest.mark.parametrize(
    ("dump", "lines"),
    [
        (
            "emmett-0.43.0-beta.39",
            [
                '#   public.shopping_cart_summary: live = "inline", switch = "rename"',
                f'#   public.product_stats: live = "app", checkpoint = "{PRODUCTS}", switch = "rename"',
            ],
        ),
        (
            "marten-9.58-v5",
            [
                '#   public.mt_doc_order: live = "inline", switch = "rename"',
                f'#   public.mt_doc_shoppingcart: live = "app", checkpoint = "{CARTS}", switch = "rename"',
                '#   public.cart_flat: live = "app", checkpoint = "CartFlat:All", switch = "rename"',
            ],
        ),
    ],
)
def test_init_says_who_writes_each_table(restored, project, dsn, connection, dump, lines):
    restored(dump)
    if dump.startswith("marten"):
        # As Marten makes one of a flat table's functions; the dumps have none.
        connection.execute(
            "CREATE FUNCTION mt_upsert_cart_flat_shoppingcartopened(uuid) RETURNS void LANGUAGE "
            "sql AS ''"
        )
    said = project.ok("init", "--dsn", dsn, "--output-file", "found.toml").out
    assert 'live = "app", checkpoint' in said
    text = project.folder.joinpath("found.toml").read_text().splitlines()
    assert set(lines) <= set(text)
    assert not any("deadletter" in each for each in text if "live" in each)
    assert any(each.startswith("# live = ") for each in text)
