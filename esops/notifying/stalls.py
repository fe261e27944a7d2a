"""What is sent about versions and processors that stop advancing, and that advance again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esops.notifying.notification import Notification


def stall_of(named: Mapping[str, Any], seconds: float | None) -> Notification:
    """The notification for what `esops run` has seen: `named` is a projection and its version, or a
    store and a processor of the application's; without `seconds`, it advances again.
    """
    if "projection" in named:
        what, projections = f"{named['projection']} v{named['version']}", [named["projection"]]
    else:
        what, projections = f"the processor {named['processor']} of store {named['store']}", []
    # Not why: what stopped it may have a value of an event in it.
    text = f"{what} advances again"
    if seconds is not None:
        text = f"{what} has not advanced for {seconds:.0f} s while events wait; see esops status"
    # A tenant may be a person's.
    more = {key: value for key, value in named.items() if key != "tenant"}
    if seconds is not None:
        more["seconds"] = round(seconds, 1)
    return Notification("recovery" if seconds is None else "stall", text, projections, more)
