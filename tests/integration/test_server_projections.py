"""`esops rebuild` of a projection that runs inside EventStoreDB: beside the old one, compared,
handed over, retired.
"""

from __future__ import annotations

import json
import uuid

import pytest
from esdbclient import NewEvent, StreamState

from tests.support.esdb import Nodes
from tests.support.waiting import kill, until

SUMS = """
fromCategory('order')
.foreachStream()
.when({
  $init: function () { return {count: 0, total: 0}; },
  placed: function (s, e) { s.count += 1; s.total += e.data.amount; return s; }
})
.outputState()
"""
WITH_MORE = SUMS.replace("total: 0}", "total: 0, largest: 0}").replace(
    "return s;", "s.largest = Math.max(s.largest, e.data.amount); return s;"
)
WRONG = SUMS.replace("+= e.data.amount", "+= 2 * e.data.amount")
EMITTING = SUMS.replace(
    "return s;", "emit('sums{suffix}', 'Summed', {total: s.total}, {}); return s;"
)


@pytest.fixture
def nodes():
    with Nodes() as nodes:
        client = nodes.client()
        for number in range(40):
            events = [
                NewEvent("placed", json.dumps({"amount": number + n}).encode(), id=uuid.uuid4())
                for n in range(5)
            ]
            client.append_to_stream(
                f"order-{number}", current_version=StreamState.ANY, events=events
            )
        client.close()
        yield nodes


def configure(project, nodes, query: str = SUMS, more: str = "") -> None:
    project.write(
        "esops.toml",
        f"""
[stores.billing]
backend = "eventstoredb"
uri = {json.dumps(nodes.uri)}

[projections.sums]
store = "billing"
kind = "server"
javascript = "sums.js"
handover = ["./move-readers"]
{more}
""",
    )
    project.write("sums.js", query)
    script = project.write(
        "move-readers",
        '#!/bin/sh\necho "$ESOPS_FROM -> $ESOPS_TO ($ESOPS_TO_RESULT)" >> moved\ntest ! -e '
        "refuse\n",
    )
    script.chmod(0o755)


def moved(project) -> list[str]:
    path = project.folder / "moved"
    return path.read_text().splitlines() if path.exists() else []


def rebuild(project, *arguments: str):
    return project.run("rebuild", "sums", "--blue-green", "--output", "json", *arguments)


def states(project) -> dict[int, str]:
    versions = project.ok("projection", "show", "sums", "--output", "json").json["versions"]
    return {version["version"]: version["state"] for version in versions}


def names(nodes) -> list[str]:
    from esops.settings import EventStoreDBSettings
    from esops.stores import open_store

    with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        return sorted(
            one.name for one in store.admin.projections.all() if not one.name.startswith("$")
        )


def test_a_second_projection_is_built_compared_handed_over_and_the_first_retired(project, nodes):
    configure(project, nodes)
    first = rebuild(project)
    assert (first.code, first.json["state"], first.json["to_version"], first.json["rows"]) == (
        0,
        "switched",
        1,
        40,
    )
    assert moved(project) == []
    configure(project, nodes, WITH_MORE)
    plan = project.ok("rebuild", "sums", "--blue-green", "--dry-run").out
    assert "create the continuous projection sums-v2" in plan
    assert "Math.max" in plan
    assert "./move-readers" in plan
    assert names(nodes) == ["sums"]
    differs = rebuild(project)
    assert differs.code == 1
    found = differs.json["verification"]
    assert (found["rows_blue"], found["rows_green"], found["differing"], found["columns"]) == (
        40,
        40,
        40,
        {"largest": 40},
    )
    assert moved(project) == []
    done = rebuild(project, "--resume", "--compare", "columns")
    assert (done.code, done.json["state"]) == (0, "switched")
    assert done.json["verification"]["differing"] == 0
    assert moved(project) == ["sums -> sums-v2 ($projections-sums-v2-result)"]
    assert states(project) == {1: "standby", 2: "active"}
    back = project.ok("projection", "rollback", "sums").out
    assert "sums serves v1 now" in back
    assert moved(project)[-1].startswith("sums-v2 -> sums ")
    project.ok("projection", "switch", "sums", "--to", "2")
    assert states(project) == {1: "standby", 2: "active"}
    refused = project.run("projection", "retire", "sums", "2", "--yes")
    assert refused.code == 6
    assert (
        "would delete projection sums"
        in project.ok("projection", "retire", "sums", "--dry-run").out
    )
    project.ok("projection", "retire", "sums", "1", "--yes")
    assert names(nodes) == ["sums-v2"]
    assert states(project) == {1: "retired", 2: "active"}
    assert rebuild(project).json["to_version"] == 3
    actions = project.ok("history", "--projection", "sums", "--output", "json").json["actions"]
    assert [(each["command"], each["result"]) for each in actions] == [
        ("rebuild", "done"),
        ("rebuild", "done, with findings"),
        ("rebuild", "done"),
        ("projection rollback", "done"),
        ("projection switch", "done"),
        ("projection retire", "done"),
        ("rebuild", "done"),
    ]


DETAILED = SUMS.replace(
    "count: 0, total: 0", "count: 0, total: 0, lines: [], at: {n: 0, by: 'me'}, open: 1"
)


@pytest.mark.thorough
def test_paths_into_results_are_ignored_or_expected(project, nodes):
    line = "s.lines.push({amount: e.data.amount, seen: 1}); s.at.n = 1; return s;"
    configure(project, nodes, DETAILED.replace("return s;", line))
    assert rebuild(project).code == 0
    other = line.replace("seen: 1", "seen: 2").replace("at.n = 1", "at.n = 2")
    changed = DETAILED.replace("return s;", other)

    def verify(*entries: str, query: str = changed):
        configure(project, nodes, query, "\n".join(entries))
        return rebuild(project, "--no-switch")

    differs = verify('verify.ignore = ["at.by"]')
    found = differs.json["verification"]
    assert (differs.code, found["differing"]) == (1, 40)
    assert found["columns"] == {"lines": 40, "at": 40}
    assert found["paths"] == {"lines[*].seen": 40, "at.n": 40}
    project.ok("rebuild", "sums", "--blue-green", "--abort", "--yes")
    fine = verify('verify.ignore = ["lines[*].seen"]', 'verify.expected = ["at"]')
    found = fine.json["verification"]
    assert (fine.code, found["differing"], found["expected"]) == (0, 0, {"at": 40})
    # To JavaScript true is not 1, and to Python it is.
    truth = verify(
        'verify.ignore = ["lines", "at"]', query=changed.replace("open: 1", "open: true")
    )
    assert (truth.code, truth.json["verification"]["columns"]) == (1, {"open": 40})
    project.ok("rebuild", "sums", "--blue-green", "--abort", "--yes")
    wrong = verify('verify.ignore = ["lines[x]"]')
    assert (wrong.code, "not a path" in wrong.err) == (2, True)
    for key in ('assertions = ["SELECT true"]', 'json = "text"'):
        refused = verify(f"verify.{key}")
        assert refused.code == 2
        assert f"projections.sums.verify.{key.partition(' ')[0]}" in refused.err


def test_a_projection_that_was_there_before_is_version_one(project, nodes):
    client = nodes.client()
    client.create_projection(query=SUMS, name="sums")
    configure(project, nodes)
    assert states(project) == {1: "active"}
    done = rebuild(project)
    assert (done.code, done.json["from_version"], done.json["to_version"]) == (0, 1, 2)
    assert done.json["verification"]["differing"] == 0
    client.close()


def test_a_wrong_projection_is_given_up_and_leaves_nothing_behind(project, nodes):
    configure(project, nodes)
    assert rebuild(project).code == 0
    configure(project, nodes, WRONG)
    differs = rebuild(project)
    assert differs.code == 1
    assert differs.json["verification"]["columns"] == {"total": 40}
    sample = differs.json["verification"]["samples"][0]
    assert sample["green"]["total"] == 2 * sample["blue"]["total"]
    again = rebuild(project)
    assert again.code == 6
    assert "not finished" in again.err
    aborted = project.ok("rebuild", "sums", "--blue-green", "--abort", "--yes", "--output", "json")
    assert aborted.json["state"] == "aborted"
    assert names(nodes) == ["sums"]
    assert moved(project) == []


@pytest.mark.thorough
def test_a_query_that_does_not_compile_and_a_hand_over_that_fails(project, nodes):
    configure(project, nodes)
    assert rebuild(project).code == 0
    configure(project, nodes, "fromAll().when({")
    faulted = rebuild(project)
    assert faulted.code == 6
    assert "sums-v2 is faulted" in faulted.err
    project.ok("rebuild", "sums", "--blue-green", "--abort", "--yes")
    configure(project, nodes)
    project.write("refuse", "")
    failed = rebuild(project)
    assert failed.code == 5
    assert "handover ended with exit code 1" in failed.err
    assert states(project) == {1: "active", 2: "aborted", 3: "building"}
    (project.folder / "refuse").unlink()
    assert rebuild(project, "--resume").json["state"] == "switched"
    assert len(moved(project)) == 2


@pytest.mark.thorough
def test_streams_that_a_version_emits_to_are_its_own_and_go_with_it(project, nodes):
    configure(project, nodes, EMITTING.replace("{suffix}", ""), "emit = true")
    refused = rebuild(project)
    assert refused.code == 6
    assert "{suffix}" in refused.err
    configure(project, nodes, EMITTING)
    assert rebuild(project).code == 2
    configure(project, nodes, EMITTING, "emit = true")
    assert rebuild(project).code == 0
    assert rebuild(project).code == 0
    client = nodes.client()
    assert len(client.get_stream("sums")) == 200
    assert len(client.get_stream("sums-v2")) == 200
    project.ok("projection", "retire", "sums", "1", "--yes")
    with pytest.raises(Exception, match="not found"):
        client.get_stream("sums")
    assert len(client.get_stream("sums-v2")) == 200
    client.close()


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(project, nodes):
    configure(project, nodes)
    assert rebuild(project).code == 0
    nodes.tell("projections-take", body="0.15")
    kills = 0
    for come_to in (
        lambda: 2 in states(project),  # the journal knows of it
        lambda: "sums-v2" in names(nodes),  # the node, too
        lambda: True,  # while it is being resumed
    ):
        resume = ("--resume",) if 2 in states(project) else ()
        process = project.start("rebuild", "sums", "--blue-green", "--output", "json", *resume)
        until(lambda process=process, come_to=come_to: process.poll() is not None or come_to())
        kills += kill(process)
    if states(project) != {1: "standby", 2: "active"}:
        done = rebuild(project, "--resume")
        assert done.code == 0, done.err
    assert kills >= 2
    assert states(project) == {1: "standby", 2: "active"}
    assert len(set(moved(project))) == 1
    assert names(nodes) == ["sums", "sums-v2"]


def test_commands_that_have_nothing_to_do_with_it_say_so(project, nodes, dsn):
    configure(project, nodes)
    assert project.run("run", "sums").code == 2
    assert project.run("projection", "dead-letters", "sums").code == 2
    assert project.ok("projection", "list", "--output", "json").json[0]["kind"] == "server"
    project.write(
        "esops.toml",
        f'[stores.s]\ndsn = {json.dumps(dsn)}\n[projections.sums]\nkind = "server"\njavascript = '
        '"sums.js"\n',
    )
    assert project.run("rebuild", "sums", "--blue-green").code in (2, 6)
