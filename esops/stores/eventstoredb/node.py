"""The administration of a node: projections, consumer groups and scavenges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from esops.errors import Busy, Unavailable
from esops.events import Checkpoint, Position
from esops.stores.eventstoredb.admin import NOT_STARTED, HttpAdmin, Scavenge, Scavenges
from esops.stores.eventstoredb.connect import Connector
from esops.stores.eventstoredb.event_readers import readers
from esops.stores.eventstoredb.groups import ALL, PersistentSubscriptions
from esops.stores.eventstoredb.scavengeable import scavengeable
from esops.stores.eventstoredb.server_projections import ServerProjections
from esops.stores.parts import Scavengeable
from esops.stores.readers import EventReader

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore


class NodeAdmin:
    """ServerAdmin of an EventStoreDB store."""

    def __init__(
        self,
        store: EventStoreDBStore,
        connector: Connector,
    ) -> None:
        """Only the leader answers for projections and groups."""
        self._store, self._connector = store, connector
        self._talking, self._ask = connector.talking_to_leader, connector.twice_of_leader

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
        return ServerProjections(self._talking, self._ask)

    def checkpoints(self) -> list[Checkpoint]:
        """The server's projections and persistent subscriptions: how far they are.

        Where one reads a stream, its place is a revision in that, and no position of the log.
        """
        now = datetime.now(UTC)
        found = [
            Checkpoint(
                one.name,
                one.place,
                one.status,
                now,
                {"kind": "projection", "progress": f"{one.progress:.1f} %"},
                alive="yes" if one.running else "no",
                **_reads(*_in_stream(one.position), one.place),
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
                Checkpoint(
                    f"{group.stream}::{group.name}",
                    group.place,
                    group.status,
                    now,
                    detail,
                    alive="yes" if group.consumers else "unknown",
                    **_reads(group.stream, group.checkpoint, group.place),
                )
            )
        return found

    def readers(self) -> list[EventReader]:
        """The persistent subscriptions, and the projections that emit."""
        return readers(self, self._store)

    def unlisted(self, patience: timedelta) -> str:
        """What the list of `$streams` lacks of a sample of the log."""
        return self._store.listing.lacking(patience)

    def scavengeable(self, patience: timedelta) -> Scavengeable:
        """By a read of $all."""
        return scavengeable(self._store, patience)

    def scavenge(self) -> Iterator[Scavenge]:
        """Scavenge each node of the cluster, one after the other, the leader last; tell how it goes
        until all are done. A node that was not scavenged is told, too, with the reason.
        """
        with self.http() as http:
            members = [each for each in http.gossip() if each.get("state") != "Manager"]
        members.sort(key=lambda each: each.get("state") == "Leader")
        for each in members:
            address = f"{each['httpEndPointIp']}:{each['httpEndPointPort']}"
            # A cluster of one is reached by the URI's name, whatever the node calls itself.
            target = address if len(members) > 1 else self._connector.link.target
            if each.get("isAlive", True):
                yield from self._scavenge(target)
            else:
                yield Scavenge("", NOT_STARTED, error="it is down", node=target)

    def _scavenge(self, target: str) -> Iterator[Scavenge]:
        down = False

        def is_down() -> bool:
            nonlocal down
            with self.http() as http:
                alive = {
                    f"{each['httpEndPointIp']}:{each['httpEndPointPort']}": each.get("isAlive")
                    for each in http.gossip()
                }
            down = alive.get(target) is False
            return down

        try:
            with HttpAdmin(self._connector.spec, target) as http:
                number = http.start_scavenge()
        except (Busy, Unavailable) as error:
            yield Scavenge("", NOT_STARTED, error=error.message, node=target)
            return
        for seen in self.scavenges.watch(number, is_down):
            yield replace(seen, node=target)
        if down:
            yield Scavenge(number, "Unknown", error="it went down", node=target)


def _in_stream(text: str) -> tuple[str, str]:
    """The stream in a projection's position, and the revision there; empty where it is none of one
    stream.
    """
    stream, _, revision = text.rpartition(": ")
    return (stream, revision) if revision.lstrip("-").isdigit() and ";" not in stream else ("", "")


def _reads(stream: str, revision: str, place: Position | None) -> dict[str, Any]:
    """What a reader reads of the log, where it reads a stream: a revision in that is no position of
    the log.
    """
    if place is not None:
        return {}
    if stream in {"", ALL}:
        return {"evidence": "it has noted no position yet, or one that is none of the log"}
    kind, _, name = stream.partition("-")
    reads: dict[str, Any] = {"stream": stream}
    if kind in {"$ce", "$et"}:  # links, to the events of a category or of a type
        reads = {"category": name} if kind == "$ce" else {"types": (name,)}
    if not revision.lstrip("-").isdigit():
        return {**reads, "evidence": f"it has noted no place in {stream} yet"}
    return {
        **reads,
        "in_stream": (stream, int(revision)),
        "evidence": f"it is at {revision} of {stream}",
    }
