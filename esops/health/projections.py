"""What doctor checks of a projection: does its code load, and is its database ready."""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import EsopsError, UsageError
from esops.health import read_models
from esops.health.denied import grant_for
from esops.health.findings import SESSIONS, Finding
from esops.postgres.connection import connect, translated
from esops.projections.definition import load_definition


def examine(config: Config, name: str) -> Iterator[Finding]:
    """Check one projection of the configuration."""
    subject, settings = f"projection {name}", config.projections[name]
    try:
        config.store(settings.store)
        if settings.kind == "server":
            return  # it runs inside its store, and writes to no database
        load_definition(settings, config.directory, f"projections.{name}")
        read_model = config.readmodel_of(name)
    except UsageError as error:
        yield Finding("ESOPS-D003", subject, error.message, error.hint)
        return
    if settings.ddl is not None and not (config.directory / settings.ddl).is_file():
        yield Finding(
            "ESOPS-D003",
            subject,
            f"there is no file {settings.ddl}",
            "Name the file with the DDL of the table, or leave `ddl` out.",
        )
    try:
        with connect(read_model.dsn, "doctor") as connection, translated():
            # Sizes and views lock their tables: who holds one must not keep doctor waiting.
            connection.execute("SET lock_timeout = '3s'")
            yield from read_models.examine(subject, config, name, connection)
    except EsopsError as error:
        code = SESSIONS.get(type(error), "ESOPS-D002")
        yield Finding(code, subject, error.message, grant_for(error, read_model.dsn) or error.hint)
        if "lock timeout" in error.message:
            # Who holds that lock is likely to hold a version as well.
            yield from read_models.stalled(subject, config, name)
