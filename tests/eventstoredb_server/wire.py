"""Records as protocol messages, and what requests name as the storage names it."""

from __future__ import annotations

import uuid

from esdbclient.protos.Grpc import persistent_pb2, shared_pb2, streams_pb2

from tests.eventstoredb_server.calls import invalid_argument
from tests.eventstoredb_server.storage import ANY, NO_STREAM, STREAM_EXISTS, Proposed, Record

JSON, BYTES = "application/json", "application/octet-stream"
UINT64_MAX = 2**64 - 1


def read_uuid(message: shared_pb2.UUID) -> uuid.UUID:
    if message.WhichOneof("value") == "structured":
        most, least = (
            message.structured.most_significant_bits,
            message.structured.least_significant_bits,
        )
        return uuid.UUID(int=((most % 2**64) << 64) | (least % 2**64))
    return uuid.UUID(message.string)


def write_uuid(value: uuid.UUID, as_text: bool) -> shared_pb2.UUID:
    if as_text:
        return shared_pb2.UUID(string=str(value))
    most, least = divmod(value.int, 2**64)
    signed = [part - 2**64 if part >= 2**63 else part for part in (most, least)]
    return shared_pb2.UUID(
        structured=shared_pb2.UUID.Structured(
            most_significant_bits=signed[0], least_significant_bits=signed[1]
        )
    )


def identifier(stream: str) -> shared_pb2.StreamIdentifier:
    return shared_pb2.StreamIdentifier(stream_name=stream.encode())


def stream_name(message: shared_pb2.StreamIdentifier) -> str:
    return message.stream_name.decode()


def proposed(message) -> Proposed:
    """One proposed message of either append.

    Raises Status for metadata that lacks what it must have.
    """
    for required in ("type", "content-type"):
        if required not in message.metadata:
            raise invalid_argument(f"Required Metadata Property '{required}' is missing")
    return Proposed(
        message.metadata["type"],
        message.data,
        message.custom_metadata,
        message.metadata["content-type"] == JSON,
        read_uuid(message.id),
    )


def expected_revision(options, field: str, revision: str) -> int:
    """The expectation of a write, as the storage counts it."""
    which = options.WhichOneof(field)
    if which is None:
        raise invalid_argument("'None' is not a valid expected revision")
    return {"no_stream": NO_STREAM, "any": ANY, "stream_exists": STREAM_EXISTS}.get(
        which, getattr(options, revision)
    )


def recorded(kind, record: Record, as_text: bool):
    return kind(
        id=write_uuid(record.id, as_text),
        stream_identifier=identifier(record.stream),
        stream_revision=record.revision,
        prepare_position=record.position,
        commit_position=record.position,
        metadata={
            "type": record.type,
            "created": str(record.created),
            "content-type": JSON if record.is_json else BYTES,
        },
        custom_metadata=record.metadata,
        data=record.data,
    )


def read_event(
    record: Record, target: Record | None, resolve: bool, as_text: bool
) -> streams_pb2.ReadResp:
    """An event, or a link with what it points to; a link whose target is gone has no event."""
    kind = streams_pb2.ReadResp.ReadEvent.RecordedEvent
    if resolve and record.target is not None:
        event = streams_pb2.ReadResp.ReadEvent(
            link=recorded(kind, record, as_text),
            event=recorded(kind, target, as_text) if target is not None else None,
            commit_position=record.position,
        )
    else:
        event = streams_pb2.ReadResp.ReadEvent(
            event=recorded(kind, record, as_text), commit_position=record.position
        )
    return streams_pb2.ReadResp(event=event)


def persistent_event(
    record: Record, target: Record | None, as_text: bool, retries: int
) -> persistent_pb2.ReadResp:
    kind = persistent_pb2.ReadResp.ReadEvent.RecordedEvent
    event = persistent_pb2.ReadResp.ReadEvent(commit_position=record.position, retry_count=retries)
    if target is not None:
        event.link.CopyFrom(recorded(kind, record, as_text))
        event.event.CopyFrom(recorded(kind, target, as_text))
    else:
        event.event.CopyFrom(recorded(kind, record, as_text))
    return persistent_pb2.ReadResp(event=event)
