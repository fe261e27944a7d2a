"""Nothing is removed that somebody has not read yet.

Readers are the versions of esops' own read models and the application's processors.
"""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import Refused
from esops.events import Position
from esops.postgres.connection import connect, translated
from esops.readmodel import marks, migrations, renamed
from esops.readmodel.registry import Version
from esops.stores.base import EventStore
from esops.wording import count

_SHOWN = 5


def behind(config: Config, store: EventStore, store_name: str, position: Position) -> list[str]:
    """The readers of a store that have not reached a position, each as a phrase.

    Raises Unavailable if a read model cannot be asked, AnotherLog if one was made from another
    history of the store.
    """
    return [
        *_processors_behind(store, position),
        *_projections_behind(config, store, store_name, position),
    ]


def _processors_behind(store: EventStore, position: Position) -> Iterator[str]:
    for each in store.checkpoints():
        # Marten's high-water mark belongs to its daemon as a whole: no reader stands behind it.
        if each.state == "high-water mark":
            continue
        if not _reached(each.position, position):
            yield f"processor {each.name!r} {_progress(each.position)}"


def _reached(position: Position | None, target: Position) -> bool:
    """Whether a reader has certainly read up to a target.

    A position of another shape, as before the store's `ordering` was changed, says nothing.
    """
    return position is not None and len(position) == len(target) and position >= target


def _projections_behind(
    config: Config, store: EventStore, store_name: str, position: Position
) -> Iterator[str]:
    for name, settings in config.projections.items():
        if settings.kind == "server" or config.store(settings.store)[0] != store_name:
            continue
        with connect(config.readmodel_of(name).dsn, "archive") as connection, translated():
            if not migrations.installed(connection):
                continue
            for version in renamed.versions_of(config, connection, name):
                if version.state not in ("active", "standby", "building"):
                    continue
                if version.position is not None and version.store == store_name:
                    # In another history it has read other events, whatever its position.
                    marks.check(connection, store, version)
                if not _reached(version.position, position):
                    who = f"projection {version.projection} v{version.version}"
                    yield f"{who} {_progress(version.position)}{_renamed(version, name)}"


def _progress(position: Position | None) -> str:
    return f"(it is at {position})" if position is not None else "(it has read nothing)"


def _renamed(version: Version, name: str) -> str:
    if version.projection == name:
        return ""
    return f"; nobody follows it before `esops projection rename {version.projection} {name}`"


def refuse_unless_read(
    config: Config, store: EventStore, store_name: str, position: Position
) -> None:
    """Raises Refused if somebody has not read all events up to a position."""
    late = behind(config, store, store_name, position)
    if late:
        more = f" and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
        raise Refused(
            f"the run would remove events up to position {position}, and "
            f"{count(len(late), 'reader has', 'readers have')} not read all of them yet: "
            f"{', '.join(late[:_SHOWN])}{more}",
            hint="Wait until they have caught up, or remove those that nobody needs. "
            "With --despite-checkpoints the run removes the events anyway.",
        )
