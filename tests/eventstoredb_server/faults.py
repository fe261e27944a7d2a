"""What a test can switch on at a node, while it runs:

`PUT /test/faults` with the fields as JSON; `{}` switches all off.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Faults:
    slow: float = 0
    """Seconds to wait before each message that a read sends."""
    drop_after: int = 0
    """Cut all connections once a read has sent this many messages; then off."""
    too_slow_after: int = 0
    """End a subscription with ABORTED "Consumer too slow" after this many messages; then off."""
    unavailable: bool = False
    """Answer UNAVAILABLE "Server Is Not Ready" to everything."""
    busy: int = 0
    """Answer UNAVAILABLE "Server Is Too Busy" to this many calls."""
    not_leader: bool = False
    """Answer like a follower, naming the cluster's leader."""
    hang: bool = False
    """Answer nothing, so that the client's deadline passes."""
    append_timeout: int = 0
    """Let this many appends be written and answer that they timed out: the client cannot know."""
