"""Streams that Marten's CompactStreamAsync has compacted, over databases that the real library
wrote: a rebuild, doctor and `esops run` see them wherever they are.
"""

from __future__ import annotations

import json
import sys

import pytest

from tests.integration.test_marten_fixtures import (
    CARTS,
    COMPACTED,
    REBUILD,
    configure,
    findings,
    marten,
)
from tests.support.cases import thorough_but

__all__ = ["marten"]  # a fixture
APPEND = """
WITH stream AS (UPDATE mt_streams SET version = version + 1 WHERE id = %s RETURNING id, version)
INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp, tenant_id)
SELECT nextval('mt_events_sequence'), gen_random_uuid(), id, version, '{"Quantity": 100}',
    'product_item_added', now(), '*DEFAULT*' FROM stream
"""


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


def check_it_is_seen(project, streams: int, kind: str = COMPACTED) -> None:
    words = f"{streams} stream{'s begin' if streams > 1 else ' begins'} with '{kind}'"
    assert words in findings(project)["ESOPS-D077"]["message"]
    refused = project.run(*REBUILD)
    assert (refused.code, words in refused.err) == (6, True), refused.err


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [COMPACTED, "JasperFx.Events.Compacted<Shop.ShoppingCart>"])
def test_a_stream_compacted_at_its_first_version(project, dsn, connection, marten, compact, kind):
    """Under both ways in which Marten names types of events."""
    marten("v1")
    configure(project, dsn)
    for stream in carts_with(connection, "shopping_cart_confirmed", 3):
        compact(stream, 1)
    connection.execute("UPDATE mt_events SET type = %s WHERE type = %s", (kind, COMPACTED))
    check_it_is_seen(project, 3, kind)
    configure(project, dsn, f'begins_with = ["{kind}"]', python="aware")
    project.write("carts.py", (project.folder / "carts.py").read_text().replace(COMPACTED, kind))
    project.ok(*REBUILD)
    assert connection.execute("SELECT count(*) FROM carts WHERE client IS NULL").fetchone() == (0,)


@pytest.mark.parametrize("wholly", thorough_but([0, 5], 0))
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


def test_what_is_compacted_before_a_version_reads_it_stops_the_version(
    project, dsn, connection, marten, compact
):
    """As by a night job of the application, while `esops run` was down."""
    marten("v1")
    configure(project, dsn)
    project.ok(*REBUILD)
    old, late = carts_with(connection, "shopping_cart_confirmed", 2)
    # All of it was read: the row is right, and stays so.
    compact(old)
    for stream in (old, late, late):
        connection.execute(APPEND, (stream,))
    project.ok("run", "carts", "--until-caught-up")
    items = "SELECT items FROM carts WHERE id = %s"
    (before,) = connection.execute(items, (str(late),)).fetchone()
    connection.execute(APPEND, (late,))
    compact(late)
    for _ in range(2):
        stopped = project.run("run", "carts", "--until-caught-up")
        assert stopped.code == 6, (stopped.out, stopped.err)
        assert f"1 stream begins with '{COMPACTED}'" in stopped.err
        assert str(late) in stopped.err
    assert connection.execute(items, (str(late),)).fetchone() == (before,)
    assert COMPACTED in project.run("status").out
    # The snapshot is what the fold can take.
    configure(project, dsn, f'begins_with = ["{COMPACTED}"]', python="aware")
    project.run("run", "carts", "--until-caught-up")
    project.ok(*REBUILD)
    assert connection.execute(items, (str(late),)).fetchone() == (before + 100,)


@pytest.mark.thorough
def test_a_store_joined_with_an_archive_knows_categories_as_well(
    project, dsn, connection, marten, tmp_path
):
    """Ids are UUIDs: the category is the stream's type, in Marten's own list."""
    marten("v4")
    joined = f"""
    archive = "cold"
    [archives.cold]
    repository = {json.dumps(str(tmp_path / "cold"))}
    [archives.cold.policies.accounts]
    store = "shop"
    category = "account"
    never_younger_than = "0s"
    remove = "keep"
    """
    configure(project, dsn, 'category = "shopping_cart"', other=joined)
    project.ok("archive", "run", "accounts")
    check_it_is_seen(project, 5)
    configure(project, dsn, 'category = "account"', other=joined)
    assert "ESOPS-D077" not in findings(project)


def compacting(dsn: str) -> str:
    """A hook's command, which compacts five carts up to their last event but one."""
    code = (
        f"import psycopg; c = psycopg.connect({dsn!r}, autocommit=True); "
        'c.execute("WITH late AS (SELECT s.id, s.version FROM mt_streams s JOIN mt_events e '
        "ON e.stream_id = s.id AND e.type = 'shopping_cart_opened' WHERE s.version > 3 "
        "ORDER BY 1 LIMIT 5), gone AS (DELETE FROM mt_events e USING late WHERE "
        "e.stream_id = late.id AND e.version < late.version - 1) UPDATE mt_events e SET type = "
        f"'{COMPACTED}', data = '{{}}' FROM late WHERE e.stream_id = late.id "
        'AND e.version = late.version - 1")'
    )
    return json.dumps([sys.executable, "-c", code])


@pytest.mark.parametrize("ways", [("--yes",), ("--yes", "--ranges", "4")])
def test_a_rebuild_in_place_looks_again(project, dsn, connection, marten, ways):
    """By ranges, what serves is right up to then, and stays."""
    marten("v1")
    configure(project, dsn)
    project.ok(*REBUILD)
    rows = "SELECT * FROM carts ORDER BY id"
    before = connection.execute(rows).fetchall()
    project.write("carts.py", CARTS + "\n# other code\n")
    configure(project, dsn, f"hooks.before_catch_up = {compacting(dsn)}")
    refused = project.run("rebuild", "carts", *ways)
    assert refused.code == 6, (refused.out, refused.err)
    assert f"5 streams begin with '{COMPACTED}'" in refused.err
    if "--ranges" in ways:
        assert connection.execute(rows).fetchall() == before
    project.ok("rebuild", "carts", "--resume", "--accept-shortened")


def test_what_is_built_to_stand_by_is_asked_about_as_well(project, dsn, marten):
    marten("v1")
    configure(project, dsn, f"hooks.before_catch_up = {compacting(dsn)}")
    refused = project.run(*REBUILD, "--no-switch")
    assert refused.code == 6, (refused.out, refused.err)
    assert f"5 streams begin with '{COMPACTED}'" in refused.err
    assert project.run("projection", "switch", "carts", "--to", "1").code != 0


APPENDING_AND_COMPACTING = """
import psycopg
with psycopg.connect({dsn!r}, autocommit=True) as c:
    (stream,) = c.execute("SELECT stream_id FROM mt_events WHERE version > 3 AND type = "
        "'product_item_added' ORDER BY 1 LIMIT 1").fetchone()
    for _ in range({appended}):
        c.execute({append!r}, (stream,))
    (last,) = c.execute("SELECT max(version) FROM mt_events WHERE stream_id = %s", (stream,)).fetchone()
    c.execute("DELETE FROM mt_events WHERE stream_id = %s AND version < %s", (stream, last))
    c.execute("UPDATE mt_events SET type = {kind!r}, data = '{{{{}}}}' WHERE stream_id = %s", (stream,))
"""


def appending_and_compacting(dsn: str, appended: int) -> str:
    code = APPENDING_AND_COMPACTING.format(
        dsn=dsn, appended=appended, append=APPEND, kind=COMPACTED
    )
    return json.dumps([sys.executable, "-c", code.replace("{{}}", "{}")])


def test_what_is_lost_before_green_reads_it_keeps_it_from_the_switch(
    project, dsn, connection, marten
):
    """Both events are gone before green follows."""
    marten("v1")
    configure(project, dsn, f"hooks.before_switch = {appending_and_compacting(dsn, 2)}")
    stopped = project.run(*REBUILD)
    assert stopped.code == 6, (stopped.out, stopped.err)
    assert f"1 stream begins with '{COMPACTED}'" in stopped.err
    assert "if it did not read them before" in stopped.err
    assert connection.execute("SELECT to_regclass('carts')").fetchone() == (None,)
    configure(project, dsn)
    project.ok(*REBUILD, "--resume", "--accept-shortened")
    assert connection.execute("SELECT count(*) FROM carts").fetchone() == (80,)


@pytest.mark.thorough
def test_what_green_has_read_may_be_lost(project, dsn, connection, marten):
    """The rows are those of all events."""
    marten("v1")
    configure(project, dsn)
    project.ok(*REBUILD)
    rows = "SELECT * FROM carts ORDER BY id"
    whole = connection.execute(rows).fetchall()
    project.write("carts.py", CARTS + "\n# other code\n")
    configure(project, dsn, f"hooks.before_switch = {appending_and_compacting(dsn, 0)}")
    told = project.ok(*REBUILD, "--output", "json").json
    assert told["to_version"] == 2
    assert connection.execute(rows).fetchall() == whole
    # A rebuild that begins now would not have them.
    assert project.run(*REBUILD).code == 6


def test_what_is_lost_during_the_load_keeps_it_from_the_switch(project, dsn, connection, marten):
    """By then nobody knows whether it was read before."""
    marten("v1")
    configure(project, dsn)
    code = json.loads(appending_and_compacting(dsn, 0))[-1]
    spoiling = f"\nfrom functools import cache\nlose = cache(lambda: exec({code!r}, {{}}))\n"
    first = "    data = event.json()\n"
    text = CARTS.replace(first, first + "    lose()\n", 1) + spoiling
    project.write("carts.py", text)
    stopped = project.run(*REBUILD)
    assert stopped.code == 6, (stopped.out, stopped.err)
    assert f"1 stream begins with '{COMPACTED}'" in stopped.err
    assert connection.execute("SELECT to_regclass('carts')").fetchone() == (None,)


def test_a_replay_makes_no_row_again_of_what_is_left(project, dsn, connection, marten, compact):
    marten("v1")
    good = "    data = event.json()\n"
    bad = good + '    if data.get("Quantity") == 999: raise ValueError("bad")\n'
    configure(project, dsn, 'on_error = "dead-letter"')
    project.write("carts.py", CARTS.replace(good, bad, 1))
    project.ok(*REBUILD)
    (stream,) = carts_with(connection, "shopping_cart_confirmed", 1)
    (length,) = connection.execute(
        "SELECT version FROM mt_streams WHERE id = %s", (stream,)
    ).fetchone()
    for quantity in (999, 1):
        connection.execute(APPEND, (stream,))
        connection.execute(
            "UPDATE mt_events SET data = %s WHERE seq_id = (SELECT max(seq_id) FROM mt_events)",
            (json.dumps({"Quantity": quantity}),),
        )
    assert project.run("run", "carts", "--until-caught-up").code == 1
    row = "SELECT * FROM carts WHERE id = %s"
    before = connection.execute(row, (str(stream),)).fetchall()
    compact(stream, length)
    project.write("carts.py", CARTS)
    replay = ("projection", "dead-letters", "carts", "replay", "--accept-code")
    refused = project.run(*replay)
    assert refused.code == 6, (refused.out, refused.err)
    assert f"1 stream begins with '{COMPACTED}'" in refused.err
    assert connection.execute(row, (str(stream),)).fetchall() == before
