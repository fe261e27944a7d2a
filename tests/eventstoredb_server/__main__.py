"""Run a node, or several over one storage.

It prints a line of JSON when it listens; SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import tempfile
from pathlib import Path

import grpc
import uvicorn
from esdbclient.protos.Grpc import (
    gossip_pb2_grpc,
    persistent_pb2_grpc,
    projections_pb2_grpc,
    streams_pb2_grpc,
)

from tests.eventstoredb_server.calls import Guard
from tests.eventstoredb_server.cluster import Cluster, Node
from tests.eventstoredb_server.door import Door, tls_context
from tests.eventstoredb_server.http import application
from tests.eventstoredb_server.persistent import PersistentSubscriptions
from tests.eventstoredb_server.projections import Projections
from tests.eventstoredb_server.projector import SYSTEM
from tests.eventstoredb_server.small_services import (
    Gossip,
    Operations,
    ServerFeatures,
    operations_pb2_grpc,
    serverfeatures_pb2_grpc,
)
from tests.eventstoredb_server.writes import Streams

_OPTIONS = [
    ("grpc.max_receive_message_length", 17 * 1024 * 1024),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
]


_GRACE = 0.2
"""Seconds that calls have to end by themselves when the node stops."""


class _QuietServer(uvicorn.Server):
    def capture_signals(self):
        return contextlib.nullcontext()


async def open_node(
    node: Node, folder: Path, arguments: argparse.Namespace, port: int
) -> tuple[grpc.aio.Server, asyncio.Task]:
    """Bring one node up behind its door. Returns what serves gRPC and what serves HTTP."""
    grpc_path, http_path = (
        str(folder / f"{len(node.cluster.nodes)}.{kind}") for kind in ("grpc", "http")
    )
    server = grpc.aio.server(interceptors=[Guard(node)], options=_OPTIONS)
    streams_pb2_grpc.add_StreamsServicer_to_server(Streams(node), server)
    persistent_pb2_grpc.add_PersistentSubscriptionsServicer_to_server(
        PersistentSubscriptions(node), server
    )
    projections_pb2_grpc.add_ProjectionsServicer_to_server(Projections(node), server)
    gossip_pb2_grpc.add_GossipServicer_to_server(Gossip(node), server)
    operations_pb2_grpc.add_OperationsServicer_to_server(Operations(node), server)
    serverfeatures_pb2_grpc.add_ServerFeaturesServicer_to_server(ServerFeatures(node), server)
    server.add_insecure_port(f"unix:{grpc_path}")
    await server.start()
    http = _QuietServer(
        uvicorn.Config(application(node), uds=http_path, log_level="critical", lifespan="off")
    )
    serving = asyncio.get_running_loop().create_task(http.serve())
    while not http.started:
        await asyncio.sleep(0.01)
    tls = tls_context(arguments.certificate, arguments.key) if arguments.certificate else None
    node.door = Door(grpc_path, http_path, tls)
    await node.door.open(arguments.listen, port)
    node.port = node.door.port
    return server, serving


async def main(arguments: argparse.Namespace) -> None:
    version = tuple(int(part) for part in arguments.version.split("."))
    cluster = Cluster(arguments.file)
    with tempfile.TemporaryDirectory(prefix="esdb-") as folder:
        kept = []
        for number in range(arguments.nodes):
            node = cluster.add(arguments.host, 0, version, insecure=not arguments.certificate)
            kept.append(
                await open_node(
                    node, Path(folder), arguments, arguments.port + number if arguments.port else 0
                )
            )
        if not arguments.no_system_projections:
            for name in SYSTEM:
                cluster.projector.enable(name)
        print(json.dumps({"ports": [node.port for node in cluster.nodes]}), flush=True)
        stop = asyncio.Event()
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(one, stop.set)
        await stop.wait()
        # As the real one does: calls end as UNAVAILABLE, the connections with a GOAWAY.
        await asyncio.gather(*(server.stop(_GRACE) for server, _ in kept))
        for node in cluster.nodes:
            node.door.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.eventstoredb_server", description=__doc__
    )
    parser.add_argument(
        "--port", type=int, default=2113, help="of the first node; 0 takes free ones"
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument(
        "--host", default="localhost", help="the name that the nodes give themselves in gossip"
    )
    parser.add_argument("--listen", default="localhost", help="the address to listen on")
    parser.add_argument(
        "--version", default="24.10", help="the server's version to behave like, such as 21.10"
    )
    parser.add_argument(
        "--no-system-projections",
        action="store_true",
        help="leave the system's projections stopped at the start",
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="keep the log here, so that a killed node can be started again with it",
    )
    parser.add_argument(
        "--certificate", help="PEM; with it the node asks for TLS and for credentials"
    )
    parser.add_argument("--key", help="PEM")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
