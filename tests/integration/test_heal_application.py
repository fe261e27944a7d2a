"""Rows that a processor of the application keeps: statements that do nothing where a row has changed
since, run by esops only where the processor has stopped.
"""

from __future__ import annotations

import pytest

from esops.check.served_rows import ServedRows
from esops.stores.postgres.layouts.marten import liveness
from tests.integration.test_handover import carts, looked_away  # noqa: F401 - a fixture
from tests.integration.test_heal import guard
from tests.support import shop

AT = 1_500


def test_statements_make_rows_right_or_do_nothing(carts, connection):  # noqa: F811
    names = [
        row[0] for row in connection.execute("SELECT cart_id FROM cart_summary ORDER BY 1 LIMIT 6")
    ]
    deleted, other, touched, right = names[:4]
    connection.execute("DELETE FROM cart_summary WHERE cart_id = %s", (deleted,))
    connection.execute(
        "UPDATE cart_summary SET total = total + 1, client = E'it''s \\\\ %%s' WHERE cart_id = ANY(%s)",
        ([other, touched],),
    )
    connection.execute("INSERT INTO cart_summary VALUES ('nobody', 'c', 1, 1, 'open', 1)")
    looked_away(connection)
    chosen = ("rebuild", "cart_summary", "--keys", ",".join([*names, "nobody"]))
    shown = carts.ok(*chosen, "--dry-run", "--output", "json").json
    assert (shown["differing"], shown["position"], shown["healed"]) == (4, str(AT), 0)
    assert not any(right in each for each in shown["statements"])
    # Somebody writes a row before they are run.
    connection.execute("UPDATE cart_summary SET items = items WHERE cart_id = %s", (touched,))
    for each in shown["statements"]:
        connection.execute(each.encode())
    truth = shop.truth(connection, AT)
    table = shop.table(connection, "cart_summary")
    assert table.pop(touched) != truth.pop(touched)
    assert table == truth
    looked_away(connection)
    running = carts.run(*chosen, "--yes")
    assert running.code == 6
    assert "--processor-stopped" in running.err
    to_write = (*chosen, "--yes", "--processor-stopped", "--output", "json")
    guard(connection, "cart_summary", "UPDATE")
    left = carts.run(*to_write)
    assert (left.code, left.json["healed"]) == (1, 0)
    assert [each["key"] for each in left.json["unfit"]] == [[touched]]
    connection.execute("DROP TRIGGER guard ON cart_summary")
    done = carts.run(*to_write).json
    assert (done["updated"], done["healed"], done["absent"]) == (1, 1, [["nobody"]])
    assert shop.table(connection, "cart_summary") == shop.truth(connection, AT)


@pytest.mark.parametrize(
    "begins",
    [
        "UPDATE shop.mt_event_progression SET last_seq_id = 1501 WHERE name = 'CartSummary:All'",
        # The daemon is there, and has moved nothing yet.
        f"SELECT pg_advisory_lock({liveness.DAEMON_LOCK})",
    ],
    ids=["moved", "alive"],
)
def test_nothing_is_written_where_the_processor_begins_meanwhile(
    carts,  # noqa: F811
    connection,
    monkeypatch,
    begins,
):
    (key,) = connection.execute(
        "UPDATE cart_summary SET total = total + 1"
        " WHERE cart_id = (SELECT min(cart_id) FROM cart_summary) RETURNING cart_id"
    ).fetchone()
    wrong = shop.table(connection, "cart_summary")
    looked_away(connection)
    written = ServedRows.see_written

    def begun(self, own, keys):
        written(self, own, keys)
        connection.execute(begins)
        looked_away(connection)

    monkeypatch.setattr(ServedRows, "see_written", begun)
    refused = carts.run("rebuild", "cart_summary", "--keys", key, "--yes", "--processor-stopped")
    assert (refused.code, "has begun to run again" in refused.err) == (6, True)
    assert shop.table(connection, "cart_summary") == wrong
