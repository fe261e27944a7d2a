"""What a fold knows of the streams that it has read: whether it has seen the first event of each, so
that a rebuild need not look through all events for that again.
"""

from __future__ import annotations

import pytest

from esops.config import load_config
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.connection import connect
from esops.projections.definition import FoldDefinition
from esops.projections.kinds.fold import Fold
from esops.projections.projector import VersionTables
from esops.rebuild.api import RebuildRequest, rebuild
from esops.rebuild.shortened import LostWhileBuilding
from tests.support import shop
from tests.unit.test_building_blocks import event


@pytest.fixture
def connected(dsn):
    with connect(dsn, "test") as connection:
        connection.execute("CREATE TABLE rows (id text PRIMARY KEY, number int)")
        yield connection


@pytest.fixture
def fold(connected):
    table = catalog.find_table(connected, "public", "rows")
    assert table is not None

    def opened(key=None, evolve=None, **known) -> Fold:
        tables = VersionTables(
            projection="rows", version=1, by_name={"rows": table}, keys={"rows": table.key},
            value_types={}, conjoined=False, ensure_keys=lambda: None,
            **{"empty": True, "loading": True, "cache": 64 << 20, **known},
        )  # fmt: skip
        make = evolve or (lambda row, at: {"id": at.stream, "number": at.version})
        return Fold(FoldDefinition(make, key), tables)

    return opened


def events(*of: tuple[str, int], type: str = "added"):
    return [
        event(stream=stream, version=version, position=Position((n,)), type=type)
        for n, (stream, version) in enumerate(of, 1)
    ]


def flush(fold: Fold, connection) -> None:
    with connection.transaction():
        fold.flush(connection)
    fold.flushed()


def test_events_of_streams_that_are_read_from_the_first_on(fold, connected):
    one = fold()
    assert one.of_whole_streams == 0
    one.apply(events(("a", 1), ("b", 1), ("a", 2)), connected)
    assert one.of_whole_streams == 3
    flush(one, connected)
    one.apply(events(("c", 1), ("b", 2)), connected)
    assert one.of_whole_streams == 5


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize(
    "late",
    [
        events(("c", 2)),
        events(("a", 3), ("c", 2), ("c", 3)),
        # As many first events as new streams, and yet one is late.
        events(("c", 1), ("d", 1), ("e", 2), ("c", 1)),
        events(("c", 1), type="compacted<cart>"),
    ],
)
def test_a_stream_that_begins_late_is_noticed_for_good(fold, connected, late, flushed):
    one = fold()
    one.apply(events(("a", 1), ("b", 1)), connected)
    if flushed:
        flush(one, connected)
    one.apply(late, connected)
    assert one.of_whole_streams == 0
    one.apply(events(("f", 1)), connected)
    assert one.of_whole_streams == 0


def test_first_versions_are_the_stores(fold, connected):
    one = fold(first_version=0)
    one.apply(events(("a", 0), ("b", 0), ("a", 1)), connected)
    assert one.of_whole_streams == 3
    one.apply(events(("c", 1)), connected)
    assert one.of_whole_streams == 0


@pytest.mark.parametrize(
    "known",
    [{"empty": False}, {"names_begin_again": True}, {"key": lambda at: at.stream}],
    ids=lambda known: next(iter(known)),
)
def test_nothing_is_known_otherwise(fold, connected, known):
    one = fold(**known)
    one.apply(events(("a", 1), ("a", 2)), connected)
    assert one.of_whole_streams == 0


def test_streams_that_are_forgotten_are_found_in_the_table(fold, connected):
    """And one without a row there may have been read before, or not."""
    one = fold(
        cache=4_000, evolve=lambda row, at: None if at.stream == "none" else {"id": at.stream}
    )
    one.apply(events(("none", 1), *((f"s{n}", 1) for n in range(30))), connected)
    for more in range(3):
        flush(one, connected)
        one.apply(events(*((f"t{more}-{n}", 1) for n in range(30))), connected)
    flush(one, connected)
    one.apply(events(("s3", 2)), connected)
    assert one.of_whole_streams == 31 + 90 + 1
    assert one.fetched > 0
    one.apply(events(("none", 2)), connected)
    assert one.of_whole_streams == 0


@pytest.fixture
def asked(monkeypatch):
    """How often all streams were asked for while a version is built."""
    calls = []
    ask = LostWhileBuilding.ask
    monkeypatch.setattr(
        LostWhileBuilding, "ask", lambda self, read: (calls.append(read), ask(self, read))[1]
    )
    return calls


@pytest.mark.parametrize(
    ("options", "request_of", "times"),
    [
        ("", {}, 0),
        ('events = ["product_item_added", "shopping_cart_opened"]', {}, 1),
        ("", {"workers": 2}, 1),
    ],
    ids=["whole", "types", "workers"],
)
def test_a_rebuild_asks_only_where_it_does_not_know(
    dsn, project, connection, asked, options, request_of, times
):
    shop.make(dsn, 500)
    shop.configure(project, dsn, projection_options=options)
    config, request = load_config(project.folder / "esops.toml"), RebuildRequest(**request_of)
    (done,) = rebuild(config, request=request)
    assert (done.state, len(asked)) == ("switched", times)
