"""The administration of a node: projections, consumer groups and scavenges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from esops.events import Checkpoint
from esops.stores.eventstoredb.admin import HttpAdmin, Scavenge, Scavenges
from esops.stores.eventstoredb.connect import Connector, Link
from esops.stores.eventstoredb.groups import PersistentSubscriptions
from esops.stores.eventstoredb.server_projections import ServerProjections

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore


class NodeAdmin:
    """ServerAdmin of an EventStoreDB store."""

    def __init__(
        self,
        store: EventStoreDBStore,
        connector: Connector,
        talking: Callable[[str], AbstractContextManager[Link]],
        ask: Callable[[Callable[[Link], Any], str], Any],
    ) -> None:
        """`talking` gives a link for some calls; `ask` asks a short question, twice if need be."""
        self._store, self._connector = store, connector
        self._talking, self._ask = talking, ask

    def http(self) -> HttpAdmin:
        """The HTTP administration of the node that is connected to; a context manager."""
        return HttpAdmin(self._connector.spec, self._connector.link.target)

    @property
    def scavenges(self) -> Scavenges:
        """The history of scavenges, from the system's streams."""
        return Scavenges(self._store.read_stream)

    @property
    def subscriptions(self) -> PersistentSubscriptions:
        """The persistent subscriptions."""
        return PersistentSubscriptions(self._talking, self._ask, self._store)

    @property
    def projections(self) -> ServerProjections:
        """The projections inside the server."""
        return ServerProjections(self._talking)

    def checkpoints(self) -> list[Checkpoint]:
        """The server's projections and persistent subscriptions: how far they are."""
        now = datetime.now(UTC)
        found = [
            Checkpoint(
                one.name,
                one.place,
                one.status,
                now,
                {"kind": "projection", "progress": f"{one.progress:.1f} %"},
            )
            for one in self.projections.all()
        ]
        for group in self.subscriptions.all():
            detail = {
                "kind": "persistent subscription",
                "parked": str(group.parked),
                "consumers": str(group.consumers),
            }
            found.append(
                Checkpoint(f"{group.stream}::{group.name}", group.place, group.status, now, detail)
            )
        return found

    def scavenge(self) -> Iterator[Scavenge]:
        """Start a scavenge of the connected node and tell how it goes, until it is done."""
        with self.http() as http:
            number = http.start_scavenge()
        yield from self.scavenges.watch(number)
