"""EventStoreDB (KurrentDB): read and written over gRPC, administered over HTTP."""
