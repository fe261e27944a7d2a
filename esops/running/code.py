"""Which code keeps a version fresh, and what is noted where it is other code than built it."""

from __future__ import annotations

import psycopg
import structlog

from esops.config import Config
from esops.postgres.connection import connect, translated
from esops.projections.definition import Definition, load_definition
from esops.projections.fingerprint import Code, is_earlier
from esops.readmodel import conduct, registry
from esops.readmodel.registry import Version

log = structlog.get_logger("esops.run")


def code_of(config: Config, version: Version) -> tuple[Definition, bool]:
    """The code to keep a version fresh with, and whether it is the code that built the version."""
    code = _code(config, version)
    # Where the settings name its code, the operator vouches for it: that of moved code may differ.
    named = str(version.version) in config.projection(version.projection).versions
    same = named or version.fingerprint is None or code.made(version.fingerprint)
    return code.definition, same


def has_same_text(config: Config, version: Version) -> bool:
    """Whether the text of the code is that by which a version was built, if its values are not."""
    return _code(config, version).has_same_text(version.fingerprint)


def _code(config: Config, version: Version) -> Code:
    settings = config.projection(version.projection)
    where = f"{config.path}: projections.{version.projection}"
    override = settings.versions.get(str(version.version))
    if override is not None:
        settings = settings.model_copy(update=override.model_dump(exclude_none=True))
        where = f"{where}.versions.{version.version}"
    return Code(load_definition(settings, config.directory, where), settings, config.directory)


def note_anew(config: Config, version: Version) -> None:
    """Note the code of a version by esops' way of today, where an older esops noted it."""
    if not is_earlier(version.fingerprint):
        return
    code = _code(config, version)
    if not code.made(version.fingerprint):
        return
    dsn = config.readmodel_of(version.projection).dsn
    with translated(), connect(dsn, f"run {version.projection}") as connection:
        registry.note_code(connection, version, code.fingerprint)
    log.info(
        "an older esops noted this version's code; it is the same as far as that could see, and is "
        "noted in the new way",
        projection=version.projection,
        version=version.version,
    )


def note_code(
    config: Config, connection: psycopg.Connection, version: Version, *, same: bool
) -> None:
    """Note where a version begins to be advanced by other code than it was built by, or ends to.

    To be called under the version's lock, with the position where it is now.
    """
    other = None if same else _code(config, version).fingerprint
    conduct.note_code(connection, version, other)
    if not same:
        name = version.projection
        log.warning(
            "this version was built by other code than this process has loaded: rows of older "
            "events stay as that code made them",
            folder=str(config.directory),
            projection=name,
            version=version.version,
            position=None if version.position is None else str(version.position),
            hint=f"Rebuild it: esops rebuild {name} --blue-green. From this position on its rows "
            "are of other code, so a later rollback to it needs --accept-code.",
        )
