"""`esops mcp`, asked by the SDK's own client over standard input and output, on a real store."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

import anyio
import pytest

from esops.assistants.bounds import MOST, fitted, without_data
from tests.support import shop
from tests.support.cases import thorough_but

NOISY = shop.PROJECTION + '\nprint("this is not the protocol")\n'


class Answer(NamedTuple):
    error: bool
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Asked(NamedTuple):
    tools: dict[str, Any]
    resources: list[str]
    answers: list[Answer]
    page: str
    projections: str


def ask(project, calls: list[tuple[str, dict]], *options: str) -> Asked:
    """Start the server as an assistant does, and make these calls."""
    from mcp import Client, StdioServerParameters, stdio_client  # long to import

    environment = project.environ()
    server = StdioServerParameters(
        command=project.command("mcp")[0],
        args=["mcp", *options],
        env=environment,
        cwd=str(project.folder),
    )

    async def session(log) -> Asked:
        async with Client(stdio_client(server, errlog=log)) as client:
            tools = {each.name: each for each in (await client.list_tools()).tools}
            resources = [str(each.uri) for each in (await client.list_resources()).resources]
            answers = []
            for name, arguments in calls:
                found = await client.call_tool(name, arguments)
                [content] = found.content
                answers.append(Answer(found.is_error, content.text))
            page = (
                (await client.read_resource("esops://docs/wait-for-a-read-model")).contents[0].text
            )
            listed = (await client.read_resource("esops://projections")).contents[0].text
            return Asked(tools, resources, answers, page, listed)

    with open(project.folder / "stderr.txt", "w") as log:
        return anyio.run(session, log)


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, 400)
    shop.configure(project, dsn, code=NOISY)
    project.ok("rebuild", "--blue-green")
    return project


def test_an_assistant_gets_the_state_and_events_and_writes_nothing(carts, connection, dsn):
    stream, identity = connection.execute(
        "SELECT stream_id, id::text FROM shop.mt_events WHERE version = 1 ORDER BY seq_id LIMIT 1"
    ).fetchone()
    rows_before = connection.execute(
        "SELECT (SELECT count(*) FROM esops.actions), (SELECT count(*) FROM esops.checks)"
    ).fetchone()
    asked = ask(
        carts,
        [
            ("status", {}),
            ("events", {"last": 3}),
            ("events", {"stream": str(stream), "where": ["ClientId = nobody"]}),
            ("audit_streams", {"longest": 2}),
            ("audit_stream", {"stream": str(stream)}),
            ("trace", {"by": "event", "sought": identity}),
            ("projection", {"name": "cart_summary"}),
            ("history", {}),
            ("plan", {}),
            ("docs", {}),
            ("docs", {"topic": "doctor", "section": "ESOPS-D003"}),
        ],
    )
    assert not [each for each in asked.answers if each.error]
    status, events, none, streams, one, trace, projection, history, plan, topics, section = (
        asked.answers
    )
    assert status.json["stores"][0]["ok"] is True
    assert len(events.json["events"]) == 3
    assert "data" in events.json["events"][0]
    assert none.json["events"] == []
    assert len(streams.json["streams"]) == 2
    assert one.json["stream"] == str(stream)
    assert identity in [each["id"] for each in trace.json["events"]]
    assert projection.json["active"] == 1
    assert [each["command"] for each in history.json["actions"]] == ["rebuild"]
    assert plan.json["projections"][0]["needs"] == "nothing"
    assert {"topic", "kind", "title"} <= topics.json["topics"][0].keys()
    assert section.text.startswith("### ESOPS-D003")
    assert all(each.annotations.read_only_hint for each in asked.tools.values())
    assert "esops://docs/doctor" in asked.resources
    assert asked.page.startswith("# Wait for a read model")
    assert json.loads(asked.projections)["projections"][0]["projection"] == "cart_summary"
    assert dsn not in "".join([asked.projections, *(each.text for each in asked.answers)])
    assert (
        connection.execute(
            "SELECT (SELECT count(*) FROM esops.actions), (SELECT count(*) FROM esops.checks)"
        ).fetchone()
        == rows_before
    )


@pytest.mark.parametrize("no_data", thorough_but([(), ("--no-data",)], ("--no-data",)))
def test_a_check_finds_a_wrong_row_and_no_data_leaves_values_out(carts, connection, no_data):
    """The check runs the user's code, whose print() must not reach the protocol."""
    connection.execute(
        "UPDATE cart_summary__v1 SET client = 'Mallory' WHERE cart_id = (SELECT min(cart_id) FROM cart_summary__v1)"
    )
    found = ask(
        carts,
        [
            ("projection_check", {"name": "cart_summary", "sample": "100%"}),
            ("events", {"last": 5}),
            ("events", {"where": ["ClientId = x"]}),
        ],
        *no_data,
    )
    assert found.answers[0].json["differing"] == 1
    assert ("Mallory" in found.answers[0].text) == (not no_data)
    data = [each["data"] for each in found.answers[1].json["events"]]
    assert (data == ["left out (--no-data)"] * 5) == bool(no_data)
    assert found.answers[2].error == bool(no_data)


@pytest.mark.thorough
def test_errors_are_sentences_with_hints(carts, connection):
    asked = ask(
        carts,
        [
            ("projection", {"name": "cart_sumary"}),
            ("events", {"stream": "nope"}),
            ("events", {"since": "yesterday"}),
            ("status", {"store": "nope"}),
            ("docs", {"topic": "doctr"}),
            ("projection_check", {"name": "cart_summary", "sample": "many"}),
            ("events", {"last": 100000}),
        ],
        "--no-check",
    )
    assert "projection_check" not in asked.tools
    assert all(each.error for each in asked.answers)
    texts = [each.text for each in asked.answers]
    assert "Did you mean 'cart_summary'?" in texts[0]
    assert "has no stream 'nope'" in texts[1]
    assert "Write a duration" in texts[2]
    assert "There is: shop." in texts[3] or "Did you mean" in texts[3]
    assert not [each for each in texts if "Traceback" in each]


def test_the_server_refuses_any_write(carts, dsn):
    """Whatever a tool would do, its sessions are read-only."""
    program = (
        "from esops.postgres import session; session.only_read()\n"
        "from esops.postgres.connection import connect\n"
        f"with connect({dsn!r}, 'x') as c:\n"
        "    try: c.execute('DELETE FROM esops.versions')\n"
        "    except Exception as error: print(type(error).__name__)"
    )
    assert carts.python(program) == "ReadOnlySqlTransaction"


def test_without_the_extra_one_sentence_says_how_to_install_it(project):
    project.write("esops.toml", "")
    project.write("sitecustomize.py", "import sys\nsys.modules['mcp'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "esops", "mcp"],
        cwd=project.folder,
        env={**project.environ(), "PYTHONPATH": str(project.folder)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'esops[mcp]'" in done.stderr


def test_long_answers_are_cut_and_say_so():
    rows = [{"id": number, "data": {"text": "x" * 900}} for number in range(200)]
    text = fitted({"store": "shop", "events": rows}, "Ask for fewer.")
    assert len(text) <= MOST
    found = json.loads(text)
    assert 0 < len(found["events"]) < 200
    assert found["cut"] == f"events: {len(found['events'])} of 200 are shown. Ask for fewer."
    long = json.loads(fitted({"events": [{"data": {"text": "x" * 9000}}]}, ""))
    assert long["events"][0]["data"].endswith("characters in all)")
    whole = json.loads(fitted({"one": {str(n): "y" * 100 for n in range(1000)}}, "Less."))
    assert whole["cut"].endswith("is left out. Less.")


def test_what_may_quote_a_value_is_left_out():
    shown = without_data(
        {"projections": [{"stalled": {"seconds": 61, "reasons": ["KeyError: 'Ann'"]}}]}
    )
    assert shown == {
        "projections": [{"stalled": {"seconds": 61, "reasons": "left out (--no-data)"}}]
    }
