"""Tables of a version that somebody dropped by hand: what is gone, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from esops.config import Config
from esops.errors import EsopsError, Refused
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.readmodel.tables import missing_tables
from esops.running.code import code_of


def check_tables(config: Config, connection: psycopg.Connection, version: Version) -> bool:
    """Whether a version is live still; one that was retired in the meantime has no tables.

    Raises Refused where it is, and tables of it do not exist any more.
    """
    name = version.projection
    known = registry.versions(connection, name)
    now = next((each for each in known if each.version == version.version), version)
    missing = missing_tables(connection, now)
    if not missing or now.state not in registry.LIVE_STATES:
        return now.state in registry.LIVE_STATES
    there = [each for each in known if not missing_tables(connection, each)]
    does = "serves" if now.state == "active" else "stands by"
    raise Refused(
        f"v{now.version} of {name} {does}, and its tables do not exist: {', '.join(missing)}. "
        "Somebody dropped them",
        hint=remedy(config, now, there),
    )


def remedy(config: Config, gone: Version, versions: Sequence[Version]) -> str:
    """The commands for a version whose tables do not exist; `versions` are those of the projection
    whose tables do.
    """
    name = gone.projection
    if gone.state != "active":
        return f"esops projection retire {name} {gone.version}"
    standing_by = [each for each in versions if each.state == "standby"]
    if standing_by:
        to = standing_by[-1]
        command = f"esops projection switch {name} --to {to.version}"
        if _catches_up(config, gone, to):
            return command
        return (
            f"{command} --allow-stale   (it serves the rows as of position {to.position}, since "
            "the code that built it is not there any more)"
        )
    first = ""
    settings = config.projection(name)
    if settings.ddl is None and settings.kind != "external":
        first = (
            ". First write the DDL of its tables, which nothing is left to copy from, and name it: "
            'ddl = "….sql". Then'
        )
    return (
        f"Build it again{first}: esops projection retire "
        f"{name} {gone.version} --yes; esops rebuild {name} --blue-green"
    )


def _catches_up(config: Config, gone: Version, to: Version) -> bool:
    """Whether a version that stands by can be brought to where the one that serves is."""
    if to.position is None:
        return False
    if gone.position is None or to.position >= gone.position:
        return True
    try:
        return code_of(config, to)[1]
    except EsopsError:
        return False  # its code does not load
