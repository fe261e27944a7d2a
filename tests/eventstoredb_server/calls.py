"""Around every call: who asks, whether this node answers, and statuses with the trailers that
clients read.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass

import grpc

from tests.eventstoredb_server import storage


class Status(Exception):
    """How a call ends badly: a status code's name, its text, and trailers."""

    def __init__(self, code: str, text: str, **trailers: object) -> None:
        super().__init__(text)
        self.code, self.text = grpc.StatusCode[code], text
        self.trailers = tuple(
            (key.replace("_", "-"), str(value)) for key, value in trailers.items()
        )


def invalid_argument(text: str) -> Status:
    return Status("INVALID_ARGUMENT", text)


class AccessDenied(Status):
    pass


def access_denied() -> Status:
    return AccessDenied("PERMISSION_DENIED", "Access Denied", exception="access-denied")


def stream_deleted(stream: str) -> Status:
    return Status(
        "FAILED_PRECONDITION",
        f"Event stream '{stream}' is deleted.",
        exception="stream-deleted",
        stream_name=stream,
    )


def not_leader(host: str, port: int) -> Status:
    return Status(
        "NOT_FOUND",
        "Leader info available",
        exception="not-leader",
        leader_endpoint_host=host,
        leader_endpoint_port=port,
    )


def wrong_expected_version(
    operation: str, stream: str, error: storage.WrongExpectedVersion
) -> Status:
    return Status(
        "FAILED_PRECONDITION",
        f"{operation} failed due to WrongExpectedVersion. Stream: {stream}, Expected version: "
        f"{error.expected}, Actual version: {error.actual}",
        exception="wrong-expected-version",
        stream_name=stream,
        expected_version=error.expected,
        actual_version=error.actual,
    )


def append_too_large(limit: int) -> Status:
    return Status(
        "INVALID_ARGUMENT",
        f"Maximum Append Size of {limit} Exceeded.",
        exception="maximum-append-size-exceeded",
        maximum_append_size=limit,
    )


@dataclass(frozen=True)
class User:
    name: str | None
    groups: frozenset[str] = frozenset()

    @property
    def is_admin(self) -> bool:
        return "$admins" in self.groups

    def may(self, action: str, stream: str, settings: storage.StreamSettings | None) -> bool:
        """The rights of LegacyStreamPermissionAssertion.cs: "read", "write" or "delete".

        `settings` are those of the stream, or of the one that a metadata stream is about. Without
        an ACL for it, system streams and $all are for admins, others for who is logged in.
        """
        if stream == "$all" and action != "read":
            return False
        if stream.startswith("$$") and action == "delete":
            return False
        if self.is_admin:
            return True
        # Of metadata, the right is one of the stream that they are about.
        right = ("$m" if stream.startswith("$$") else "$") + action[0]
        stream = stream.removeprefix("$$")
        allowed = settings.acl.get(right) if settings else None
        if allowed is not None:
            names = allowed if isinstance(allowed, list) else [allowed]
            return "$all" in names or self.name in names or bool(self.groups & set(names))
        return self.name is not None and not stream.startswith("$")


EVERYBODY = User("admin", frozenset({"$admins"}))
"""An insecure node asks for no credentials and grants everything."""
USERS = {
    "admin": ("changeit", frozenset({"$admins"})),
    "ops": ("changeit", frozenset({"$ops"})),
    "reader": ("secret", frozenset({"readers"})),
}


def who(authorization: str | None, insecure: bool) -> User | None:
    """The user behind a header; None for wrong credentials."""
    if insecure:
        return EVERYBODY
    if not authorization:
        return User(None)
    try:
        name, _, password = base64.b64decode(authorization.split(" ", 1)[1]).decode().partition(":")
    except (ValueError, IndexError):
        return None
    known = USERS.get(name)
    return User(name, known[1]) if known is not None and known[0] == password else None


def user_of(context: grpc.aio.ServicerContext, node) -> User:
    headers = dict(context.invocation_metadata())
    user = who(headers.get("authorization"), node.insecure)
    if user is None:
        raise Status("UNAUTHENTICATED", "")
    return user


def requires_leader(context: grpc.aio.ServicerContext) -> bool:
    return dict(context.invocation_metadata()).get("requires-leader", "false").lower() == "true"


class Guard(grpc.aio.ServerInterceptor):
    """Puts the node's state and its faults before each call, and turns a Status into the call's
    end.
    """

    ALWAYS = ("/event_store.client.gossip.", "/event_store.client.server_features.")

    LEADER = ("/event_store.client.persistent_subscriptions.",)

    def __init__(self, node) -> None:
        self.node = node

    async def before(self, method: str, context: grpc.aio.ServicerContext) -> None:
        faults = self.node.faults
        if faults.hang:
            await asyncio.sleep(3600)
        if faults.unavailable or not self.node.alive:
            raise Status("UNAVAILABLE", "Server Is Not Ready")
        if faults.busy > 0:
            faults.busy -= 1
            raise Status("UNAVAILABLE", "Server Is Too Busy")
        left = context.time_remaining()
        if left is not None and left < 0.001:
            raise Status("DEADLINE_EXCEEDED", "Deadline Exceeded")
        user_of(context, self.node)
        if method.startswith(self.ALWAYS):
            return
        only_on_the_leader = method.startswith(self.LEADER) or requires_leader(context)
        if (faults.not_leader or not self.node.is_leader) and only_on_the_leader:
            leader = self.node.cluster.leader
            if leader is None:
                raise Status("UNKNOWN", "No leader info available in response")
            raise not_leader(leader.host, leader.port)

    async def intercept_service(self, continuation, details):
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method
        inner = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        async def end(error: Status, context: grpc.aio.ServicerContext) -> None:
            if error.trailers:
                context.set_trailing_metadata(error.trailers)
            await context.abort(error.code, error.text)

        async def one(request, context):
            try:
                await self.before(method, context)
                return await inner(request, context)
            except Status as error:
                await end(error, context)

        async def many(request, context):
            try:
                await self.before(method, context)
                async for response in inner(request, context):
                    yield response
            except Status as error:
                await end(error, context)

        kind = (
            ("stream" if handler.request_streaming else "unary")
            + "_"
            + ("stream" if handler.response_streaming else "unary")
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        behaviour = many if handler.response_streaming else one
        return make(behaviour, handler.request_deserializer, handler.response_serializer)
