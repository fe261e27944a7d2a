"""What the table of inline, async and live projections says, asked of esops itself on a database of
each library.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tests.support import emmett
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes

SCRIPT = Path(__file__).parents[2] / "docs" / "reference" / "life_cycles.py"
COUNTS = """
from esops import fold

@fold(key="stream")
def counts(row, event):
    return {"stream": event.stream, "events": (row["events"] if row else 0) + 1}
"""
ENTRIES = """
CREATE TABLE entries (number bigserial PRIMARY KEY, book text, line int, kind text, body jsonb,
    UNIQUE (book, line));
INSERT INTO entries (book, line, kind, body) SELECT 'book-' || n % 5, n / 5, 'written', '{}'
  FROM generate_series(5, 60) AS n;
"""
DESCRIBED = {
    "name": "entries",
    "stream": "book",
    "version": "line",
    "position": "number",
    "type": "kind",
    "data": "body",
}
MADE = (
    "CREATE TABLE counts AS SELECT {}::text AS stream, count(*)::int AS events FROM {} GROUP BY 1"
)
FROM = {
    "Marten": ("marten-9.58-v1", "stream_id", "mt_events WHERE NOT is_archived", "Counts:All"),
    "Emmett": ("emmett-0.42.0", "stream_id", "emt_messages", "shipping"),
    "message-db": (
        "message-db-1.3.1",
        "stream_name",
        "message_store.messages",
        "account:position-accountSummary",
    ),
    "eventsourcing": (
        "eventsourcing-9.5.6",
        "originator_id",
        "bankaccounts_events",
        "account_summary/BankAccounts",
    ),
    "a table of your own": (None, "book", "entries", "loop"),
}
"""By library: its dump, its events' streams, their table, and the name of a checkpoint."""


BESIDE = {
    "Marten": "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('Counts:All', 1)",
    "Emmett": emmett.STORE_CHECKPOINT,
}
"""What the dumps lack."""


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def own_node():
    """A node without the shortened streams that other tests leave behind."""
    with Nodes() as nodes:
        yield nodes


# Tables of Marten and Emmett are rebuilt inline elsewhere (test_inline_switch.py).
@pytest.mark.parametrize(
    "library",
    thorough_but(FROM, "message-db"),
)
def test_the_table_is_true_of(library, script, dumps, dsn, connection, project):
    said = script["answers"](script["LIBRARIES"][library])
    dump, stream, events, checkpoint = FROM[library]
    connection.execute((dumps / f"{dump}.sql").read_text() if dump else ENTRIES)
    connection.execute("RESET ALL")
    if library in BESIDE:
        connection.execute(BESIDE[library])
    connection.execute(MADE.format(stream, events))
    connection.execute("ALTER TABLE counts ADD PRIMARY KEY (stream)")
    project.write("counted.py", COUNTS)
    store = {"dsn": dsn} | ({} if dump else {"append": "quick", "table": DESCRIBED})

    def configure(**how: str) -> None:
        made = {"python": "counted:counts", "tables": ["counts"], "switch": "rename", **how}
        project.configure(stores={"shop": store}, projections={"counts": made})

    configure(live="app", checkpoint=checkpoint)
    asked = project.run("rebuild", "--blue-green", "--dry-run")
    assert (asked.code == 0) == said.sets_checkpoints, asked.err
    if not said.sets_checkpoints:
        assert "keeps no checkpoints of an application that esops could set" in asked.err
        assert project.run("rebuild", "--blue-green", "--dry-run", "--no-switch").code == 0
    status = project.run("status", "--output", "json").json
    assert bool(status["processors"]) == said.reads_checkpoints

    assert said.inline
    configure(live="inline")
    project.ok("rebuild", "--blue-green", "--test-only", "--dry-run")
    checked = project.ok("projection", "check", "counts", "--output", "json").json
    assert checked["differing"] == 0
    done = project.ok("rebuild", "--blue-green", "--output", "json").json
    assert (done["state"], done["verification"]["differing"]) == ("switched", 0)
    project.ok("projection", "rollback", "counts", "--accept-code")


@pytest.mark.thorough
def test_what_is_inline_needs_one_database(own_node, script, dsn, connection, project):
    said = script["answers"](script["LIBRARIES"]["EventStoreDB"])
    assert (said.inline, said.sets_checkpoints) == (False, False)
    connection.execute("CREATE TABLE counts (stream text PRIMARY KEY, events int)")
    project.write("counted.py", COUNTS)
    made = {"python": "counted:counts", "tables": ["counts"], "switch": "rename"}
    for live, why in (
        ({"live": "inline"}, "are not in one Postgres database"),
        ({"live": "app", "checkpoint": "p"}, "are in different databases"),
    ):
        project.configure(
            stores={"shop": {"backend": "eventstoredb", "uri": own_node.uri}},
            readmodels={"reads": {"dsn": dsn}},
            projections={"counts": {**made, **live}},
        )
        asked = project.run("rebuild", "--blue-green", "--dry-run")
        assert (asked.code, why in asked.err) == (6, True), asked.err
    built = project.ok("rebuild", "--blue-green", "--no-switch", "--accept-fewer").out
    assert "nothing can switch to it later" in built
    assert project.run("projection", "switch", "counts", "--to", "2").code == 6
    checked = project.run("projection", "check", "counts")
    assert (checked.code, "in another database than its events" in checked.err) == (6, True)


def test_the_table_on_the_page_is_what_the_code_says(script):
    page = SCRIPT.with_name("life-cycles.md").read_text()
    assert page == script["written"](page), "run: python docs/reference/life_cycles.py"
    assert json.dumps(script["kinds"]("inline")) == '["fold"]'
