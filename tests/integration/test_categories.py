"""A category that the stream's name does not tell: every audit shows it, and budgets match it."""

from __future__ import annotations

import pytest

from esops.audit.events import audit_events
from esops.audit.stream import audit_stream
from esops.events import EventFilter, StreamKey
from esops.stores import open_store
from tests.integration.test_archived_categories import CATEGORIES, fill

NAMES = ("custom", "eventsourcing-9.5.6", "marten-9.58-v1", "message-db-1.3.1")


@pytest.fixture(params=NAMES)
def filled(request, project, dumps, dsn, connection):
    config = fill(request.param, project, dumps, dsn, connection)
    return config, {row[0] for row in connection.execute(CATEGORIES[request.param])}


def test_audits_of_streams_know_it(filled, project):
    config, names = filled
    with open_store("s", config.stores["s"]) as store:
        counted = {each.category for each in store.lengths.counts().counts}
        assert counted - {None, "account:position"} == names
        for name in names:
            infos = list(store.streams(EventFilter(category=name)))
            assert infos
            assert {info.category for info in infos} == {name}
            assert {info.category for info in store.lengths.longest(3, EventFilter(category=name))}
            info = infos[0]
            assert store.stream_info(info.name).category == name
            assert audit_stream(store, info.name).category == name
            key = StreamKey(info.name, info.tenant)
            assert store.many_streams.categories_of([key]) == {key: name}
        months = {each.category for each in store.lengths.monthly()} - {"account:position"}
        assert months <= {*names, None}
        assert months & names or store.layout.decode is not None or "custom" in store.layout.name
    some = sorted(names)[0]
    document = project.ok("audit", "streams", "--store", "s", "--output", "json").json
    assert names <= {each["category"] for each in document["categories"]}
    document = project.ok(
        "audit", "streams", "--store", "s", "--category", some, "--output", "json"
    ).json
    assert {each["category"] for each in document["categories"]} == {some}


def test_audits_of_events_know_it(filled):
    config, names = filled
    with open_store("s", config.stores["s"]) as store:
        found = audit_events(store)
        shown = {name for kind in found.types.values() for name in kind.categories}
        assert names <= shown
        for name in names:
            mine = audit_events(store, category=name)
            assert {each for kind in mine.types.values() for each in kind.categories} <= names


def test_budgets_by_category_match(filled, project):
    config, names = filled
    some = sorted(names)[0]
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", f'{text}\n[audit.budgets]\n"{some}" = 1\n')
    audited = project.run("audit", "streams", "--store", "s", "--output", "json")
    breaches = audited.json["findings"]
    assert audited.code == 1
    assert {each["category"] for each in breaches} == {some}
    assert "fits no category" not in audited.out + audited.err


def test_the_archive_and_the_joined_store_know_it(dsn, connection, project, dumps):
    from esops.archive.run import RunRequest, run

    config = fill("custom", project, dumps, dsn, connection)
    run(config, "all", RunRequest(removal="keep", despite_checkpoints=True))
    connection.execute("DELETE FROM mine WHERE grp = 'cart'")
    joined = config.stores["s"].model_copy(update={"cold": config.archives["cold"]})
    for settings in (config.stores["cold"], joined):
        with open_store("s", settings) as store:
            found = audit_events(store)
            assert dict(found.types["x"].categories) == {"cart": 3, "order": 9}
            assert audit_stream(store, "s-0").category == "cart"
            assert {each.category for each in store.lengths.counts().counts} == {"cart", "order"}
