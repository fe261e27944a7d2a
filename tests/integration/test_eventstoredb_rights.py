"""A user who may read $all, and not do all with each stream: what can be done goes on."""

from __future__ import annotations

import contextlib
import json
import uuid

import pytest

from esops.errors import Denied
from esops.events import NewEvent
from esops.settings import EventStoreDBSettings
from esops.stores import open_store
from esops.stores.eventstoredb.errors import StreamGone
from tests.support import billing
from tests.support.cases import thorough_but
from tests.support.waiting import until

ADMINS = ["$admins"]
POLICY = """
[archives.cold]
repository = "cold"

[archives.cold.policies.old]
store = "billing"
category = "{category}"
never_younger_than = "0s"
remove = "{remove}"
"""


def event(type: str = "item_added", data: bytes = b'{"amount": 1}') -> NewEvent:
    return NewEvent(str(uuid.uuid4()), type, data)


@pytest.fixture
def admin(secure):
    """The store as an admin has it, who lets readers read $all."""
    nodes, _ = secure
    with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        for name in ("$all", "$streams"):
            store.changes.set_metadata(name, {"$acl": {"$r": ["readers", "$admins"]}})
        yield store
        for name in ("$all", "$streams"):
            store.changes.set_metadata(name, {})


@pytest.fixture
def category(admin):
    """A category of five streams of four events each."""
    name = f"c{uuid.uuid4().hex[:8]}"
    for number in range(5):
        admin.append(f"{name}-{number}", [event() for _ in range(4)])
    until(lambda: f"{name}-4" in {e.stream for e in admin.read_stream("$streams")})
    yield name
    # A stream that lost events would look to other tests like one that was archived.
    for number in range(5):
        with contextlib.suppress(StreamGone):
            admin.changes.tombstone(f"{name}-{number}")


@pytest.fixture
def reader(secure):
    nodes, _ = secure
    return nodes.uri.replace("admin:changeit", "reader:secret")


def deny(admin, stream: str, *rights: str) -> None:
    admin.changes.set_metadata(stream, {"$acl": dict.fromkeys(rights, ADMINS)})


@pytest.mark.thorough
@pytest.mark.parametrize("right", thorough_but(["$r", "$mr"], "$r"))
def test_a_rebuild_needs_no_right_on_single_streams(
    admin, category, reader, project, dsn, connection, right
):
    deny(admin, f"{category}-3", right)
    billing.configure(project, reader, dsn)
    done = project.ok("rebuild", "cart_totals", "--blue-green", "--output", "json").json
    assert done["state"] == "switched"
    rows = billing.table(connection, "cart_totals")
    assert {rows[f"{category}-{number}"] for number in range(5)} == {(4, 4, 3)}
    # What has lost events is found without a right on it, too.
    admin.changes.set_metadata(f"{category}-3", {"$acl": {right: ADMINS}, "$tb": 2})
    assert [seen.result for seen in admin.admin.scavenge()][-1] == "Success"
    refused = project.run("rebuild", "cart_totals", "--blue-green")
    assert refused.code == 6, refused
    assert "1 stream begins with 'item_added' and has lost the 2 events before it" in refused.err
    found = project.run("doctor", "--output", "json").json["findings"]
    assert "ESOPS-D077" in {each["code"] for each in found}


@pytest.mark.parametrize(
    ("right", "audited"), [("$r", 4), pytest.param("$mr", 5, marks=pytest.mark.thorough)]
)
def test_a_stream_that_may_not_be_read_is_named_and_the_others_are_archived(
    admin, category, reader, project, dsn, right, audited
):
    stream = f"{category}-3"
    deny(admin, stream, right)
    policy = POLICY.format(category=category, remove="truncate")
    billing.configure(project, reader, dsn, policy)
    audit = project.run("audit", "streams", "--category", category, "--output", "json")
    assert (audit.json["summary"]["streams"], audit.code) == (audited, int(audited < 5)), audit
    plan = project.ok("archive", "plan", "old", "--output", "json").json
    assert (plan["streams"], [each["stream"] for each in plan["stuck"]]) == (4, [stream])
    for state in ("done", "nothing"):
        run = project.run("archive", "run", "old", "--output", "json")
        assert (run.code, run.json["state"], run.json["stuck"]) == (1, state, 1), run
        assert [each["stream"] for each in run.json["skipped"]] == [stream]
    admin.changes.set_metadata(stream, {})
    assert project.ok("archive", "run", "old", "--output", "json").json["removed_events"] == 3


@pytest.mark.parametrize(
    ("remove", "right", "gone"),
    [
        ("truncate", "$mw", 12),
        pytest.param("delete", "$d", 16, marks=pytest.mark.thorough),
        pytest.param("tombstone", "$d", 16, marks=pytest.mark.thorough),
    ],
)
def test_a_stream_that_may_not_be_removed_stays_and_the_others_go(
    admin, category, reader, project, dsn, remove, right, gone
):
    stream = f"{category}-3"
    deny(admin, stream, right)
    policy = POLICY.format(category=category, remove=remove)
    billing.configure(project, reader, dsn, policy)
    run = project.run("archive", "run", "old", "--output", "json")
    assert (run.code, run.json["state"]) == (1, "done"), run
    assert (run.json["removed"], run.json["removed_events"]) == (4, gone)
    assert (run.json["left_alone"], run.json["stuck"]) == (1, 1)
    [skipped] = run.json["skipped"]
    assert skipped["stream"] == stream
    assert "does not allow this user to" in skipped["reason"]
    listed = project.ok("archive", "list", "--output", "json").json
    assert [each["removed_events"] for each in listed] == [gone]
    # Nothing of it is archived again, and what is new goes.
    document = admin.changes.metadata(stream)
    admin.append(f"{category}-new", [event(), event()])
    until(lambda: f"{category}-new" in {e.stream for e in admin.read_stream("$streams")})
    again = project.run("archive", "run", "old", "--output", "json")
    assert (again.code, again.json["streams"], again.json["stuck"]) == (1, 1, 1), again
    assert admin.changes.metadata(stream) == document, "a trial changes nothing"
    assert admin.stream_info(stream).length == 4
    admin.changes.set_metadata(stream, {})
    last = project.ok("archive", "run", "old", "--output", "json").json
    assert (last["streams"], last["stuck"]) == (1, 0)


def test_rights_are_asked_for_without_a_change(admin, category, reader):
    with open_store("s", EventStoreDBSettings(uri=reader)) as store:
        for right, removals in (("$mw", ("truncate",)), ("$d", ("delete", "tombstone"))):
            deny(admin, f"{category}-0", right)
            for removal in ("truncate", "delete", "tombstone"):
                if removal in removals:
                    with pytest.raises(Denied):
                        store.changes.check_right(removal, f"{category}-0")
                else:
                    store.changes.check_right(removal, f"{category}-0")
        assert admin.stream_info(f"{category}-0").length == 4
        deny(admin, f"{category}-0", "$w")
        with pytest.raises(Denied):
            store.append(f"{category}-0", [event()])
        store.append(f"{category}-1", [event()])


@pytest.mark.thorough
def test_a_restore_names_no_projection_of_the_servers_own(admin, category, secure, project, dsn):
    nodes, _ = secure
    billing.configure(project, nodes.uri, dsn, POLICY.format(category=category, remove="truncate"))
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    restored = project.ok("archive", "restore", run, "--yes", "--output", "json").json
    assert restored["events"] == 15
    assert restored["application"] == []
    assert json.dumps(restored).count("$by_category") == 0
