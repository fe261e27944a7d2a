"""`[notify.NAME]`: who is told of ends, refusals, findings and stalls."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from esops.settings.base import Settings

NotificationKind = Literal[
    "end", "finding", "refusal", "failure", "stop", "busy", "stall", "recovery"
]
USUAL: tuple[NotificationKind, ...] = (
    "end",
    "finding",
    "refusal",
    "failure",
    "stop",
    "stall",
    "recovery",
)
"""All but `busy`, which a timer that is quicker than its job meets each time."""


def _webhook(text: str) -> str:
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("this is not an address that begins with https:// or http://")
    return text


class NotifySettings(Settings):
    """`[notify.NAME]`: one way to tell somebody."""

    webhook: Annotated[str, AfterValidator(_webhook)] | None = Field(default=None, repr=False)
    """An address that takes a POST. It is as good as a password."""
    format: Literal["json", "slack", "teams"] = "json"
    """What the webhook gets: all fields, or a message as Slack or Teams take it."""
    command: tuple[str, ...] = ()
    """A program that is run without a shell, with the fields as JSON on its standard input."""
    apprise: str | None = Field(default=None, repr=False)
    """An address of the apprise library, such as mailto://…; needs esops[apprise]."""
    on: tuple[NotificationKind, ...] = USUAL
    """Of what kinds it tells."""
    projections: tuple[str, ...] = ()
    """Only of these projections. Default: of everything."""

    @model_validator(mode="after")
    def _one_target(self) -> NotifySettings:
        given = [self.webhook is not None, bool(self.command), self.apprise is not None]
        if sum(given) != 1:
            raise ValueError("this section needs one of `webhook`, `command` and `apprise`")
        if self.format != "json" and self.webhook is None:
            raise ValueError("`format` is for a webhook")
        return self
