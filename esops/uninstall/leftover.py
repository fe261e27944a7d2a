"""What is left of esops in one database, as it is shown before anything is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esops.readmodel.registry import Version
from esops.uninstall.serving import Serving


@dataclass(frozen=True, slots=True)
class UninstallOptions:
    """What was asked for."""

    keep_older: bool = False
    """Leave the tables of older versions, under the names that they have."""
    unnamed: bool = False
    """Also of projections that esops.toml does not name."""


@dataclass(slots=True)
class Leftover:
    """What is left of esops in one database."""

    database: str
    """Its name, with the server's where that is known."""
    dsn: str
    of: list[str]
    """What of esops.toml is in it: read models and stores."""
    identity: str = ""
    tables: list[str] = field(default_factory=list)
    """esops' own, in the schema esops."""
    schema: bool = False
    size: int = 0
    serving: list[Serving] = field(default_factory=list)
    older: list[Version] = field(default_factory=list)
    """Versions that nobody reads, and whose tables are there."""
    kept: list[str] = field(default_factory=list)
    """What stays as it is, in words."""
    spills: list[str] = field(default_factory=list)
    """Directories with files of loads, as `host:path`."""
    statements: list[str] = field(default_factory=list)
    """All that are run, in order."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not self.schema

    @property
    def as_found(self) -> Any:
        """What somebody agreed to: what is handed over, and what is dropped."""
        serving = [
            (one.version.projection, one.version.version, [*one.views], [*one.tables])
            for one in self.serving
        ]
        return serving, [(each.projection, each.version, each.tables) for each in self.older]

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "database": self.database,
            "of": self.of,
            "schema": self.schema,
            "tables": self.tables,
            "bytes": self.size,
            "serving": [
                {
                    "projection": each.version.projection,
                    "version": each.version.version,
                    "becomes_table": [str(name) for name in each.views],
                    "is_table": [str(name) for name in each.tables],
                    "carried_over": [*each.carried],
                }
                for each in self.serving
            ],
            "dropped": [
                {
                    "projection": each.projection,
                    "version": each.version,
                    "state": each.state,
                    "tables": [".".join(table) for table in each.tables.values()],
                }
                for each in self.older
            ],
            "kept": self.kept,
            "files": self.spills,
            "statements": self.statements,
        }
