"""What a rebuild asks where streams have lost their first events: a library compacted them, or
somebody truncated or deleted them.

A fold sees such a stream from the middle on. It makes the right row only where it can begin with
the event that is the first one now, such as a snapshot: `begins_with` says so. Documented in
docs/how-to/rebuild-compacted-streams.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from esops.archive_format.snapshots import is_snapshot
from esops.errors import Refused
from esops.rebuild.options import Options
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.stores.shortened import Shortened, example, in_words, remedy
from esops.wording import count


def check(
    store: EventStore, projection: str, settings: ProjectionSettings, options: Options
) -> list[str]:
    """What a plan says of streams without their first events.

    Raises Refused where the code does not take the events that they begin with, unless the operator
    accepts that.
    """
    found = store.shortened(settings.filter)
    taken = [each for each in found if each.type in settings.begins_with]
    notes = [
        f"{in_words(each)}, which the code takes for what was before it (begins_with)"
        for each in taken
    ]
    unknown = _not_taken(found, settings)
    if unknown and not _accepted(unknown, options):
        raise Refused(refusal(store, projection, unknown), hint=remedy(projection, unknown))
    return [*notes, *(f"{in_words(each)}: rows may lack what was in these" for each in unknown)]


def check_again(
    store: EventStore, projection: str, settings: ProjectionSettings, options: Options
) -> None:
    """Raises Refused, before a switch, where streams have lost first events since the rebuild
    began: nobody knows whether they were read before.
    """
    unknown = not_taken(store, settings)
    if unknown and not _accepted(unknown, options):
        raise Refused(
            f"{refusal(store, projection, unknown)}, if it did not read them before",
            hint=remedy(projection, unknown),
        )


def not_taken(store: EventStore, settings: ProjectionSettings) -> list[Shortened]:
    """The streams that lack their first events and begin with what the code does not take."""
    return _not_taken(store.shortened(settings.filter), settings)


def _not_taken(found: Sequence[Shortened], settings: ProjectionSettings) -> list[Shortened]:
    return [each for each in found if each.type not in settings.begins_with]


def refusal(store: EventStore, projection: str, found: Sequence[Shortened]) -> str:
    """What a rebuild would do to the rows of such streams, for a person."""
    others = sum(each.streams for each in found[1:])
    more = f", and so have {count(others, 'other stream')}" if others else ""
    return f"{example(store, found)}{more}: a rebuild of {projection} would make rows without them"


def _accepted(found: Sequence[Shortened], options: Options) -> bool:
    if options.accept_shortened:
        return True
    # Who leaves out what was archived and removed knows of heads, but not of what a library did.
    return options.without_archived and not any(is_snapshot(each.type) for each in found)
