"""The store in memory keeps the contract of every store."""

from __future__ import annotations

import uuid

import pytest

from esops.stores import open_store
from esops.testing import Kit, MemorySettings, StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    def kit(self):
        settings = MemorySettings(log=str(uuid.uuid4()))
        with open_store("memory", settings) as store:
            yield Kit(store, settings)
