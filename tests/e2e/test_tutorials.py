"""The tutorials, followed by the letter on databases that their libraries wrote."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.esdb import Nodes
from tests.support.npm import from_npm
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


@pytest.fixture(scope="session")
def emmett(tmp_path_factory):
    """Emmett from npm, and what runs TypeScript."""
    return from_npm(
        tmp_path_factory.mktemp("emmett"),
        "@event-driven-io/emmett-postgresql@0.42.0",
        "@event-driven-io/emmett@0.42.0",
        "tsx@4",
    )


@pytest.fixture
def application(emmett, project, dsn):
    """A folder in which `npm install` was done, and the database as node's driver names it."""
    (project.folder / "node_modules").symlink_to(emmett / "node_modules")
    # As the page makes it; without it, tsx refuses the scripts.
    project.write("package.json", '{"type": "module", "private": true}')
    parts = conninfo_to_dict(dsn)
    server = f"localhost:{parts.get('port', 5432)}"
    uri = f"postgresql://{parts['user']}@{server}/{parts['dbname']}?host={parts['host']}"
    project.environment["SHOP_DATABASE"] = uri


@pytest.mark.thorough
@pytest.mark.slow
def test_tables_of_your_own(service, project):
    Reader(project, "tutorial/own-tables.md").follow()


@pytest.mark.thorough
@pytest.mark.slow
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


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.xdist_group("emmett pages")  # they share what npm installs
def test_emmett(service, application, project):
    Reader(project, "tutorial/emmett.md").follow()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.xdist_group("emmett pages")  # they share what npm installs
def test_what_emmett_builds_itself(service, application, project):
    try:
        Reader(project, "how-to/external-projections.md").follow()
    finally:
        for each in project.folder.glob("consumer-*.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(each.read_text()), signal.SIGKILL)


@pytest.mark.thorough
@pytest.mark.slow
def test_marten(service, project, dumps):
    shutil.copy(dumps / "marten-9.58-v1.sql", project.folder)
    Reader(project, "tutorial/marten.md").follow()


@pytest.mark.thorough
@pytest.mark.slow
def test_eventstoredb(service, project):
    """On a node of its own: the page counts all events that are there."""
    real = os.environ.get("ESOPS_TEST_ESDB_URI")
    with nullcontext() if real else Nodes() as node:
        uri = real or node.uri
        Reader(project, "tutorial/from-eventstoredb.md", SHOP_NODE=uri).follow()
