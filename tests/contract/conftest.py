"""The databases that the tests of the contract share."""

from __future__ import annotations

import pytest

from tests.support.layout_kits import LayoutDatabases


@pytest.fixture(scope="session")
def layout_databases(server):
    databases = LayoutDatabases(server)
    yield databases
    databases.close()
