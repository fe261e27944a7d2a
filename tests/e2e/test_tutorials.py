"""The tutorials, followed by the letter on databases that their libraries wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.pages import Reader


@pytest.fixture
def service(dsn, project):
    """`service=shop` is the test's database, as the pages name it."""
    parts = conninfo_to_dict(dsn)
    names = ("host", "port", "user", "dbname", "password")
    lines = [f"{name}={parts[name]}" for name in names if name in parts]
    path = project.write("pg_service.conf", "\n".join(["[shop]", *lines, ""]))
    project.environment["PGSERVICEFILE"] = str(path)
    return Path(path)


def test_tables_of_your_own(service, project):
    Reader(project, "tutorial/own-tables.md").follow()


def test_pythons_eventsourcing(service, project, dsn):
    parts = conninfo_to_dict(dsn)
    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts["dbname"],
        "POSTGRES_HOST": parts["host"],
        "POSTGRES_PORT": str(parts.get("port", 5432)),
        "POSTGRES_USER": parts["user"],
        "POSTGRES_PASSWORD": "none",
    }
    Reader(project, "tutorial/eventsourcing.md", **environment).follow()
