"""Keys that somebody writes are held against the columns of the table."""

from __future__ import annotations

from esops.check.key_text import canonical_keys
from esops.postgres import catalog

CASES = [
    ("varchar(4)", "abXY", "abXY", "abXYZ"),
    ("char(4)", "ab", "ab  ", "abcde"),
    ("name", "short", "short", "n" * 64),
    ("numeric(4, 1)", "1.30", "1.3", "1.26"),
    ("timestamp(0)", "2026-01-01", "2026-01-01 00:00:00", "2026-01-01 00:00:00.7"),
    ("bit(3)", "101", "101", "1010"),
    ("cut", "abXY", "abXY", "abXYZ"),
    ("integer", "007", "7", None),
    ("text", "x" * 100, "x" * 100, None),
]


def test_a_value_that_its_column_changes_is_no_key(connection):
    connection.execute("CREATE DOMAIN cut AS varchar(4)")
    for kind, right, written, other in CASES:
        connection.execute("DROP TABLE IF EXISTS keyed")
        connection.execute(f"CREATE TABLE keyed (id {kind}, part text, PRIMARY KEY (id, part))")
        table = catalog.find_table(connection, "public", "keyed")
        keys = [(right, "a"), *([] if other is None else [(other, "a")])]
        found, none = canonical_keys(connection, table, table.key, [*keys, *keys])
        assert found == [(written.rstrip(), "a")], kind
        assert none == [] if other is None else [(other, "a")], kind
