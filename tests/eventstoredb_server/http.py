"""The HTTP administration: scavenge, info, gossip, statistics, health, projections, subscriptions;
and the tests' own switches.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.eventstoredb_server.calls import who
from tests.eventstoredb_server.faults import Faults
from tests.eventstoredb_server.projector import NoSuchProjection, Projection
from tests.eventstoredb_server.scavenge import AlreadyRunning, NoSuchScavenge

OPERATORS = frozenset({"$admins", "$ops"})


def application(node) -> Starlette:
    administration = _Administration(node)
    return Starlette(routes=administration.routes())


class _Administration:
    def __init__(self, node) -> None:
        self.node, self.cluster = node, node.cluster

    def routes(self) -> list[Route]:
        operator, anybody = self._for_operators, self._for_anybody
        return [
            Route("/admin/scavenge", operator(self.start_scavenge), methods=["POST"]),
            Route("/admin/scavenge/current", operator(self.current_scavenge), methods=["GET"]),
            Route("/admin/scavenge/last", operator(self.last_scavenge), methods=["GET"]),
            Route("/admin/scavenge/{id}", operator(self.stop_scavenge), methods=["DELETE"]),
            Route("/admin/mergeindexes", operator(self.merge_indexes), methods=["POST"]),
            Route("/admin/node/resign", operator(self.resign), methods=["POST"]),
            Route("/admin/node/priority/{priority}", operator(self.ok), methods=["POST"]),
            Route("/info", anybody(self.info), methods=["GET"]),
            Route("/gossip", anybody(self.gossip), methods=["GET"]),
            Route("/stats", anybody(self.stats), methods=["GET"]),
            Route("/health/live", anybody(self.live), methods=["GET"]),
            Route("/projections/any", anybody(self.projections), methods=["GET"]),
            Route("/projection/{name}/statistics", anybody(self.projection), methods=["GET"]),
            Route("/projection/{name}/query", anybody(self.query), methods=["GET"]),
            Route("/subscriptions", anybody(self.subscriptions), methods=["GET"]),
            Route(
                "/subscriptions/{stream}/{group}/info", anybody(self.subscription), methods=["GET"]
            ),
            Route("/test/faults", self.faults, methods=["PUT"]),
            Route("/test/{what}", self.test, methods=["POST"]),
        ]

    # -- who may

    def _for_operators(self, endpoint):
        async def guarded(request: Request) -> Response:
            user = who(request.headers.get("authorization"), self.node.insecure)
            if user is None or not user.groups & OPERATORS:
                return PlainTextResponse("", 401, headers={"WWW-Authenticate": 'BASIC realm="ES"'})
            return await self._alive(endpoint, request)

        return guarded

    def _for_anybody(self, endpoint):
        async def guarded(request: Request) -> Response:
            if who(request.headers.get("authorization"), self.node.insecure) is None:
                return PlainTextResponse("", 401, headers={"WWW-Authenticate": 'BASIC realm="ES"'})
            return await self._alive(endpoint, request)

        return guarded

    async def _alive(self, endpoint, request: Request) -> Response:
        if self.node.faults.unavailable:
            return PlainTextResponse("Server Is Not Ready", 503)
        return await endpoint(request)

    # -- scavenge

    async def start_scavenge(self, request: Request) -> Response:
        query = request.query_params
        threads = int(query.get("threads", 1))
        percent = int(query["throttlePercent"]) if "throttlePercent" in query else None
        if percent is not None and not 0 < percent <= 100:
            return PlainTextResponse("throttlePercent must be between 1 and 100 inclusive", 400)
        if percent not in (None, 100) and threads > 1:
            return PlainTextResponse(
                "throttlePercent must be 100 for a multi-threaded scavenge", 400
            )
        try:
            id = self.node.scavenger.start()
        except AlreadyRunning:
            return PlainTextResponse("Scavenge is already running", 400)
        if "json" not in request.headers.get("accept", ""):
            return PlainTextResponse(f"scavengeId: {id}")
        return JSONResponse({"scavengeId": id})

    async def stop_scavenge(self, request: Request) -> Response:
        try:
            return JSONResponse(await self.node.scavenger.stop(request.path_params["id"]))
        except NoSuchScavenge:
            return PlainTextResponse("Scavenge Id does not exist", 404)

    async def current_scavenge(self, request: Request) -> Response:
        if self.node.version < (22, 10):
            return PlainTextResponse("", 405)
        id = self.node.scavenger.current
        return JSONResponse(
            {"scavengeId": id, "scavengeLink": f"/admin/scavenge/{id}"} if id else {}
        )

    async def last_scavenge(self, request: Request) -> Response:
        if self.node.version < (24, 2):
            return PlainTextResponse("", 405)
        id, result = self.node.scavenger.last
        found = {"scavengeId": id, "scavengeLink": f"/admin/scavenge/{id}"} if id else {}
        return JSONResponse({**found, "scavengeResult": result})

    # -- the node

    async def ok(self, request: Request) -> Response:
        return PlainTextResponse("OK")

    async def merge_indexes(self, request: Request) -> Response:
        return JSONResponse({"mergeIndexesId": "00000000-0000-0000-0000-000000000000"})

    async def resign(self, request: Request) -> Response:
        if self.node.is_leader:
            self.cluster.elect_another()
        return PlainTextResponse("OK")

    async def live(self, request: Request) -> Response:
        return Response(status_code=204)

    async def info(self, request: Request) -> Response:
        return JSONResponse(
            {
                "dbVersion": ".".join(map(str, (*self.node.version, 0, 0))),
                "esVersion": ".".join(map(str, (*self.node.version, 0, 0))),
                "state": "leader" if self.node.is_leader else "follower",
                "features": {
                    "projections": True,
                    "userManagement": not self.node.insecure,
                    "atomPub": False,
                },
                "authentication": {
                    "type": "insecure" if self.node.insecure else "internal",
                    "properties": {},
                },
            }
        )

    async def gossip(self, request: Request) -> Response:
        end = self.cluster.storage.last_position()
        members = [
            {
                "instanceId": str(node.id),
                "state": "Leader" if node.is_leader else "Follower",
                "isAlive": node.alive,
                "httpEndPointIp": node.host,
                "httpEndPointPort": node.port,
                "lastCommitPosition": end,
                "writerCheckpoint": self.cluster.storage.end,
                "chaserCheckpoint": self.cluster.storage.end,
                "nodePriority": 0,
                "isReadOnlyReplica": False,
            }
            for node in self.cluster.nodes
        ]
        return JSONResponse(
            {"members": members, "serverIp": self.node.host, "serverPort": self.node.port}
        )

    async def stats(self, request: Request) -> Response:
        storage = self.cluster.storage
        return JSONResponse(
            {
                "proc": {"id": 1, "mem": 0, "cpu": 0.0},
                "es": {
                    "checksum": storage.end,
                    "writer": {"lastFlushSize": 0},
                    "readIndex": {"cachedRecord": len(storage.records)},
                },
            }
        )

    # -- projections and subscriptions

    async def projections(self, request: Request) -> Response:
        return JSONResponse(
            {"projections": [self._projection(one) for one in self.cluster.projector.all()]}
        )

    async def projection(self, request: Request) -> Response:
        try:
            found = self.cluster.projector.get(request.path_params["name"])
        except NoSuchProjection:
            return PlainTextResponse("Not Found", 404)
        return JSONResponse({"projections": [self._projection(found)]})

    async def query(self, request: Request) -> Response:
        """With `config`, what it reads and whether it emits."""
        try:
            found = self.cluster.projector.get(request.path_params["name"])
        except NoSuchProjection:
            return PlainTextResponse("Not Found", 404)
        if request.query_params.get("config") != "yes":
            return PlainTextResponse(found.text)
        source = found.query.source if found.query is not None else {}
        handled = found.query.handled if found.query is not None else []
        definition = {
            "allStreams": bool(source.get("all")),
            "streams": source.get("streams", []),
            "categories": source.get("categories", []),
            "allEvents": "$any" in handled,
            "events": [] if "$any" in handled else [each for each in handled if each[0] != "$"],
        }
        return JSONResponse(
            {
                "name": found.name,
                "query": found.text,
                "emitEnabled": found.emit,
                "definition": definition,
            }
        )

    def _projection(self, projection: Projection) -> dict[str, object]:
        return {
            "name": projection.name,
            "effectiveName": projection.name,
            "status": projection.status,
            "mode": projection.mode,
            "progress": self.cluster.projector.progress(projection),
            "position": self.cluster.projector.place(projection),
            "eventsProcessedAfterRestart": projection.processed,
        }

    async def subscriptions(self, request: Request) -> Response:
        return JSONResponse([self._subscription(group) for group in self.cluster.groups.all()])

    async def subscription(self, request: Request) -> Response:
        for group in self.cluster.groups.all(request.path_params["stream"]):
            if group.name == request.path_params["group"]:
                return JSONResponse(self._subscription(group))
        return PlainTextResponse("Not Found", 404)

    @staticmethod
    def _subscription(group) -> dict[str, object]:
        return {
            "eventStreamId": group.source,
            "groupName": group.name,
            "status": "Live",
            "totalItemsProcessed": group.total,
            "parkedMessageCount": len(group.parked()),
            "connectionCount": len(group.consumers),
        }

    # -- what only tests ask for

    async def faults(self, request: Request) -> Response:
        self.node.faults = Faults(**await request.json())
        return JSONResponse(asdict(self.node.faults))

    async def test(self, request: Request) -> Response:
        """`cut` connections, let the node `die`; or set the seconds that a scavenge or a
        projection's page takes.
        """
        what = request.path_params["what"]
        if what == "cut":
            asyncio.get_running_loop().call_later(0.05, self.node.door.cut)
        elif what == "die":
            self.node.alive = False
            self.cluster.elect_another()
            asyncio.get_running_loop().call_later(0.05, self.node.door.close)  # after this answer
        elif what == "scavenge-takes":
            self.node.scavenger.pause = float((await request.body()).decode())
        elif what == "projections-take":
            self.cluster.projector.slow = float((await request.body()).decode())
        else:
            return PlainTextResponse("Not Found", 404)
        return PlainTextResponse("OK")
