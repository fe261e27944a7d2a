"""Whether all events are there of which rows would be made again."""

from __future__ import annotations

from esops.check.scratch import Scratch
from esops.config import Config
from esops.errors import Refused
from esops.settings import ProjectionSettings
from esops.stores.archive.archived_away import join_with, removed_from
from esops.stores.base import EventStore
from esops.stores.shortened import example, not_taken


def archived_away(
    config: Config, store: EventStore, scratch: Scratch, settings: ProjectionSettings, name: str
) -> str | None:
    """Why a stream without an event may have had some, where any was archived and removed.

    Raises Refused where rows are made by a pass over the log that lacks events.
    """
    found = removed_from(config, store, scratch.filter)
    if scratch.by_stream:
        return f"the store has no event of it, and {found[0]}" if found else None
    if found:
        raise Refused(
            f"{found[0]}, so the rows of {name} cannot be made again",
            hint=join_with(config, store.name, found[0]),
        )
    short = not_taken(store.losses.shortened(scratch.filter), settings.begins_with)
    if short:
        raise Refused(
            f"{example(store, short)}, so the rows of {name} cannot be made again",
            hint="Only a fold that is keyed by the stream can be made again without them.",
        )
    return None
