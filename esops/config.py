"""Finds, reads and checks esops.toml, and gives it out as frozen settings.

Every error names the file, the key, and the nearest known key. `${VAR}` reads the environment, so
that secrets stay out of the file. No error contains the value of a setting, since it may be a
secret. Documented in docs/reference/configuration.md.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from esops import backends
from esops.errors import UsageError, nearest
from esops.settings import (
    STORE_SETTINGS,
    ArchiveSettings,
    AuditSettings,
    ContractSettings,
    EraseSettings,
    NotifySettings,
    PolicySettings,
    PostgresSettings,
    ProjectionSettings,
    ReadModelSettings,
    Settings,
    StoreSettings,
    TraceSettings,
)
from esops.settings.addresses import PublishedAddress
from esops.settings.problems import first_problem, keys_of

T = TypeVar("T")

FILE_NAME = "esops.toml"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Config(Settings):
    """A whole esops.toml."""

    archives: Mapping[str, ArchiveSettings] = {}
    stores: Mapping[str, StoreSettings] = {}
    readmodels: Mapping[str, ReadModelSettings] = {}
    projections: Mapping[str, ProjectionSettings] = {}
    erase: Mapping[str, EraseSettings] = {}
    notify: Mapping[str, NotifySettings] = {}
    contracts: Mapping[str, ContractSettings] = {}
    audit: AuditSettings = AuditSettings()
    trace: TraceSettings = TraceSettings()
    path: Path = Field(default=Path(FILE_NAME), exclude=True)
    named: Path = Field(default=Path(FILE_NAME), exclude=True)
    """`path` by the name that it was found by. Where that has a symbolic link, such as
    `current/esops.toml`, it may lead to another release later; `path` stays what was read.
    """

    @property
    def directory(self) -> Path:
        """The folder that relative paths start from, and where Python modules are imported from."""
        return self.path.parent

    def store(self, name: str | None = None) -> tuple[str, StoreSettings]:
        """Name and settings of a store, or of the only one. Raises UsageError."""
        return _pick(self.stores, name, "store", self.path)

    def projection(self, name: str) -> ProjectionSettings:
        """The settings of a projection. Raises UsageError that names the nearest one."""
        return _pick(self.projections, name, "projection", self.path)[1]

    def archive(self, name: str | None = None) -> tuple[str, ArchiveSettings]:
        """Name and settings of an archive, or of the only one. Raises UsageError."""
        return _pick(self.archives, name, "archive", self.path)

    def policy(self, name: str) -> tuple[str, ArchiveSettings, PolicySettings]:
        """The archive's name and settings, and a policy of it. Raises UsageError.

        `ARCHIVE/POLICY` tells apart two policies of one name.
        """
        # By full name, since two archives may have policies of one name.
        known = {
            f"{archive}/{policy}": (archive, settings, settings.policies[policy])
            for archive, settings in self.archives.items()
            for policy in settings.policies
        }
        found = [key for key in known if key == name or key.partition("/")[2] == name]
        if len(found) > 1:
            raise UsageError(
                f"{self.path}: there are several policies named {name!r}",
                hint="Name one of: " + ", ".join(found),
            )
        if not found:
            hint = nearest(name, (key.partition("/")[2] for key in known))
            raise UsageError(f"{self.path}: there is no policy named {name!r}", hint=hint)
        return known[found[0]]

    def contract(self, name: str) -> ContractSettings:
        """The settings of a contract. Raises UsageError that names the nearest one."""
        return _pick(self.contracts, name, "contract", self.path)[1]

    def readmodel_of(self, name: str) -> ReadModelSettings:
        """Where a projection writes: the read model that it names, the only one, or the Postgres
        database of its store.

        Raises UsageError.
        """
        projection = self.projection(name)
        if projection.kind == "server":
            raise UsageError(f"{name} runs inside its store and writes to no database")
        if projection.readmodel is not None or len(self.readmodels) == 1:
            return _pick(self.readmodels, projection.readmodel, "readmodel", self.path)[1]
        if self.readmodels:
            raise UsageError(
                f"{self.path}: projections.{name}.readmodel: there are several read models, and "
                "none is named",
                hint="Name one of: " + ", ".join(sorted(self.readmodels)),
            )
        _, store = self.store(projection.store)
        if store.postgres is None:
            raise UsageError(
                f"{self.path}: projections.{name}: its store is not a Postgres database, so it "
                "needs a read model",
                hint='Add a section [readmodels.main] with dsn = "…".',
            )
        published = isinstance(store.postgres, PublishedAddress)
        return ReadModelSettings(
            dsn=store.postgres, publications="allowed" if published else "refused"
        )


def by_address(config: Config, names: Iterable[str]) -> dict[str, list[str]]:
    """Projections by the address of the read model that each writes to."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(config.readmodel_of(name).dsn, []).append(name)
    return found


def find_config(explicit: Path | None = None) -> Path:
    """Return the path of the configuration: the one given, that of ESOPS_CONFIG, or esops.toml in
    this folder or a parent.

    Raises UsageError.
    """
    given = _given(explicit)
    if given is not None:
        if not given.is_file():
            raise UsageError(
                f"there is no configuration file at {given}", hint="Check --config or ESOPS_CONFIG."
            )
        return given.resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise UsageError(
        f"there is no {FILE_NAME} in {here} or a parent of it",
        hint="Write one with `esops init`, or name one with --config FILE or ESOPS_CONFIG. Every "
        "key: esops docs configuration",
    )


def _given(explicit: Path | None) -> Path | None:
    return explicit or (
        Path(os.environ["ESOPS_CONFIG"]) if os.environ.get("ESOPS_CONFIG") else None
    )


def _as_named(path: Path, explicit: Path | None) -> Path:
    """What find_config found, by its name: with the symbolic links in it, those of the folder that
    the shell says we are in, too.
    """
    given, here = _given(explicit), Path.cwd()
    shell = Path(os.environ.get("PWD", ""))
    with suppress(OSError):
        # Another program may have changed the folder, and left the variable as it was.
        if shell.is_absolute() and shell.samefile(here):
            here = shell
        if given is None:
            folders = (each for each in (here, *here.parents) if each.samefile(path.parent))
            return next(folders, path.parent) / path.name
    return here / (given or path)


def load_config(explicit: Path | None = None, *, erases: bool = False) -> Config:
    """Find, read and check the configuration. Raises UsageError that names file and key.

    Without `erases`, rules of `[erase]` whose environment variables are not set are left out: the
    key of the hashes need not be known to a process that erases nothing.
    """
    path = find_config(explicit)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: this is not valid TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    config = parse_config(document, path, erases=erases)
    return config.model_copy(update={"named": _as_named(path, explicit)})


def parse_config(document: Mapping[str, Any], path: Path, *, erases: bool = True) -> Config:
    """Check a parsed document, and replace `${VAR}` with what the environment has; without
    `erases`, rules of `[erase]` that need what it does not have are left out.

    Raises UsageError that names file and key.
    """
    for key in ("path", "named"):
        if key in document:
            raise UsageError(f"{path}: {key}: unknown key", hint=nearest(key, keys_of(Config)))
    if not erases and isinstance(document.get("erase"), Mapping):
        rules = {name: rule for name, rule in document["erase"].items() if not _unset(rule)}
        document = {**document, "erase": rules}
    expanded = _expand(document, path, ())
    _find_archives(expanded, path)
    try:
        stores = expanded.pop("stores", {})
        config = Config.model_validate({**expanded, "path": path, "named": path})
        if not isinstance(stores, dict):
            Config.model_validate({"stores": stores})
    except ValidationError as error:
        raise first_problem(error, path, Config) from None
    # Each store by the model of its backend, which may be one of another package.
    checked = {name: _store(name, table, path) for name, table in stores.items()}
    for settings in checked.values():
        settings.put_among(checked)
    return config.model_copy(update={"stores": checked})


def _store(name: str, table: object, path: Path) -> StoreSettings:
    """A store's settings, by the model of its backend."""
    model = StoreSettings
    if isinstance(table, dict):
        model = _store_model(name, table.get("backend", "postgres"), path)
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise first_problem(error, path, Config, ("stores", name), model) from None


def _store_model(name: str, backend: object, path: Path) -> type[StoreSettings]:
    if not isinstance(backend, str):
        return StoreSettings
    if backend in STORE_SETTINGS:
        return STORE_SETTINGS[backend]
    store_class = backends.brought(backend)
    if store_class is None:
        raise UsageError(
            f"{path}: stores.{name}.backend: there is no backend named {backend!r}",
            hint=nearest(backend, [*STORE_SETTINGS, *backends.names()]),
        )
    return store_class.Settings


def _find_archives(document: dict[str, Any], path: Path) -> None:
    """Make the paths of archives absolute, and copy the settings of an archive into each store that
    names it.
    """
    archives, stores = document.get("archives", {}), document.get("stores", {})
    sections = [
        section
        for each in (archives, stores)
        if isinstance(each, dict)
        for section in each.values()
    ]
    # What is not a table yet is not checked yet either: pydantic names it below, with its key.
    for section in sections:
        if isinstance(section, dict):
            for key in ("repository", "identity_file"):
                value = section.get(key)
                if isinstance(value, str) and "://" not in value:
                    section[key] = str(path.parent / Path(value).expanduser())
    if not isinstance(stores, dict) or not isinstance(archives, dict):
        return
    by_address = {
        each["repository"]: each
        for each in archives.values()
        if isinstance(each, dict) and "repository" in each
    }
    for name, store in stores.items():
        if not isinstance(store, dict):
            continue
        # A field of the model that is filled in here; in the file it would be a mistake.
        if "cold" in store:
            raise UsageError(
                f"{path}: stores.{name}.cold: unknown key",
                hint=nearest("cold", keys_of(PostgresSettings)),
            )
        if isinstance(store.get("archive"), str):
            if store["archive"] not in archives:
                hint = nearest(store["archive"], archives)
                raise UsageError(
                    f"{path}: stores.{name}.archive: there is no archive named "
                    f"{store['archive']!r}",
                    hint=hint,
                )
            store["cold"] = archives[store["archive"]]
        elif isinstance(store.get("repository"), str):
            store["cold"] = by_address.get(store["repository"], {"repository": store["repository"]})


def _pick(things: Mapping[str, T], name: str | None, what: str, path: Path) -> tuple[str, T]:
    if name is None:
        if len(things) == 1:
            return next(iter(things.items()))
        what_there_is = (
            f"Name one of: {', '.join(sorted(things))}"
            if things
            else f"Add a section [{what}s.NAME]."
        )
        raise UsageError(
            f"{path}: there {'are several' if things else 'is no'} {what}{'s' * bool(things)}",
            hint=what_there_is,
        )
    if name not in things:
        raise UsageError(f"{path}: there is no {what} named {name!r}", hint=nearest(name, things))
    return name, things[name]


def _unset(value: Any) -> bool:
    """Whether a value needs an environment variable that is not set."""
    if isinstance(value, Mapping):
        return any(map(_unset, value.values()))
    if isinstance(value, list):
        return any(map(_unset, value))
    return isinstance(value, str) and any(
        name not in os.environ for name in _VARIABLE.findall(value)
    )


def _expand(value: Any, path: Path, keys: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {key: _expand(inner, path, (*keys, str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, path, (*keys, str(index))) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def read(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UsageError(
                f"{path}: {'.'.join(keys)}: the environment variable {match[1]} is not set",
                hint=f"Set {match[1]}, or write the value without ${{…}}.",
            )
        return os.environ[match[1]]

    return _VARIABLE.sub(read, value)
