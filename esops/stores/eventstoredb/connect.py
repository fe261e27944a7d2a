"""A connection to a node: found by the URI, by esdbclient, with its channel shared by what reads in
bulk.

esdbclient finds the node (one host, or through gossip by the URI's node preference) and makes all
calls but the bulk reads. Those go over a channel of their own to the same node, made of the same
parts: see bulk.py for why.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
from esdbclient import EventStoreDBClient
from esdbclient.connection_spec import (
    VALID_CONNECTION_QUERY_STRING_FIELDS,
    ConnectionSpec,
)
from esdbclient.gossip import NODE_STATE_LEADER
from esdbclient.protos.Grpc import streams_pb2_grpc

from esops.errors import ConnectionLost, Unavailable, UsageError
from esops.settings.addresses import problem_of_uri
from esops.stores.eventstoredb.calls import LATE, Bounded, Received, answer, in_time
from esops.stores.eventstoredb.errors import NotLeader, translated

T = TypeVar("T")
log = structlog.get_logger("esops.eventstoredb")

DEADLINE = 10.0
"""Seconds that a short call may take, unless the URI says defaultDeadline."""
_KEEP_ALIVE = (("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000))
"""A node that vanished without a word is noticed within half a minute."""
_ATTEMPTS = 3
"""Times that esdbclient makes a call, at most, with new connections in between."""
_PROBE = 2.0
"""Seconds in which a node that speaks TLS says so."""
_CLOSING = 2.0
"""Seconds that closing a channel may take: it waits for its calls, and some never end."""
_SCHEME = re.compile(r"^(kurrentdb|kurrent|eventstore)(\+discover)?://")


def read_uri(name: str, uri: str) -> ConnectionSpec:
    """Read a store's URI; `kurrentdb://` is `esdb://`.

    Raises UsageError that names the key and shows no secret.
    """
    problem = problem_of_uri(uri)
    if problem is not None:
        raise UsageError(f"stores.{name}.uri: {problem}")
    # The server was renamed, and its protocol was not: esdbclient reads the old scheme.
    try:
        spec = ConnectionSpec(_SCHEME.sub(r"esdb\2://", uri))
    except (ValueError, KeyError, IndexError):
        # Not what the library says: it repeats parts of the URI.
        raise UsageError(
            f"stores.{name}.uri: the URI cannot be read",
            hint="Write it like esdb://user:password@host:2113?tls=true, or "
            "esdb://host:2113?tls=false for an insecure node. Behind the ? stand only "
            f"{', '.join(VALID_CONNECTION_QUERY_STRING_FIELDS)}.",
        ) from None
    if spec.options.Tls and not spec.options.TlsVerifyCert:
        raise UsageError(
            f"stores.{name}.uri: tlsVerifyCert=false is not allowed",
            hint="Name the CA's file (or the node's own certificate) with tlsCaFile.",
        )
    for option in ("TlsCaFile", "UserCertFile", "UserKeyFile"):
        path = getattr(spec.options, option)
        if path is not None and not Path(path).is_file():
            raise UsageError(f"stores.{name}.uri: {option} names {path}, which is not a file")
    return spec


_open_links: weakref.WeakSet[Link] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is open before the interpreter ends: esdbclient's client, when it is only then let
    go, waits for ever.
    """
    for link in list(_open_links):
        link.close()


class Link:
    """One node that is connected to."""

    def __init__(
        self, spec: ConnectionSpec, target: str | None = None, *, leads: bool = False
    ) -> None:
        """Find the node by the URI, or take the one given, which has to lead if `leads`.

        Raises Unavailable or ConnectionLost.
        """
        self.spec = spec
        self.deadline = float(spec.options.DefaultDeadline or DEADLINE)
        named = ",".join(spec.targets)
        limit = _ATTEMPTS * self.deadline + _discovery(spec)
        with translated(named, "connect"):
            self._client: EventStoreDBClient = in_time(
                limit, lambda: EventStoreDBClient(spec.uri), named
            )
            _open_links.add(self)
            if target is not None:
                # The leader, as another node named it: gossip may still name the old one.
                in_time(limit, lambda: self._client.reconnect(target), target)
        self.target = self._client.connection_target
        self.client = Bounded(self._client, self.target, limit)
        """esdbclient's client; its calls end."""
        self.credentials = self._client.construct_call_credentials(spec.username, spec.password)
        leads = leads or spec.options.NodePreference == "leader"
        self.metadata = (
            ("connection-name", spec.options.ConnectionName),
            ("requires-leader", "true" if leads else "false"),
        )
        self.channel: Any = self._channel()
        self.streams: Any = streams_pb2_grpc.StreamsStub(self.channel)  # type: ignore[no-untyped-call]

    def _channel(self) -> Any:
        options = (*self._client.grpc_options, *_KEEP_ALIVE)
        if not self.spec.options.Tls:
            return grpc.insecure_channel(self.target, options)
        client = self._client
        credentials = grpc.ssl_channel_credentials(
            client.root_certificates, client.private_key, client.certificate_chain
        )
        return grpc.secure_channel(self.target, credentials, options)

    def ask(self, method: Any, request: Any) -> Any:
        """The answer of a stub's method over the channel, within the deadline of a short call."""
        return answer(method, request, self.target, self.deadline, **self._about())

    def messages(self, method: Any, request: Any, *, idle: float | None = None) -> Received:
        """The answers of a stub's method that gives several: within the deadline of a short call,
        or without one, where there may be `idle` seconds between two of them.
        """
        deadline = self.deadline if idle is None else None
        call = method(request, timeout=deadline, **self._about())
        return Received(call, self.target, self.deadline + LATE if idle is None else idle)

    def _about(self) -> dict[str, Any]:
        return {"metadata": self.metadata, "credentials": self.credentials}

    def call(self, what: str) -> Any:
        """Around a call: errors become ours. `what` is what is asked, such as "read $all"."""
        return translated(self.target, what)

    def close(self) -> None:
        """Close both channels; one with a call that never ends is left to itself."""
        _open_links.discard(self)
        # A link that failed while it was made has no channel yet.
        channel = getattr(self, "channel", None)
        client = self._client

        def close() -> None:
            if channel is not None:
                channel.close()
            client.close()

        try:
            in_time(_CLOSING, close, ",".join(self.spec.targets))
        except (ConnectionLost, RuntimeError):  # the latter: too late for a thread
            # It would be closed again when it is let go, which would wait, too.
            client._is_closed = True  # noqa: SLF001


def speaks_tls(spec: ConnectionSpec) -> str | None:
    """One of the URI's nodes that answers with TLS; None where none does within seconds."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for target in spec.targets:
        host, _, port = target.rpartition(":")
        # Nothing is sent: whether there is a handshake is all that is asked.
        with (
            contextlib.suppress(OSError, ValueError),
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return target
    return None


def _discovery(spec: ConnectionSpec) -> float:
    """Seconds that finding the node by gossip may take."""
    options = spec.options
    attempt = len(spec.targets) * options.GossipTimeout + options.DiscoveryInterval / 1000
    return float(options.MaxDiscoverAttempts * attempt)


class Connector:
    """Keeps the link to the node that is used, and finds another when it is lost."""

    def __init__(self, name: str, uri: str) -> None:
        """Read the URI; nothing is connected yet. Raises UsageError."""
        self.spec = read_uri(name, uri)
        self._link: Link | None = None
        self._leader: str | None = None
        self._leading: Link | None = None

    @property
    def discovers(self) -> bool:
        """Whether the node is found through gossip, so that another can be found."""
        return self.spec.scheme != "esdb" or len(self.spec.targets) > 1

    @property
    def link(self) -> Link:
        """The link; connects first if there is none."""
        if self._link is None:
            # Believed once: if it is not the leader any more, discovery decides again.
            leader, self._leader = self._leader, None
            self._link = Link(self.spec, leader)
        return self._link

    @property
    def leading(self) -> Link:
        """A link to the leader, for what only that answers: the link, unless the URI prefers other
        nodes.

        Raises ConnectionLost, also while the cluster has no leader.
        """
        link = self.link
        if self.spec.options.NodePreference == "leader":
            return link
        if self._leading is None:
            with link.call("list the cluster's members"):
                members = link.client.read_gossip(timeout=link.deadline)
            leaders = [
                f"{each.address}:{each.port}" for each in members if each.state == NODE_STATE_LEADER
            ]
            if not leaders:
                raise ConnectionLost("the cluster has no leader at the moment")
            if leaders[0] == link.target:
                return link
            self._leading = Link(self.spec, leaders[0], leads=True)
        return self._leading

    @contextlib.contextmanager
    def talking(self, what: str = "answer") -> Iterator[Link]:
        """A link for some calls; errors become ours, and a lost link is dropped, so that the next
        call finds another.
        """
        try:
            link = self.link
            with link.call(what):
                yield link
        except ConnectionLost as lost:
            self.lost(lost)
            raise

    @contextlib.contextmanager
    def talking_to_leader(self, what: str = "answer") -> Iterator[Link]:
        """The same with a link to the leader."""
        try:
            link = self.leading
            with link.call(what):
                yield link
        except ConnectionLost as lost:
            self.lost_leader(lost)
            raise

    def twice(self, ask: Callable[[Link], T], what: str) -> T:
        """A short question, asked again on a new connection where the first is gone: a node that
        restarted is not noticed.
        """
        return _asked_again(self.talking, ask, what)

    def twice_of_leader(self, ask: Callable[[Link], T], what: str) -> T:
        """The same of the leader."""
        return _asked_again(self.talking_to_leader, ask, what)

    def lost(self, error: BaseException) -> None:
        """Drop the link.

        A node that said who leads is believed, where the URI lets another node be chosen.
        """
        self.close()
        if isinstance(error, NotLeader):
            if not self.discovers:
                raise Unavailable(error.message, hint=error.hint) from error
            self._leader = error.leader

    def lost_leader(self, error: BaseException) -> None:
        """Drop the link to the leader."""
        if self._leading is None:
            self.lost(error)
        else:
            self._leading.close()
            self._leading = None

    def close(self) -> None:
        """Give the links back."""
        for link in (self._link, self._leading):
            if link is not None:
                link.close()
        self._link = self._leading = None


def _asked_again(
    talking: Callable[[str], contextlib.AbstractContextManager[Link]],
    ask: Callable[[Link], T],
    what: str,
) -> T:
    try:
        with talking(what) as link:
            return ask(link)
    except ConnectionLost as lost:
        log.debug("asked again", error=lost.message)
        with talking(what) as link:
            return ask(link)
