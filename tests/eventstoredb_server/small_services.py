"""Gossip, server features and operations: what clients and operators ask a node about itself."""

from __future__ import annotations

import time

import grpc
from esdbclient.protos.Grpc import (
    gossip_pb2,
    gossip_pb2_grpc,
    persistent_pb2,
    projections_pb2,
    streams_pb2,
)

from tests.eventstoredb_server import wire
from tests.eventstoredb_server.calls import Status, access_denied, user_of
from tests.eventstoredb_server.scavenge import AlreadyRunning, NoSuchScavenge

_PROTOS = "tests/eventstoredb_server/protos"
operations_pb2, operations_pb2_grpc = grpc.protos_and_services(f"{_PROTOS}/operations.proto")
serverfeatures_pb2, serverfeatures_pb2_grpc = grpc.protos_and_services(
    f"{_PROTOS}/serverfeatures.proto"
)

FEATURES = {
    ("PersistentSubscriptions", None): ["stream", "all"],
    ("Streams", "Read"): ["position", "events"],
    ("Streams", "BatchAppend"): ["deadline_duration"],
    ("Projections", "Create"): ["track_emitted_streams"],
}


class Gossip(gossip_pb2_grpc.GossipServicer):
    def __init__(self, node) -> None:
        self.node = node

    async def Read(self, request, context):
        info = gossip_pb2.ClusterInfo()
        for node in self.node.cluster.nodes:
            info.members.append(
                gossip_pb2.MemberInfo(
                    instance_id=wire.write_uuid(node.id, as_text=False),
                    time_stamp=time.time_ns() // 100,
                    state=gossip_pb2.MemberInfo.Leader
                    if node.is_leader
                    else gossip_pb2.MemberInfo.Follower,
                    is_alive=node.alive,
                    http_end_point=gossip_pb2.EndPoint(address=node.host, port=node.port),
                )
            )
        return info


class ServerFeatures(serverfeatures_pb2_grpc.ServerFeaturesServicer):
    def __init__(self, node) -> None:
        self.node = node

    async def GetSupportedMethods(self, request, context):
        response = serverfeatures_pb2.SupportedMethods(
            event_store_server_version=".".join(map(str, (*self.node.version, 0)))
        )
        for module in (
            streams_pb2,
            persistent_pb2,
            projections_pb2,
            gossip_pb2,
            operations_pb2,
            serverfeatures_pb2,
        ):
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    features = (
                        FEATURES.get((service.name, method.name))
                        or FEATURES.get((service.name, None))
                        or []
                    )
                    response.methods.append(
                        serverfeatures_pb2.SupportedMethod(
                            method_name=method.name.lower(),
                            service_name=service.full_name.lower(),
                            features=features,
                        )
                    )
        return response


class Operations(operations_pb2_grpc.OperationsServicer):
    def __init__(self, node) -> None:
        self.node = node

    async def StartScavenge(self, request, context):
        self._operates(context)
        scavenger = self.node.scavenger
        try:
            id = scavenger.start()
        except AlreadyRunning:
            return operations_pb2.ScavengeResp(scavenge_id=scavenger.current, scavenge_result=1)
        return operations_pb2.ScavengeResp(scavenge_id=id, scavenge_result=0)

    async def StopScavenge(self, request, context):
        self._operates(context)
        try:
            id = await self.node.scavenger.stop(request.options.scavenge_id)
        except NoSuchScavenge:
            wanted = request.options.scavenge_id
            raise Status(
                "NOT_FOUND",
                "Scavenge id was invalid.",
                exception="scavenge-not-found",
                scavenge_id=wanted,
            ) from None
        return operations_pb2.ScavengeResp(scavenge_id=id, scavenge_result=2)

    async def MergeIndexes(self, request, context):
        self._operates(context)
        return operations_pb2.Nothing()

    async def ResignNode(self, request, context):
        self._operates(context)
        if self.node.is_leader:
            self.node.cluster.elect_another()
        return operations_pb2.Nothing()

    async def SetNodePriority(self, request, context):
        self._operates(context)
        return operations_pb2.Nothing()

    async def RestartPersistentSubscriptions(self, request, context):
        self._operates(context)
        for group in self.node.cluster.groups.all():
            group.drop_all()
        return operations_pb2.Nothing()

    def _operates(self, context) -> None:
        if not user_of(context, self.node).groups & {"$admins", "$ops"}:
            raise access_denied()
