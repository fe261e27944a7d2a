"""What npm installs, once for all tests of one process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.npm import from_npm

VERSION = "1.3.1"


@pytest.fixture(scope="session")
def emmett_writer(tmp_path_factory):
    """Emmett from npm, and a script that appends through it."""
    folder = from_npm(
        tmp_path_factory.mktemp("emmett"),
        "@event-driven-io/emmett-postgresql@0.42.0",
        "@event-driven-io/emmett@0.42.0",
    )
    return shutil.copy(Path(__file__).with_name("emmett_writer.mjs"), folder)


@pytest.fixture
def emmett_uri(dsn):
    """The database as node's driver names it."""
    parts = conninfo_to_dict(dsn)
    server = f"localhost:{parts.get('port', 5432)}"
    return f"postgresql://{parts['user']}@{server}/{parts['dbname']}?host={parts['host']}"


@pytest.fixture(scope="session")
def message_db(tmp_path_factory):
    """message-db's SQL from npm, in the order in which its own script runs it."""
    folder = from_npm(tmp_path_factory.mktemp("message-db"), f"@eventide/message-db@{VERSION}")
    database = folder / "node_modules" / "@eventide" / "message-db" / "database"
    functions = (
        "hash-64 acquire-lock category is-category id cardinal-id stream-version write-message "
        "get-stream-messages get-last-stream-message"
    ).split()
    files = [
        "schema/message-store",
        "tables/messages",
        "types/message",
        *(f"functions/{name}" for name in functions),
    ]
    indexes = ["indexes/messages-id", "indexes/messages-stream"]
    return [(database / f"{name}.sql").read_text() for name in (*files, *indexes)]
