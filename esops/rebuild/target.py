"""What a rebuild works on: one projection with its settings, its code, its store, and the names
that readers use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psycopg

from esops.config import Config
from esops.errors import UsageError
from esops.projections.definition import Definition, load_definition
from esops.projections.fingerprint import Code
from esops.readmodel.names import ReadModelName, names_of
from esops.rebuild.hand_over import Application
from esops.settings import ProjectionSettings


@dataclass(frozen=True)
class Target:
    """Everything about one projection that the steps need.

    `names` are what readers use; `directory` and `config` are where esops.toml is.
    """

    name: str
    settings: ProjectionSettings
    definition: Definition
    store_name: str
    dsn: str
    names: tuple[ReadModelName, ...]
    directory: Path
    config: Path

    @property
    def application(self) -> Application:
        """What the application may keep fresh of it."""
        return Application(self.name, self.settings, self.names)

    @cached_property
    def code(self) -> Code:
        """The code that is there now."""
        return Code(self.definition, self.settings, self.directory)


def resolve(config: Config, name: str, store: str | None, connection: psycopg.Connection) -> Target:
    """Load a projection's code and find its store and read model.

    `store` overrides the one that the projection names. Raises UsageError that says what is wrong.
    """
    settings = config.projection(name)
    store_name, _ = config.store(store or settings.store)
    definition = load_definition(settings, config.directory, f"{config.path}: projections.{name}")
    dsn, names = config.readmodel_of(name).dsn, tuple(names_of(config, name, connection))
    if len({each.name for each in names}) < len(names):
        raise UsageError(
            f"{config.path}: projections.{name}.tables: two tables have the same name in "
            "different schemas",
            hint="Give one of them another name: esops tells tables apart by their name.",
        )
    return Target(name, settings, definition, store_name, dsn, names, config.directory, config.path)
