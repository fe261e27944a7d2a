"""For tests: the contract that a store proves itself with, and a store in memory.

`StoreContract` and `Kit` are for whoever writes a store or a layout; they take pytest
(`pip install esops[testing]`). `MemoryStore` is a store like any other, in this process, for tests
of whatever stands on a store. Importing this package makes `backend = "memory"` known.
"""

from __future__ import annotations

from esops.backends import register
from esops.testing.contract import StoreContract
from esops.testing.kit import Kit, eventually
from esops.testing.memory import MemoryLog, MemorySettings, MemoryStore

__all__ = ["Kit", "MemoryLog", "MemorySettings", "MemoryStore", "StoreContract", "eventually"]

register("memory", MemoryStore)
