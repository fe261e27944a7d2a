"""A backend of a package of its own, in one file, proves itself with the kit, and every command
works on it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from esops.events import NewEvent
from esops.stores import open_store
from esops.testing import Kit, StoreContract

PLUGIN = Path(__file__).parents[1] / "plugin"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield
    sys.modules.pop("esops_sqlite", None)


def settings(path: Path):
    from esops_sqlite import SqliteSettings

    return SqliteSettings(backend="sqlite", file=path)


class TestSqlite(StoreContract):
    @pytest.fixture
    def kit(self, tmp_path):
        mine = settings(tmp_path / "events.db")
        with open_store("mine", mine) as store:
            yield Kit(store, mine)


def test_commands_work_on_it(project, dsn, connection):
    path = project.folder / "events.db"
    project.environment["PYTHONPATH"] = str(PLUGIN)
    project.write(
        "esops.toml",
        f"""
        [stores.mine]
        backend = "sqlite"
        file = {json.dumps(str(path))}
        [readmodels.main]
        dsn = {json.dumps(dsn)}
        [projections.totals]
        python = "totals:totals"
        tables = ["totals"]
        ddl = "totals.sql"
        """,
    )
    project.write(
        "totals.py",
        "from esops import fold\n@fold(key='stream')\ndef totals(row, event):\n    return {'id': "
        "event.stream, 'n': event.version}\n",
    )
    project.write("totals.sql", "CREATE TABLE {table} (id text PRIMARY KEY, n int);")
    with open_store("mine", settings(path)) as store:
        for n in range(30):
            store.append(f"s-{n % 3}", [NewEvent(f"id-{n}", "happened", b"{}")])
    project.ok("rebuild", "--blue-green")
    assert dict(connection.execute("SELECT id, n FROM totals").fetchall()) == {
        "s-0": 10,
        "s-1": 10,
        "s-2": 10,
    }
    assert project.ok("status", "--output", "json").json["stores"][0]["layout"] == "sqlite"
    assert json.loads(project.ok("events", "show", "id-7").out)["stream"] == "s-1"
    project.ok("run", "--until-caught-up")
    wrong = project.run("events", "--store", "mine", "--after", "x")
    assert wrong.code == 2
