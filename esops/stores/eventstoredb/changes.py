"""Changes to whole streams: their metadata, where they begin, and their deletion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from esdbclient import StreamState
from esdbclient import exceptions as esdb

from esops.errors import Refused
from esops.stores.eventstoredb import lookup
from esops.stores.eventstoredb.connect import Link

NO_STREAM = -1
"""The expected version of a stream that is not there, as the store's own clients number it."""


class StreamChanges:
    """Truncates, deletes and tombstones streams.

    What is truncated or deleted can still be read in $all until a scavenge.
    """

    def __init__(self, talking: Callable[[str], AbstractContextManager[Link]]) -> None:
        """`talking` gives a link to the node for some calls."""
        self._talking = talking

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
        if document.get("$tb", 0) > before:
            raise Refused(f"the stream {stream!r} is already truncated before {document['$tb']}")
        self.set_metadata(
            stream, {**document, "$tb": before}, NO_STREAM if version is None else version
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


def _state(expected_version: int | None) -> Any:
    return StreamState.ANY if expected_version is None else expected_version


@contextlib.contextmanager
def _not_there(stream: str) -> Iterator[None]:
    try:
        yield
    except esdb.NotFound:
        raise Refused(f"there is no stream {stream!r}") from None
