"""Chosen rows of a table that the application writes with each append are made right, and stay so."""

from __future__ import annotations

import json
import threading

import psycopg
import pytest

from esops.check import inline_heal
from esops.check.healing import HealRequest, heal
from esops.config import load_config
from tests.integration import test_inline_finish, test_inline_switch
from tests.integration.test_inline_finish import RIGHT, items, spoil
from tests.support import inline_writers
from tests.support.waiting import finish, until

QUICK = ("--yes", "--longest-session", "100ms", "--output", "json")


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    test_inline_switch.configure(project, dsn)
    test_inline_finish.seed(dsn)
    project.ok("rebuild", "--blue-green")
    return project


def surplus(connection, key: str) -> None:
    inline_writers.upsert(connection, key, {"Id": key, "Items": 3}, 3)


def test_a_row_of_which_no_event_tells_is_deleted_unless_events_are_gone(carts, connection):
    surplus(connection, "nobody")
    planned = carts.run("rebuild", "carts", "--keys", "nobody", "--dry-run").out
    assert "delete 1 row: nobody" in planned
    healed = carts.ok("projection", "check", "carts", "--heal", *QUICK).json
    assert (healed["surplus"], healed["healed"]) == (1, 1)
    assert items(connection) == RIGHT
    # The store's list of streams says that there were some.
    surplus(connection, "nobody")
    connection.execute("INSERT INTO mt_streams (id, version) VALUES ('nobody', 3)")
    left = carts.run("rebuild", "carts", "--keys", "nobody", *QUICK)
    assert (left.code, left.json["deleted"], len(left.json["unknown"])) == (1, 0, 1)
    assert items(connection) == {**RIGHT, "nobody": 3}


def test_a_row_whose_stream_begins_meanwhile_stays(carts, connection, monkeypatch):
    """The stream is looked at again in the transaction that deletes."""
    surplus(connection, "late")

    compared = inline_heal.RowRepair._write

    def begun(self, piece, found):
        with connection.transaction():
            event = inline_writers.insert(connection, "late", 0)
            data = inline_writers.logic(1)(None, "late", event)
            inline_writers.upsert(connection, "late", data, 1)
        monkeypatch.setattr(inline_heal.RowRepair, "_write", compared)
        compared(self, piece, found)

    monkeypatch.setattr(inline_heal.RowRepair, "_write", begun)
    done = quick(carts, "late")
    assert (done.deleted, done.unfit) == (0, {})
    assert inline_writers.wrong(connection, inline_writers.logic(1)) == []


def test_a_row_whose_events_turn_out_to_be_gone_meanwhile_stays(carts, connection, monkeypatch):
    surplus(connection, "nobody")
    compared = inline_heal.RowRepair._write

    def noted(self, piece, found):
        connection.execute(
            "INSERT INTO mt_streams (id, version) VALUES ('nobody', 3) ON CONFLICT DO NOTHING"
        )
        compared(self, piece, found)

    monkeypatch.setattr(inline_heal.RowRepair, "_write", noted)
    assert quick(carts, "nobody").deleted == 0
    assert items(connection) == {**RIGHT, "nobody": 3}


def quick(carts, *keys: str, longest: float = 0.1):
    config = load_config(carts.folder / "esops.toml")
    request = HealRequest(
        keys=[(each,) for each in keys], longest_session=inline_heal.timedelta(seconds=longest)
    )
    return heal(config, "carts", request)


def test_what_an_instance_writes_back_that_had_loaded_a_wrong_row_is_made_right(
    carts, connection, dsn
):
    spoil(connection, "cart-1")
    with psycopg.connect(dsn) as application:
        loaded = application.execute("SELECT data FROM mt_doc_cart WHERE id = 'cart-1'").fetchone()
        healing = carts.start("rebuild", "carts", "--keys", "cart-1", *QUICK)
        until(lambda: items(connection) == RIGHT)
        # It is waited for, however short a session is said to be: it holds the table.
        event = inline_writers.insert(application, "cart-1", 2)
        data = inline_writers.logic(1)(loaded[0], "cart-1", event)
        inline_writers.upsert(application, "cart-1", data, 3)
        application.commit()
    out, err = finish(healing)
    assert healing.returncode == 0, err
    assert json.loads(out)["healed"] == 1
    assert items(connection) == {**RIGHT, "cart-1": 5}


@pytest.mark.thorough
def test_rows_that_do_not_stay_right_are_named(carts, connection, dsn, monkeypatch):
    monkeypatch.setattr(inline_heal, "_PATIENCE", inline_heal.timedelta(seconds=0.4))
    spoil(connection, "cart-1")
    spoil(connection, "cart-2")
    stop = threading.Event()

    def old_code() -> None:
        """It counts in another unit."""
        with psycopg.connect(dsn, autocommit=True) as application:
            while not stop.wait(0.02):
                inline_writers.append(application, "cart-1", inline_writers.logic(100), 1)

    writer = threading.Thread(target=old_code)
    writer.start()
    try:
        done = quick(carts, "cart-1", "cart-2")
    finally:
        stop.set()
        writer.join()
    assert done.unfit == {("cart-1",): "written over by the application after it was made right"}
    assert done.updated == 1
