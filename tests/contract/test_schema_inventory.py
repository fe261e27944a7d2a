"""On every layout, the inventory of event schemas is the same: versions, shapes, streams that are
still open, which of them have an old shape, and the first event of a change.
"""

from __future__ import annotations

import uuid

import pytest

from esops.schema.closing import ClosingRule
from esops.schema.history import history_of
from esops.schema.one_shape import shape_of
from tests.support.layout_kits import LAYOUTS, any_kit, kits


@pytest.fixture(params=kits([*LAYOUTS, "eventstoredb"]))
def kit(request):
    yield from any_kit(request, request.param)


def test_versions_shapes_open_streams_and_changes(kit):
    name = f"opened{uuid.uuid4().hex}"
    old, closed, new, gone = (kit.stream() for _ in range(4))
    for stream, kind, data in (
        (old, name, {"a": 1}),
        (closed, name, {"a": 2}),
        (gone, name, {"a": 3}),
        (closed, f"{name}_end", {}),
        (new, f"{name}_v2", {"a": 1.5, "b": "x"}),
        (old, f"{name}_v2", {"a": None, "b": "x"}),
    ):
        kit.store.append(stream, kit.events(kind, **data))
    if getattr(kit, "archive", None) is not None:
        kit.archive(gone)
        dead = {closed, gone}
    elif hasattr(kit.store, "changes"):  # EventStoreDB keeps its events until a scavenge
        kit.store.changes.delete(gone)
        dead = {closed, gone}
    else:
        dead = {closed}
    rule = ClosingRule(frozenset({f"{name}_end"}))
    document = history_of(kit.store, f"{name}_v2", rule).as_dict()
    assert document["type"] == name
    versions = [
        (version["type"], version["version"], version["events"], version["open_streams"])
        for category in document["categories"]
        for version in category["versions"]
    ]
    assert versions == [
        (name, None, 3, 3 - len(dead)),
        (f"{name}_v2", "2", 1, 1),
        (f"{name}_v2", "2", 1, 1),
    ]
    changes = [
        (each["kind"], each["path"], each["stream"], each["version"])
        for each in document["changes"]
    ]
    after = kit.after
    assert changes == [
        ("type", "$.a", new, after(1)),
        ("added", "$.b", new, after(1)),
        ("nullable", "$.a", old, after(2)),
    ]
    (category,) = document["categories"]
    oldest = category["versions"][0]["shape"]
    with shape_of(kit.store, name, oldest[:6], rule) as shape:
        streams = [(each["stream"], each["events"], each["last_version"]) for each in shape.rows()]
        assert shape.streams.count == len(streams)
        assert shape.differences() == [
            {"path": "$.a", "types": ["number"], "newest_types": ["null"]},
            {"path": "$.b", "types": [], "newest_types": ["string"]},
        ]
    expected = {(old, 1, after(2)), (gone, 1, after(1))}
    assert streams == sorted(each for each in expected if each[0] not in dead)
