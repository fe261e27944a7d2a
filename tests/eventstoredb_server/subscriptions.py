"""Streams.Read that goes on: catch-up subscriptions to a stream or to $all, with checkpoints and
"caught up".
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection

from esdbclient.protos.Grpc import streams_pb2

from tests.eventstoredb_server import filters, wire
from tests.eventstoredb_server.calls import invalid_argument, stream_deleted
from tests.eventstoredb_server.reads import INVALID_POSITION, start_of_all, wants_text
from tests.eventstoredb_server.storage import DELETED, InvalidPosition, Storage, StreamDeleted

SEARCH_WINDOW = 200
Options = streams_pb2.ReadReq.Options
Response = streams_pb2.ReadResp


def _confirmation() -> Response:
    return Response(
        confirmation=Response.SubscriptionConfirmation(subscription_id=str(uuid.uuid4()))
    )


def _caught_up() -> Response:
    return Response(caught_up=Response.CaughtUp())


def _checkpoint(position: int) -> Response:
    return Response(
        checkpoint=Response.Checkpoint(commit_position=position, prepare_position=position)
    )


async def to_stream(
    options: Options, storage: Storage, says_caught_up: bool
) -> AsyncIterator[Response]:
    name = wire.stream_name(options.stream.stream_identifier)
    yield _confirmation()
    which = options.stream.WhichOneof("revision_option")
    try:
        stream = storage.stream(name)
    except StreamDeleted:
        raise stream_deleted(name) from None
    if which == "end":
        next_revision = stream.last + 1 if stream else 0
    else:
        next_revision = options.stream.revision + 1 if which == "revision" else 0
    told = False
    while True:
        changed = storage.changed
        try:
            stream = storage.stream(name)
        except StreamDeleted:
            raise stream_deleted(name) from None
        if stream is not None:
            for record in list(storage.forwards(stream, next_revision)):
                if record.revision == DELETED:
                    raise stream_deleted(name)
                yield wire.read_event(
                    record, storage.resolve(record), options.resolve_links, wants_text(options)
                )
                next_revision = record.revision + 1
        if not told and says_caught_up:
            told = True
            yield _caught_up()
        await changed.wait()


def _begins_after(
    storage: Storage, position: int, version: tuple[int, int], gone: Collection[int]
) -> int:
    """The position after which a subscription that resumes at one begins.

    Raises Status where the server does not take it.

    From 24.2 on, that position. From 21.10 on, the first record at or after it, whatever its
    position. Before, the record there comes again.
    """
    if version >= (24, 2):
        try:
            storage.check_position(position)
        except InvalidPosition:
            raise invalid_argument(INVALID_POSITION) from None
        return position
    if version < (21, 10):
        return position - 1
    found = storage.page(position, 1, gone)
    return found[0].position if found else position


async def to_all(options: Options, node) -> AsyncIterator[Response]:
    """As a server of this version does: see `_begins_after`; before 22.10 going live sent the
    position of the event to come.
    """
    storage, version, gone = node.cluster.storage, node.version, node.gone
    checkpoint_at_the_end_of_the_log = version < (22, 10)
    passes = filters.from_options(options)
    filtered = options.WhichOneof("filter_option") == "filter"
    window = (
        options.filter.max
        if options.filter.WhichOneof("window") == "max" and options.filter.max
        else SEARCH_WINDOW
    )
    interval = window * max(1, options.filter.checkpointIntervalMultiplier)
    start = start_of_all(options, storage)
    which = options.all.WhichOneof("all_option")
    seen = {"start": -1, "end": storage.last_position()}.get(which or "start", start)
    if which == "position":
        at_end = options.all.position.commit_position == wire.UINT64_MAX
        seen = storage.last_position() if at_end else _begins_after(storage, start, version, gone)
    yield _confirmation()
    text, considered, sent_checkpoint, live = wants_text(options), 0, -1, False
    while True:
        changed = storage.changed
        page = storage.page(seen + 1, window, gone)
        for record in page:
            seen = record.position
            considered += 1
            if passes(record):
                yield wire.read_event(record, storage.resolve(record), options.resolve_links, text)
            if filtered and considered >= interval:
                considered = 0
                if seen > sent_checkpoint:
                    sent_checkpoint = seen
                    yield _checkpoint(seen)
        if len(page) == window:
            continue
        if not live:
            live = True
            ahead = storage.end if checkpoint_at_the_end_of_the_log else seen
            if filtered and ahead > sent_checkpoint >= -1 and ahead >= 0:
                sent_checkpoint = ahead
                yield _checkpoint(ahead)
            if node.says_caught_up:
                yield _caught_up()
        await changed.wait()
