"""Streams that Marten's CompactStreamAsync has compacted, over databases that the real library
wrote: a rebuild, doctor and `esops run` see them wherever they are.
"""

from __future__ import annotations

import json

import pytest

from tests.integration.test_marten_fixtures import (
    COMPACTED,
    REBUILD,
    configure,
    findings,
    marten,
)

__all__ = ["marten"]  # a fixture


@pytest.fixture
def compact(connection):
    """Compact a stream up to a version, as StreamCompactingRequest does."""

    def done(stream, up_to: int | None = None) -> None:
        rows = connection.execute(
            "SELECT seq_id, version, type, data FROM mt_events WHERE stream_id = %s "
            "AND is_archived IS NOT TRUE AND version <= coalesce(%s, version) ORDER BY version",
            (stream, up_to),
        ).fetchall()
        client, items = None, 0
        for _, _, kind, data in rows:
            if kind == "shopping_cart_opened":
                client = data["ClientId"]
            sign = {"product_item_added": 1, "product_item_removed": -1}.get(kind, 0)
            items += sign * data.get("Quantity", 0)
        *before, last = rows
        connection.execute(
            "DELETE FROM mt_events WHERE seq_id = ANY(%s)", ([seq for seq, *_ in before],)
        )
        connection.execute(
            "UPDATE mt_events SET type = %s, id = gen_random_uuid(), data = %s WHERE seq_id = %s",
            (
                COMPACTED,
                json.dumps({"Snapshot": {"ClientId": client, "Items": items}}),
                last[0],
            ),
        )
        connection.execute(
            "UPDATE mt_streams SET compacted_version = %s WHERE id = %s "
            "AND is_archived IS NOT TRUE",
            (last[1], stream),
        )

    return done


def carts_with(connection, kind: str, many: int) -> list:
    """Streams with an event of a type as their last."""
    rows = connection.execute(
        "SELECT e.stream_id FROM mt_events e JOIN mt_streams s ON s.id = e.stream_id "
        "AND s.version = e.version WHERE e.type = %s ORDER BY 1 LIMIT %s",
        (kind, many),
    ).fetchall()
    return [stream for (stream,) in rows]


def check_it_is_seen(project, streams: int) -> None:
    words = f"{streams} stream{'s begin' if streams > 1 else ' begins'} with '{COMPACTED}'"
    assert words in findings(project)["ESOPS-D077"]["message"]
    refused = project.run(*REBUILD)
    assert (refused.code, words in refused.err) == (6, True), refused.err


def test_a_stream_compacted_at_its_first_version(project, dsn, connection, marten, compact):
    marten("v1")
    configure(project, dsn)
    for stream in carts_with(connection, "shopping_cart_confirmed", 3):
        compact(stream, 1)
    check_it_is_seen(project, 3)
    configure(project, dsn, f'begins_with = ["{COMPACTED}"]', python="aware")
    project.ok(*REBUILD)
    assert connection.execute("SELECT count(*) FROM carts WHERE client IS NULL").fetchone() == (0,)


@pytest.mark.parametrize("wholly", [0, 5])
def test_what_is_left_tells_nothing_of_what_was_lost(
    project, dsn, connection, marten, compact, wholly
):
    """The projection reads none of the events that the carts have yet."""
    marten("v1")
    configure(project, dsn)
    for number, stream in enumerate(carts_with(connection, "shopping_cart_confirmed", 6)):
        version = "SELECT version - 1 FROM mt_streams WHERE id = %s"
        (last,) = connection.execute(version, (stream,)).fetchone()
        compact(stream, None if number < wholly else last)
    check_it_is_seen(project, 6)
    # Accounts are another matter.
    text = (project.folder / "esops.toml").read_text()
    others = ["account_opened", "money_deposited", "money_withdrawn"]
    types = next(line for line in text.splitlines() if line.strip().startswith("events"))
    project.write("esops.toml", text.replace(types, f"events = {json.dumps(others)}"))
    assert "ESOPS-D077" not in findings(project)
    # Where nothing tells of what kind they are, they may be of any.
    connection.execute("UPDATE mt_streams SET type = NULL")
    assert "6 streams begin" in findings(project)["ESOPS-D077"]["message"]


def test_a_name_that_was_used_again_after_its_archiving(project, dsn, connection, marten, compact):
    """The events of the first life are still there, from version 1 on."""
    marten("v3")
    configure(project, dsn)
    twice = "SELECT id FROM mt_streams GROUP BY 1 HAVING count(*) > 1"
    ((stream,),) = connection.execute(twice).fetchall()
    assert "ESOPS-D077" not in findings(project)
    compact(stream)
    check_it_is_seen(project, 1)


def test_a_snapshot_that_readers_skip(project, dsn, connection, marten):
    """MarkEventsAsSkipped: the stream begins with the event after it."""
    truth = marten("v4")
    configure(project, dsn)
    connection.execute("UPDATE mt_events SET is_skipped = TRUE WHERE type = %s", (COMPACTED,))
    seen = findings(project)["ESOPS-D077"]["message"]
    refused = project.run(*REBUILD)
    assert refused.code == 6
    assert any(stream in seen for stream in truth["Extra"]["compacted"])
