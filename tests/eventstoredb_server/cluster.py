"""Nodes over one storage, and which of them leads.

Replication is instant: what a follower lacks is only the right to write. Each has what it has
scavenged: a scavenge of one changes none of the others.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.eventstoredb_server.faults import Faults
from tests.eventstoredb_server.groups import Groups
from tests.eventstoredb_server.projector import Projector
from tests.eventstoredb_server.scavenge import Scavenger
from tests.eventstoredb_server.storage import Storage


@dataclass(eq=False)
class Node:
    cluster: Cluster
    host: str
    port: int
    version: tuple[int, int]
    insecure: bool
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    alive: bool = True
    faults: Faults = field(default_factory=Faults)
    door: object = None
    scavenger: Scavenger | None = None
    gone: set[int] = field(default_factory=set)
    """Positions of records that a scavenge of this node has removed, while others have them."""

    @property
    def is_leader(self) -> bool:
        return self.cluster.leader is self

    @property
    def says_caught_up(self) -> bool:
        return self.version >= (23, 10)

    def resigned_during(self, context) -> bool:
        """A subscription that wanted the leader ends when the leader moves."""
        wanted = dict(context.invocation_metadata()).get("requires-leader") == "true"
        return wanted and not self.is_leader


class Cluster:
    def __init__(self, file: Path | None = None) -> None:
        self.storage = Storage(file)
        self.nodes: list[Node] = []
        self.leader: Node | None = None
        self.groups = Groups(self.storage)
        self.projector = Projector(self.storage)

    def add(self, host: str, port: int, version: tuple[int, int], insecure: bool) -> Node:
        node = Node(self, host, port, version, insecure)
        node.scavenger = Scavenger(node)
        self.nodes.append(node)
        self.leader = self.leader or node
        return node

    def let_go(self) -> None:
        """Forget the records that every node has scavenged."""
        gone = set.intersection(*(node.gone for node in self.nodes))
        self.storage.remove(gone)
        for node in self.nodes:
            node.gone -= gone

    def elect_another(self) -> None:
        """Let the leader's role go to the next living node, if there is one."""
        others = [node for node in self.nodes if node.alive and node is not self.leader]
        if others:
            self.leader = others[0]
            self.storage.begin_epoch()
