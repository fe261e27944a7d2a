"""esops.toml: found, read, checked, and given out as frozen settings.

Every error names the file, the key, and the nearest known key. `${VAR}` reads the environment, so that secrets stay out of
the file; no setting's value appears in an error, since it may be one. Documented in docs/reference/configuration.md.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from esops.errors import UsageError, nearest
from esops.events import EventFilter

T = TypeVar("T")

FILE_NAME = "esops.toml"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: object) -> timedelta:
    """Read `90s`, `15m`, `36h`, `180d` or `500ms`. Raises ValueError that shows the forms."""
    if isinstance(text, timedelta):
        return text
    found = _DURATION.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError("a duration is written like 500ms, 90s, 15m, 36h or 180d")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Settings(BaseModel):
    """What all sections share: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TableSettings(Settings):
    """`[stores.NAME.table]`: a table of somebody's own, by its columns."""

    name: str
    """`table` or `schema.table`."""
    stream: str
    version: str
    position: str
    """The column that orders all events, filled by a sequence."""
    type: str
    data: str
    metadata: str | None = None
    time: str | None = None
    id: str | None = None
    """Left out: made of stream and version."""
    category: str | None = None
    """A column; left out: what stands before the first `-` of the stream."""
    correlation: str | None = None
    causation: str | None = None
    sequence: str | None = None
    """Left out: the one behind the position's default."""


Removal = Literal["keep", "delete", "archive", "truncate", "tombstone"]


class PolicySettings(Settings):
    """`[archives.NAME.policies.NAME]`: which streams are archived, and what becomes of them in the store."""

    store: str | None = None
    category: str | None = None
    stream: str | None = None
    """A pattern of stream names: `*` for anything, `?` for one character."""
    tenant: str | None = None
    idle_for: Duration = timedelta(0)
    """How long ago the last event must have been recorded."""
    closed_by: tuple[str, ...] = ()
    """The last event must be of one of these types."""
    min_length: int = Field(default=1, ge=1)
    """The fewest events that a stream must have."""
    keep_last: int = Field(default=0, ge=0)
    """So many of a stream's last events stay in the store."""
    remove: Removal = "keep"
    scavenge: bool = False
    """EventStoreDB: start a scavenge after a removal, and wait for it."""
    batch: int = Field(default=1_000, ge=1)
    """At most so many events are removed in one transaction."""
    max_rate: int | None = Field(default=None, ge=1)
    """At most so many events are removed a second."""
    lock_timeout: Duration = timedelta(seconds=1)
    statement_timeout: Duration = timedelta(seconds=30)
    max_duration: Duration | None = None

    @model_validator(mode="after")
    def _says_which(self) -> PolicySettings:
        if self.category is None and self.stream is None:
            raise ValueError('a policy says which streams it is for: by `category`, or by `stream`, such as "*"')
        return self


class ArchiveSettings(Settings):
    """`[archives.NAME]`: where archives are kept, and the policies that fill it."""

    repository: str
    """A directory, or `s3://`, `gs://` or `az://` with a bucket and a prefix."""
    encrypt_to: tuple[str, ...] = ()
    """age recipients; left out: not encrypted."""
    identity: str | None = Field(default=None, repr=False)
    """The age identity that decrypts, usually `${VARIABLE}`."""
    identity_file: Path | None = None
    file_size: int = Field(default=32 << 20, ge=1 << 16)
    """Bytes from which on a file is closed and the next begun; so much is held in memory."""
    timeout: Duration = timedelta(seconds=60)
    """How long an object store may take for one request."""
    policies: Mapping[str, PolicySettings] = {}


class StoreSettings(Settings):
    """`[stores.NAME]`: where events come from."""

    backend: str = "postgres"
    dsn: str | None = Field(default=None, repr=False)
    """Any libpq string or URL; what it leaves out comes from PG* variables, .pgpass and service files."""
    uri: str | None = Field(default=None, repr=False)
    """EventStoreDB: any `esdb://` connection string; cluster, TLS, user and node preference are said in it."""
    layout: str | None = None
    """Left out: detected from the catalogue."""
    db_schema: str | None = Field(default=None, alias="schema")
    """Left out: the one schema that holds a layout."""
    application: str | None = None
    """Python's eventsourcing: which application, where a database holds several."""
    table: TableSettings | None = None
    """Layout custom: where the events are."""
    tenant: str | None = None
    """Only this tenant's events (Marten's tenant_id, Emmett's partition)."""
    append: Literal["auto", "quick"] = "auto"
    """Marten: `quick` says that every writer draws its numbers inside its transaction, so that holes need no watching."""
    ordering: Literal["native", "position"] = "native"
    """Emmett: `position` reads by global position instead of by transaction id."""
    hole_threshold: Duration = timedelta(seconds=3)
    """How long a missing number must have been missing before it may be taken for dead."""
    repository: str | None = None
    """Backend archive: the repository, as in `[archives.NAME]`, whose keys are used."""
    archive: str | None = None
    """The archive that this store's old streams went to: they are read from there, joined with those that are here."""
    of: str | None = None
    """Backend archive: the store whose events are read, where a repository holds those of several."""
    cold: ArchiveSettings | None = Field(default=None, exclude=True, repr=False)

    @property
    def alone(self) -> StoreSettings:
        """The store without the archive that it is joined with."""
        return self if self.backend == "archive" else self.model_copy(update={"cold": None})

    @model_validator(mode="after")
    def _complete(self) -> StoreSettings:
        if self.backend == "archive" and self.cold is None:
            raise ValueError("a store of backend 'archive' needs `repository`, or `archive` with the name of one")
        if self.backend == "postgres" and self.dsn is None:
            raise ValueError("a store of backend 'postgres' needs `dsn`")
        if self.backend == "eventstoredb" and self.uri is None:
            raise ValueError("a store of backend 'eventstoredb' needs `uri`")
        return self


class ReadModelSettings(Settings):
    """`[readmodels.NAME]`: the Postgres database that projections write to."""

    dsn: str = Field(repr=False)
    db_schema: str | None = Field(default=None, alias="schema")
    """The schema of the read models' tables; left out: the role's own current schema."""


class VerifySettings(Settings):
    """`verify.*` of a projection: what must hold before a switch."""

    assertions: tuple[str, ...] = ()
    """SQL that must return true; {table} stands for green's table."""
    ignore: tuple[str, ...] = ()
    """Columns that are not compared."""


class VersionSettings(Settings):
    """`versions.N` of a projection: the code that keeps that one version fresh."""

    python: str


class ProjectionSettings(Settings):
    """`[projections.NAME]`: what turns events into rows."""

    store: str | None = None
    kind: Literal["fold", "server"] = "fold"
    python: str = ""
    events: tuple[str, ...] = ()
    category: str | None = None
    include_archived: bool = False
    tables: tuple[str, ...] = Field(default=(), max_length=1)
    javascript: Path | None = None
    """Kind server: the query of the projection that runs inside the store."""
    emit: bool = False
    """Kind server: whether the query emits events, to streams that are tracked."""
    handover: tuple[str, ...] = ()
    """Kind server: the program that moves readers from one projection to another."""
    ddl: Path | None = None
    switch: Literal["view", "rename"] = "view"
    live: Literal["esops", "app"] = "esops"
    readmodel: str | None = None
    on_error: Literal["stop", "dead-letter"] = "stop"
    cache_rows: int = Field(default=24_576, ge=2)
    """The most rows that a fold keeps in memory: the limit of its cache."""
    verify: VerifySettings = VerifySettings()
    versions: Mapping[str, VersionSettings] = {}

    @model_validator(mode="after")
    def _of_its_kind(self) -> ProjectionSettings:
        needed = {"fold": ("python", "tables"), "server": ("javascript",)}
        others = {"fold": ("javascript", "emit", "handover"), "server": ("python", "tables", "ddl", "events", "category")}
        for key in needed[self.kind]:
            if not getattr(self, key):
                raise PydanticCustomError("of_kind", "this key is missing", {"key": key})
        for key in others[self.kind]:
            if getattr(self, key):
                raise PydanticCustomError("of_kind", f"this key is not for a projection of kind {self.kind!r}", {"key": key})
        return self

    @property
    def filter(self) -> EventFilter:
        """Which events the projection is made of."""
        return EventFilter(self.events, self.category, archived=self.include_archived)


class Config(Settings):
    """All of esops.toml."""

    archives: Mapping[str, ArchiveSettings] = {}
    stores: Mapping[str, StoreSettings] = {}
    readmodels: Mapping[str, ReadModelSettings] = {}
    projections: Mapping[str, ProjectionSettings] = {}
    path: Path = Field(default=Path(FILE_NAME), exclude=True)

    @property
    def directory(self) -> Path:
        """The folder that relative paths and Python modules are looked for in."""
        return self.path.parent

    def store(self, name: str | None = None) -> tuple[str, StoreSettings]:
        """The store of that name, or the only one there is. Raises UsageError."""
        return _pick(self.stores, name, "store", self.path)

    def projection(self, name: str) -> ProjectionSettings:
        """The projection of that name. Raises UsageError that names the nearest."""
        return _pick(self.projections, name, "projection", self.path)[1]

    def archive(self, name: str | None = None) -> tuple[str, ArchiveSettings]:
        """The archive of that name, or the only one there is. Raises UsageError."""
        return _pick(self.archives, name, "archive", self.path)

    def policy(self, name: str) -> tuple[str, ArchiveSettings, PolicySettings]:
        """A policy with its archive and that one's name; `ARCHIVE/POLICY` tells two of one name apart. Raises UsageError."""
        known = {
            f"{archive}/{policy}": (archive, settings, settings.policies[policy])
            for archive, settings in self.archives.items()
            for policy in settings.policies
        }
        found = [key for key in known if key == name or key.partition("/")[2] == name]
        if len(found) > 1:
            raise UsageError(f"{self.path}: there are several policies named {name!r}", hint="Name one of: " + ", ".join(found))
        if not found:
            hint = nearest(name, (key.partition("/")[2] for key in known))
            raise UsageError(f"{self.path}: there is no policy named {name!r}", hint=hint)
        return known[found[0]]

    def readmodel_of(self, name: str) -> ReadModelSettings:
        """Where a projection writes: its read model, the only one there is, or its own Postgres store."""
        projection = self.projection(name)
        if projection.kind == "server":
            raise UsageError(f"{name} runs inside its store and writes to no database")
        if projection.readmodel is not None or len(self.readmodels) == 1:
            return _pick(self.readmodels, projection.readmodel, "readmodel", self.path)[1]
        if self.readmodels:
            raise UsageError(
                f"{self.path}: projections.{name}.readmodel: there are several read models, and none is named",
                hint="Name one of: " + ", ".join(sorted(self.readmodels)),
            )
        _, store = self.store(projection.store)
        if store.dsn is None:
            raise UsageError(
                f"{self.path}: projections.{name}: its store is not a Postgres database, so it needs a read model",
                hint='Add a section [readmodels.main] with dsn = "…".',
            )
        return ReadModelSettings(dsn=store.dsn)


def find_config(explicit: Path | None = None) -> Path:
    """The configuration's path: as given, from ESOPS_CONFIG, or esops.toml here or in a parent. Raises UsageError."""
    given = explicit or (Path(os.environ["ESOPS_CONFIG"]) if os.environ.get("ESOPS_CONFIG") else None)
    if given is not None:
        if not given.is_file():
            raise UsageError(f"there is no configuration file at {given}", hint="Check --config or ESOPS_CONFIG.")
        return given.resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise UsageError(
        f"there is no {FILE_NAME} in {here} or a parent of it",
        hint="Name one with --config FILE or ESOPS_CONFIG; docs/reference/configuration.md shows what goes in.",
    )


def load_config(explicit: Path | None = None) -> Config:
    """Find, read and check the configuration. Raises UsageError that names file and key."""
    path = find_config(explicit)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: this is not valid TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_config(document, path)


def parse_config(document: Mapping[str, Any], path: Path) -> Config:
    """Check a parsed document, with `${VAR}` read from the environment. Raises UsageError that names file and key."""
    if "path" in document:
        raise UsageError(f"{path}: path: unknown key", hint=nearest("path", _keys_of(Config)))
    expanded = _expand(document, path, ())
    _find_archives(expanded, path)
    try:
        return Config.model_validate({**expanded, "path": path})
    except ValidationError as error:
        raise _first_problem(error, path) from None


def _find_archives(document: dict[str, Any], path: Path) -> None:
    """Make addresses of archives absolute, and give each store that names an archive its settings."""
    archives, stores = document.get("archives", {}), document.get("stores", {})
    sections = [section for each in (archives, stores) if isinstance(each, dict) for section in each.values()]
    for section in sections:
        if isinstance(section, dict):
            for key in ("repository", "identity_file"):
                value = section.get(key)
                if isinstance(value, str) and "://" not in value:
                    section[key] = str(path.parent / Path(value).expanduser())
    if not isinstance(stores, dict) or not isinstance(archives, dict):
        return
    by_address = {each["repository"]: each for each in archives.values() if isinstance(each, dict) and "repository" in each}
    for name, store in stores.items():
        if not isinstance(store, dict):
            continue
        if "cold" in store:
            raise UsageError(f"{path}: stores.{name}.cold: unknown key", hint=nearest("cold", _keys_of(StoreSettings)))
        if isinstance(store.get("archive"), str):
            if store["archive"] not in archives:
                hint = nearest(store["archive"], archives)
                raise UsageError(f"{path}: stores.{name}.archive: there is no archive named {store['archive']!r}", hint=hint)
            store["cold"] = archives[store["archive"]]
        elif isinstance(store.get("repository"), str):
            store["cold"] = by_address.get(store["repository"], {"repository": store["repository"]})


def _pick(things: Mapping[str, T], name: str | None, what: str, path: Path) -> tuple[str, T]:
    if name is None:
        if len(things) == 1:
            return next(iter(things.items()))
        what_there_is = f"Name one of: {', '.join(sorted(things))}" if things else f"Add a section [{what}s.NAME]."
        raise UsageError(f"{path}: there {'are several' if things else 'is no'} {what}{'s' * bool(things)}", hint=what_there_is)
    if name not in things:
        raise UsageError(f"{path}: there is no {what} named {name!r}", hint=nearest(name, things))
    return name, things[name]


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


def _first_problem(error: ValidationError, path: Path) -> UsageError:
    problem = error.errors(include_url=False, include_input=False)[0]
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "of_kind":
        location.append(problem["ctx"]["key"])
    key = ".".join(location) or "the file"
    if problem["type"] == "extra_forbidden":
        return UsageError(f"{path}: {key}: unknown key", hint=nearest(location[-1], _known_beside(location)))
    if problem["type"] == "missing":
        return UsageError(f"{path}: {key}: this key is missing")
    return UsageError(f"{path}: {key}: {problem['msg'].removeprefix('Value error, ')}")


_SECTIONS: dict[str, type[Settings]] = {
    "stores": StoreSettings,
    "readmodels": ReadModelSettings,
    "projections": ProjectionSettings,
    "archives": ArchiveSettings,
}


def _known_beside(location: list[str]) -> list[str]:
    """The keys that may stand where an unknown one stood."""
    if len(location) == 1:
        return _keys_of(Config)
    section = _SECTIONS[location[0]]
    if len(location) > 3:
        nested: dict[str, type[Settings]] = {
            "verify": VerifySettings,
            "versions": VersionSettings,
            "table": TableSettings,
            "policies": PolicySettings,
        }
        section = nested.get(location[2], section)
    return _keys_of(section)


def _keys_of(section: type[Settings]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items() if not field.exclude]
