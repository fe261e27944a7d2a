"""A shop over the store in memory, and `esops` in this process: a test takes milliseconds.

Time is faked where a test would wait for it; Postgres' part is the real one, embedded.
"""

from __future__ import annotations

import itertools
import uuid
from contextlib import chdir
from dataclasses import dataclass, field

import orjson
import psycopg
import pytest

from esops.cli.app import main
from esops.events import NewEvent
from esops.testing import MemoryLog, MemoryStore
from tests.support.project import Project, Result

CODE = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    row = row or {"cart": event.stream, "items": 0}
    return {**row, "items": row["items"] + event.json()["items"], "position": event.position[0]}
"""
DDL = "CREATE TABLE {table} (cart text PRIMARY KEY, items int NOT NULL, position bigint NOT NULL);"
_numbers = itertools.count(1)


@dataclass
class Shop:
    """The log, the project's folder, and the read model's database."""

    log: MemoryLog
    project: Project
    connection: psycopg.Connection
    capsys: pytest.CaptureFixture
    name: str
    module: str = field(default_factory=lambda: f"carts_{next(_numbers)}")
    """Its own for each test: a process imports a module once."""

    def append(self, count: int, streams: int = 10, items: int = 1) -> None:
        """So many events more, in turn on so many carts."""
        store = MemoryStore()
        store.log = self.log
        for number in range(count):
            data = orjson.dumps({"items": items})
            store.append(f"cart-{number % streams}", [NewEvent(str(uuid.uuid4()), "added", data)])

    def configure(self, code: str = CODE, **projection) -> None:
        """Write esops.toml with the projection, and its files."""
        self.project.write(f"{self.module}.py", code)
        self.project.write("carts.sql", DDL)
        self.project.begin_archive("cold")
        self.project.configure(
            stores={"shop": {"backend": "memory", "log": self.name}},
            readmodels={"main": {"dsn": self.connection.info.dsn}},
            archives={
                "cold": {
                    "repository": "cold",
                    "policies": {
                        "old": {
                            "store": "shop",
                            "stream": "cart-*",
                            "remove": "keep",
                            "never_younger_than": "0s",
                        }
                    },
                }
            },
            projections={
                "carts": {
                    key: value
                    for key, value in {
                        "python": f"{self.module}:carts",
                        "tables": ["carts"],
                        "ddl": "carts.sql",
                        **projection,
                    }.items()
                    if value is not None
                }
            },
        )

    def run(self, *arguments: str) -> Result:
        """A command in this process."""
        self.capsys.readouterr()
        with chdir(self.project.folder), pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err, said.err
        return Result(int(ended.value.code or 0), said.out, said.err)

    def ok(self, *arguments: str) -> Result:
        result = self.run(*arguments)
        assert result.code == 0, f"{result.out}\n{result.err}"
        return result

    @property
    def truth(self) -> dict[str, tuple[int, int]]:
        """What the events in the log come to."""
        carts: dict[str, tuple[int, int]] = {}
        for event in self.log.events:
            items = carts.get(event.stream, (0, 0))[0] + event.json()["items"]
            carts[event.stream] = (items, event.position[0])
        return carts

    def table(self, name: str = "carts") -> dict[str, tuple[int, int]]:
        rows = self.connection.execute(f"SELECT cart, items, position FROM {name}").fetchall()
        assert len({row[0] for row in rows}) == len(rows), "rows were doubled"
        return {row[0]: tuple(row[1:]) for row in rows}

    def state(self) -> str:
        (state,) = self.connection.execute(
            "SELECT state FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
        ).fetchone()
        return state


@pytest.fixture
def shop(connection, tmp_path, capsys):
    name = f"shop-{next(_numbers)}"
    made = Shop(MemoryLog.named(name), Project(tmp_path), connection, capsys, name)
    made.append(200)
    made.configure()
    yield made
    MemoryLog.known.pop(name)
