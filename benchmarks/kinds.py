"""The same projection in five kinds over the same events, each against what one would write by hand
for it.

Limits (docs/explanation/speed.md), for 1,000,000 events: `sql` at most 1.15 times the same
statement by hand; `handlers` at least 0.7 of
the events a second of bare pipelined statements; `process` at least 0.4 of the fold's. Loads alone
are compared (from the first event
to the last checkpoint, without start-up, keys and switch), one after the other. Prints the figures;
exits with 1 if a limit is not kept.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import orjson
import psycopg

from esops.demo import store
from esops.demo.server import EmbeddedServer
from esops.projections.definition import load_definition
from esops.readmodel import migrations, registry
from esops.running.runner import Runner
from esops.running.work import Work
from esops.settings import PostgresSettings, ProjectionSettings
from esops.stores import open_store
from tests.support import kinds, shop

EVENTS = int(os.environ.get("ESOPS_BENCH_EVENTS", "1000000"))
RUNS = 3
FOLD = "shop_projections:cart_summary"


def load(folder: Path, dsn: str, kind: str) -> float:
    """Seconds in which a runner loads a new version of one kind."""
    given = {
        "fold": {"python": FOLD},
        "handlers": {"python": "shop_handlers:cart_summary"},
        "sql": {"statement": "cart_summary_statement.sql"},
        "process": {"command": ("node", "cart_summary.js")},
    }[kind]
    settings = ProjectionSettings.model_validate(
        {"kind": kind, "tables": ("cart_summary",), **given}
    )
    name = f"load_{kind}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrations.install(connection)
        connection.execute(
            f"DROP TABLE IF EXISTS {name}__v1; DELETE FROM esops.versions WHERE projection = "
            f"'{name}'"
        )
        connection.execute(shop.DDL.replace("{table}", f"{name}__v1"))
        registry.insert(
            connection,
            registry.Version(
                name,
                1,
                "building",
                "s",
                None,
                0,
                0,
                {"cart_summary": ("public", f"{name}__v1")},
                None,
            ),
        )
    definition = load_definition(settings, folder, "bench")
    work = Work.on(name, 1, definition, settings)
    with open_store(
        "s", PostgresSettings.model_validate({"dsn": dsn, "schema": "shop", "append": "quick"})
    ) as opened:
        head = opened.head().position
        assert head is not None
        runner = Runner(opened, dsn, work)
        try:
            began = time.perf_counter()
            runner.run_until(head)
            return time.perf_counter() - began
        finally:
            runner.close()


def fresh(dsn: str) -> psycopg.Connection:
    """A connection, with an empty table by_hand."""
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute("DROP TABLE IF EXISTS by_hand")
    connection.execute(shop.DDL.replace("{table}", "by_hand"))
    return connection


def statement(dsn: str) -> float:
    """The statement by hand, once over all events."""
    with fresh(dsn) as connection:
        began = time.perf_counter()
        connection.execute(
            kinds.SQL.replace("{table}", "by_hand")
            .replace(":after", "0")
            .replace(":until", str(EVENTS))
        )
        return time.perf_counter() - began


def pipelined(dsn: str) -> float:
    """A bare loop: pages of 5,000 events by a cursor, and the handlers' statements in a pipeline, a
    transaction a page.
    """
    upsert = (
        "INSERT INTO by_hand (cart_id, client, items, total, status, position) VALUES (%s, %s, 0, "
        "0, 'open', %s) ON CONFLICT (cart_id) "
        "DO UPDATE SET client = EXCLUDED.client, items = 0, total = 0, status = 'open', position = "
        "EXCLUDED.position"
    )
    increment = "UPDATE by_hand SET items = items + %s, total = total + %s WHERE cart_id = %s"
    place = "UPDATE by_hand SET position = %s WHERE cart_id = %s"
    end = "UPDATE by_hand SET status = %s, position = %s WHERE cart_id = %s"
    with fresh(dsn) as connection, psycopg.connect(dsn) as reading:
        began = time.perf_counter()
        with reading.cursor("events") as events:
            events.execute(
                "SELECT seq_id, stream_id, type, data::text FROM shop.mt_events ORDER BY seq_id"
            )
            while page := events.fetchmany(5_000):
                with connection.transaction(), connection.pipeline(), connection.cursor() as cursor:
                    for number, stream, kind, text in page:
                        data = orjson.loads(text)
                        if kind == "shopping_cart_opened":
                            cursor.execute(upsert, (stream, data["ClientId"], number))
                        elif kind.startswith("product"):
                            count = (
                                data["Quantity"]
                                if kind == "product_item_added"
                                else -data["Quantity"]
                            )
                            cursor.execute(increment, (count, count * data["UnitPrice"], stream))
                            cursor.execute(place, (number, stream))
                        else:
                            cursor.execute(end, (kind.rpartition("_")[2], number, stream))
        return time.perf_counter() - began


def compared(
    what: str, ours: Callable[[], float], other: Callable[[], float], limit: float, runs: int = RUNS
) -> bool:
    """Print how many times as long as the other ours takes; whether that is within the limit."""
    pairs = [(ours(), other()) for _ in range(runs)]
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    each = ", ".join(f"{mine:.2f} s against {theirs:.2f} s" for mine, theirs in pairs)
    print(f"{what}: {ratio:.2f} times the time ({each}; limit {limit:.2f})", flush=True)
    return ratio <= limit


def external(folder: Path, dsn: str) -> None:
    """An application that builds the table by the statement, in ten parts, and moves a checkpoint
    as Marten does; esops switches to it.
    """
    with psycopg.connect(dsn, autocommit=True) as application:
        application.execute(shop.DDL.replace("{table}", "load_external__v1"))
        application.execute(
            "INSERT INTO shop.mt_event_progression (name, last_seq_id) VALUES "
            "('CartSummary:V2:All', 0)"
        )

        def work() -> None:
            for part in range(10):
                after, until = part * EVENTS // 10, (part + 1) * EVENTS // 10
                text = (
                    kinds.SQL.replace("{table}", "load_external__v1")
                    .replace(":after", str(after))
                    .replace(":until", str(until))
                )
                with application.transaction():
                    application.execute(text)
                    application.execute(
                        "UPDATE shop.mt_event_progression SET last_seq_id = %s, last_updated "
                        "= now()",
                        (until,),
                    )

        (folder / "esops.toml").write_text(
            f'[stores.shop]\ndsn = "{dsn}"\nschema = "shop"\nappend = '
            '"quick"\n[projections.outside]\nkind = "external"\n'
            'checkpoint = "CartSummary:V2:All"\ntables = ["outside"]\nbuilt = '
            '["load_external__v1"]\n'
        )
        thread = threading.Thread(target=work)
        thread.start()
        subprocess.run(
            [sys.executable, "-m", "esops", "rebuild", "--blue-green", "--quiet"],
            cwd=folder,
            check=True,
        )
        thread.join()


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    try:
        dsn = server.dsn()
        with psycopg.connect(dsn, autocommit=True) as connection:
            store.create(connection)
            store.generate(connection, EVENTS)
            connection.execute("VACUUM ANALYZE")
        project = SimpleNamespace(
            folder=folder, write=lambda name, text: (folder / name).write_text(text)
        )
        kinds.configure(project, dsn, "process")
        kept = [
            compared(
                "sql, against the statement by hand",
                lambda: load(folder, dsn, "sql"),
                lambda: statement(dsn),
                1.15,
            ),
            compared(
                "process, against the fold",
                lambda: load(folder, dsn, "process"),
                lambda: load(folder, dsn, "fold"),
                1 / 0.4,
            ),
            compared(
                "handlers, against bare pipelined statements",
                lambda: load(folder, dsn, "handlers"),
                lambda: pipelined(dsn),
                1 / 0.7,
                runs=1,
            ),
        ]
        external(folder, dsn)
        with psycopg.connect(dsn) as connection:
            rows = [shop.table(connection, f"load_{kind}__v1") for kind in kinds.KINDS]
            rows.append(shop.table(connection, "outside"))
        assert all(each == rows[0] for each in rows), "the kinds give other rows"
        print(f"all kinds gave the same {len(rows[0]):,} rows")
        return int(not all(kept))
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
