"""The service Projections."""

from __future__ import annotations

import asyncio

from esdbclient.protos.Grpc import projections_pb2 as pb
from esdbclient.protos.Grpc import projections_pb2_grpc, shared_pb2
from google.protobuf import json_format, struct_pb2

from tests.eventstoredb_server.calls import Status, access_denied, user_of
from tests.eventstoredb_server.projector import (
    NoSuchProjection,
    Projection,
    ProjectionExists,
    ProjectionIsRunning,
)


class Projections(projections_pb2_grpc.ProjectionsServicer):
    def __init__(self, node) -> None:
        self.node, self.projector = node, node.cluster.projector

    async def Create(self, request, context):
        self._administers(context)
        options = request.options
        mode = options.WhichOneof("mode")
        continuous = options.continuous
        name = {"continuous": continuous.name, "transient": options.transient.name}.get(mode, "")
        if (
            mode == "continuous"
            and continuous.track_emitted_streams
            and not continuous.emit_enabled
        ):
            raise Status("UNKNOWN", "Exception was thrown by handler.")
        modes = {"continuous": "Continuous", "transient": "Transient", "one_time": "OneTime"}
        try:
            self.projector.create(
                name,
                options.query,
                modes[mode],
                continuous.emit_enabled,
                continuous.track_emitted_streams,
            )
        except ProjectionExists:
            raise Status(
                "UNKNOWN", "Envelope callback expected Updated, received Conflict instead"
            ) from None
        return pb.CreateResp()

    async def Update(self, request, context):
        self._administers(context)
        options = request.options
        self._find(options.name, "Updated")
        emit = options.emit_enabled if options.WhichOneof("emit_option") == "emit_enabled" else None
        self.projector.update(options.name, options.query, emit)
        return pb.UpdateResp()

    async def Delete(self, request, context):
        self._administers(context)
        options = request.options
        self._find(options.name, "Updated")
        try:
            self.projector.delete(options.name, options.delete_emitted_streams)
        except ProjectionIsRunning:
            raise Status(
                "UNKNOWN", "Envelope callback expected Updated, received OperationFailed instead"
            ) from None
        return pb.DeleteResp()

    async def Enable(self, request, context):
        self._administers(context)
        self._find(request.options.name, "Updated")
        self.projector.enable(request.options.name)
        return pb.EnableResp()

    async def Disable(self, request, context):
        self._administers(context)
        self._find(request.options.name, "Updated")
        self.projector.disable(request.options.name)
        return pb.DisableResp()

    async def Reset(self, request, context):
        self._administers(context)
        self._find(request.options.name, "Updated")
        self.projector.reset(request.options.name)
        return pb.ResetResp()

    async def RestartSubsystem(self, request, context):
        self._administers(context)
        return shared_pb2.Empty()

    async def Statistics(self, request, context):
        if not self.node.is_leader:
            await asyncio.sleep(3600)  # only the leader runs them, and nobody else answers
        options = request.options
        which = options.WhichOneof("mode")
        if which == "name":
            found = [self._find(options.name, "Statistics")]
        else:
            modes = {"continuous": "Continuous", "transient": "Transient", "one_time": "OneTime"}
            found = [
                one for one in self.projector.all() if which == "all" or one.mode == modes[which]
            ]
        for projection in found:
            yield pb.StatisticsResp(details=self._details(projection))

    async def State(self, request, context):
        projection = self._find(request.options.name, "ProjectionState")
        state = await self._value(projection, projection.states, request.options.partition)
        return pb.StateResp(state=state)

    async def Result(self, request, context):
        projection = self._find(request.options.name, "ProjectionResult")
        return pb.ResultResp(
            result=await self._value(projection, projection.results, request.options.partition)
        )

    # -- help

    def _administers(self, context) -> None:
        if not user_of(context, self.node).groups & {"$admins", "$ops"}:
            raise access_denied()

    def _find(self, name: str, expected: str) -> Projection:
        try:
            return self.projector.get(name)
        except NoSuchProjection:
            if self.node.version < (24, 6):
                raise Status(
                    "UNKNOWN", f"Envelope callback expected {expected}, received NotFound instead"
                ) from None
            raise Status("NOT_FOUND", f"Projection {name} not found") from None

    @staticmethod
    async def _value(
        projection: Projection, values: dict[str, object], partition: str
    ) -> struct_pb2.Value:
        if projection.fault and not projection.states:
            await asyncio.sleep(
                3600
            )  # as the server does: nobody answers for a query that never ran
        value = struct_pb2.Value()
        json_format.ParseDict(values.get(partition, {}), value)
        return value

    def _details(self, projection: Projection) -> pb.StatisticsResp.Details:
        place = self.projector.place(projection)
        return pb.StatisticsResp.Details(
            effectiveName=projection.name,
            name=projection.name,
            status=projection.status,
            stateReason=projection.fault or "",
            mode=projection.mode,
            position=place,
            lastCheckpoint=place,
            progress=self.projector.progress(projection),
            eventsProcessedAfterRestart=projection.processed,
            partitionsCached=len(projection.states),
            version=1,
            epoch=-1,
        )
