"""What is equal to a comparison: by type, whatever the collation says."""

from __future__ import annotations

import psycopg
import pytest

from esops.postgres import catalog
from esops.postgres.connection import connect
from esops.postgres.session import READ
from esops.rebuild.verification import comparison
from esops.rebuild.verification.sides import Sides
from tests.support import installed_postgres

COLLATION = """
CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level1', deterministic = false)
"""


class Comparing:
    """Two tables in a database, made and compared."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(
        self, columns: str, blue: str, green: str, method="exact", *, ignore=(), expected=()
    ):
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for side, rows in (("blue", blue), ("green", green)):
                connection.execute(
                    f"DROP TABLE IF EXISTS {side}; CREATE TABLE {side} ({columns});"
                    f"INSERT INTO {side} {rows}"
                )
        with connect(self.dsn, "test", READ) as snapshot:
            tables = [catalog.find_table(snapshot, "public", side) for side in ("blue", "green")]
            return comparison.compare(
                snapshot, Sides.of(*tables, tables[1].key, ignore, expected), method
            )


@pytest.fixture
def compare(dsn):
    return Comparing(dsn)


@pytest.fixture(scope="module")
def careless():
    """A server with ICU, which the embedded one lacks, and a collation in which Bob is BOB."""
    if not installed_postgres.versions():
        pytest.skip("no Postgres with ICU is installed")
    with installed_postgres.cluster(installed_postgres.versions()[-1]) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(COLLATION)
        yield Comparing(dsn)


@pytest.mark.parametrize("method", ["exact", "sample"])
def test_text_is_bytes_in_every_collation(careless, method):
    columns = "id int PRIMARY KEY, name text COLLATE careless"
    some = "SELECT n, 'Bob' FROM generate_series(1, 50) AS n"
    other = some.replace("Bob", "BOB")
    assert careless(columns, some, some, method).differing == 0
    found = careless(columns, some, other, method)
    seen = 2 if method == "sample" else 1
    assert (found.differing, found.columns) == (50 * seen, {"name": 50 * seen})
    assert found.samples[0]["blue"] == {"name": "Bob"}
    # As a key, too: a row of another name is another row.
    columns = "name text COLLATE careless PRIMARY KEY, id int"
    found = careless(columns, "VALUES ('Bob', 1)", "VALUES ('BOB', 1)", method)
    assert (found.differing, found.only_blue, found.only_green) == (2, 1, 1)
