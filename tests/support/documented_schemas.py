"""What the docs' pages about schemas take for granted in a project: schemas under version control
with a release, code that decodes events, and a contract.
"""

from __future__ import annotations

import json
import shutil
import subprocess

CONTRACT = """
[contracts.orders]
store = "shop"
types = ["product_item_added"]
schemas = "contracts/orders"
"""
EVENTS = """
import json

def decode(event):
    return event.json()

def encode(value):
    return json.dumps(value).encode()
"""
PROGRAM = """
import { createInterface } from "node:readline";
const send = (message) => process.stdout.write(JSON.stringify(message) + "\\n");
for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.type === "hello") send({ type: "ready", protocol: 1 });
  else if (message.type === "batch") {
    for (const { id } of message.events) send({ id, ok: true });
  }
}
"""


def git(folder, *arguments: str) -> None:
    of = ("-c", "user.name=shop", "-c", "user.email=shop@example.com")
    subprocess.run(["git", *of, *arguments], cwd=folder, check=True, capture_output=True)


def prepare(project) -> None:
    """Add it to a project that has a store `shop`."""
    project.write("esops.toml", (project.folder / "esops.toml").read_text() + CONTRACT)
    project.write("shop/events.py", EVENTS)
    project.write("decode.js", PROGRAM)
    (project.folder / "contracts" / "orders").mkdir(parents=True)
    project.write("contracts/orders/product_item_added.json", json.dumps({"type": "object"}))
    project.ok("schema", "infer", "-o", "schemas/")
    for number in (1, 2, 3):
        shutil.copytree(project.folder / "schemas", project.folder / "released" / f"v{number}")
    git(project.folder, "init", "-q", "-b", "main")
    git(project.folder, "add", "schemas")
    git(project.folder, "commit", "-qm", "schemas")
    git(project.folder, "tag", "v1.0")
