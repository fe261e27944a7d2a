"""Which version is checked, who keeps it fresh, and the code that built it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psycopg

from esops.config import Config
from esops.errors import Refused, UsageError
from esops.projections.definition import Definition, ExternalDefinition
from esops.readmodel import registry
from esops.readmodel.names import names_of
from esops.readmodel.registry import Version
from esops.running.code import code_of

_NONE = 0
"""The number of a table that esops has no version of."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A version to check, and who keeps it: esops, a processor of the application, or each append.

    `checkpoint` is the processor's name.
    """

    version: Version
    kept_by: Literal["esops", "app", "inline"]
    checkpoint: str | None = None

    @property
    def number(self) -> int | None:
        """The version's number; None where esops has no version of it."""
        return self.version.version or None

    @property
    def in_words(self) -> str:
        """Its name for a person."""
        name = self.version.projection
        return name if self.number is None else f"{name} v{self.number}"


def find_subject(
    config: Config, name: str, number: int | None, connection: psycopg.Connection
) -> Subject:
    """The version that serves, or another one that is named.

    Raises UsageError and Refused that say why there is nothing to check.
    """
    settings = config.projection(name)
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    if row is not None and row[0]:
        raise Refused(
            f"the read model of {name} is read from a replica, where nobody can make the temporary "
            "tables that a check needs",
            hint="Name the primary in the DSN of the read model.",
        )
    if settings.kind in {"server", "external"}:
        raise UsageError(
            f"{name} is of kind {settings.kind}: esops has no code that could make its rows again",
            hint='A fold that makes the same rows can be checked, with live = "app" and its '
            "checkpoint.",
        )
    version = _version(config, name, number, connection)
    if version is None:
        version = Version(
            name,
            _NONE,
            "active",
            config.store(settings.store)[0],
            None,
            0,
            None,
            {each.name: (each.schema, each.name) for each in names_of(config, name, connection)},
            None,
        )
    if version.position is not None:
        return Subject(version, "esops")
    if version.state != "active" or settings.live == "esops":
        raise _without_checkpoint(version)
    if settings.live == "inline":
        return Subject(version, "inline")
    if settings.checkpoint is None:
        raise UsageError(
            f'the application keeps {name} fresh (live = "app"), and esops.toml does not name its '
            "checkpoint, so nobody can say up to which event its rows are made",
            hint='Name it as `esops status` shows it: checkpoint = "…".',
        )
    return Subject(version, "app", settings.checkpoint)


def _version(
    config: Config, name: str, number: int | None, connection: psycopg.Connection
) -> Version | None:
    """The registry's version; None where only the application has tables."""
    if number is not None:
        version = registry.version(connection, name, number)
    else:
        there = registry.versions(connection, name)
        active = next((each for each in there if each.state == "active"), None)
        if active is None and config.projection(name).live != "esops":
            return None
        if active is None:
            loading = next((each for each in there if each.state == "building"), None)
            if loading is not None:
                raise _loading(loading)
            raise UsageError(
                f"{name} has no version yet that could be checked",
                hint=f"Build it: esops rebuild {name} --blue-green",
            )
        version = active
    if version.state == "building":
        raise _loading(version)
    if version.state not in registry.LIVE_STATES:
        raise UsageError(
            f"{name} v{version.version} is {version.state}: its tables are dropped",
            hint=f"`esops projection versions {name}` lists those that are there.",
        )
    return version


def _loading(version: Version) -> Refused:
    return Refused(
        f"{version.projection} v{version.version} is still being built, so its rows are not whole",
        hint="Check it after the switch; a rebuild verifies it before that.",
    )


def _without_checkpoint(version: Version) -> Refused:
    name, where = version.projection, f"{version.projection} v{version.version}"
    if version.lost is not None:
        return Refused(
            f"{where} was given up: its rows are of events that the store has lost: {version.lost}",
            hint=f"Rebuild it: esops rebuild {name} --blue-green",
        )
    return Refused(
        f"{where} has no checkpoint, so nobody can say up to which event its rows are made: the "
        "application made it, or it is being rebuilt in place",
        hint='If the application keeps it fresh: live = "app" with its checkpoint, or live = '
        f'"inline". Otherwise rebuild it: esops rebuild {name} --blue-green',
    )


def built_by(config: Config, version: Version) -> Definition:
    """The code that built a version. Raises Refused where it is not there any more."""
    definition, same = code_of(config, version)
    name = version.projection
    if isinstance(definition, ExternalDefinition):
        raise Refused(
            f"the application builds {name}, so esops has no code that could make its rows again",
            hint='Name a fold that makes the same rows, with live = "app" or "inline".',
        )
    if not same:
        raise Refused(
            f"the code of {name} has changed since v{version.version} was built, so its rows are "
            "not what the code of today makes of the events",
            hint=f"Restore the code, or name it: projections.{name}.versions.{version.version}."
            f"python. Or rebuild: esops rebuild {name} --blue-green",
        )
    return definition
