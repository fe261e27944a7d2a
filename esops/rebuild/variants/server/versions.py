"""The versions of a projection in the server: show them, hand over to another, retire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from esops.config import Config
from esops.errors import Busy, Refused, UsageError
from esops.rebuild.variants.server.handover import hand_over
from esops.rebuild.variants.server.inside import projections_in
from esops.rebuild.variants.server.journal import Journal, Version
from esops.rebuild.variants.server.work import delete
from esops.stores import open_store


@contextmanager
def opened(config: Config, name: str, store: str | None = None) -> Iterator[Journal]:
    """A projection's journal, its store open.

    Raises UsageError for a store that no projections run in.
    """
    store_name, settings = config.store(store or config.projection(name).store)
    with open_store(store_name, settings) as found:
        yield Journal.read(found, name)


def show(config: Config, name: str, store: str | None = None) -> list[dict[str, Any]]:
    """All versions under the documented field names; `lag_events` is what the server has buffered
    of it, unknown as null.
    """
    with opened(config, name, store) as journal:
        return [_shown(journal, version) for version in journal.versions.values()]


def _shown(journal: Journal, version: Version) -> dict[str, Any]:
    found = projections_in(journal.store).get(version.name)
    return {
        "version": version.version,
        "state": version.state,
        "position": found.position if found else None,
        "lag_events": 0 if found is not None and found.running and found.progress >= 100 else None,
        "tables": {journal.projection: version.name},
        "rows": None,
        "updated_at": version.updated_at,
        "events": found.processed if found else 0,
        "followed_by": f"the server ({found.status}, {found.progress:.1f} %)" if found else None,
    }


def move(
    config: Config, name: str, to: int | None, *, back: bool, dry_run: bool, say: Any
) -> tuple[Version, Version, list[str]]:
    """Hand over to another version: back to the one before, a given one, or the newest that stands
    by.

    Returns where from, where to, and what was (or would be) run. Raises UsageError, Refused, Busy
    during a rebuild.
    """
    with opened(config, name) as journal:
        source = journal.active
        latest = journal.latest
        if (
            latest is not None
            and latest.unfinished
            and journal.versions[latest.to_version].state == "building"
        ):
            raise Busy(
                f"rebuild {latest.rebuild} of {name} is under way",
                hint="Finish it with --resume, or give it up with --abort.",
            )
        standing = [one for one in journal.versions.values() if one.state == "standby"]
        wanted = journal.before if back else to
        if wanted is None:
            target = standing[-1] if standing and not back else None
        else:
            target = next((one for one in standing if one.version == wanted), None)
        if source is None or target is None:
            raise UsageError(
                f"{name} has no version to go to", hint=f"See `esops projection show {name}`."
            )
        found = projections_in(journal.store).get(target.name)
        if found is None or not found.running:
            raise Refused(
                f"{target.name} does not run in the server, and would serve old data",
                hint="Enable it there first.",
            )
        command = list(config.projection(name).handover)
        if not command:
            raise UsageError(f"projections.{name}.handover: nobody is named who moves the readers")
        if not dry_run:
            hand_over(command, config.directory, name, source, target, say)
            journal.write(
                "rolled-back" if back else "moved", **{"from": source.version, "to": target.version}
            )
        return source, target, [" ".join(command)]


def retirable(config: Config, name: str, number: int | None) -> list[Version]:
    """The versions that `retire` would delete: a given one, or all that stand by.

    Raises UsageError or Refused.
    """
    with opened(config, name) as journal:
        found = [
            one
            for one in journal.versions.values()
            if one.state == "standby" and number in (None, one.version)
        ]
        if found:
            return found
        known = journal.versions.get(number) if number is not None else None
        if known is not None and known.state == "active":
            raise Refused(
                f"{name} v{number} serves now", hint="Hand over to another version first."
            )
        raise UsageError(
            f"{name} has no such version that stands by",
            hint=f"See `esops projection show {name}`.",
        )


def retire(config: Config, name: str, versions: list[Version]) -> list[str]:
    """Disable and delete versions with the streams they emitted to; returns what was deleted."""
    done = []
    with opened(config, name) as journal:
        for version in versions:
            delete(journal.store, version.name, emitted=config.projection(name).emit)
            journal.write("retired", version=version.version)
            done.append(f"projection {version.name}")
    return done
