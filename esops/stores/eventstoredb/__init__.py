"""EventStoreDB (KurrentDB): read and written over gRPC, administered over HTTP."""

from esops.stores.eventstoredb.store import EventStoreDBStore, open_eventstoredb

__all__ = ["EventStoreDBStore", "open_eventstoredb"]
