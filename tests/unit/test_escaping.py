"""What applications put into names never reaches a terminal as an order: not in text, tables, logs,
errors or graphs, and JSON stays JSON.
"""

from __future__ import annotations

import io
import json
import tomllib
from datetime import UTC, datetime

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from esops.errors import Refused
from esops.escaping import visible, visible_json, visible_lines
from esops.events import Position, RecordedEvent
from esops.init import Detection, as_toml
from esops.page import label
from esops.term import GlobalOptions, Output, set_up_logging, to_json
from esops.trace import render
from esops.trace.graph import Keys, build, node
from esops.trace.page import trace_page
from esops.trace.search import Trace

EVIL = "\x1b]0;owned\x07\x1b[2J[bold red]\u202etxt\x9b31m\x7f\r\n\u2066"
ORDERS = {
    chr(code)
    for code in (*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def orders_in(text: str, allowed: str = "\n") -> set[str]:
    return {each for each in text if each in ORDERS and each not in allowed}


def test_each_order_is_shown_and_all_else_stays():
    shown = visible(EVIL)
    assert shown == (r"\x1b]0;owned\x07\x1b[2J[bold red]\u202etxt\x9b31m\x7f\r\n\u2066")
    assert visible_lines("a\tb\nc\x1b") == "a\tb\nc\\x1b"
    assert visible("Zoë [bold] 漢字 😀 \\") == "Zoë [bold] 漢字 😀 \\"
    assert visible("\ud800") == r"\ud800"


@given(st.text())
def test_any_text_is_without_orders(text):
    assert not orders_in(visible(text), "")
    visible(text).encode()
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_of_an_output_obeys(terminal, monkeypatch, capsys):
    output = Output(GlobalOptions(color=False))
    out, err = io.StringIO(), io.StringIO()
    look = {"force_terminal": terminal, "color_system": None, "width": 200, "highlight": False}
    output.data, output.talk = Console(file=out, **look), Console(file=err, **look)
    monkeypatch.setattr(type(output), "out", property(lambda self: out))
    output.line(f"stream {EVIL}")
    output.table(f"of {EVIL}", ["name", EVIL], [[EVIL, {"k": EVIL}]])
    output.csv([{"a": EVIL}], ["a"])
    output.json({"a": EVIL, "at": datetime(2026, 1, 1, tzinfo=UTC)})
    output.ndjson([{EVIL: 1}])
    output.say(EVIL)
    output.error(Refused(f"no {EVIL}", hint=EVIL))
    progress = output.progress(EVIL, 0, 10)
    progress.close()
    if terminal:  # a bar is drawn with orders of its own
        plain = (
            err.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "").replace("\x1b[2K", "")
        )
        plain = plain.replace("\x1b[1A", "").replace("\r", "")
    else:
        plain = err.getvalue()
    assert not orders_in(out.getvalue(), "\r\n")
    assert not orders_in(plain)
    assert "[bold red]" in out.getvalue()
    assert json.loads(to_json({"a": EVIL})) == {"a": EVIL}


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_log_does_not_obey(form, capsys):
    set_up_logging(GlobalOptions(log_format=form, color=False))
    structlog.get_logger("t").warning(f"about {EVIL}", stream=EVIL)
    structlog.reset_defaults()
    assert not orders_in(capsys.readouterr().err)


def test_graphs_and_pages_do_not_obey():
    event = RecordedEvent(
        "i",
        f"s-{EVIL}<b>",
        1,
        Position((1,)),
        f'"{EVIL}',
        b"{}",
        b'{"causationId": "\\u001b[2J"}',
        None,
    )
    forest = build([node("s", event, Keys())])
    for lines in (render.mermaid(forest), render.dot(forest)):
        text = "\n".join(lines)
        assert not orders_in(text)
        assert "\\x1b" in text
    assert "<b>" not in "\n".join(render.mermaid(forest))
    assert not orders_in(label(EVIL), "")


def test_a_page_of_a_trace_does_not_obey():
    event = RecordedEvent("i", f"s-{EVIL}", 1, Position((1,)), EVIL, b"{}", b"", None)
    text = trace_page(Trace(f"stream {EVIL}", build([node("s", event, Keys())])))
    assert EVIL[:8] not in text
    assert "\u202e" not in text
    assert r"\x1b]0;owned" in text


def test_what_init_and_doctor_write_stays_one_comment():
    found = Detection("dbname=x\x1b", False, read_models=["public.a\n[stores.evil]"])
    written = tomllib.loads(as_toml(found))
    assert "evil" not in written.get("stores", {})
