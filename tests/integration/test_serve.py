"""`esops serve`, the installed command: pages of a real database, controls, the end by a signal."""

from __future__ import annotations

import re
import socket
import time

import pytest

from tests.support import shop
from tests.support.served import serving


@pytest.fixture
def carts(dsn, connection, project):
    """A shop whose read model has two versions: v2 serves, v1 stands by."""
    shop.make(dsn, 400)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green", "--quiet")
    project.ok("rebuild", "--blue-green", "--quiet")
    return project


def serves(connection) -> int:
    row = connection.execute("SELECT active_version FROM esops.projections").fetchone()
    return row[0]


@pytest.mark.slow
def test_controls_show_the_plan_of_the_command_and_do_what_it_does(carts, connection):
    with serving(carts, "--allow-control") as served:
        assert "everybody who can log in to this machine" in "".join(served.said)
        page = served.get("/projections/cart_summary")
        assert "Switch to v1" in page
        fields = {"form_token": served.form(page)["form_token"]}
        path = "/projections/cart_summary"

        # The plan is the command's; without the name, or when it is old, nothing is done.
        plan = served.post(f"{path}/switch/plan", **fields, to="1")
        dry = carts.ok("projection", "switch", "cart_summary", "--to", "1", "--dry-run")
        assert 'CREATE OR REPLACE VIEW "public"."cart_summary"' in dry.out
        assert dry.out.splitlines()[0].replace('"', "&#34;") in plan.text
        confirm = served.form(plan.text)
        assert served.post(f"{path}/switch", **confirm, confirm="cart").status_code == 400
        assert serves(connection) == 2
        carts.ok("projection", "switch", "cart_summary", "--to", "1")
        late = served.post(f"{path}/switch", **confirm, confirm="cart_summary")
        assert serves(connection) == 1
        assert "done</span>" not in late.text

        # One that is confirmed is done, and recorded as the command's.
        plan = served.post(f"{path}/switch/plan", **fields, to="2")
        done = served.post(f"{path}/switch", **served.form(plan.text), confirm="cart_summary")
        until_over(served, done)
        assert serves(connection) == 2
        actions = carts.ok("history", "--output", "json").json["actions"]
        assert (actions[-1]["command"], actions[-1]["exit_code"]) == ("projection switch", 0)
        assert "projection switch" in served.get("/history")


@pytest.mark.slow
@pytest.mark.thorough
def test_controls_refuse_as_the_command_does_and_a_pause_is_shown(carts, connection):
    with serving(carts, "--allow-control") as served:
        path = "/projections/cart_summary"
        fields = {"form_token": served.form(served.get(path))["form_token"]}
        # A refusal is the command's sentence.
        carts.ok("projection", "rollback", "cart_summary")
        refused = served.post(f"{path}/rollback/plan", **fields)
        said = carts.run("projection", "rollback", "cart_summary").err.splitlines()[0]
        assert refused.status_code == 409
        assert said.removeprefix("error: ").split(" at ")[0] in refused.text

        # A pause holds work, and the first page says so; resume lifts it.
        for control, shown in (("pause", "is paused"), ("resume", "Nothing needs a look")):
            plan = served.post(f"{path}/{control}/plan", **fields)
            answer = served.post(
                f"{path}/{control}", **served.form(plan.text), confirm="cart_summary"
            )
            until_over(served, answer)
            assert shown in served.get("/")


def until_over(served, answer):
    """Wait for the end of a job, and check that it went well."""
    path = answer.url.path
    text = answer.text
    while "under way" in text or "waits for its turn" in text:
        time.sleep(0.05)
        text = served.get(path)
    assert "done</span>" in text, text


def test_what_is_searched_is_found_and_a_page_hears_of_changes_until_the_end(carts, connection):
    stream, version, event, data = connection.execute(
        "SELECT stream_id, version, id, data->>'ClientId' FROM shop.mt_events "
        "WHERE data ? 'ClientId' ORDER BY seq_id LIMIT 1"
    ).fetchone()
    with serving(carts) as served:
        assert "Roll back" not in served.get("/projections/cart_summary")
        found = served.get(f"/trace?q={stream}")
        assert "By stream" in found
        assert "shopping_cart_opened" in found
        assert str(event) in served.get(f"/stream?name={stream}")
        without = served.get(f"/event?stream={stream}&version={version}")
        assert data not in without
        assert data in served.get(f"/event?stream={stream}&version={version}&payload=yes")
        served.get("/event?stream=nope&version=1", status=404)
        assert "no stream" in served.get("/stream?name=nope", status=404)
        assert "There are none" in served.get("/dead-letters")

        page = served.get("/audit")
        assert "400" in page
        audit = served.post("/audit", **served.form(page))
        until_over(served, audit)
        assert "The longest streams" in served.get(audit.url.path)

        # An open page hears of changes, and does not hold up the end.
        with served.live("status") as news:
            carts.run("projection", "pause", "cart_summary")
            assert any("is paused" in each.get("html", "") for each in news)
            out, err = served.end()
            assert served.process.returncode == 0, err
            assert err == ""
            assert out == ""


def test_what_cannot_be_listened_on_is_a_sentence_and_exit_code_2(project):
    carts = project
    shop.configure(carts, "host=/nowhere")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = carts.run("serve", str(port))
    assert result.code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in result.err
    assert carts.run("serve", "99999").code == 2
    wide = carts.run("serve", "0.0.0.0:0")
    assert wide.code == 2
    assert "no token is set" in wide.err


@pytest.mark.thorough
@pytest.mark.slow
def test_in_a_browser_it_is_readable_in_light_dark_and_on_a_phone(carts, connection, browser):
    api = pytest.importorskip("playwright.sync_api")
    with serving(carts) as served, api.sync_playwright() as driver:
        real = driver.chromium.launch(executable_path=browser.program, args=FLAGS)
        complaints: list[str] = []
        asked: list[str] = []
        for scheme, width in (("light", 1280), ("dark", 390)):
            view = real.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
            page = view.new_page()
            page.on("console", lambda each: complaints.append(each.text))
            page.on("pageerror", lambda each: complaints.append(str(each)))
            page.on("request", lambda each: asked.append(each.url))
            for path in PATHS:
                page.goto(served.url.rstrip("/") + path)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, (path, wide)
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            light = sum(map(int, paper[4:-1].split(","))) > 3 * 128
            assert light == (scheme == "light")
        # What is live changes by itself; times say how long ago; what the database says is text.
        page.goto(served.url)
        page.wait_for_selector("#live[data-state=on]")
        connection.execute(PAUSE)
        page.get_by_text("is paused by <b>me</b>").wait_for()
        assert re.search(r"\d+ s ago|just now", page.inner_text("main"))
        # A stream that is cut off as its page is left is none; one that the server broke is in its log.
        assert [each for each in complaints if "ERR_INCOMPLETE_CHUNKED" not in each] == []
        assert all(each.startswith(served.url) for each in asked)
        real.close()
        _, log = served.end()
        assert "Traceback" not in log
        assert "defect" not in log


PATHS = ("/", "/projections/cart_summary", "/audit", "/trace?q=cart", "/history")
PAUSE = "UPDATE esops.controls SET paused = true, by = '<b>me</b>'"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
