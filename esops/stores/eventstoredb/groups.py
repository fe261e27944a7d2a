"""Persistent subscriptions: what there is, how far each is, and its parked messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import grpc
from esdbclient import exceptions as esdb
from esdbclient.protos.Grpc import persistent_pb2 as pb
from esdbclient.protos.Grpc import persistent_pb2_grpc

from esops.errors import UsageError
from esops.events import Position, RecordedEvent
from esops.stores.eventstoredb import bulk
from esops.stores.eventstoredb.connect import Link
from esops.stores.eventstoredb.errors import trailers

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore

_PLACE = re.compile(r"C:(\d+)/P:(\d+)\Z")
ALL = "$all"


@dataclass(frozen=True, slots=True)
class ConsumerGroup:
    """A persistent subscription to a stream or to $all.

    `known` and `checkpoint` are the newest event it knows and the last that it noted as done, as
    the server writes them: a revision, or a position of $all. `parked` counts the messages that
    consumers could not take.
    """

    stream: str
    name: str
    status: str
    strategy: str
    consumers: int
    in_flight: int
    parked: int
    known: str
    checkpoint: str
    resolves: bool = True
    """Whether its consumers get the events that links lead to."""

    @property
    def place(self) -> Position | None:
        """The checkpoint, where it is a position of $all."""
        return parse_place(self.checkpoint)


class PersistentSubscriptions:
    """The groups of a node.

    Listing them and replaying what is parked takes the rights of $ops or $admins.
    """

    def __init__(
        self,
        talking: Callable[[str], AbstractContextManager[Link]],
        ask: Callable[[Callable[[Link], Any], str], Any],
        store: EventStoreDBStore,
    ) -> None:
        """`talking` gives a link for some calls. `ask` asks a short question, of the leader where a
        follower names it.
        """
        self._talking, self._ask, self._store = talking, ask, store

    def all(self) -> list[ConsumerGroup]:
        """All consumer groups of all streams, with how far each one is."""
        request = pb.ListReq()
        request.options.list_all_subscriptions.SetInParent()
        found = self._ask(
            lambda link: self._call(link, "List", request), "list persistent subscriptions"
        )
        return [_group(info) for info in found.subscriptions]

    def info(self, stream: str, name: str) -> ConsumerGroup:
        """One group. Raises UsageError where there is none."""
        request = pb.GetInfoReq()
        request.options.group_name = name
        # $all is not a stream's name in this call, but an option of its own.
        if stream == ALL:
            request.options.all.SetInParent()
        else:
            request.options.stream_identifier.stream_name = stream.encode()

        def ask(link: Link) -> Any:
            try:
                return self._call(link, "GetInfo", request)
            except grpc.RpcError as error:
                if (
                    isinstance(error, grpc.Call)
                    and trailers(error).get("exception") == "persistent-subscription-does-not-exist"
                ):
                    raise _no_group(stream, name) from None
                raise

        return _group(self._ask(ask, f"tell of group {name!r}").subscription_info)

    @staticmethod
    def _call(link: Link, method: str, request: Any) -> Any:
        # esdbclient's own answers leave the consumers out.
        stub: Any = persistent_pb2_grpc.PersistentSubscriptionsStub(link.channel)  # type: ignore[no-untyped-call]
        return link.ask(getattr(stub, method), request)

    def oldest_parked(self, stream: str, name: str) -> datetime | None:
        """When the oldest of the parked messages was parked."""
        parked = _parked_stream(stream, name)
        what = f"read stream {parked!r}"
        found = self._ask(
            lambda link: bulk.first(link, bulk.read_stream_request(parked, limit=1), what), what
        )
        return found[0].recorded_at if found else None

    def parked(self, stream: str, name: str) -> Iterator[RecordedEvent]:
        """The parked messages: the events that the consumers could not take, oldest first."""
        return self._store.read_stream(_parked_stream(stream, name))

    def replay(self, stream: str, name: str) -> None:
        """Push all parked messages to the consumers again.

        Raises UsageError where there is no such group.
        """
        with self._talking(f"replay the parked messages of group {name!r}") as link:
            try:
                link.client.replay_parked_events(name, _source(stream), timeout=link.deadline)
            except esdb.NotFound:
                raise _no_group(stream, name) from None


def parse_place(text: str) -> Position | None:
    """Read a position of $all as the server writes it, `C:12/P:12`; None for anything else."""
    found = _PLACE.match(text)
    return Position((int(found[1]), int(found[2]))) if found else None


def _parked_stream(stream: str, name: str) -> str:
    return f"$persistentsubscription-{stream}::{name}-parked"


def _source(stream: str) -> str | None:
    return None if stream == ALL else stream


def _no_group(stream: str, name: str) -> UsageError:
    return UsageError(f"there is no persistent subscription {name!r} to {stream}")


def _group(info: Any) -> ConsumerGroup:
    return ConsumerGroup(
        stream=info.event_source,
        name=info.group_name,
        status=info.status,
        strategy=info.named_consumer_strategy,
        consumers=len(info.connections),
        in_flight=info.total_in_flight_messages,
        parked=info.parked_message_count,
        known=info.last_known_event_position,
        checkpoint=info.last_checkpointed_event_position,
        resolves=info.resolve_link_tos,
    )
