"""The projections of the docs, as they stand there, give the truth of a fixture, over a restart in
the middle of the carts.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path

import psycopg
import pytest

from tests.support import shop

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
EVENTS, FIRST = 300, 133
ONE = "CREATE TABLE {table} (cart_id text PRIMARY KEY, items integer NOT NULL DEFAULT 0);"
TWO = """CREATE TABLE {carts} (cart_id text PRIMARY KEY, changed_at timestamptz NOT NULL);
CREATE TABLE {cart_items} (cart_id text, product text, quantity integer NOT NULL,
    PRIMARY KEY (cart_id, product));"""
CONFIGURATION = """[stores.shop]
dsn = "{dsn}"
schema = "shop"
append = "quick"
[projections.carts]
{how}
tables = {tables}
ddl = "carts.sql"
"""
TYPES = re.compile(r"^type .*$|<string(?:, Row)?>|: (?:unknown|string)(?=\))", re.MULTILINE)
"""What TypeScript has and JavaScript has not, in the example."""


def example(page: str, heading: str) -> str:
    """The first block of code below a heading."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1]
    lines: list[str] = []
    for line in section.splitlines():
        if lines and line and not line.startswith("    "):
            break
        if line.startswith("    ") or (lines and not line):
            lines.append(line)
    return textwrap.dedent("\n".join(lines)).strip() + "\n"


def fold() -> tuple[dict[str, str], str]:
    return {"carts.py": example("projections.md", "fold")}, 'python = "carts:cart_summary"'


def handlers() -> tuple[dict[str, str], str]:
    code = example("projections.md", "handlers")
    return {"carts.py": code}, 'kind = "handlers"\npython = "carts:carts"'


def sql() -> tuple[dict[str, str], str]:
    code = example("projections.md", "sql")
    return {"carts_statement.sql": code}, 'kind = "sql"\nstatement = "carts_statement.sql"'


def typescript() -> tuple[dict[str, str], str]:
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    code = TYPES.sub("", example("process-protocol.md", "TypeScript"))
    return {"carts.mjs": code}, 'kind = "process"\ncommand = ["node", "carts.mjs"]'


PROJECT = """<Project Sdk="Microsoft.NET.Sdk"><PropertyGroup><OutputType>Exe</OutputType>
<TargetFramework>net8.0</TargetFramework><ImplicitUsings>enable</ImplicitUsings></PropertyGroup>
</Project>"""


def csharp() -> tuple[dict[str, str], str]:
    if shutil.which("dotnet") is None:
        pytest.skip("there is no dotnet")
    code = example("process-protocol.md", "C#")
    return (
        {"Program.cs": code, "carts.csproj": PROJECT},
        'kind = "process"\ncommand = ["dotnet", "run"]\ntimeout = "120s"',
    )


@pytest.mark.parametrize("made", [fold, handlers, sql, typescript, csharp])
def test_an_example_of_the_docs_gives_the_truth(made, dsn, project, connection):
    files, how = made()
    names = ["carts", "cart_items"] if made is handlers else ["cart_summary"]
    for name, text in files.items():
        (project.folder / name).write_text(text, encoding="utf-8")
    project.write("carts.sql", TWO if made is handlers else ONE)
    tables = str(names).replace("'", '"')
    project.write("esops.toml", CONFIGURATION.format(dsn=dsn, how=how, tables=tables))
    shop.make(dsn, EVENTS)
    with Hidden(connection, FIRST):
        project.ok("rebuild", "--blue-green")
        check(connection, made is handlers)
    # A new process goes on at the checkpoint, with carts whose rows are in the table already.
    project.ok("run", "--until-caught-up")
    assert connection.execute("SELECT position FROM esops.versions").fetchone() == (str(EVENTS),)
    check(connection, made is handlers)


class Hidden:
    """Events after a number are not there yet."""

    def __init__(self, connection: psycopg.Connection, after: int) -> None:
        self.connection, self.after = connection, after

    def __enter__(self) -> None:
        self.connection.execute(
            "CREATE TABLE later AS SELECT * FROM shop.mt_events WHERE seq_id > %s", (self.after,)
        )
        self.connection.execute("DELETE FROM shop.mt_events WHERE seq_id > %s", (self.after,))
        self._at(self.after)

    def __exit__(self, *_: object) -> None:
        with self.connection.transaction():
            self._at(EVENTS)
            self.connection.execute("INSERT INTO shop.mt_events SELECT * FROM later")

    def _at(self, number: int) -> None:
        self.connection.execute("SELECT setval('shop.mt_events_sequence', %s)", (number,))


def check(connection: psycopg.Connection, by_product: bool) -> None:
    """The tables have what the events say, counted one by one."""
    expected: dict[tuple[str, ...], int] = {}
    carts = set()
    for stream, kind, data in connection.execute(
        "SELECT stream_id, type, data FROM shop.mt_events ORDER BY seq_id"
    ):
        if kind == "product_item_added":
            key = (stream, data["ProductId"]) if by_product else (stream,)
            expected[key] = expected.get(key, 0) + data["Quantity"]
            carts.add(stream)
    columns = "cart_id, product, quantity" if by_product else "cart_id, items"
    table = "cart_items" if by_product else "cart_summary"
    rows = connection.execute(f"SELECT {columns} FROM {table}".encode()).fetchall()
    # A fold has a row for each stream, also where nothing was added to it yet.
    assert {row[:-1]: row[-1] for row in rows if row[-1]} == expected
    if by_product:
        found = connection.execute("SELECT cart_id FROM carts").fetchall()
        assert {row[0] for row in found} == carts
