"""The catalogue under other people's DDL."""

import threading

import psycopg

from esops.postgres.catalog import any_table, find_table, has_table


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
            for _ in range(3000):
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
