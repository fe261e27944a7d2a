"""Rows that single commands make again, where Marten has compacted their streams: right ones are not
replaced by what is left of the events.
"""

from __future__ import annotations

import json

import pytest

from esops.config import load_config
from esops.stores import open_store
from tests.integration.test_compacted_streams import carts_with, check_it_is_seen, compact
from tests.integration.test_marten_fixtures import COMPACTED, REBUILD, configure, marten
from tests.support.cases import thorough_but

__all__ = ["compact", "marten"]  # fixtures
ERASE = """
[erase.customer]
store = "shop"
where = "ClientId"
secret = "x0123456789abcdef0123456789abcdef"
[erase.customer.mask]
"$.ClientId" = "hash"
"""
ROW = "SELECT * FROM carts WHERE id = %s"


@pytest.mark.parametrize("up_to", thorough_but([1, 3], 3))
def test_an_erasure_does_not_fold_what_is_left(project, dsn, connection, marten, compact, up_to):
    marten("v1")
    configure(project, dsn)
    project.ok(*REBUILD)
    (stream,) = connection.execute(
        "SELECT id FROM mt_streams WHERE type = 'shopping_cart' AND version > 5 ORDER BY 1 LIMIT 1"
    ).fetchone()
    before = connection.execute(ROW, (str(stream),)).fetchall()
    connection.execute(
        'UPDATE mt_events SET data = data || \'{"ClientId": "client-77"}\' '
        "WHERE stream_id = %s AND version = 5",
        (stream,),
    )
    compact(stream, up_to)
    told = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", told + ERASE)
    erase = ("erase", "--where", "ClientId=client-77", "--yes", "--reason", "asked", "--output")
    connection.execute("UPDATE carts SET client = 'client-77' WHERE id = %s", (str(stream),))
    left = project.run(*erase, "json")
    assert left.code == 1, (left.out, left.err)
    assert connection.execute(ROW, (str(stream),)).fetchall() == [
        (str(stream), "client-77", before[0][2])
    ]
    (note,) = [each for each in left.json["notes"] if "not folded again" in each]
    assert str(stream) in note
    assert f"begins with '{COMPACTED}'" in note
    # A fold that takes the snapshot makes the row as it is to be.
    configure(project, dsn, f'begins_with = ["{COMPACTED}"]', python="aware", other=ERASE)
    project.ok(*REBUILD, "--max-diff", "100%")
    project.ok("projection", "retire", "carts", "1", "--yes")
    connection.execute("UPDATE carts SET client = 'client-77' WHERE id = %s", (str(stream),))
    connection.execute(
        'UPDATE mt_events SET data = data || \'{"ClientId": "client-77"}\' '
        "WHERE stream_id = %s AND version = 5",
        (stream,),
    )
    done = project.ok(*erase, "json")
    assert not any("not folded again" in each for each in done.json["notes"])
    assert connection.execute(ROW, (str(stream),)).fetchall() == before


@pytest.mark.parametrize("remove", thorough_but(["keep", "delete"], "delete"))
def test_an_archive_without_what_was_compacted_hides_nothing(
    project, dsn, connection, marten, compact, tmp_path, remove
):
    """Of streams that Marten compacted at their first version no version is missing, and of those
    that left the store the archive alone has the snapshot.
    """
    marten("v1")
    repository = json.dumps(str(tmp_path / "cold"))
    joined = f"""
    archive = "cold"
    [archives.cold]
    repository = {repository}
    [archives.cold.policies.all]
    store = "shop"
    stream = "*"
    never_younger_than = "0s"
    remove = "{remove}"
    """
    configure(project, dsn, other=joined)
    some = carts_with(connection, "shopping_cart_confirmed", 4)
    for at, stream in enumerate(some[:3]):
        compact(stream, 1 if at else 3)
    project.ok("archive", "run", "all", "--despite-checkpoints")
    project.ok("archive", "run", "all", "--despite-checkpoints")
    check_it_is_seen(project, 3)
    if remove == "keep":
        # What was archived in time is read from there.
        compact(some[3], 1)
        check_it_is_seen(project, 3)
    alone = '[stores.alone]\nbackend = "archive"\narchive = "cold"\nof = "shop"\n'
    text = (project.folder / "esops.toml").read_text()
    config = load_config(project.write("other.toml", text + alone))
    for name in ("shop", "alone"):
        with open_store(*config.store(name)) as store:
            late = {each.key.stream: each.type for each in store.losses.late_beginnings()}
        assert late == {str(each): COMPACTED for each in some[:3]}, name
    project.ok(*REBUILD, "--accept-shortened")
    clients = dict(connection.execute("SELECT id, client FROM carts").fetchall())
    assert clients[str(some[1])] is None
    assert clients[str(some[3])] is not None
