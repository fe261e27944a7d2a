"""Projections that the registry has and the configuration does not name."""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import EsopsError
from esops.health.findings import Finding
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations, registry, renamed


def examine(config: Config) -> Iterator[Finding]:
    """Look into each database that a projection of the configuration writes to.

    One that was renamed is a finding of its projection.
    """
    named: dict[str, list[str]] = {}
    for name, settings in config.projections.items():
        try:
            if settings.kind != "server":
                named.setdefault(config.readmodel_of(name).dsn, []).append(name)
        except EsopsError:
            continue  # which is a finding of the projection
    for dsn, names in named.items():
        try:
            with translated(), connect(dsn, "doctor") as connection:
                if migrations.schema_number(connection) > migrations.newest():
                    continue
                known: dict[str, list[str]] = {}
                for each in registry.versions(connection):
                    if (
                        each.state in registry.LIVE_STATES
                        and each.projection not in config.projections
                    ):
                        said = f"v{each.version} ({each.state})"
                        known.setdefault(each.projection, []).append(said)
                former = {renamed.former_name(config, connection, name) for name in names}
        except EsopsError:
            continue
        for name in sorted(set(known) - former):
            yield Finding(
                "ESOPS-D064",
                f"projection {name}",
                f"the registry has {', '.join(known[name])}, and esops.toml does not name it, so "
                "nothing here keeps it fresh",
                f"If esops.toml has renamed it: esops projection rename {name} NEW. Nothing, if "
                "another esops.toml names it.",
            )
