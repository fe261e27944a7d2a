"""What a library has beside its events: how it appends, how far its processors are, which tables it
writes, what an operator should know of it.

All of it is optional. A layout overrides what its library has; the defaults are for a library
without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar, Protocol

import psycopg

from esops.events import Checkpoint, NewEvent, Position, RecordedEvent, StreamKey
from esops.moments import Moment
from esops.stores.capabilities import missing
from esops.stores.inline_tables import InlineTable, KeptTable
from esops.stores.parts import Concern, StoredPayloads
from esops.stores.postgres.layouts.archiving import LayoutArchiving


class AppendTimes(Protocol):
    """When events were appended, where their own times may be wrong."""

    def last_appends(
        self, connection: psycopg.Connection, keys: Sequence[StreamKey]
    ) -> dict[StreamKey, Moment]:
        """See EventTimes."""
        ...

    def dated_early_by(self, connection: psycopg.Connection) -> timedelta:
        """See EventTimes."""
        ...

    def appended_at(self, connection: psycopg.Connection, event: RecordedEvent) -> Moment | None:
        """See EventTimes."""
        ...


class LibraryFeatures:
    """What a library has beside its events."""

    name: ClassVar[str]
    appends: ClassVar[bool] = True
    """Whether esops knows how events are appended."""
    times: AppendTimes | None = None
    """When events were appended, as far as the library writes that down beside their own times;
    None: their own times are all there is.
    """
    archiving: LayoutArchiving | None = None
    """How streams leave and come back; None where events can only be copied out."""
    begins_checkpoints: bool = False
    """Whether `set_checkpoint` can set one that the library has not stored yet."""
    channel: str | None = None
    """The channel on which the library can be set to notify of appended events (LISTEN); None where
    it has none.
    """
    detail: Mapping[str, str] = {}
    """What `esops status` shows of the variant."""

    def append(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """Append events in the transaction that the connection is in; returns the last position.

        Raises WrongExpectedVersion.
        """
        del connection, stream, events, expected_version
        raise missing(self, "append")

    def checkpoints(self, connection: psycopg.Connection) -> list[Checkpoint]:
        """How far the application's own processors are."""
        del connection
        return []

    def row_of(self, connection: psycopg.Connection, name: str) -> str | None:
        """The row of a processor of the application's; see SqlAccess."""
        del connection, name
        return None

    def signs_of_life(self, connection: psycopg.Connection, name: str) -> str:
        """What says that a processor of the application's may live; see SqlAccess."""
        del connection, name
        return ""

    def check_checkpoint(self, connection: psycopg.Connection, name: str) -> None:
        """Refuse a checkpoint that could never be set; see SqlAccess."""
        del connection, name
        raise missing(self, "checkpoints to set")

    def set_checkpoint(
        self, connection: psycopg.Connection, name: str, position: Position, *, stopped: bool
    ) -> str:
        """Set the checkpoint of a processor of the application's; see SqlAccess."""
        del connection, name, position, stopped
        raise missing(self, "checkpoints to set")

    def inline_tables(self, connection: psycopg.Connection) -> list[InlineTable]:
        """The tables that the library writes in the transaction of each append."""
        del connection
        return []

    def kept_tables(self, connection: psycopg.Connection) -> list[KeptTable]:
        """The tables that processors of the application's make."""
        del connection
        return []

    def warnings(self, connection: psycopg.Connection) -> list[str]:
        """What makes reading wrong; a rebuild is refused while there is any."""
        del connection
        return []

    @property
    def stored_payloads(self) -> StoredPayloads | None:
        """See EventStore."""
        return None

    def absent_tenant(self, connection: psycopg.Connection) -> str | None:
        """What to say where the settings name a tenant of which there is nothing, and others have
        events.
        """
        del connection
        return None

    def concerns(self, connection: psycopg.Connection) -> list[Concern]:
        """What an operator should look at in the library's own bookkeeping."""
        del connection
        return []

    def check_versions(self, connection: psycopg.Connection, streams: Sequence[str]) -> None:
        """Raises Refused where a stream has two events of one version, which only a table that no
        library made can have.
        """
        del connection, streams

    def setting_hints(self, connection: psycopg.Connection) -> list[str]:
        """Comments for `esops init` on settings that this variant may need."""
        del connection
        return []
