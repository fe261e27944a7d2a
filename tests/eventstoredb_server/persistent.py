"""The service PersistentSubscriptions: groups created, listed, read from, and their parked messages
replayed.
"""

from __future__ import annotations

import asyncio

from esdbclient.protos.Grpc import persistent_pb2 as pb
from esdbclient.protos.Grpc import persistent_pb2_grpc, shared_pb2

from tests.eventstoredb_server import filters, wire
from tests.eventstoredb_server.calls import Status, access_denied, user_of
from tests.eventstoredb_server.groups import (
    Consumer,
    Group,
    GroupExists,
    GroupFailed,
    GroupFull,
    GroupSettings,
    NoSuchGroup,
)

NUMBERED_STRATEGIES = ("DispatchToSingle", "RoundRobin", "Pinned")
END = wire.UINT64_MAX


def _missing(source: str, group: str) -> Status:
    return Status(
        "NOT_FOUND",
        f"Subscription group {group} on stream {source} does not exist.",
        exception="persistent-subscription-does-not-exist",
        stream_name=source,
        group_name=group,
    )


class PersistentSubscriptions(persistent_pb2_grpc.PersistentSubscriptionsServicer):
    def __init__(self, node) -> None:
        self.node, self.storage, self.groups = node, node.cluster.storage, node.cluster.groups

    # -- administration

    async def Create(self, request, context):
        self._administers(context)
        options = request.options
        source, start, passes = self._source(options)
        try:
            self.groups.create(
                source,
                options.group_name,
                _settings(options.settings),
                start or 0,
                passes,
                filters.described(options.all) if source == "$all" else None,
            )
        except GroupExists:
            raise Status(
                "ALREADY_EXISTS",
                f"Subscription group {options.group_name} on stream {source} exists.",
                exception="persistent-subscription-exists",
                stream_name=source,
                group_name=options.group_name,
            ) from None
        except GroupFailed as error:
            raise self._failed(source, options.group_name, error) from None
        return pb.CreateResp()

    async def Update(self, request, context):
        self._administers(context)
        options = request.options
        source, start, _ = self._source(options)
        try:
            self.groups.update(source, options.group_name, _settings(options.settings), start)
        except NoSuchGroup:
            raise _missing(source, options.group_name) from None
        except GroupFailed as error:
            raise self._failed(source, options.group_name, error) from None
        return pb.UpdateResp()

    async def Delete(self, request, context):
        self._administers(context)
        source = _named(request.options)
        try:
            self.groups.delete(source, request.options.group_name)
        except NoSuchGroup:
            raise _missing(source, request.options.group_name) from None
        return pb.DeleteResp()

    async def GetInfo(self, request, context):
        source = _named(request.options)
        return pb.GetInfoResp(
            subscription_info=_info(self._group(source, request.options.group_name))
        )

    async def List(self, request, context):
        options = request.options
        source = None
        if options.WhichOneof("list_option") == "list_for_stream":
            wanted = options.list_for_stream
            source = (
                "$all"
                if wanted.WhichOneof("stream_option") == "all"
                else wire.stream_name(wanted.stream)
            )
        found = self.groups.all(source)
        if source is not None and not found:
            raise _missing(source, "")
        return pb.ListResp(subscriptions=[_info(group) for group in found])

    async def ReplayParked(self, request, context):
        self._administers(context)
        options = request.options
        source = _named(options)
        limit = options.stop_at if options.WhichOneof("stop_at_option") == "stop_at" else None
        self._group(source, options.group_name).replay(limit)
        return pb.ReplayParkedResp()

    async def RestartSubsystem(self, request, context):
        self._administers(context)
        for group in self.groups.all():
            group.drop_all()
        return shared_pb2.Empty()

    # -- reading

    async def Read(self, request_iterator, context):
        requests = request_iterator.__aiter__()
        options = (await requests.__anext__()).options
        source = _named(options)
        group = self._group(source, options.group_name)
        user = user_of(context, self.node)
        consumer = Consumer(
            dict(context.invocation_metadata()).get("connection-name", ""),
            user.name or "",
            options.buffer_size or 1,
        )
        try:
            group.connect(consumer)
        except GroupFull:
            raise Status(
                "FAILED_PRECONDITION",
                f"Maximum subscriptions reached for subscription group {options.group_name} on "
                f"stream {source}.",
                exception="maximum-subscribers-reached",
                stream_name=source,
                group_name=options.group_name,
            ) from None
        text = options.uuid_option.WhichOneof("content") == "string"
        answers = asyncio.get_running_loop().create_task(
            self._take_answers(requests, group, consumer)
        )
        try:
            yield pb.ReadResp(
                subscription_confirmation=pb.ReadResp.SubscriptionConfirmation(
                    subscription_id=f"{source}::{options.group_name}"
                )
            )
            while (message := await consumer.queue.get()) is not None:
                yield wire.persistent_event(message.record, message.target, text, message.retries)
            raise Status(
                "CANCELLED",
                f"Subscription group {options.group_name} on stream {source} was dropped.",
                exception="persistent-subscription-dropped",
                stream_name=source,
                group_name=options.group_name,
            )
        finally:
            answers.cancel()
            group.disconnect(consumer)

    @staticmethod
    async def _take_answers(requests, group: Group, consumer: Consumer) -> None:
        async for request in requests:
            which = request.WhichOneof("content")
            if which == "ack":
                group.ack(consumer, [wire.read_uuid(id) for id in request.ack.ids])
            elif which == "nack":
                action = pb.ReadReq.Nack.Action.Name(request.nack.action)
                group.nack(
                    consumer,
                    [wire.read_uuid(id) for id in request.nack.ids],
                    action,
                    request.nack.reason,
                )

    # -- help

    def _administers(self, context) -> None:
        user = user_of(context, self.node)
        if not user.groups & {"$admins", "$ops"}:
            raise access_denied()

    def _group(self, source: str, name: str) -> Group:
        try:
            return self.groups.get(source, name)
        except NoSuchGroup:
            raise _missing(source, name) from None

    def _failed(self, source: str, name: str, error: GroupFailed) -> Status:
        return Status(
            "INTERNAL",
            f"Subscription group {name} on stream {source} failed: '{error}'",
            exception="persistent-subscription-failed",
            stream_name=source,
            group_name=name,
            reason=error,
        )

    def _source(self, options):
        """The source of a group, where it starts (-1: the end; None: not said), and its filter."""
        which = options.WhichOneof("stream_option")
        if which == "all":
            passes = (
                filters.from_options(options.all)
                if hasattr(options.all, "filter")
                else filters.everything
            )
            start = options.all.WhichOneof("all_option")
            if start == "position":
                at = options.all.position.commit_position
                return "$all", -1 if at == END else at, passes
            return "$all", {"end": -1, "start": 0}.get(start or ""), passes
        if which == "stream":
            source = wire.stream_name(options.stream.stream_identifier)
            start = options.stream.WhichOneof("revision_option")
            if start == "revision":
                return (
                    source,
                    -1 if options.stream.revision == END else options.stream.revision,
                    filters.everything,
                )
            return source, {"end": -1, "start": 0}.get(start or ""), filters.everything
        return (
            wire.stream_name(options.stream_identifier),
            options.settings.revision,
            filters.everything,
        )


def _named(options) -> str:
    return (
        "$all"
        if options.WhichOneof("stream_option") == "all"
        else wire.stream_name(options.stream_identifier)
    )


def _settings(asked) -> GroupSettings:
    timeout = asked.message_timeout_ms
    if asked.WhichOneof("message_timeout") == "message_timeout_ticks":
        timeout = asked.message_timeout_ticks // 10_000
    after = asked.checkpoint_after_ms
    if asked.WhichOneof("checkpoint_after") == "checkpoint_after_ticks":
        after = asked.checkpoint_after_ticks // 10_000
    strategy = (
        getattr(asked, "consumer_strategy", "")
        or NUMBERED_STRATEGIES[asked.named_consumer_strategy]
    )
    return GroupSettings(
        asked.resolve_links,
        asked.extra_statistics,
        asked.max_retry_count,
        asked.min_checkpoint_count,
        asked.max_checkpoint_count,
        asked.max_subscriber_count,
        asked.live_buffer_size,
        asked.read_batch_size,
        asked.history_buffer_size,
        timeout,
        after,
        strategy,
    )


def _info(group: Group) -> pb.SubscriptionInfo:
    def place(record) -> str:
        if record is None:
            return ""
        return (
            f"C:{record.position}/P:{record.position}"
            if group.source == "$all"
            else str(record.revision)
        )

    settings = group.settings
    return pb.SubscriptionInfo(
        event_source=group.source,
        group_name=group.name,
        status="Live",
        connections=[
            pb.SubscriptionInfo.ConnectionInfo(
                username=consumer.user,
                connection_name=consumer.name,
                total_items=consumer.total,
                available_slots=consumer.free,
                in_flight_messages=len(consumer.in_flight),
            )
            for consumer in group.consumers
        ],
        total_items=group.total,
        last_checkpointed_event_position=place(group.checkpoint),
        last_known_event_position=place(group.last_known),
        resolve_link_tos=settings.resolve_links,
        start_from=f"C:{group.start_from}/P:{group.start_from}"
        if group.source == "$all"
        else str(group.start_from),
        message_timeout_milliseconds=settings.message_timeout_ms,
        extra_statistics=settings.extra_statistics,
        max_retry_count=settings.max_retry_count,
        live_buffer_size=settings.live_buffer_size,
        buffer_size=settings.history_buffer_size,
        read_batch_size=settings.read_batch_size,
        check_point_after_milliseconds=settings.checkpoint_after_ms,
        min_check_point_count=settings.min_checkpoint_count,
        max_check_point_count=settings.max_checkpoint_count,
        retry_buffer_count=len(group.retry),
        total_in_flight_messages=sum(len(consumer.in_flight) for consumer in group.consumers),
        outstanding_messages_count=sum(len(consumer.in_flight) for consumer in group.consumers),
        named_consumer_strategy=settings.strategy,
        max_subscriber_count=settings.max_subscriber_count,
        parked_message_count=len(group.parked()),
    )
