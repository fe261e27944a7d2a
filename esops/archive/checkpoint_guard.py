"""Who has not yet passed what is to be removed: esops' own versions of read models, and the
application's processors.
"""

from __future__ import annotations

from esops.config import Config
from esops.errors import Refused
from esops.events import Position
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations, registry
from esops.stores.base import EventStore

_SHOWN = 5


def behind(config: Config, store: EventStore, store_name: str, position: Position) -> list[str]:
    """Those whose checkpoint lies before a position, each as a phrase.

    Raises Unavailable where a read model cannot be asked.
    """
    found = []
    for each in store.checkpoints():
        if each.state == "high-water mark" or (
            each.position is not None and len(each.position) != len(position)
        ):
            continue
        if each.position is None or each.position < position:
            found.append(
                f"{each.name} at {each.position if each.position is not None else 'nothing'}"
            )
    for name, settings in config.projections.items():
        if settings.kind == "server" or config.store(settings.store)[0] != store_name:
            continue
        with connect(config.readmodel_of(name).dsn, "archive") as connection, translated():
            if not migrations.installed(connection):
                continue
            found += [
                f"projection {name} v{version.version} at "
                f"{version.position if version.position is not None else 'nothing'}"
                for version in registry.versions(connection, name)
                if version.state in ("active", "standby", "building")
                and (version.position is None or version.position < position)
            ]
    return found


def refuse_unless_passed(
    config: Config, store: EventStore, store_name: str, position: Position
) -> None:
    """Raises Refused where somebody has not yet passed a position."""
    late = behind(config, store, store_name, position)
    if late:
        more = f" and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
        raise Refused(
            f"events up to {position} would be removed, which have not been passed by: "
            f"{', '.join(late[:_SHOWN])}{more}",
            hint="Let them catch up, or remove those that nobody needs. --despite-checkpoints "
            "removes all the same.",
        )
