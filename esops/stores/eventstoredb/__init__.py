"""EventStoreDB (KurrentDB): read and written over gRPC, administered over HTTP."""

import os

# gRPC tells of handshakes on stderr by itself, beside our one sentence. It reads this when it is
# loaded, and whoever looks for a fault sets it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
