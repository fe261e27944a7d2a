"""Who is told how a command ended: by webhook and by program, with nothing secret in it, and
without a change to the command itself.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support import shop
from tests.support.cases import thorough_but


class Ear:
    """A webhook that keeps what it gets."""

    def __init__(self):
        self.heard, self.answer, self.sleep = [], 204, 0.0
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                ear.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(ear.sleep)
                self.send_response(ear.answer)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/s3cret-token"


@pytest.fixture
def ear():
    found = Ear()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, 200)
    shop.configure(project, dsn)
    return project


def notify(project, **sections: dict) -> None:
    text = (project.folder / "esops.toml").read_text()
    for name, keys in sections.items():
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        text += f"\n[notify.{name}]\n{lines}\n"
    project.write("esops.toml", text)


def kinds(ear) -> list[tuple]:
    return [(each["kind"], each["command"]) for each in ear.heard]


def test_ends_findings_and_refusals_are_told_by_a_webhook(carts, ear, dsn):
    notify(carts, ops={"webhook": ear.url})
    carts.ok("rebuild", "--blue-green")
    carts.ok("rebuild", "--blue-green", "--dry-run")
    carts.ok("projection", "check", "cart_summary")  # found nothing
    carts.ok("projection", "show", "cart_summary")
    carts.ok("rebuild", "--blue-green")
    carts.ok("projection", "rollback", "cart_summary")
    assert carts.run("projection", "rollback", "cart_summary").code == 6
    assert carts.run("projection", "switch", "cart_summary", "--to", "99").code == 2
    assert kinds(ear) == [
        ("end", "rebuild"),
        ("end", "rebuild"),
        ("end", "projection rollback"),
        ("refusal", "projection rollback"),
    ]
    first = ear.heard[0]
    assert first["projections"] == ["cart_summary"]
    assert first["text"].startswith("esops rebuild cart_summary: done (")
    assert first["exit_code"] == 0
    assert "s3cret" not in json.dumps(ear.heard)
    assert dsn not in json.dumps(ear.heard)


def test_what_a_check_finds_is_told_and_no_value_of_it(carts, ear, connection):
    notify(carts, ops={"webhook": ear.url, "on": ["finding"]})
    carts.ok("rebuild", "--blue-green")
    connection.execute(
        "UPDATE cart_summary__v1 SET client = 'Mallory', total = 17 WHERE cart_id = (SELECT min(cart_id) FROM cart_summary__v1)"
    )
    assert carts.run("projection", "check", "cart_summary").code == 1
    [told] = ear.heard
    assert (told["kind"], told["command"], told["projections"]) == (
        "finding",
        "projection check",
        ["cart_summary"],
    )
    assert "Mallory" not in json.dumps(told)


def test_a_program_gets_the_fields_without_a_shell(carts):
    carts.write(
        "tell.py",
        "import json, os, sys\nopen('told.json', 'w').write(json.dumps([json.load(sys.stdin), {k: v for k, v in os.environ.items() if k.startswith('ESOPS_')}]))",
    )
    notify(carts, ops={"command": ["python3", "tell.py", "$(touch pwned)"]})
    carts.ok("rebuild", "--blue-green")
    fields, environment = json.loads((carts.folder / "told.json").read_text())
    assert fields["kind"] == environment["ESOPS_KIND"] == "end"
    assert environment["ESOPS_PROJECTIONS"] == "cart_summary"
    assert environment["ESOPS_EXIT_CODE"] == "0"
    assert not (carts.folder / "pwned").exists()


@pytest.mark.parametrize(
    "fault",
    thorough_but(["status", "gone", "program"], "gone"),
)
def test_what_is_not_delivered_is_a_warning_and_nothing_else(carts, ear, fault):
    keys = {"webhook": ear.url}
    ear.answer = 500
    if fault == "gone":
        ear.server.server_close()
    elif fault == "program":
        keys = {"command": ["./no-such-program"]}
    notify(carts, ops=keys)
    done = carts.ok("rebuild", "--blue-green")
    assert done.err.count("a notification was not delivered") == 1
    assert "notify.ops" in done.err
    assert "s3cret" not in done.err


@pytest.mark.thorough
def test_forms_and_filters(carts, ear):
    notify(
        carts,
        slack={"webhook": ear.url, "format": "slack"},
        teams={"webhook": ear.url, "format": "teams"},
        other={"webhook": ear.url, "projections": ["another"]},
    )
    carts.ok("rebuild", "--blue-green")
    assert sorted(min(each) for each in ear.heard) == ["attachments", "text"]
    found = carts.run("doctor", "--output", "json").json["findings"]
    assert [each["message"] for each in found if each["code"] == "ESOPS-D092"] == [
        "notify.other.projections names 'another', which is no projection"
    ]


def test_a_test_message_is_sent_and_what_fails_is_named(carts, ear):
    assert carts.run("doctor", "--notify").code == 2
    notify(
        carts, ops={"webhook": ear.url}, bad={"command": ["./none"]}, odd={"apprise": "nonsense"}
    )
    done = carts.run("doctor", "--notify")
    assert done.code == 1
    assert "notify.ops: a test message was delivered" in done.out
    assert "notify.bad: the program cannot be run" in done.out
    assert "notify.odd: apprise does not understand the address" in done.out
    assert [each["kind"] for each in ear.heard] == ["test"]
