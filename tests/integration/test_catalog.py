"""The catalogue under other people's DDL."""

import threading

import psycopg

from esops.postgres.catalog import find_table


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
