"""What is sent, as a sentence and as fields. No address, key or value of an event is in it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from esops import __version__
from esops.settings.notify import NotificationKind, NotifySettings

KINDS: Mapping[int, NotificationKind] = {
    0: "end",
    1: "finding",
    3: "failure",
    4: "busy",
    5: "stop",
    6: "refusal",
    70: "failure",
}
"""By exit code. A wrong command line is told to whoever wrote it, and to nobody else."""


@dataclass(frozen=True)
class Notification:
    """One thing to tell."""

    kind: NotificationKind | str
    text: str
    """One sentence."""
    projections: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    """Fields beside these, of numbers and of names in the configuration."""
    host: str = field(default_factory=socket.gethostname)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "kind": self.kind,
            "text": self.text,
            "at": self.at.isoformat(),
            "host": self.host,
            "projections": list(self.projections),
            "esops": __version__,
            **self.more,
        }

    def is_for(self, settings: NotifySettings) -> bool:
        """Whether a section asks for it."""
        if self.kind == "test":
            return True
        wanted = not settings.projections or not {*settings.projections}.isdisjoint(
            self.projections
        )
        return wanted and self.kind in settings.on

    def body(self, form: str) -> bytes:
        """What a webhook gets."""
        return json.dumps(_FORMS[form](self), ensure_ascii=False).encode()

    def environment(self) -> dict[str, str]:
        """The fields as a program gets them."""
        return {
            f"ESOPS_{name.upper()}": _text(value)
            for name, value in self.as_dict().items()
            if name != "esops"
        }


def _slack(notification: Notification) -> dict[str, Any]:
    escaped = notification.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": escaped}


def _teams(notification: Notification) -> dict[str, Any]:
    """An adaptive card, as Teams' workflows take it."""
    card = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": [{"type": "TextBlock", "text": notification.text, "wrap": True}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [attachment]}


_FORMS = {"json": Notification.as_dict, "slack": _slack, "teams": _teams}


def _text(value: object) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
