"""Statements of transactions in a user's DDL."""

from __future__ import annotations

import pytest

from esops.readmodel.ddl_text import of_transactions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("CREATE TABLE {table} (a int); COMMIT; CREATE TABLE leaked (a int)", "COMMIT"),
        ("begin; CREATE TABLE {table} (a int); end", "BEGIN"),
        ("CREATE TABLE {table} (a int);\n/* /* */ ; */ Rollback AND CHAIN;", "ROLLBACK AND"),
        ("START  TRANSACTION; CREATE TABLE {table} (a int)", "START TRANSACTION"),
        ("SELECT 'it''s'; COMMIT", "COMMIT"),
        (r"SELECT E'it\'s; '; COMMIT", "COMMIT"),
        ("PREPARE TRANSACTION 'a'", "PREPARE TRANSACTION"),
        ("DO $$ BEGIN NULL; END $$; ; COMMIT", "COMMIT"),
        ("DO $a$ BEGIN COMMIT; END; $$ $a$; CREATE TABLE {table} (a int)", None),
        ('CREATE TABLE {table} ("end; commit" int, b int /* ; COMMIT */ -- ; COMMIT\n)', None),
        ("COMMENT ON TABLE {table} IS '; COMMIT; '; PREPARE a AS SELECT 1", None),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END; A",
            None,
        ),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; END", "END"),
        ("SELECT $1; COMMIT", "COMMIT"),
        ("SAVEPOINT a; ROLLBACK TO a; RELEASE a; ROLLBACK WORK TO SAVEPOINT a", None),
    ],
)
def test_the_first_statement_of_a_transaction(text, found):
    assert of_transactions(text) == found
