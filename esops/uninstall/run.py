"""All databases that esops.toml names: what is left of esops in each, and removing it.

plan(config).run()
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from esops.config import Config
from esops.errors import AbsentArchive, EsopsError, Refused, UsageError
from esops.settings import ArchiveSettings
from esops.uninstall import database
from esops.uninstall.leftover import Leftover, UninstallOptions

_UNFINISHED = ("sealed", "verified")


@dataclass(slots=True)
class Uninstalling:
    """What is left of esops where esops.toml says that it is, and what stays."""

    config: Config
    options: UninstallOptions
    databases: list[Leftover] = field(default_factory=list)
    stays: list[dict[str, str]] = field(default_factory=list)
    """Archives and streams, which are not removed: what each is, and why."""

    @property
    def nothing(self) -> bool:
        """Whether no database has anything of esops."""
        return all(each.nothing for each in self.databases)

    def run(
        self,
        say: Callable[[str], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Remove it, one database after the other, while all of them are kept from other commands.

        Raises as `plan`, before anything is changed; what was done stays done where a lock cannot
        be had, and another run continues.
        """
        with ExitStack() as stack:
            all_held = [
                stack.enter_context(database.held(self.config, each, self.options))
                for each in self.databases
            ]
            for connection, now in all_held:
                database.remove(self.config, connection, now, say, stop)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "databases": [each.as_dict() for each in self.databases],
            "stays": self.stays,
        }


def plan(config: Config, options: UninstallOptions) -> Uninstalling:
    """What there is, in all databases. Changes nothing.

    Raises UsageError, Unavailable where one cannot be reached, Busy while esops is at work, and
    Refused where removing would harm what serves, or lose what is needed.
    """
    if not config.stores and not config.readmodels:
        raise UsageError(f"{config.path}: it names no store, so there is nothing to look at")
    found = Uninstalling(config, options)
    for dsn, of in _addresses(config).items():
        left = database.look(config, dsn, of, options)
        same = next((each for each in found.databases if each.identity == left.identity), None)
        if same is None:
            found.databases.append(left)
        else:
            same.of += [each for each in left.of if each not in same.of]
    for name, archive in config.archives.items():
        found.stays.append(_archive(name, archive))
    for name, each in config.projections.items():
        if each.kind == "server":
            store = config.store(each.store)[0]
            found.stays.append(
                {
                    "what": f"store {store}: the projections of {name} and their journal",
                    "why": "they run inside the store, and their readers continue; "
                    f"`esops projection show {name}` names them, and the store's own "
                    "administration deletes them",
                }
            )
    return found


def _addresses(config: Config) -> dict[str, list[str]]:
    """What is in which database, by its address: read models first."""
    found: dict[str, list[str]] = {}
    for name, settings in config.projections.items():
        if settings.kind != "server":
            found.setdefault(config.readmodel_of(name).dsn, []).append(f"projection {name}")
    for name, readmodel in config.readmodels.items():
        found.setdefault(readmodel.dsn, []).append(f"read model {name}")
    for name, store in config.stores.items():
        dsn = store.postgres
        if dsn is not None:
            found.setdefault(dsn, []).append(f"store {name}")
    return found


def _archive(name: str, settings: ArchiveSettings) -> dict[str, str]:
    """An archive is what is left of removed events: it stays. Raises Refused where a run has begun
    to remove streams and has not ended.
    """
    from esops.archive.catalog_view import last_of_each_policy
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog

    what = f"archive {name}: {settings.repository}"
    try:
        runs = last_of_each_policy(Catalog(Repository(settings)))
    except AbsentArchive:
        return {"what": what, "why": "nothing is in it yet"}
    except EsopsError as error:
        return {"what": what, "why": f"it was not looked into: {error.message}"}
    if not runs:
        return {"what": what, "why": "nothing is in it yet"}
    for each in runs:
        if each["state"] in _UNFINISHED:
            raise Refused(
                f"run {each['run']} of the archive {name} has not ended ({each['state']}), and may "
                "have removed some of its streams",
                hint=f"Finish it: esops archive run {each.get('policy')}",
            )
    return {
        "what": what,
        "why": "it has the events that were removed from the store. Without esops, DuckDB and "
        "other tools read its Parquet files; streams come back only by `esops archive restore`",
    }
