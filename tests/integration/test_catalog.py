"""The catalogue under other people's DDL."""

import threading

import psycopg

from esops.postgres import catalog
from esops.postgres.catalog import any_table, find_table, has_table
from esops.postgres.statements import statements
from esops.readmodel.composition import composition


def test_a_table_that_goes_while_it_is_read_has_all_its_columns_or_is_not_there(dsn):
    stop = threading.Event()

    def drop_and_create():
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("CREATE TABLE restless (id text PRIMARY KEY, n int)")
                connection.execute("DROP TABLE restless")

    thread = threading.Thread(target=drop_and_create)
    thread.start()
    seen = set()
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for _ in range(1000):
                table = find_table(connection, "public", "restless")
                seen.add(table and tuple(column.name for column in table.columns))
    finally:
        stop.set()
        thread.join()
    assert seen == {None, ("id", "n")}


def test_a_table_without_anything_special_is_read_as_any_other(connection):
    connection.execute(
        """
        CREATE COLLATION other FROM "C";
        CREATE DOMAIN amount AS numeric CHECK (VALUE > 0);
        CREATE TYPE state AS ENUM ('open', 'closed');
        CREATE TYPE pair AS (a int, b float8);
        CREATE TABLE plain (a text, "B b" int NOT NULL, c jsonb, d uuid, e numeric(9, 2), f bytea,
            PRIMARY KEY ("B b", a) INCLUDE (c));
        ALTER TABLE plain DROP COLUMN d;
        CREATE TABLE "by C" (a text COLLATE "C", b varchar(20) COLLATE "POSIX", c oid, d name);
        CREATE TABLE nothing ();
        CREATE TABLE of_domain (a amount PRIMARY KEY);
        CREATE TABLE of_enum (a state, b int);
        CREATE TABLE of_array (a int, b numeric[]);
        CREATE TABLE of_row (a pair);
        CREATE TABLE of_others (a text COLLATE other, b bpchar, c point, d int8range);
        CREATE TABLE parts (a int, b text, PRIMARY KEY (b, a)) PARTITION BY LIST (b);
        CREATE TABLE part PARTITION OF parts FOR VALUES IN ('x');
        CREATE VIEW seen AS SELECT a, "B b" FROM plain;
        CREATE MATERIALIZED VIEW kept AS SELECT a FROM plain;
        ALTER TABLE of_enum ENABLE ROW LEVEL SECURITY;
        """
    )
    made = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p', 'v', 'm')"
    ).fetchall()
    assert len(made) == 12
    for (name,) in made:
        assert has_table(connection, "public", name)
        found = find_table(connection, "public", name)
        assert found is not None
        assert found == any_table(connection, "public", name)
    assert find_table(connection, "public", "plain").key == ("B b", "a")
    assert find_table(connection, "public", "none") is None
    assert not has_table(connection, "public", "none")


def test_the_types_that_are_known_by_number_are_those_of_the_server(connection):
    known = connection.execute(
        "SELECT oid::text, typname FROM pg_type "
        "WHERE oid::text = ANY(%s) AND typtype = 'b' AND typelem = 0",
        (list(catalog._TYPES),),
    ).fetchall()
    assert dict(known) == catalog._TYPES


def test_what_a_table_has_is_the_same_by_the_quick_query_and_by_the_one_that_knows_all(connection):
    connection.execute(
        """
        CREATE COLLATION other FROM "C";
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TABLE plain (a text PRIMARY KEY, "B b" int NOT NULL DEFAULT 2 + 3,
            c varchar(9) COLLATE "C" UNIQUE, d numeric(9, 2) GENERATED ALWAYS AS ("B b" * 2) STORED,
            e int GENERATED ALWAYS AS IDENTITY);
        CREATE INDEX ON plain (lower(c)) WHERE "B b" > 0;
        ALTER TABLE plain ALTER a SET STORAGE EXTERNAL, ALTER c SET STATISTICS 7,
            CLUSTER ON plain_pkey, DROP COLUMN d;
        CREATE TABLE bare (a int);
        """
    )
    made = {
        "checked": "CREATE TABLE checked (a int CHECK (a > 0))",
        "referring": "CREATE TABLE referring (a text REFERENCES plain (a))",
        "not_enforced": "CREATE TABLE not_enforced (a text REFERENCES plain (a) NOT ENFORCED)",
        "measured": "CREATE TABLE measured (a int, b int); CREATE STATISTICS of ON a, b FROM measured",
        "filled": "CREATE TABLE filled (a int) WITH (fillfactor = 70)",
        "toasted": "CREATE TABLE toasted (a text) WITH (toast.autovacuum_enabled = false)",
        "unlogged": "CREATE UNLOGGED TABLE unlogged (a int)",
        "identified": "CREATE TABLE identified (a int); ALTER TABLE identified REPLICA IDENTITY FULL",
        "told": "CREATE TABLE told (a int); COMMENT ON COLUMN told.a IS 'x'",
        "of_index": "CREATE TABLE of_index (a int); CREATE INDEX i ON of_index (a); "
        "COMMENT ON INDEX i IS 'x'",
        "of_key": "CREATE TABLE of_key (a int, CONSTRAINT k PRIMARY KEY (a)); "
        "COMMENT ON CONSTRAINT k ON of_key IS 'x'",
        "ruled": "CREATE TABLE ruled (a int); "
        "CREATE RULE r AS ON DELETE TO ruled DO INSTEAD NOTHING",
        "triggered": "CREATE TABLE triggered (a int); CREATE TRIGGER t BEFORE INSERT ON triggered "
        "FOR EACH ROW EXECUTE FUNCTION nothing()",
        "secured": "CREATE TABLE secured (a int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY",
        "permitted": "CREATE TABLE permitted (a int); CREATE POLICY p ON permitted USING (a > 0)",
        "published": "CREATE TABLE published (a int); CREATE PUBLICATION p FOR TABLE published",
        "parts": "CREATE TABLE parts (a int PRIMARY KEY) PARTITION BY LIST (a); "
        "CREATE TABLE part PARTITION OF parts FOR VALUES IN (1)",
        "child": "CREATE TABLE child () INHERITS (bare)",
    }
    if connection.info.server_version < 180000:
        del made["not_enforced"]
    full = statements("esops.readmodel", "composition")["composition"]
    connection.execute("SET search_path = ''")

    def kinds_of(name):
        """The kinds of what a table has, once both queries have said the same."""
        oid = connection.execute("SELECT %s::regclass::oid", (f"public.{name}",)).fetchone()[0]
        parts = [(each.kind, each.name, each.text) for each in composition(connection, oid)]
        said = connection.execute(full, {"oid": oid}).fetchall()
        assert [each for each in parts if each[0] != "publication"] == said
        return {kind for kind, *_ in parts}

    assert kinds_of("plain") == {"column", "index"}
    assert kinds_of("bare") == {"column"}
    connection.execute("SET search_path = public")
    for statement in made.values():
        connection.execute(statement)
    connection.execute("SET search_path = ''")
    for name in ("part", *made):
        assert kinds_of(name) - {"column", "index"}, name
