"""A category finds the same events in the archive as in the store, whatever it goes by there."""

from __future__ import annotations

import hashlib
import io
import json

import pyarrow.parquet as pq
import pytest

from esops.archive.run import RunRequest, run
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.config import load_config
from esops.errors import Refused
from esops.events import EventFilter
from esops.stores import open_store
from esops.stores.archive.archived_away import removed_from
from tests.support import emmett
from tests.support.cases import thorough_in

CUSTOM = """
CREATE TABLE mine (at bigserial, stream text, version int, kind text, body jsonb, grp text,
    PRIMARY KEY (stream, version));
INSERT INTO mine (stream, version, kind, body, grp)
SELECT 's-' || n % 4, n / 4 + 1, 'x', '{}', CASE n % 4 WHEN 0 THEN 'cart' ELSE 'order' END
FROM generate_series(0, 11) AS n;
"""
CUSTOM_TABLE = {
    "name": "mine",
    "position": "at",
    "stream": "stream",
    "version": "version",
    "type": "kind",
    "data": "body",
    "category": "grp",
}
STORES = {
    "marten-9.58-v1": {},
    "marten-9.58-v2": {"schema": "es"},
    "eventsourcing-9.5.6": {},
    "message-db-1.3.1": {},
    "custom": {"layout": "custom", "table": CUSTOM_TABLE},
}
CATEGORIES = {
    "marten-9.58-v1": "SELECT DISTINCT type FROM mt_streams WHERE type IS NOT NULL",
    "marten-9.58-v2": "SELECT DISTINCT type FROM es.mt_streams WHERE type IS NOT NULL UNION "
    "SELECT DISTINCT split_part(id, '-', 1) FROM es.mt_streams WHERE id <> 'mt_tombstone'",
    "eventsourcing-9.5.6": "SELECT DISTINCT split_part(split_part(topic, ':', 2), '.', 1) FROM "
    "bankaccounts_events",
    "message-db-1.3.1": "SELECT DISTINCT split_part(stream_name, '-', 1) FROM "
    "message_store.messages WHERE type <> 'Recorded'",
    "custom": "SELECT DISTINCT grp FROM mine",
}


@pytest.fixture(
    params=thorough_in(
        ["marten-9.58-v1", "marten-9.58-v2", "eventsourcing-9.5.6", "message-db-1.3.1", "custom"],
        ["marten-9.58-v1", "message-db-1.3.1"],
    )
)
def filled(request, project, dumps, dsn, connection):
    return request.param, fill(request.param, project, dumps, dsn, connection)


def fill(name, project, dumps, dsn, connection):
    emmett.restore(connection, CUSTOM if name == "custom" else (dumps / f"{name}.sql").read_text())
    project.configure(
        stores={
            "s": {"dsn": dsn, **STORES[name]},
            "cold": {"backend": "archive", "archive": "cold"},
        },
        archives={
            "cold": {
                "repository": "cold",
                "policies": {
                    "all": {
                        "store": "s",
                        "stream": "*",
                        "never_younger_than": "0s",
                        "remove": "keep",
                    }
                },
            }
        },
    )
    return load_config(project.folder / "esops.toml")


def by_category(store, categories) -> dict[str, list]:
    return {
        name: [
            event.id
            for batch in store.read_all(filter=EventFilter(category=name))
            for event in batch.events
        ]
        for name in categories
    }


def test_a_category_finds_the_same_events_as_before(filled, project, connection):
    name, config = filled
    names = [row[0] for row in connection.execute(CATEGORIES[name])]
    with open_store("s", config.stores["s"]) as store:
        before = by_category(store, names)
        assert len(names) > 1 or name == "eventsourcing-9.5.6"
        assert all(before.values())
        way = "delete" if "delete" in store.archiving.removals else "keep"
    run(config, "all", RunRequest(removal=way, despite_checkpoints=True))
    joined = config.stores["s"].model_copy(update={"cold": config.archives["cold"]})
    with open_store("s", joined) as store:
        assert by_category(store, names) == before
    with open_store("cold", config.stores["cold"]) as cold:
        if way == "keep" or name.startswith("marten"):
            assert by_category(cold, names) == before
        assert set(names) <= set(cold.names.of("category"))
        shown = {info.category for info in cold.streams(EventFilter(category=names[0]))}
        assert shown <= {*names, None}
        assert list(cold.read_all(cold.head().position, filter=EventFilter(category="x"))) == []
    told = project.ok(
        "archive", "query", "SELECT DISTINCT category FROM events", "--output", "json"
    ).json
    assert {each["category"] for each in told} & set(names)


def test_what_is_away_goes_by_what_was_archived(filled, connection):
    """And by no policy: that may have been edited since, or be another's of the same name."""
    name, config = filled
    names = [row[0] for row in connection.execute(CATEGORIES[name])]
    policy = config.archives["cold"].policies["all"].model_copy(update={"category": "other"})
    cold = config.archives["cold"].model_copy(update={"policies": {"all": policy}})
    edited = config.model_copy(update={"archives": {"cold": cold}})
    with open_store("s", config.stores["s"]) as store:
        if "delete" not in store.archiving.removals:
            pytest.skip("nothing leaves such a store")
        before = by_category(store, names)
        run(config, "all", RunRequest(removal="delete", despite_checkpoints=True))
        left = by_category(store, names)
        away = {
            each: sum(
                found.events for found in removed_from(edited, store, EventFilter(category=each))
            )
            for each in [*names, "other"]
        }
        gone = {each: len(before[each]) - len(left[each]) for each in names}
        assert away == {**gone, "other": 0}
        assert any(gone.values())


def as_of_an_earlier_esops(config) -> None:
    """The archive without categories, as it was written before."""
    repository = Repository(config.archives["cold"])
    ((found, manifest),) = Catalog(repository).sealed()
    files = []
    for entry in manifest.stream_files:
        table = pq.read_table(io.BytesIO(repository.get(found.path(entry.name))))
        sink = io.BytesIO()
        pq.write_table(table.drop_columns(["categories"]), sink)
        content = sink.getvalue()
        repository.put(found.path(entry.name), content)
        digest = hashlib.sha256(content).hexdigest()
        files.append(entry.model_copy(update={"sha256": digest, "size": len(content)}))
    older = manifest.model_copy(update={"stream_files": tuple(files), "categories": None})
    found.note("manifest.json", json.loads(older.model_dump_json(exclude={"categories"})))


def test_an_archive_of_an_earlier_esops_tells_what_it_can(filled, project, connection, capsys):
    name, config = filled
    names = [row[0] for row in connection.execute(CATEGORIES[name])]
    run(config, "all")
    as_of_an_earlier_esops(config)
    assert project.ok("archive", "verify").code == 0
    with (
        open_store("s", config.stores["s"]) as store,
        open_store("cold", config.stores["cold"]) as cold,
    ):
        found, before = by_category(cold, names), by_category(store, names)
        if name == "custom":
            assert "go by" in capsys.readouterr().out or not any(found.values())
            assert "earlier esops" in cold.ping().detail["note"]
        else:
            assert found == before
            assert "note" not in cold.ping().detail


def test_a_stream_of_several_categories_is_refused_where_nothing_tells(
    project, dumps, dsn, connection
):
    config = fill("custom", project, dumps, dsn, connection)
    connection.execute("UPDATE mine SET grp = 'other' WHERE stream = 's-1' AND version = 2")
    run(config, "all")
    with open_store("cold", config.stores["cold"]) as cold:
        assert by_category(cold, ["cart"])["cart"]
        with pytest.raises(Refused, match="several categories"):
            by_category(cold, ["other"])
