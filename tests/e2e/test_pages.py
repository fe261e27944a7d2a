"""The pages that esops writes, in a real browser: they draw, fetch nothing, complain of nothing,
and show names as they are.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import orjson
import pytest

from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import marten
from tests.support.browser import fetched

EVIL = "<img src=x onerror=alert(1)>"
ID = "0b1c2a4e-8f6d-4c55-9d0e-3a2b1c0d9e{:02x}"


def event(number: int, cause: int | None = None, kind: str = "done") -> NewEvent:
    about = {"correlationId": "flow"} | (
        {"causationId": ID.format(cause)} if cause is not None else {}
    )
    return NewEvent(ID.format(number), kind, b"{}", orjson.dumps(about))


@pytest.fixture
def shop(dsn, connection, project):
    marten.create(connection, marten.Variant(text_ids=True, optional=True))
    project.write(
        "esops.toml", f'[stores.shop]\ndsn = {json.dumps(dsn)}\n[audit.budgets]\n"*" = 3\n'
    )
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [event(1), event(2, 1), event(3, 2), event(4, 2)])
        store.append("order-1", [event(5, 4, EVIL), event(6, 5)])
        store.append(f"{EVIL}-1", [event(7, 6), event(8, 77)])
    connection.execute(
        "UPDATE mt_events SET timestamp = timestamp - (100 - seq_id) * interval '9 days'"
    )
    return connection


def svgs(document: str, name: str) -> str:
    """What is drawn in an element."""
    return document.partition(f'id="{name}"')[2].partition("<h2>")[0]


def report(project) -> Path:
    assert project.run("audit", "streams", "--report", "audit.html").code == 1
    return project.folder / "audit.html"


def test_the_report_of_streams_fetches_nothing_and_runs_no_name(shop, project):
    text = report(project).read_text(encoding="utf-8")
    assert fetched(text) == []
    assert EVIL not in text


@pytest.mark.thorough
def test_the_report_of_streams(shop, project, browser):
    document = browser.document(report(project))
    assert 'data-drawn="4"' in document
    for name in ("lengths", "growth", "months", "longest"):
        assert "main-svg" in svgs(document, name), name
    assert "1 stream breaks a budget" in document
    assert len(re.findall('class="point"', svgs(document, "longest"))) == 3


@pytest.mark.thorough
def test_the_report_of_streams_by_day_and_night(shop, project, browser, tmp_path):
    page = report(project)
    light, dark = (
        browser.picture(page, tmp_path / f"{dark}.png", dark=dark) for dark in (False, True)
    )
    assert light[:4] == dark[:4] == b"\x89PNG"
    assert min(len(light), len(dark)) > 50_000, "something is drawn"
    assert light != dark


@pytest.mark.thorough
def test_a_report_without_times_or_streams(project, dsn, connection, browser):
    marten.create(connection, marten.Variant(text_ids=True))
    project.write("esops.toml", f"[stores.shop]\ndsn = {json.dumps(dsn)}\n")
    project.ok("audit", "streams", "--report", "audit.html")
    assert 'data-drawn="1"' in browser.document(project.folder / "audit.html")
    assert project.run("audit", "streams", "--report", "nowhere/audit.html").code == 2


ZOOM = """
const drawn = document.getElementById("timeline");
const before = drawn.layout.xaxis.range.join();
Plotly.relayout(drawn, { "xaxis.range[0]": drawn.layout.xaxis.range[0], "xaxis.range[1]": drawn.data[1].x[1] }).then(() => {
  document.documentElement.dataset.zoomed = String(before !== drawn.layout.xaxis.range.join());
  const order = drawn.layout.updatemenus[0].buttons[1];
  return Plotly.update(drawn, order.args[0], order.args[1]);
}).then(() => {
  document.documentElement.dataset.type = drawn.layout.xaxis.type;
  document.documentElement.dataset.shades = drawn.layout.shapes.length;
});
"""


def trace(project) -> Path:
    project.ok("trace", "correlation", "flow", "--format", "html", "-o", "trace.html")
    return project.folder / "trace.html"


def test_the_page_of_a_trace_fetches_nothing_and_runs_no_name(shop, project):
    text = trace(project).read_text(encoding="utf-8")
    assert fetched(text) == []
    assert EVIL not in text


@pytest.mark.thorough
def test_the_page_of_a_trace_and_its_zoom(shop, project, browser):
    page = trace(project)
    document = browser.document(page, ZOOM)
    assert 'data-zoomed="true"' in document
    assert 'data-type="linear"' in document
    assert 'data-shades="0"' in document
    assert "+9 d 00 h" in document, "what lies between is told"
    assert "&lt;img src=x onerror=alert(1)&gt;-1 @2" in document
    assert f"its cause {ID.format(77)} is missing" in document
    assert len(re.findall('class="point"', svgs(document, "timeline"))) == 8


STEPS = """
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
const seen = [];
const note = () => seen.push(document.documentElement.dataset.step + ":" + document.getElementById("after").textContent.replace(/\\s+/g, ""));
note(); press("ArrowRight"); note(); press("ArrowLeft"); press("ArrowLeft"); note(); press("End"); note();
const slider = document.getElementById("slider");
slider.value = 1; slider.dispatchEvent(new Event("input")); note();
document.getElementById("jump").click(); note();
document.documentElement.dataset.seen = JSON.stringify(seen);
document.documentElement.dataset.wrong = document.getElementById("wrong").textContent;
document.documentElement.dataset.trace = document.getElementById("trace").textContent;
"""


def test_the_page_of_a_row_is_gone_through_by_keys_slider_and_button(shop, project, browser):
    project.write(
        "counts.py",
        """
        from esops import fold

        @fold(key="stream")
        def counts(row, event):
            if event.version == 3:
                raise ValueError("</script><b>" + event.type)
            return {"n": (row["n"] if row else 0) + 1}
        """,
    )
    project.write("counts.sql", "CREATE TABLE {table} (id text PRIMARY KEY, n integer)")
    text = (project.folder / "esops.toml").read_text()
    section = '[projections.counts]\npython = "counts:counts"\ntables = ["counts"]\n'
    project.write("esops.toml", text + section + 'ddl = "counts.sql"\non_error = "dead-letter"\n')
    step = ("projection", "step", "counts", "cart-1", "--report", "step.html")
    assert project.run(*step).code == 1
    page = project.folder / "step.html"
    assert fetched(page.read_text(encoding="utf-8")) == []
    document = browser.document(page, STEPS)
    row = '{"id":"cart-1","n":%d}'
    seen = json.loads(html.unescape(re.search('data-seen="([^"]*)"', document)[1]))
    assert seen == [
        "0:" + row % 1,
        "1:" + row % 2,
        "0:" + row % 1,
        "3:" + row % 3,
        "1:" + row % 2,
        "2:" + row % 2,
    ]
    assert "ValueError: &lt;/script&gt;&lt;b&gt;done" in document
    assert "counts.py" in re.search('data-trace="([^"]*)"', document)[1]
