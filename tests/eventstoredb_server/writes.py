"""The service Streams: what a request asks for goes to reads, subscriptions, or the appends and
deletions here.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from esdbclient.protos.Grpc import shared_pb2, status_pb2, streams_pb2, streams_pb2_grpc
from google.protobuf import any_pb2, empty_pb2

from tests.eventstoredb_server import reads, subscriptions, wire
from tests.eventstoredb_server.calls import (
    AccessDenied,
    Status,
    access_denied,
    append_too_large,
    stream_deleted,
    user_of,
    wrong_expected_version,
)
from tests.eventstoredb_server.storage import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Proposed,
    StreamDeleted,
    WrongExpectedVersion,
)

MAX_APPEND_SIZE = 1024 * 1024


class Streams(streams_pb2_grpc.StreamsServicer):
    def __init__(self, node) -> None:
        self.node, self.storage = node, node.cluster.storage

    async def Read(self, request, context):
        options = request.options
        user = user_of(context, self.node)
        name = reads.check(options, user, self.storage)
        subscribing = options.WhichOneof("count_option") == "subscription"
        if not subscribing:
            found = (
                reads.read_all(options, self.storage, self.node.gone)
                if name == "$all"
                else reads.read_stream(options, self.storage)
            )
        elif name == "$all":
            found = subscriptions.to_all(options, self.node)
        else:
            found = subscriptions.to_stream(options, self.storage, self.node.says_caught_up)
        faults, sent = self.node.faults, 0
        async for response in found:
            if faults.slow:
                await asyncio.sleep(faults.slow)
            yield response
            sent += 1
            if faults.drop_after and sent >= faults.drop_after:
                faults.drop_after = 0
                self.node.door.cut()
            if subscribing and faults.too_slow_after and sent >= faults.too_slow_after:
                faults.too_slow_after = 0
                raise Status(
                    "ABORTED",
                    "Operation timed out: Consumer too slow to handle event while live. Client "
                    "resubscription required.",
                )
            if self.node.resigned_during(context) or not self.node.alive:
                raise Status("UNAVAILABLE", "Server Is Not Ready")

    # -- appends

    async def Append(self, request_iterator, context):
        options, events, size = None, [], 0
        async for request in request_iterator:
            if request.WhichOneof("content") == "options":
                options = request.options
                continue
            events.append(wire.proposed(request.proposed_message))
            size += events[-1].size
            if size > MAX_APPEND_SIZE:
                raise append_too_large(MAX_APPEND_SIZE)
        if options is None:
            raise Status("INVALID_ARGUMENT", "'None' is not a valid ContentOneofCase")
        self._check_right(context, "write", wire.stream_name(options.stream_identifier))
        stream = wire.stream_name(options.stream_identifier)
        expected = wire.expected_revision(options, "expected_stream_revision", "revision")
        response = streams_pb2.AppendResp()
        try:
            written = self.storage.append(stream, expected, events)
        except StreamDeleted:
            raise stream_deleted(stream) from None
        except WrongExpectedVersion as error:
            wrong = response.wrong_expected_version
            if error.actual == NO_STREAM:
                wrong.current_no_stream.SetInParent()
                wrong.no_stream_20_6_0.SetInParent()
            else:
                wrong.current_revision = wrong.current_revision_20_6_0 = error.actual
            if expected == ANY:
                wrong.expected_any.SetInParent()
                wrong.any_20_6_0.SetInParent()
            elif expected == STREAM_EXISTS:
                wrong.expected_stream_exists.SetInParent()
                wrong.stream_exists_20_6_0.SetInParent()
            elif expected == NO_STREAM:
                wrong.expected_no_stream.SetInParent()
            else:
                wrong.expected_revision = wrong.expected_revision_20_6_0 = expected
            return response
        self._timed_out()
        response.success.current_revision = max(written.revision, 0)
        response.success.position.commit_position = response.success.position.prepare_position = (
            written.position
        )
        return response

    async def BatchAppend(self, request_iterator, context):
        pending: dict[object, tuple[streams_pb2.BatchAppendReq.Options, list[Proposed]]] = {}
        async for request in request_iterator:
            correlation = wire.read_uuid(request.correlation_id)
            if request.HasField("options"):
                pending.setdefault(correlation, (request.options, []))
            if correlation not in pending:
                continue
            options, events = pending[correlation]
            response = streams_pb2.BatchAppendResp(
                correlation_id=request.correlation_id, stream_identifier=options.stream_identifier
            )
            try:
                self._check_right(context, "write", wire.stream_name(options.stream_identifier))
                self._check_deadline(options)
                events.extend(wire.proposed(message) for message in request.proposed_messages)
                if sum(event.size for event in events) > MAX_APPEND_SIZE:
                    raise _Refused(
                        8,
                        "Maximum Append Size Exceeded",
                        shared_pb2.MaximumAppendSizeExceeded(maxAppendSize=MAX_APPEND_SIZE),
                    )
                if not request.is_final:
                    continue
                self._batch(options, events, response)
            except _Refused as error:
                response.error.CopyFrom(error.status)
            except AccessDenied:
                response.error.CopyFrom(
                    _Refused(7, "Access Denied", shared_pb2.AccessDenied()).status
                )
            except Status as error:
                response.error.CopyFrom(
                    _Refused(3, error.text, shared_pb2.BadRequest(message=error.text)).status
                )
            pending.pop(correlation, None)
            yield response

    def _batch(
        self, options, events: list[Proposed], response: streams_pb2.BatchAppendResp
    ) -> None:
        stream = wire.stream_name(options.stream_identifier)
        expected = wire.expected_revision(options, "expected_stream_position", "stream_position")
        try:
            written = self.storage.append(stream, expected, events)
        except StreamDeleted:
            deleted = shared_pb2.StreamDeleted(stream_identifier=options.stream_identifier)
            raise _Refused(9, "Stream Deleted", deleted) from None
        except WrongExpectedVersion as error:
            wrong = shared_pb2.WrongExpectedVersion()
            if error.actual == NO_STREAM:
                wrong.current_no_stream.SetInParent()
            else:
                wrong.current_stream_revision = error.actual
            if expected >= 0:
                wrong.expected_stream_position = expected
            else:
                name = {
                    ANY: "expected_any",
                    STREAM_EXISTS: "expected_stream_exists",
                    NO_STREAM: "expected_no_stream",
                }[expected]
                getattr(wrong, name).SetInParent()
            raise _Refused(9, "Wrong Expected Version", wrong) from None
        if self.node.faults.append_timeout > 0:
            self.node.faults.append_timeout -= 1
            raise _Refused(4, "Timeout", shared_pb2.Timeout())
        if written.revision < 0:
            response.success.no_stream.SetInParent()
        else:
            response.success.current_revision = written.revision
        response.success.position.commit_position = response.success.position.prepare_position = (
            written.position
        )

    def _check_deadline(self, options) -> None:
        which = options.WhichOneof("deadline_option")
        if which == "deadline":
            left = options.deadline.ToTimedelta().total_seconds()
        elif which == "deadline_21_10_0":
            left = (
                options.deadline_21_10_0.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
            ).total_seconds()
        else:
            return
        if left <= 0:
            raise _Refused(4, "Timeout", shared_pb2.Timeout())

    def _timed_out(self) -> None:
        if self.node.faults.append_timeout > 0:
            self.node.faults.append_timeout -= 1
            raise Status("ABORTED", "Operation timed out: Prepare phase timeout")

    def _check_right(self, context, action: str, stream: str) -> None:
        settings = self.storage.settings_of(stream.removeprefix("$$"))
        if not user_of(context, self.node).may(action, stream, settings):
            raise access_denied()

    # -- deletions

    async def Delete(self, request, context):
        position = self._delete(request.options, context, self.storage.delete)
        response = streams_pb2.DeleteResp()
        response.position.commit_position = response.position.prepare_position = position
        return response

    async def Tombstone(self, request, context):
        position = self._delete(request.options, context, self.storage.tombstone)
        response = streams_pb2.TombstoneResp()
        response.position.commit_position = response.position.prepare_position = position
        return response

    def _delete(self, options, context, delete) -> int:
        stream = wire.stream_name(options.stream_identifier)
        self._check_right(context, "delete", stream)
        expected = wire.expected_revision(options, "expected_stream_revision", "revision")
        try:
            return delete(stream, expected)
        except StreamDeleted:
            raise stream_deleted(stream) from None
        except WrongExpectedVersion as error:
            raise wrong_expected_version("Delete", stream, error) from None


class _Refused(Exception):
    """How one batch ends badly; the call goes on."""

    def __init__(self, code: int, text: str, details) -> None:
        super().__init__(text)
        packed = any_pb2.Any()
        packed.Pack(details if details is not None else empty_pb2.Empty())
        self.status = status_pb2.Status(code=code, message=text, details=packed)
