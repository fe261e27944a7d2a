"""Projections inside the server: what there is, how far each is, what it found; created, enabled,
disabled, reset, deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import grpc
from esdbclient import exceptions as esdb
from esdbclient.protos.Grpc import projections_pb2, projections_pb2_grpc
from google.protobuf import json_format

from esops.errors import Refused, Unavailable, UsageError
from esops.events import Position
from esops.stores.eventstoredb.connect import Link
from esops.stores.eventstoredb.errors import trailers, without_secrets
from esops.stores.eventstoredb.groups import parse_place


@dataclass(frozen=True, slots=True)
class ServerProjection:
    """One projection's statistics.

    `progress` is in percent; `position` as the server writes it; `reason` says why it is faulted.
    """

    name: str
    status: str
    mode: str
    progress: float
    position: str
    processed: int
    reason: str

    @property
    def running(self) -> bool:
        """Whether it runs, at whatever stage."""
        return "Running" in self.status and "Stopp" not in self.status

    @property
    def usable(self) -> bool:
        """Whether what it makes can be used: it runs, no more than a hundredth of the log behind.

        It lacks what was written in the last moments.
        """
        # A projection that was just enabled also runs, and its streams have next to nothing yet.
        return self.running and self.progress >= 99

    @property
    def faulted(self) -> bool:
        """Whether it stopped by a fault."""
        return "Faulted" in self.status

    @property
    def place(self) -> Position | None:
        """Its position, where that is one of $all."""
        return parse_place(self.position)


class ServerProjections:
    """The projections of a node; changing them takes the rights of $ops or $admins."""

    def __init__(
        self,
        talking: Callable[[str], AbstractContextManager[Link]],
        ask: Callable[[Callable[[Link], Any], str], Any],
    ) -> None:
        """`talking` gives a link to the leader for some calls, `ask` asks it a short question,
        twice if need be.
        """
        self._talking, self._ask = talking, ask

    def all(self) -> list[ServerProjection]:
        """The continuous projections, the system's too; none where the node runs without
        projections.
        """
        request = projections_pb2.StatisticsReq()
        request.options.continuous.SetInParent()
        try:
            return self._statistics(request)
        except Unavailable as error:
            # The service is not there on a node that was started without projections.
            if (
                isinstance(error.__cause__, grpc.Call)
                and error.__cause__.code() is grpc.StatusCode.UNIMPLEMENTED
            ):
                return []
            raise

    def get(self, name: str) -> ServerProjection | None:
        """One projection, or None where there is none of that name."""
        request = projections_pb2.StatisticsReq()
        request.options.name = name
        found = self._statistics(request)
        return found[0] if found else None

    def runs(self, name: str) -> bool:
        """Whether a projection is usable; False where that is not known."""
        return self.usable(name) is not None

    def usable(self, name: str) -> ServerProjection | None:
        """A projection that is usable; None also where that is not known, as on a node without
        projections.
        """
        try:
            found = self.get(name)
        except Unavailable:
            return None
        return found if found is not None and found.usable else None

    def _statistics(self, request: Any) -> list[ServerProjection]:
        def ask(link: Link) -> list[ServerProjection]:
            try:
                found = link.messages(_stub(link).Statistics, request)
                return [_statistics(message.details) for message in found]
            except grpc.RpcError as error:
                if _is_missing(error):
                    return []
                raise

        found: list[ServerProjection] = self._ask(ask, "read the statistics of the projections")
        return found

    def create(self, name: str, query: str, *, emit: bool, track: bool) -> None:
        """Create a continuous projection from JavaScript; it runs at once.

        Raises Refused where the name is taken.
        """
        with self._talking(f"create projection {name!r}") as link:
            try:
                link.client.create_projection(
                    query=query,
                    name=name,
                    emit_enabled=emit,
                    track_emitted_streams=track,
                    timeout=link.deadline,
                )
            except esdb.AlreadyExists:
                raise Refused(f"the server already has a projection {name!r}") from None

    def enable(self, name: str) -> None:
        """Start a projection that is stopped."""
        self._change(name, "enable_projection")

    def disable(self, name: str) -> None:
        """Stop it, with a checkpoint."""
        self._change(name, "disable_projection")

    def reset(self, name: str) -> None:
        """Let it begin from zero, while readers of its result see that."""
        self._change(name, "reset_projection")

    def delete(self, name: str, *, emitted_streams: bool) -> None:
        """Delete a disabled one with its state and checkpoints and, if it tracked them, the streams
        it emitted to.
        """
        with self._talking(f"delete projection {name!r}") as link:
            try:
                link.client.delete_projection(
                    name,
                    delete_emitted_streams=emitted_streams,
                    delete_state_stream=True,
                    delete_checkpoint_stream=True,
                    timeout=link.deadline,
                )
            except esdb.NotFound:
                raise _no_projection(name) from None
            except esdb.OperationFailed as error:
                raise Refused(
                    f"projection {name!r} cannot be deleted: {without_secrets(str(error))}",
                    hint="Disable it first.",
                ) from None

    def _change(self, name: str, method: str) -> None:
        with self._talking(f"{method.partition('_')[0]} projection {name!r}") as link:
            try:
                getattr(link.client, method)(name, timeout=link.deadline)
            except esdb.NotFound:
                raise _no_projection(name) from None

    def state(self, name: str, partition: str = "") -> Any:
        """The state of a projection, or of one of its partitions, decoded."""
        request = projections_pb2.StateReq()
        request.options.name, request.options.partition = name, partition
        return self._value("State", request, "state", name)

    def result(self, name: str, partition: str = "") -> Any:
        """The result of a projection (its state, after the transformations), or of one of its
        partitions, decoded.
        """
        request = projections_pb2.ResultReq()
        request.options.name, request.options.partition = name, partition
        return self._value("Result", request, "result", name)

    def _value(self, method: str, request: Any, field: str, name: str) -> Any:
        with self._talking(f"read the {field} of projection {name!r}") as link:
            try:
                answer = link.ask(getattr(_stub(link), method), request)
            except grpc.RpcError as error:
                if _is_missing(error):
                    raise _no_projection(name) from None
                raise
            return json_format.MessageToDict(getattr(answer, field))


def _stub(link: Link) -> Any:
    return projections_pb2_grpc.ProjectionsStub(link.channel)  # type: ignore[no-untyped-call]


def _is_missing(error: grpc.RpcError) -> bool:
    """Servers before 24.6 have no status for it."""
    # A node that does not lead answers with the same status.
    if not isinstance(error, grpc.Call) or trailers(error).get("exception") == "not-leader":
        return False
    return error.code() is grpc.StatusCode.NOT_FOUND or "received NotFound" in (
        error.details() or ""
    )


def _no_projection(name: str) -> UsageError:
    return UsageError(f"there is no projection {name!r} in the server")


def _statistics(details: Any) -> ServerProjection:
    return ServerProjection(
        name=details.name,
        status=details.status,
        mode=details.mode,
        progress=details.progress,
        position=details.position,
        processed=details.eventsProcessedAfterRestart,
        reason=details.stateReason,
    )
