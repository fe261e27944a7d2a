"""A test message to everybody whom the configuration names (`esops doctor --notify`)."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from typing import Any

from esops.config import Config
from esops.notifying.delivery import NotDelivered, deliver
from esops.notifying.notification import Notification


@dataclass(frozen=True)
class SentTest:
    """What became of one test message."""

    section: str
    reason: str | None = None
    """Why it did not arrive; None where it did."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return asdict(self) | {"delivered": self.reason is None}


def send_tests(config: Config) -> list[SentTest]:
    """Send a test message the way that each section names, and wait for the answers."""
    text = f"A test message of esops on {socket.gethostname()}: this is where notifications arrive."
    sent = []
    for name, settings in config.notify.items():
        try:
            deliver(settings, config.directory, Notification("test", text))
            sent.append(SentTest(name))
        except NotDelivered as error:
            sent.append(SentTest(name, str(error)))
    return sent
