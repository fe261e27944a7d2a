"""The versions of a projection in the server: show them, move readers to another, retire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from esops.actions import current
from esops.config import Config
from esops.errors import Busy, Refused, UsageError
from esops.rebuild.guards import check_first_rollback
from esops.rebuild.variants.server.inside import projections_in
from esops.rebuild.variants.server.journal import ServerJournal, ServerVersion
from esops.rebuild.variants.server.readers import move_readers
from esops.rebuild.variants.server.work import delete
from esops.stores import open_store


@contextmanager
def opened(config: Config, name: str, store: str | None = None) -> Iterator[ServerJournal]:
    """A projection's journal, with its store open.

    Raises UsageError for a store that does not run projections.
    """
    store_name, settings = config.store(store or config.projection(name).store)
    with open_store(store_name, settings) as found:
        yield ServerJournal.read(found, name)


def show(config: Config, name: str, store: str | None = None) -> list[dict[str, Any]]:
    """All versions under the documented field names.

    `lag_events` is 0 where the server says that a projection has caught up, otherwise unknown
    (None).
    """
    with opened(config, name, store) as journal:
        return [_shown(journal, version) for version in journal.versions.values()]


def _shown(journal: ServerJournal, version: ServerVersion) -> dict[str, Any]:
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
    config: Config,
    name: str,
    to: int | None,
    *,
    back: bool,
    dry_run: bool,
    say: Callable[[str], None],
) -> tuple[ServerVersion, ServerVersion, list[str]]:
    """Move readers to another version: back to the one before, to a given one, or to the newest
    that stands by.

    Returns the two versions, and what was (or would be) run. Raises UsageError, Refused, and Busy
    during a rebuild.
    """
    with opened(config, name) as journal:
        source = journal.active
        _check_no_rebuild(journal)
        standing = [one for one in journal.versions.values() if one.state == "standby"]
        wanted = journal.before if back else to
        if wanted is None:
            target = standing[-1] if standing and not back else None
        else:
            target = next((one for one in standing if one.version == wanted), None)
        if source is None or target is None:
            raise UsageError(
                f"{name} has no such version that stands by",
                hint=f"See `esops projection show {name}`.",
            )
        if back:
            check_first_rollback(name, source.version, target.version, journal.rolled_back)
        found = projections_in(journal.store).get(target.name)
        # It keeps running while it stands by; one that an operator stopped is as old as its last
        # event.
        if found is None or not found.running:
            raise Refused(
                f"{target.name} is not running in the server and would serve old data",
                hint="Enable it there first.",
            )
        command = list(config.projection(name).handover)
        if not command:
            raise UsageError(
                f"projections.{name}.handover is missing: esops does not know how to move readers",
                hint="Name a program there.",
            )
        if not dry_run:
            current.in_store(config, name)
            move_readers(command, config.directory, name, source, target, say)
            journal.write(
                "rolled-back" if back else "moved", **{"from": source.version, "to": target.version}
            )
        return source, target, [" ".join(command)]


def _check_no_rebuild(journal: ServerJournal) -> None:
    """Raises Busy where a version is being built."""
    latest = journal.latest
    if (
        latest is not None
        and latest.unfinished
        # A verified rebuild that stands by is unfinished too, but may be switched to.
        and journal.versions[latest.to_version].state == "building"
    ):
        raise Busy(
            f"rebuild {latest.rebuild} of {journal.projection} is not finished: {latest.state}",
            hint="Continue it with --resume, or drop it with --abort.",
        )


def retirable(config: Config, name: str, number: int | None) -> list[ServerVersion]:
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
            raise Refused(f"{name} v{number} serves now", hint="Switch to another version first.")
        raise UsageError(
            f"{name} has no such version that stands by",
            hint=f"See `esops projection show {name}`.",
        )


def retire(config: Config, name: str, versions: list[ServerVersion]) -> list[str]:
    """Stop and delete versions with the streams they emitted to; returns what was deleted."""
    done = []
    with opened(config, name) as journal:
        current.in_store(config, name)
        for version in versions:
            # Deleted first: killed in between, the next retire finds nothing to delete, and notes
            # it.
            delete(journal.store, version.name, emitted=config.projection(name).emit)
            journal.write("retired", version=version.version)
            done.append(f"projection {version.name}")
    return done
