"""Reads of the log and of streams, straight from the protocol's messages into events.

esdbclient's own reads make a UUID, a datetime and a frozen dataclass of every event, take a
position as one number (a transaction's events share that one), and drop the trailers of errors.
Here a message becomes a RecordedEvent with one call: benchmarks/eventstoredb.py has the figures of
both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from typing import Any

from esdbclient.protos.Grpc import shared_pb2, streams_pb2

from esops.events import EventFilter, Position, RecordedEvent, category_of
from esops.stores.eventstoredb.connect import Link

Options = streams_pb2.ReadReq.Options
PAGE_EVENTS = 2_000
PAGE_BYTES = 2 * 1024 * 1024
IDLE = 60.0
"""Seconds without any message after which a read counts as lost."""
WINDOW = 1_000
"""Events that the server looks at between two checkpoints of a filtered subscription, times ten."""
NO_LIMIT = 2**63 - 1
_NOTHING = shared_pb2.Empty()


def wants_system(filter: EventFilter) -> bool:
    """Whether events of the system are asked for by name."""
    return any(
        name.startswith("$") for name in (*filter.types, filter.category or "", filter.stream or "")
    )


def server_filter(filter: EventFilter) -> streams_pb2.ReadReq.Options.FilterOptions:
    """The part of a filter that the server can hold; the rest is looked at here, by `passes`."""
    expression = Options.FilterOptions.Expression
    options = Options.FilterOptions(max=WINDOW, checkpointIntervalMultiplier=10)
    # The server takes one expression, on types or on streams. Types come first: they leave out
    # most.
    if filter.types:
        options.event_type.CopyFrom(
            expression(regex=f"^(?:{'|'.join(map(_escaped, filter.types))})$")
        )
    elif filter.stream is not None:
        options.stream_identifier.CopyFrom(expression(regex=f"^{_escaped(filter.stream)}$"))
    elif filter.category is not None:
        # A stream may be named like its category, without a dash.
        options.stream_identifier.CopyFrom(expression(regex=f"^{_escaped(filter.category)}(?:-|$)"))
    else:
        options.event_type.CopyFrom(expression(regex=r"^[^\$]"))
    return options


def of_streams(names: Iterable[str] | None) -> streams_pb2.ReadReq.Options.FilterOptions:
    """For the events of some streams, or of all but the system's: of whatever type, links too."""
    options = Options.FilterOptions(max=WINDOW, checkpointIntervalMultiplier=10)
    some = r"[^\$]" if names is None else f"(?:{'|'.join(map(_escaped, names))})$"
    options.stream_identifier.CopyFrom(Options.FilterOptions.Expression(regex=f"^{some}"))
    return options


def _escaped(text: str) -> str:
    """Escaped for .NET's regular expressions and Python's alike."""
    return re.sub(r"([\\*+?|{}\[\]()^$.# ])", r"\\\1", text)


def wanted_streams(filter: EventFilter) -> Callable[[str], bool]:
    """A function of a stream's name that says whether a filter wants it; the system's streams only
    where they are named.
    """
    system, category = wants_system(filter), filter.category

    def wanted(stream: str) -> bool:
        if not system and stream[:1] == "$":
            return False
        if filter.stream is not None and stream != filter.stream:
            return False
        return category is None or category_of(stream) == category

    return wanted


def passes(filter: EventFilter) -> Callable[[RecordedEvent], bool]:
    """A function of an event that says whether it is wanted, for what the server did not
    look at.
    """
    system, stream_wanted = wants_system(filter), wanted_streams(filter)

    def wanted(event: RecordedEvent) -> bool:
        # By index, not by name: this runs once for each event of the log.
        return (system or event.type[:1] != "$") and stream_wanted(event.stream)

    return wanted


def wants(filter: EventFilter) -> Callable[[RecordedEvent], bool]:
    """A function of an event that says whether a filter wants it, for an event that no server has
    looked at.
    """
    rest = passes(filter)

    def wanted(event: RecordedEvent) -> bool:
        return (not filter.types or event.type in filter.types) and rest(event)

    return wanted


def read_all_request(
    after: Position | None,
    *,
    backwards: bool = False,
    limit: int = NO_LIMIT,
    filter: Options.FilterOptions | None = None,
    subscribe: bool = False,
) -> streams_pb2.ReadReq:
    """A request for $all from a position on (forwards: with it; as a subscription: after it) or
    from its start or end.
    """
    options = Options(
        read_direction=Options.Backwards if backwards else Options.Forwards,
        uuid_option=Options.UUIDOption(string=_NOTHING),
        control_option=Options.ControlOption(compatibility=1),
    )
    if after is not None:
        options.all.position.commit_position, options.all.position.prepare_position = (
            after[0],
            after[1],
        )
    elif backwards:
        options.all.end.CopyFrom(_NOTHING)
    else:
        options.all.start.CopyFrom(_NOTHING)
    if subscribe:
        options.subscription.SetInParent()
    else:
        options.count = limit
    if filter is None:
        options.no_filter.CopyFrom(_NOTHING)
    else:
        options.filter.CopyFrom(filter)
    return streams_pb2.ReadReq(options=options)


def read_stream_request(
    stream: str,
    *,
    revision: int | None = None,
    backwards: bool = False,
    limit: int = NO_LIMIT,
    resolve: bool = False,
) -> streams_pb2.ReadReq:
    """A request for a stream from a revision on, with it, or from its start or end."""
    options = Options(
        read_direction=Options.Backwards if backwards else Options.Forwards,
        resolve_links=resolve,
        count=limit,
        no_filter=_NOTHING,
        uuid_option=Options.UUIDOption(string=_NOTHING),
        control_option=Options.ControlOption(compatibility=1),
    )
    options.stream.stream_identifier.stream_name = stream.encode()
    if revision is not None:
        options.stream.revision = revision
    elif backwards:
        options.stream.end.CopyFrom(_NOTHING)
    else:
        options.stream.start.CopyFrom(_NOTHING)
    return streams_pb2.ReadReq(options=options)


def to_event(recorded: Any) -> RecordedEvent:
    """An event from the protocol's message.

    Positions are (commit, prepare); times are ticks of 100 ns.
    """
    metadata = recorded.metadata
    return RecordedEvent(
        recorded.id.string,
        recorded.stream_identifier.stream_name.decode(),
        recorded.stream_revision,
        Position((recorded.commit_position, recorded.prepare_position)),
        metadata["type"],
        recorded.data,
        recorded.custom_metadata,
        int(metadata["created"]) // 10,  # microseconds, made a datetime when asked for
        "",
    )


class Messages:
    """The messages of one call without a deadline; a call on which nothing comes for too long is
    ended.
    """

    def __init__(
        self, link: Link, request: streams_pb2.ReadReq, what: str, idle: float = IDLE
    ) -> None:
        """Send the request; the answers come from `each`."""
        self._link, self._what = link, what
        self._received = link.messages(link.streams.Read, request, idle=idle)

    def each(self) -> Generator[Any, None, None]:
        """The messages in order.

        Raises ConnectionLost, Silent where nothing comes, or what the server answers instead.
        """
        with self._link.call(self._what):
            yield from self._received

    def cancel(self) -> None:
        """End the call, from any thread."""
        self._received.cancel()


def first(link: Link, request: streams_pb2.ReadReq, what: str) -> list[RecordedEvent] | None:
    """The events of a short read, within the deadline; None where the stream is not found."""
    found: list[RecordedEvent] = []
    with link.call(what):
        for message in link.messages(link.streams.Read, request):
            kind = message.WhichOneof("content")
            if kind == "stream_not_found":
                return None
            if kind == "event" and message.event.HasField("event"):
                found.append(to_event(message.event.event))
    return found


def record_at(link: Link, position: Position) -> RecordedEvent | None:
    """The first record at or after a position, whatever its type; None where the log ends before.

    Raises Refused inside a record.
    """
    # Without a filter, so that records of the system and links count, too.
    found = first(link, read_all_request(position, limit=1), "read $all")
    return found[0] if found else None
