"""Chosen rows are made right at the version's checkpoint, whatever follows it at the same time."""

from __future__ import annotations

import pytest

from tests.support import shop

TABLE = "cart_summary__v1"


@pytest.fixture
def served(dsn, connection, project):
    """A shop of which a version serves, and is not followed."""
    shop.make(dsn, 600)
    shop.configure(project, dsn)
    project.ok("rebuild", "cart_summary", "--blue-green")
    return project


def keys(connection, number: int) -> list[str]:
    rows = connection.execute(
        f"SELECT cart_id FROM {TABLE} ORDER BY md5(cart_id) LIMIT %s", (number,)
    )
    return [row[0] for row in rows]


def spoil(connection, wrong: list[str]) -> None:
    """A row that is missing, one too many, and others with another value."""
    missing, *others = wrong
    connection.execute(f"DELETE FROM {TABLE} WHERE cart_id = %s", (missing,))
    connection.execute(
        f"UPDATE {TABLE} SET total = total + 1, items = items - 1 WHERE cart_id = ANY(%s)",
        (others,),
    )
    connection.execute(
        f"INSERT INTO {TABLE} SELECT 'nobody', client, items, total, status, position FROM {TABLE} "
        "LIMIT 1"
    )
    connection.execute("UPDATE esops.versions SET rows = (SELECT count(*) FROM cart_summary__v1)")


def test_only_the_rows_that_are_wrong_are_written_and_the_checkpoint_stays(served, connection):
    wrong = keys(connection, 5)
    before = connection.execute("SELECT position, events FROM esops.versions").fetchall()
    spoil(connection, wrong)
    right = [each for each in keys(connection, 20) if each not in wrong]
    rows = f"SELECT cart_id, xmin FROM {TABLE} WHERE cart_id = ANY(%s) ORDER BY 1"
    untouched = connection.execute(rows, (right,)).fetchall()
    chosen = ",".join([*wrong, *right, "nobody"])
    shown = served.run("rebuild", "cart_summary", "--keys", chosen, "-n", "--output", "json")
    assert shown.code == 0, shown.err
    assert (shown.json["healed"], shown.json["differing"]) == (0, 6)
    done = served.ok("rebuild", "cart_summary", "--keys", chosen, "--yes", "--output", "json").json
    assert {name: done[name] for name in ("inserted", "updated", "deleted", "healed")} == {
        "inserted": 1,
        "updated": 4,
        "deleted": 1,
        "healed": 6,
    }
    shop.check_version(connection, 1)
    assert connection.execute(rows, (right,)).fetchall() == untouched
    assert connection.execute("SELECT position, events FROM esops.versions").fetchall() == before
    again = served.ok("rebuild", "cart_summary", "--streams", chosen, "--yes", "--output", "json")
    assert again.json["healed"] == 0
