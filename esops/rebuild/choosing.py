"""Which versions a command is about, as the registry has them under the projection's lock."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from esops.errors import Refused, UsageError
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import guards, journal


def by_number(
    connection: psycopg.Connection, name: str, number: int | None
) -> tuple[Version | None, Version]:
    """The version that serves, and a given one, or the newest that stands by.

    Raises UsageError where there is no such version, Refused for one that cannot serve.
    """
    known = registry.versions(connection, name)
    source = next((each for each in known if each.state == "active"), None)
    wanted = _wanted(name, known, number)
    if source is not None and wanted.version == source.version:
        raise UsageError(f"{name} v{wanted.version} serves already")
    return source, wanted


def before(connection: psycopg.Connection, name: str) -> tuple[Version, Version]:
    """The version that serves, and the one that served before it.

    Raises UsageError where there is none, and Refused right after a rollback.
    """
    known = registry.versions(connection, name)
    # Not simply the newest that stands by: after several switches they differ.
    before = registry.previous(connection, name) if known else None
    source = next((each for each in known if each.state == "active"), None)
    if source is None or before is None:
        raise UsageError(
            f"{name} has no version that served before",
            hint=f"See `esops projection show {name}`.",
        )
    target = registry.version(connection, name, before)
    if target.state != "standby":
        raise UsageError(f"{name} v{before}, which served before, is {target.state}")
    last = journal.rolled_back(connection, name)
    guards.check_first_rollback(name, source.version, before, last)
    return source, target


def _wanted(name: str, known: Sequence[Version], number: int | None) -> Version:
    spare = [each for each in known if each.state == "standby"]
    if number is None:
        if not spare:
            raise UsageError(
                f"{name} has no version that stands by", hint=f"See `esops projection show {name}`."
            )
        return spare[-1]
    found = _numbered(name, known, number)
    if found.state == "building":
        command = f"esops rebuild {name} --blue-green"
        raise Refused(
            f"{name} v{number} is being built, and cannot serve yet",
            hint=f"Finish its rebuild: {command} --resume. Or drop it: {command} --abort",
        )
    if found.state not in registry.LIVE_STATES:
        raise Refused(
            f"{name} v{number} is {found.state}",
            hint="Only a version that stands by can be switched to.",
        )
    return found


def standing_by(name: str, known: Sequence[Version], number: int | None) -> list[Version]:
    """Those that can be dropped: a given one, or all that stand by.

    Raises UsageError where there is none, Refused for one that is in use.
    """
    if number is None:
        found = [each for each in known if each.state == "standby"]
        if not found:
            raise UsageError(
                f"{name} has no version that stands by", hint=f"See `esops projection show {name}`."
            )
        return found
    version = _numbered(name, known, number)
    if version.state == "active":
        raise Refused(f"{name} v{number} serves now", hint="Switch to another version first.")
    if version.state == "building":
        raise Refused(
            f"{name} v{number} is being built",
            hint=f"Drop it with: esops rebuild {name} --blue-green --abort",
        )
    if version.state != "standby":
        raise UsageError(f"{name} v{number} is {version.state} already")
    return [version]


def _numbered(name: str, known: Sequence[Version], number: int) -> Version:
    found = next((each for each in known if each.version == number), None)
    if found is None:
        raise UsageError(
            f"{name} has no version {number}",
            hint="Versions: " + (", ".join(str(each.version) for each in known) or "none"),
        )
    return found
