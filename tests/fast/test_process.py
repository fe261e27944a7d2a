"""A projection that is any program: rows by NDJSON, and what a program does wrong."""

from __future__ import annotations

import sys

import pytest

PROGRAM = """
import json, sys
rows, poison = {}, sys.argv[1] if len(sys.argv) > 1 else ""
def send(**message):
    print(json.dumps(message), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        send(type="ready", protocol=1)
    if message["type"] != "batch":
        continue
    touched = {}
    for event in message["events"]:
        if event["position"] == poison:
            MISDEED
        row = rows.setdefault(event["stream"], {"cart": event["stream"], "items": 0})
        row["items"] += event["data"]["items"]
        row["position"] = int(event["position"])
        touched[event["stream"]] = row
    send(type="write", ops=[{"op": "upsert", "table": "carts", "row": r} for r in touched.values()])
    send(type="done", number=message["number"])
"""


def configure(shop, misdeed: str = "pass", at: str = "") -> None:
    shop.project.write("program.py", PROGRAM.replace("MISDEED", misdeed))
    command = [sys.executable, "-S", "-E", "program.py", *([at] if at else [])]
    shop.configure(kind="process", command=command, python=None, timeout="60s")


def test_it_makes_the_rows_of_a_fold(shop):
    configure(shop)
    shop.ok("rebuild", "--blue-green")
    assert shop.table() == shop.truth


@pytest.mark.parametrize(
    ("misdeed", "code"),
    [
        ('send(type="poison", event=event["id"], error="I cannot")', 6),
        ("sys.exit(3)", 6),
        ('print("no JSON", flush=True)', 6),
        ('send(type="done", number=message["number"] + 1)', 6),
    ],
    ids=["poison", "exit", "no JSON", "wrong number"],
)
def test_a_program_that_goes_wrong_stops_the_rebuild_and_serves_nothing(shop, misdeed, code):
    configure(shop, misdeed, "150")
    result = shop.run("rebuild", "--blue-green")
    assert result.code == code, result.err
    assert shop.state() == "paused"
    assert shop.connection.execute("SELECT to_regclass('carts')").fetchone() == (None,)
