"""A `ddl` file and the table that serves: names that the file gives work in each rebuild, and what
it leaves out is taken over or stands in the plan.
"""

from __future__ import annotations

import re

import pytest

from tests.support import shop
from tests.support.cases import thorough_but

NAMED = """
CREATE TABLE {table} (
    cart_id text CONSTRAINT cart_key PRIMARY KEY, client text NOT NULL, items integer NOT NULL,
    total numeric(12, 2) NOT NULL CONSTRAINT sane CHECK (total > -1000000), status text NOT NULL,
    position bigint NOT NULL, CONSTRAINT once UNIQUE (position)
);
CREATE INDEX cart_client_idx ON {table} (client);
CREATE INDEX IF NOT EXISTS cart_status_idx ON {table} (status, total);
CREATE STATISTICS public.together ON status, client FROM {table};
"""
BY_HAND = """
CREATE INDEX plain ON {t} (items);
CREATE INDEX partial ON {t} (client, total) WHERE status = 'open';
CREATE INDEX expression ON {t} (lower(client)) WITH (fillfactor = 70);
CREATE STATISTICS kinds (dependencies) ON items, status FROM {t};
COMMENT ON INDEX plain IS 'made at night'; COMMENT ON STATISTICS kinds IS 'of items';
ALTER INDEX expression ALTER COLUMN 1 SET STATISTICS 77;
COMMENT ON COLUMN {t}.client IS 'who'; COMMENT ON TABLE {t} IS 'carts';
COMMENT ON INDEX {client_idx} IS 'by client';
ALTER TABLE {t} SET (fillfactor = 80, toast.autovacuum_enabled = false);
ALTER TABLE {t} ALTER client SET STATISTICS 300, ALTER status SET STORAGE external,
    ALTER status SET COMPRESSION pglz;
"""
RULES = """
CREATE UNIQUE INDEX one_of ON {t} (cart_id, client);
ALTER TABLE {t} ADD CONSTRAINT never CHECK (items > -1000), ADD CONSTRAINT two UNIQUE (items, cart_id),
    ADD CONSTRAINT apart EXCLUDE USING btree (cart_id WITH =), ALTER status SET DEFAULT 'new';
"""
LOST = (
    "unique index one_of, which the DDL leaves out. To keep it: CREATE UNIQUE INDEX ON {table}",
    "check never, which the DDL leaves out. To keep it: ALTER TABLE {table} ADD CHECK",
    "key two, which the DDL leaves out. To keep it: ALTER TABLE {table} ADD UNIQUE (items, cart_id)",
    "key apart, which the DDL leaves out. To keep it: ALTER TABLE {table} ADD EXCLUDE",
    "default value 'new'::text of column status, which the DDL leaves out",
)
TAKEN = ("index plain", "index partial", "index expression", "statistics kinds")


def properties(connection, table: str) -> dict[str, list]:
    """What the catalogue says of a table, without the names of versions."""
    found = {
        "indexes": """
            SELECT pg_get_indexdef(i.indexrelid), obj_description(i.indexrelid, 'pg_class'),
                   (SELECT max(attstattarget) FROM pg_attribute WHERE attrelid = i.indexrelid)
              FROM pg_index i WHERE i.indrelid = %s::regclass AND i.indisvalid""",
        "statistics": """
            SELECT pg_get_statisticsobjdef(oid), obj_description(oid, 'pg_statistic_ext')
              FROM pg_statistic_ext WHERE stxrelid = %s::regclass""",
        "table": """
            SELECT obj_description(c.oid, 'pg_class'), c.reloptions, t.reloptions
              FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid
             WHERE c.oid = %s::regclass""",
        "columns": """
            SELECT attname, attstattarget, attstorage::text, attcompression::text,
                   col_description(attrelid, attnum)
              FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0""",
    }
    return {
        what: sorted(
            re.sub(r"__v\d+", "", str(row))
            for row in connection.execute(query, (table,)).fetchall()
        )
        for what, query in found.items()
    }


@pytest.mark.parametrize("mode", thorough_but(["view", "rename"], "view"))
def test_names_in_the_file_work_each_time_and_what_it_leaves_out_is_not_lost(
    mode, dsn, connection, project
):
    shop.make(dsn, 40)
    shop.configure(project, dsn, ddl=NAMED, projection_options=f'switch = "{mode}"')

    def serving(version: int) -> str:
        return "cart_summary" if mode == "rename" else f"cart_summary__v{version}"

    def rebuilt(version: int) -> tuple[str, str]:
        plan = project.ok("rebuild", "--blue-green", "--dry-run", "--output", "json").json
        project.ok("rebuild", "--blue-green")
        kinds = ("taken over from blue", "not carried over from blue")
        return tuple("\n".join(n for n in plan["notes"] if n.startswith(kind)) for kind in kinds)

    rebuilt(1)
    as_the_file = properties(connection, serving(1))
    suffix = "" if mode == "rename" else "__v1"
    names = {"t": serving(1), "client_idx": f"cart_client_idx{suffix}"}
    connection.execute(BY_HAND.format(**names))
    by_hand = properties(connection, serving(1))
    connection.execute(RULES.format(**names))
    taken, lost = rebuilt(2)
    assert [each for each in TAKEN if f"leaves it out: {each}. To be without" not in taken] == []
    assert [each for each in LOST if f"not carried over from blue: {each}" not in lost] == []
    assert lost.count("\n") == len(LOST) - 1, lost
    assert properties(connection, serving(2)) == by_hand
    # Blue has its names still, so that a rollback finds them.
    before = properties(connection, "cart_summary__v1")
    assert set(by_hand["indexes"]) - set(before["indexes"]) == set()
    # It is not forgotten by the third version, and what the file does not make any more is.
    fewer = NAMED.replace("CREATE INDEX cart_client_idx ON {table} (client);", "")
    shop.configure(project, dsn, ddl=fewer, projection_options=f'switch = "{mode}"')
    taken, lost = rebuilt(3)
    assert [each for each in TAKEN if each not in taken] == []
    assert lost == (
        "not carried over from blue: index cart_client_idx, which the DDL made for v2 and does not "
        "make now"
    )
    now = properties(connection, serving(3))
    assert len(now["indexes"]) == len(by_hand["indexes"]) - 1
    project.ok("projection", "rollback", "cart_summary")
    assert properties(connection, serving(2)) == by_hand
    assert set(as_the_file["indexes"]) <= {
        *by_hand["indexes"],
        *(each.replace("'by client'", "None") for each in as_the_file["indexes"]),
    }


def test_the_file_has_the_last_word(dsn, connection, project):
    """What it says itself is not replaced by what blue has."""
    shop.make(dsn, 20)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    connection.execute("""
        COMMENT ON TABLE cart_summary__v1 IS 'old'; COMMENT ON COLUMN cart_summary__v1.items IS 'old';
        ALTER TABLE cart_summary__v1 SET (fillfactor = 50, autovacuum_enabled = false);
        CREATE INDEX of_old ON cart_summary__v1 (client)""")
    own = shop.DDL.replace(");", ") WITH (fillfactor = 90);", 1) + (
        "COMMENT ON COLUMN {table}.items IS 'new'; CREATE UNIQUE INDEX ON {table} (client, cart_id);"
    )
    gone = own.replace("client text NOT NULL,", "").replace("(client, cart_id)", "(cart_id, items)")
    shop.configure(project, dsn, ddl=own)
    project.ok("rebuild", "--blue-green")
    found = properties(connection, "cart_summary__v2")
    assert found["table"][0].startswith("('what is in each cart', ['fillfactor=90', 'autovacuum")
    assert any("'items'" in row and "'new'" in row for row in found["columns"])
    assert any("INDEX of_old" in row for row in found["indexes"])
    # What does not suit green's columns is named.
    shop.configure(project, dsn, ddl=gone)
    plan = project.ok("rebuild", "--blue-green", "--dry-run", "--no-switch").out
    assert "not carried over from blue: index of_old, which does not suit green" in plan


def test_a_name_that_something_else_has_is_refused_by_the_plan(dsn, connection, project):
    shop.make(dsn, 20)
    connection.execute(
        "CREATE TABLE other (client text); CREATE INDEX cart_client_idx ON other (client)"
    )
    shop.configure(project, dsn, ddl=NAMED)
    refused = project.run("rebuild", "--blue-green", "--dry-run")
    assert refused.code == 2
    assert '"cart_client_idx" already exists' in refused.err
    assert "leave the name out" in refused.err


@pytest.mark.thorough
def test_an_index_keeps_its_name_where_a_view_shows_the_table(dsn, connection, project):
    """Without a `ddl` file: under its own name, with the version."""
    shop.make(dsn, 20)
    connection.execute(shop.DDL.replace("{table}", "cart_summary"))
    connection.execute("CREATE INDEX my_name ON cart_summary (client, items)")
    shop.configure(project, dsn)
    path = project.folder / "esops.toml"
    path.write_text(path.read_text().replace('ddl = "cart_summary.sql"\n', ""))
    for version in (2, 3):
        project.ok("rebuild", "--blue-green", "--max-diff", "999")
        names = connection.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass",
            (f"cart_summary__v{version}",),
        ).fetchall()
        assert sorted(names) == [
            (f"cart_summary__v{version}_pkey",),
            (f"cart_summary__v{version}_status_total_idx",),
            (f"my_name__v{version}",),
        ]
