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
from esops.events import Position
from esops.rebuild.options import Options
from esops.settings import ProjectionSettings
from esops.stores.aside import Question
from esops.stores.base import EventStore
from esops.stores.shortened import Shortened, example, in_words, not_taken, remedy
from esops.wording import count


def check(
    store: EventStore,
    projection: str,
    settings: ProjectionSettings,
    options: Options,
    asked: Question[list[Shortened]] | None = None,
) -> list[str]:
    """What a plan says of streams without their first events, which were asked for before or are
    now.

    Raises Refused where the code does not take the events that they begin with, unless the operator
    accepts that.
    """
    found = store.losses.shortened(settings.filter) if asked is None else asked.answer()
    taken = [each for each in found if each.type in settings.begins_with]
    notes = [
        f"{in_words(each)}, which the code takes for what was before it (begins_with)"
        for each in taken
    ]
    unknown = not_taken(found, settings.begins_with)
    if unknown and not _accepted(unknown, options):
        raise Refused(refusal(store, projection, unknown), hint=remedy(projection, unknown))
    return [*notes, *(f"{in_words(each)}: rows may lack what was in these" for each in unknown)]


class LostWhileBuilding:
    """Looks, before a version may serve, for streams that have lost first events since its rebuild
    began: nobody knows whether those were read before. That the first event of a stream was read
    proves nothing, since those after it may be gone before they are.

    All streams are looked at once, as they are after the version has read the events up to some
    position. What they lose later of these does the version no harm. Of what lies after the
    position, a stream may lose an event before it is read; then the first that it has left lies
    after the position, too, and only streams with such a one are looked at from there on.
    """

    def __init__(self, store: EventStore, projection: str, settings: ProjectionSettings) -> None:
        """Nothing was looked at yet."""
        self._store, self._projection, self._settings = store, projection, settings
        self._asked: Question[list[Shortened]] | None = None
        self._read: Position | None = None
        """Up to where events were read before it was asked for."""
        self._whole: Position | None = None
        """Up to where events were read before all streams were found to be whole."""

    def ask(self, read: Position | None) -> None:
        """Begin to look at all streams, where the store can do so beside other work.

        `read`: the version has read all events up to there.
        """
        self.forget()
        self._asked, self._read = self._store.losses.ask_shortened(self._settings.filter), read

    @property
    def looks(self) -> bool:
        """Whether all streams were looked at, or are."""
        return self._asked is not None or self._whole is not None

    def forget(self) -> None:
        """Drop what is known: the version may begin to read again."""
        if self._asked is not None:
            self._asked.close()
        self._asked = self._whole = None

    def check(self, options: Options) -> None:
        """Raises Refused where there are such streams, unless the operator accepts that."""
        if self._asked is not None:
            asked, self._asked = self._asked, None
            with asked:
                self._refuse(asked.answer(), options)
            self._whole = self._read
        self._refuse(self._store.losses.shortened(self._settings.filter, self._whole), options)

    def _refuse(self, found: Sequence[Shortened], options: Options) -> None:
        unknown = not_taken(found, self._settings.begins_with)
        if unknown and not _accepted(unknown, options):
            raise Refused(
                f"{refusal(self._store, self._projection, unknown)}, if it did not read them "
                "before",
                hint=remedy(self._projection, unknown),
            )


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
