"""`esops schema list` and `show` on databases that the real libraries wrote, against a plain fold
over their tables; on a store of eight years, where each planted change has to be found; on a store
joined with its archive, and on pages in a browser.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict

import esdbclient
import psycopg
import pytest

from esops.archive.run import RunRequest, run
from esops.config import load_config
from esops.events import NewEvent
from esops.json_paths import Wild
from esops.schema.closing import ClosingRule
from esops.schema.history import histories_of, inventory_of
from esops.schema.one_shape import shape_of as one_shape_of
from esops.schema.shape_streams import ShapeStreamsReader
from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from tests.support import emmett, eventsourcing, evolution, marten
from tests.support.browser import fetched
from tests.support.databases import database
from tests.support.evolution import Evolution

# -- what the real libraries wrote

ANY = esdbclient.StreamState.ANY
MARTEN = (
    "SELECT type, stream_id::text || coalesce('@' || {tenant}, ''), {data}, is_archived "
    "FROM {schema}.mt_events WHERE type <> 'tombstone'"
)
ROWS = {
    "marten-9.58-v1": MARTEN.format(tenant="NULL", data="data::text::bytea", schema="public"),
    "marten-9.58-v2": MARTEN.format(tenant="tenant_id", data="data::text::bytea", schema="es"),
    "marten-9.58-v3": MARTEN.format(tenant="NULL", data="data::text::bytea", schema="public"),
    "marten-9.58-v4": MARTEN.format(
        tenant="NULL", data="coalesce(bdata, data::text::bytea)", schema="public"
    )
    + " AND NOT is_skipped",
    "emmett-0.42.0": "SELECT message_type, stream_id, message_data::text::bytea, is_archived "
    "FROM emt_messages WHERE message_kind = 'E'",
    "emmett-0.43.0-beta.39": "SELECT message_type, stream_id || '@' || partition, "
    "message_data::text::bytea, is_archived FROM emt_messages WHERE message_kind = 'E'",
    "message-db-1.3.1": "SELECT type, stream_name, data::text::bytea, FALSE "
    "FROM message_store.messages",
    "eventsourcing-9.5.6": "SELECT regexp_replace(topic, '^.*[.:]', ''), originator_id::text, "
    "state, FALSE FROM bankaccounts_events",
}
TYPES = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def shape_of(data: bytes) -> frozenset:
    try:
        return frozenset(walk(json.loads(data)))
    except ValueError:
        return frozenset({((), "binary")})


def walk(value, at=()):
    if isinstance(value, dict) and value.keys() == {"_type_", "_data_"}:
        value = value["_data_"]  # the transcoder of eventsourcing wrapped it
    if isinstance(value, dict):
        yield at, "object"
        for name, each in value.items():
            yield from walk(each, (*at, name))
    elif isinstance(value, list):
        yield at, "array"
        for each in value:
            yield from walk(each, (*at, "*"))
    else:
        yield at, TYPES[type(value)]


def of_shape(shape) -> frozenset:
    return frozenset(
        (tuple("*" if step is Wild.EVERY else step for step in steps), type_)
        for steps, type_ in shape.fields
    )


@pytest.mark.parametrize("dump", ROWS)
def test_inventory_is_that_of_a_plain_fold_over_the_tables(dump, dumps, dsn, connection):
    emmett.restore(connection, (dumps / f"{dump}.sql").read_text())
    events, streams, alive = Counter(), defaultdict(set), defaultdict(set)
    for type_, stream, data, archived in connection.execute(ROWS[dump]).fetchall():
        key = type_, shape_of(bytes(data))
        events[key] += 1
        streams[key].add(stream)
        if not archived:
            alive[key].add(stream)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        found = inventory_of(store, ClosingRule())
    counted, open_ = Counter(), Counter()
    in_streams = Counter()
    for one in found.types.values():
        for version in one.versions.values():
            key = version.stored, of_shape(version.shape)
            counted[key] += version.events
            in_streams[key] += version.streams
            open_[key] += version.open_streams
    assert counted == events
    assert in_streams == {key: len(names) for key, names in streams.items()}
    if dump != "marten-9.58-v3":  # where an id was used again, it stands for both streams
        assert +open_ == {key: len(names) for key, names in alive.items()}
    else:
        assert open_.total() < in_streams.total()


@pytest.mark.thorough
def test_both_shapes_of_an_event_of_emmett_and_what_changed(
    dumps, dsn, connection, project, browser
):
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    project.configure(stores={"s": {"dsn": dsn}})
    listed = project.run("schema", "list", "--type", "ProductItemAdded", "--output", "json").json
    ((old, new),) = [each["versions"] for each in listed["types"]]
    currency = connection.execute(
        "SELECT message_data ? 'currency', count(*) FROM emt_messages "
        "WHERE message_type = 'ProductItemAdded' GROUP BY 1"
    ).fetchall()
    by_shape = {True: new["events"], False: old["events"]}
    assert dict(currency) in (by_shape, {not key: n for key, n in by_shape.items()})
    shown = project.run(
        "schema", "show", "ProductItemAdded", "--report", "page.html", "--output", "json"
    )
    (first,) = connection.execute(
        "SELECT transaction_id || ':' || global_position, stream_id, stream_position "
        "FROM emt_messages WHERE message_type = 'ProductItemAdded' "
        "AND NOT message_data ? 'currency' ORDER BY transaction_id, global_position LIMIT 1"
    ).fetchall()
    # Some events have it and some not, from the beginning on.
    assert [
        (each["kind"], each["path"], each["position"], each["stream"], each["version"])
        for each in shown.json["changes"]
        if each["path"] == "$.currency"
    ] == [("nullable", "$.currency", *first)]
    assert "ProductItemAdded" in browser.document(project.folder / "page.html")
    without = old if currency_less(old, shown.json) else new
    streams = connection.execute(
        "SELECT stream_id, count(*), (SELECT max(stream_position) FROM emt_messages l "
        "WHERE l.stream_id = m.stream_id) FROM emt_messages m WHERE NOT is_archived "
        "AND message_type = 'ProductItemAdded' AND NOT message_data ? 'currency' "
        "GROUP BY 1"
    ).fetchall()
    command = ["schema", "show", "ProductItemAdded", "--shape"]
    one = project.run(*command, without["shape"][:4].upper(), "--output", "json").json
    assert one["shape"] == without["shape"]
    assert one["open_streams"] == len(streams) == without["open_streams"]
    named = [(each["stream"], each["events"], each["last_version"]) for each in one["streams"]]
    assert named == sorted(streams)
    wrong = project.run(*command, f"{without['shape'][:4]}zz")
    assert (wrong.code, "hex digits" in wrong.err) == (2, True)
    typo = project.run(*command, f"{without['shape'][:5]}00")
    assert (typo.code, f"Did you mean {without['shape']}?" in typo.err) == (1, True)


def currency_less(version, shown):
    (fields,) = [
        each["fields"]
        for category in shown["categories"]
        for each in category["versions"]
        if each["shape"] == version["shape"]
    ]
    return "$.currency" not in {field["path"] for field in fields}


# -- a store of eight years


@pytest.fixture(scope="module")
def evolved(server):
    """A store of eight years, and what changed in it."""
    history = Evolution(8_000)
    with database(server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            evolution.load(connection, history)
        yield history, dsn


def test_every_planted_change_is_found_at_its_event_and_nothing_else(evolved):
    history, dsn = evolved
    with open_store("s", PostgresSettings(dsn=dsn, schema="evolved")) as store:
        found, changes = histories_of(store, ClosingRule())
    told = {
        (type_.base, each.kind, each.path, each.at.position[0], each.at.stream, each.at.version)
        for type_, several in changes
        for each in several
    }
    assert told == {tuple(each) for each in history.changes.values()}
    assert len(found.types) == evolution.TYPES
    assert sum(len(each.versions) for each in found.types.values()) == evolution.SHAPES
    assert {
        (version.stored, version.explicit)
        for type_ in found.types.values()
        for version in type_.versions.values()
        if version.explicit is not None and version.stored == type_.base
    } == {
        (name, str(version))
        for name in history.counts
        if not name.endswith("_v2") and in_metadata(name)
        for version in (1, 2, 3, 4)
    }


def test_streams_of_a_shape_beyond_memory_are_those_that_the_inventory_counts(evolved):
    _, dsn = evolved
    rule = ClosingRule(frozenset({"order_closed"}))
    settings = PostgresSettings(dsn=dsn, schema="evolved")
    with open_store("s", settings) as store, psycopg.connect(dsn) as connection:
        found = inventory_of(store, rule, types=("order_opened",))
        last = dict(
            connection.execute("SELECT stream_id, max(version) FROM evolved.mt_events GROUP BY 1")
        )
        ((type_,),) = [list(found.types.values())]
        for version in type_.versions.values():
            with ShapeStreamsReader(store, found, version.shape.hash, rule, in_memory=50) as reader:
                streams = reader.read(None)
                rows = list(streams)
            assert streams.count == len(rows) == version.open_streams
            assert rows == sorted(rows, key=lambda row: row.key)
            assert all(row.version == last[row.key.stream] for row in rows)
        every = inventory_of(store, ClosingRule(), types=("order_opened",))
        with ShapeStreamsReader(store, every, version.shape.hash, ClosingRule()) as reader:
            assert sum(row.hits for row in reader.read(None)) == version.events


def in_metadata(name):
    names = sorted(f"{c}_{verb}" for c in evolution.CATEGORIES for verb in evolution.VERBS)
    return names.index(name) % len(evolution.PLANS) == evolution.IN_METADATA


def test_pages_of_a_store_and_of_a_type(evolved, project):
    history, dsn = evolved
    project.configure(stores={"s": {"dsn": dsn, "schema": "evolved"}})
    listed = project.run(
        "schema", "list", "--closed-by", "order_closed", "--report", "all.html", "--output", "csv"
    )
    assert len(listed.out.splitlines()) == 1 + evolution.SHAPES
    shown = project.run("schema", "show", "order_opened", "--report", "one.html")
    paths = {path for name, _, path in history.changes if name == "order_opened"}
    assert paths
    assert all(path in shown.out for path in paths)
    assert "esops schema show order_opened --shape " in shown.err
    for name in ("all.html", "one.html"):
        text = (project.folder / name).read_text()
        assert "order_opened" in text
        assert not fetched(text)
    assert "note 1" not in (project.folder / "one.html").read_text()


# -- archives


@pytest.mark.thorough
def test_store_that_is_joined_with_its_archive(project, dsn, connection):
    """What is in the archive only is read, and no stream of it is open."""
    marten.create(connection, marten.Variant(text_ids=True))
    old, new = b'{"a": 1}', b'{"a": 1, "b": "x"}'
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for name, data in (("gone-1", old), ("gone-2", old), ("here-1", old), ("here-1", new)):
            store.append(name, [NewEvent(str(uuid.uuid4()), "opened", data)])
    config = f"""
[stores.s]
dsn = {json.dumps(dsn)}
append = "quick"
archive = "cold"
[stores.cold]
backend = "archive"
archive = "cold"
[archives.cold]
repository = "cold"
policies.gone = {{ store = "s", stream = "gone-*", remove = "delete", never_younger_than = "0s" }}
"""
    run(
        load_config(project.write("esops.toml", config)),
        "gone",
        RunRequest(despite_checkpoints=True),
    )
    for store, expected in (
        ("s", {("gone", 2, 2, 0), ("here", 1, 1, 1)}),
        ("cold", {("gone", 2, 2, 0)}),
    ):
        document = project.run("schema", "list", "--store", store, "--output", "json").json
        versions = [
            (each["category"], version["events"], version["streams"], version["open_streams"])
            for each in document["types"]
            for version in each["versions"]
        ]
        assert set(versions) == expected, store
    (old,) = [each for each in document["types"] if each["category"] == "gone"]
    shape = old["versions"][0]["shape"]
    shown = project.run("schema", "show", "opened", "--shape", shape, "--store", "s").out
    assert "here-1  here      1       2 " in shown
    assert "gone-1" not in shown
    assert "3 events of this shape; 1 open stream has it" in shown
    changes = project.run("schema", "show", "opened", "--store", "s", "--output", "json").json
    assert [(each["kind"], each["path"], each["stream"]) for each in changes["changes"]] == [
        ("added", "$.b", "here-1")
    ]


def test_class_versions_of_the_library_eventsourcing(project, dsn, connection):
    eventsourcing.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        stream = str(uuid.uuid4())
        for data in (b'{"n": 1}', b'{"n": 1, "class_version": 2}', b"\x1f\x8b compressed"):
            store.append(stream, [NewEvent(str(uuid.uuid4()), "shop:Cart.Opened", data)])
    project.configure(stores={"s": {"dsn": dsn}})
    document = project.run("schema", "list", "--output", "json").json
    assert [
        (version["version"], version["events"])
        for each in document["types"]
        for version in each["versions"]
    ] == [(None, 1), ("2", 1), (None, 1)]


def test_no_open_stream_has_what_was_deleted_or_truncated(node):
    pile = f"pile{uuid.uuid4().hex[:6]}"
    names = [f"{pile}-{n}" for n in range(5)]
    with node.client() as client:
        for name in names:
            for number in range(4):
                data = json.dumps({"n": 1} if number < 2 else {"n": 1, "x": 1}).encode()
                made = esdbclient.NewEvent(type="Put", data=data)
                client.append_to_stream(name, current_version=ANY, events=[made])
        _, deleted, tombstoned, again, truncated = names
        client.delete_stream(deleted, current_version=ANY)
        client.tombstone_stream(tombstoned, current_version=ANY)
        client.delete_stream(again, current_version=ANY)
        client.append_to_stream(
            again, current_version=ANY, events=[esdbclient.NewEvent(type="Put", data=b"{}")]
        )
        client.set_stream_metadata(truncated, metadata={"$tb": 2})
    with open_store("s", EventStoreDBSettings(uri=node.uri)) as store:
        found = inventory_of(store, ClosingRule(), category=pile)
        ((old, new, last),) = (each.ordered() for each in found.types.values())
        assert [each.events for each in (old, new, last)] == [10, 10, 1]
        assert [each.open_streams for each in (old, new, last)] == [1, 2, 1]
        with one_shape_of(store, "Put", new.shape.hash, ClosingRule(), category=pile) as shape:
            assert {each["stream"] for each in shape.rows()} == {names[0], truncated}


@pytest.mark.thorough
def test_pages_of_many_types_are_shown_by_a_browser(evolved, project, browser):
    _, dsn = evolved
    project.configure(stores={"s": {"dsn": dsn, "schema": "evolved"}})
    project.run("schema", "list", "--closed-by", "order_closed", "--report", "all.html")
    project.run("schema", "show", "order_opened", "--report", "one.html")
    for name in ("all.html", "one.html"):
        assert "order_opened" in browser.document(project.folder / name)
