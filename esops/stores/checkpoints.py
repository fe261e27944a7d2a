"""The application's processor that a configuration names."""

from __future__ import annotations

from esops.errors import Refused
from esops.events import Checkpoint
from esops.stores.base import EventStore


def checkpoint_of(store: EventStore, name: str) -> Checkpoint | None:
    """The application's processor of that name, or of `name/version` where the library keeps
    versions apart (Emmett); None where there is none.

    Raises Refused where a name alone is that of several.
    """
    found = [each for each in store.checkpoints() if each.called(name)]
    if len(found) > 1:
        versions = ", ".join(f"{each.name}/{each.detail.get('version')}" for each in found)
        raise Refused(
            f"{name!r} names several of the application's processors",
            hint=f"Name one of: {versions}.",
        )
    return found[0] if found else None
