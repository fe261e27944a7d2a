"""Changes to streams: appends, metadata, where a stream begins, deletion."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from esdbclient import NewEvent as Proposed
from esdbclient import StreamState
from esdbclient import exceptions as esdb

from esops.errors import ConnectionLost, Refused
from esops.events import NewEvent, Position
from esops.stores.base import WrongExpectedVersion
from esops.stores.eventstoredb import lookup
from esops.stores.eventstoredb.connect import Link
from esops.stores.eventstoredb.errors import StreamGone

NO_STREAM, STREAM_EXISTS = -1, -4
"""Expected versions as the store's own clients number them; None is any."""
_NEVER = 2**62
"""A version that no stream reaches."""
_ANEW = "Read the stream again, and repeat the decision."
_AT_VERSION = re.compile(r"is (\d+) not")


class StreamChanges:
    """Appends to streams, truncates, deletes and tombstones them.

    What is truncated or deleted can still be read in $all until a scavenge.
    """

    def __init__(self, talking: Callable[[str], AbstractContextManager[Link]]) -> None:
        """`talking` gives a link to the node for some calls."""
        self._talking = talking

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Append atomically.

        The same events (with their ids) asked for again after a lost answer are written once.

        With an expectation that holds for ever, without one as long as the server remembers the
        ids. Raises WrongExpectedVersion, StreamGone, and Refused over the server's limit of 1 MiB.
        """
        proposed = [
            Proposed(event.type, event.data, event.metadata, id=UUID(event.id)) for event in events
        ]
        state: Any = {
            None: StreamState.ANY,
            NO_STREAM: StreamState.NO_STREAM,
            STREAM_EXISTS: StreamState.EXISTS,
        }.get(expected_version, expected_version)
        try:
            with self._talking(f"append to {stream!r}") as link:
                commit = link.client.append_to_stream(
                    stream, current_version=state, events=proposed, timeout=link.deadline
                )
        except WrongExpectedVersion as wrong:
            # esdbclient puts the version into a sentence and drops the trailer that had it.
            found = _AT_VERSION.search(wrong.message)
            there = f"is at version {found[1]}" if found else "does not exist"
            expected = {NO_STREAM: "a new stream", STREAM_EXISTS: "an existing stream"}.get(
                expected_version or 0, f"version {expected_version}"
            )
            raise WrongExpectedVersion(
                f"the stream {stream!r} {there}, but the append expects {expected}", hint=wrong.hint
            ) from None
        except StreamGone:
            if expected_version == STREAM_EXISTS and self._softly_deleted(stream):
                raise WrongExpectedVersion(
                    f"the stream {stream!r} was deleted, but the append expects an existing stream",
                    hint=_ANEW,
                ) from None
            raise StreamGone(
                f"the stream {stream!r} was tombstoned: its name can never be used again"
            ) from None
        except ConnectionLost as lost:
            hint = (
                "It is not known whether the events were written. Append the same events again, "
                "with the same ids: they are written only once."
            )
            raise ConnectionLost(lost.message, hint=hint) from lost
        # The answer has only the commit position; of an append, the two are equal.
        return Position((commit, commit))

    def _softly_deleted(self, stream: str) -> bool:
        """Whether a stream that the server calls deleted can be used again."""
        with contextlib.suppress(StreamGone):
            return self.metadata(stream)[0].get("$tb") == lookup.SOFT_DELETED
        return False

    def metadata(self, stream: str) -> tuple[dict[str, Any], int | None]:
        """A stream's metadata and their version; empty and None where there are none."""
        with self._talking(f"read the metadata of {stream!r}") as link:
            return lookup.metadata(link, stream)

    def set_metadata(
        self, stream: str, metadata: dict[str, Any], expected_version: int | None = None
    ) -> None:
        """Replace a stream's metadata. Raises WrongExpectedVersion."""
        state: Any = _state(expected_version)
        if expected_version == NO_STREAM:
            state = StreamState.NO_STREAM
        with self._talking(f"write the metadata of {stream!r}") as link:
            link.client.set_stream_metadata(
                stream, metadata=metadata, current_version=state, timeout=link.deadline
            )

    def truncate(self, stream: str, before: int) -> None:
        """Let reads of a stream begin at a version. Other metadata are kept.

        Raises Refused where it would make removed events readable again, and WrongExpectedVersion
        where somebody else wrote the metadata at the same time.
        """
        document, version = self.metadata(stream)
        # Events before $tb are still on disk until a scavenge: a lower $tb would show them again.
        if document.get("$tb", 0) > before:
            raise Refused(f"the stream {stream!r} is already truncated before {document['$tb']}")
        self.set_metadata(
            # Expecting the version that was read: the application may write limits or an ACL at the
            # same time, and they must not be lost.
            stream,
            {**document, "$tb": before},
            NO_STREAM if version is None else version,
        )

    def delete(self, stream: str, expected_version: int | None = None) -> None:
        """Delete softly: nothing can be read, the name can be used again, and versions continue."""
        with self._talking(f"delete {stream!r}") as link, _not_there(stream):
            link.client.delete_stream(
                stream, current_version=_state(expected_version), timeout=link.deadline
            )

    def tombstone(self, stream: str, expected_version: int | None = None) -> None:
        """Delete for ever: the name can never be used again."""
        with self._talking(f"tombstone {stream!r}") as link, _not_there(stream):
            link.client.tombstone_stream(
                stream, current_version=_state(expected_version), timeout=link.deadline
            )

    def check_right(self, removal: str, stream: str) -> None:
        """Raises Denied where this user has no right to truncate, delete or tombstone a stream.

        The server looks at rights before it looks at versions: so it is asked with an expectation
        that never holds.
        """
        with contextlib.suppress(WrongExpectedVersion):
            if removal == "truncate":
                self.set_metadata(stream, self.metadata(stream)[0], _NEVER)
            elif removal == "delete":
                self.delete(stream, _NEVER)
            else:
                self.tombstone(stream, _NEVER)


def _state(expected_version: int | None) -> Any:
    return StreamState.ANY if expected_version is None else expected_version


@contextlib.contextmanager
def _not_there(stream: str) -> Iterator[None]:
    try:
        yield
    except esdb.NotFound:
        raise Refused(f"there is no stream {stream!r}") from None
