"""Of an event that several archived runs have, the newest run's is taken."""

from __future__ import annotations

from types import SimpleNamespace

import duckdb

from esops.stores.archive.reading import Database


def test_runs_of_one_second_are_sorted_by_when_they_selected():
    """Their names end at random."""
    names = [
        "20260101T000000Z-old-ffffff",
        "20260101T000001Z-old-ffffff",
        "20260101T000001Z-new-000000",
        "20260101T000002Z-old-000000",
    ]
    database = Database.__new__(Database)
    database.runs = [
        (SimpleNamespace(name=name), SimpleNamespace(selected_at=number))
        for number, name in enumerate(names)
    ]
    values = ", ".join(f"('{name}')" for name in names)
    found = duckdb.sql(
        f"SELECT run FROM (VALUES {values}) AS r(run) ORDER BY {database._newest_first()}"
    ).fetchall()
    assert [row[0] for row in found] == names[::-1]
    database.runs = database.runs[:2]
    assert database._newest_first() == "run DESC"
