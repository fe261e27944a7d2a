"""Streams.Read that ends: a stream or $all, either way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator

from esdbclient.protos.Grpc import streams_pb2

from tests.eventstoredb_server import filters, wire
from tests.eventstoredb_server.calls import (
    Status,
    User,
    access_denied,
    invalid_argument,
    stream_deleted,
)
from tests.eventstoredb_server.storage import InsideRecord, Record, Storage, StreamDeleted

PAGE = 500
INVALID_POSITION = "Trying to read from an invalid position."
FORWARDS = streams_pb2.ReadReq.Options.Forwards


def check(options: streams_pb2.ReadReq.Options, user: User, storage: Storage) -> str:
    """The stream that is asked for ("$all" too).

    Raises Status for a request that no server takes.
    """
    if options.WhichOneof("stream_option") is None:
        raise invalid_argument("'None' is not a valid StreamOptionOneofCase")
    if options.WhichOneof("filter_option") is None:
        raise invalid_argument("'None' is not a valid FilterOptionOneofCase")
    if not options.HasField("uuid_option"):
        raise invalid_argument(" `uuidOption` is a required argument of type UUIDOption")
    name = (
        wire.stream_name(options.stream.stream_identifier)
        if options.WhichOneof("stream_option") == "stream"
        else "$all"
    )
    if not user.may("read", name, storage.settings_of(name.removeprefix("$$"))):
        raise access_denied()
    return name


def wants_text(options: streams_pb2.ReadReq.Options) -> bool:
    return options.uuid_option.WhichOneof("content") == "string"


async def read_stream(
    options: streams_pb2.ReadReq.Options, storage: Storage
) -> AsyncIterator[streams_pb2.ReadResp]:
    name = wire.stream_name(options.stream.stream_identifier)
    forwards = options.read_direction == FORWARDS
    which = options.stream.WhichOneof("revision_option")
    if not name:
        raise invalid_argument(f"'{name}' is not a valid stream name")
    try:
        stream = storage.stream(name)
    except StreamDeleted:
        raise stream_deleted(name) from None
    if stream is None:
        yield streams_pb2.ReadResp(
            stream_not_found=streams_pb2.ReadResp.StreamNotFound(
                stream_identifier=wire.identifier(name)
            )
        )
        return
    revision = {"start": 0, "end": None}.get(which or "start", options.stream.revision)
    if forwards and revision is None:
        found: Iterator[Record] = iter(())
    else:
        found = (
            storage.forwards(stream, revision or 0)
            if forwards
            else storage.backwards(stream, revision)
        )
    sent = 0
    for record in found:
        if sent == options.count:
            break
        if (
            sent == 0
            and forwards
            and options.control_option.compatibility >= 1
            and record.revision != (revision or 0)
        ):
            yield streams_pb2.ReadResp(first_stream_position=record.revision)
        yield wire.read_event(
            record, storage.resolve(record), options.resolve_links, wants_text(options)
        )
        sent += 1
    if options.control_option.compatibility >= 1:
        yield streams_pb2.ReadResp(last_stream_position=stream.last)


def start_of_all(options: streams_pb2.ReadReq.Options, storage: Storage) -> int | None:
    """Where a read of $all starts; None is the start or, backwards, the end."""
    which = options.all.WhichOneof("all_option")
    if which == "position" and options.all.position.commit_position != wire.UINT64_MAX:
        position = options.all.position
        if position.commit_position < position.prepare_position:
            raise invalid_argument(INVALID_POSITION)
        return position.commit_position
    if which == "end" or which == "position":
        return storage.end
    return 0


async def read_all(
    options: streams_pb2.ReadReq.Options, storage: Storage, gone: Collection[int] = frozenset()
) -> AsyncIterator[streams_pb2.ReadResp]:
    passes = filters.from_options(options)
    position = start_of_all(options, storage)
    forwards = options.read_direction == FORWARDS
    end = storage.end
    left = options.count
    text = wants_text(options)
    filtered = options.WhichOneof("filter_option") == "filter"
    failed = (
        Status("UNKNOWN", "Unexpected FilteredReadAllResult: Error")
        if filtered
        else invalid_argument(INVALID_POSITION)
    )
    if not forwards and not storage.is_readable_backwards(position):
        if filtered:
            raise failed
        return
    if forwards:
        try:
            storage.check_forwards(position)
        except InsideRecord:
            raise failed from None
    while left > 0:
        page = storage.page(position, PAGE) if forwards else storage.page_backwards(position, PAGE)
        for record in page:
            if forwards and record.position >= end:
                return
            if record.position not in gone and passes(record):
                yield wire.read_event(record, storage.resolve(record), options.resolve_links, text)
                left -= 1
                if left == 0:
                    return
        if not page:
            return
        position = page[-1].position + (1 if forwards else 0)
