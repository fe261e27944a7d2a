"""The sections of esops.toml, as frozen settings. Documented in docs/reference/configuration.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from esops.events import EventFilter

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
    """`[archives.NAME.policies.NAME]`: which streams are archived, and what becomes of them in the
    store.
    """

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
            raise ValueError(
                'a policy says which streams it is for: by `category`, or by `stream`, such as "*"'
            )
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
    """`[stores.NAME]`: the keys that every store has. A backend derives its own model from it."""

    backend: str
    settle_timeout: Duration = timedelta(seconds=10)
    """How long a command waits for what was committed before it to settle."""
    archive: str | None = None
    """The archive that this store's old streams went to: they are read from there, joined with
    those that are here.
    """
    source_store: str | None = Field(default=None, alias="of")
    """The store whose events are read from the archive, where that holds those of several."""
    cold: ArchiveSettings | None = Field(default=None, exclude=True, repr=False)

    @property
    def without_archive(self) -> StoreSettings:
        """The store without the archive that it is joined with."""
        return self.model_copy(update={"cold": None})

    @property
    def address(self) -> str:
        """Where the store is. It may hold a password."""
        return ""

    @property
    def postgres(self) -> str | None:
        """The libpq string of the Postgres database that holds the events; None for another kind
        of store.
        """
        return None

    @property
    def expected_layout(self) -> str | None:
        """The layout that the configuration names."""
        return None


class PostgresSettings(StoreSettings):
    """`[stores.NAME]` with `backend = "postgres"`, which may be left out."""

    backend: str = "postgres"
    dsn: str = Field(repr=False)
    """Any libpq string or URL; what it leaves out comes from PG* variables, .pgpass and service
    files.
    """
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
    """Marten: `quick` says that every writer draws its numbers inside its transaction, so that
    holes need no watching.
    """
    ordering: Literal["native", "position"] = "native"
    """Emmett: `position` reads by global position instead of by transaction id."""
    hole_threshold: Duration = timedelta(seconds=3)
    """How long ago a missing number must have been drawn before it may be taken for dead; waited
    for in addition to `settle_timeout`.
    """

    @property
    def address(self) -> str:
        """The DSN."""
        return self.dsn

    @property
    def postgres(self) -> str | None:
        """The DSN."""
        return self.dsn

    @property
    def expected_layout(self) -> str | None:
        """`layout`, where it is given."""
        return self.layout


class EventStoreDBSettings(StoreSettings):
    """`[stores.NAME]` with `backend = "eventstoredb"`."""

    backend: str = "eventstoredb"
    uri: str = Field(repr=False)
    """Any `esdb://` connection string; cluster, TLS, user and node preference are said in it."""

    @property
    def address(self) -> str:
        """The URI."""
        return self.uri


class ArchiveStoreSettings(StoreSettings):
    """`[stores.NAME]` with `backend = "archive"`: an archive that is read as a store."""

    backend: str = "archive"
    repository: str | None = None
    """The repository, as in `[archives.NAME]`, whose keys are used."""

    @property
    def without_archive(self) -> StoreSettings:
        """The store itself, which is the archive."""
        return self

    @model_validator(mode="after")
    def _complete(self) -> ArchiveStoreSettings:
        if self.cold is None:
            raise ValueError(
                "a store of backend 'archive' needs `repository`, or `archive` with the name of one"
            )
        return self


STORE_SETTINGS: Mapping[str, type[StoreSettings]] = {
    "postgres": PostgresSettings,
    "eventstoredb": EventStoreDBSettings,
    "archive": ArchiveStoreSettings,
}
"""The models of the backends that esops brings."""


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
    expected: tuple[str, ...] = ()
    """Columns whose differences are shown and do not count: those that the new logic is meant to
    change.
    """


class HookSettings(Settings):
    """`hooks.*` of a projection: programs that a rebuild runs on its way, each as a list
    of words.
    """

    before_catch_up: tuple[str, ...] = ()
    before_switch: tuple[str, ...] = ()
    switch: tuple[str, ...] = ()
    """With `switch = "hook"`: what moves the readers."""
    after_switch: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    timeout: Duration = timedelta(minutes=10)
    """How long each may take."""


class VersionSettings(Settings):
    """`versions.N` of a projection: the code that keeps that one version fresh."""

    python: str | None = None
    statement: Path | None = None
    command: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _says_one(self) -> VersionSettings:
        if sum(each is not None for each in (self.python, self.statement, self.command)) != 1:
            raise ValueError(
                "name the version's code by one of `python`, `statement` and `command`"
            )
        return self


_NEEDED: Mapping[str, tuple[str, ...]] = {
    "fold": ("python", "tables"),
    "handlers": ("python", "tables"),
    "sql": ("statement", "tables"),
    "process": ("command", "tables"),
    "external": ("checkpoint", "tables"),
    "server": ("javascript",),
}
_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "fold": ("ddl", "events", "category"),
    "handlers": ("ddl", "events", "category"),
    "sql": ("ddl",),
    "process": ("ddl", "events", "category"),
    "external": ("start", "built"),
    "server": ("emit", "handover"),
}
_OF_ALL = ("checkpoint",)
_OF_KINDS = tuple(
    dict.fromkeys(
        key for kind in _NEEDED for key in (*_NEEDED[kind], *_ALLOWED[kind]) if key not in _OF_ALL
    )
)


class ProjectionSettings(Settings):
    """`[projections.NAME]`: what turns events into rows."""

    store: str | None = None
    kind: Literal["fold", "handlers", "sql", "process", "external", "server"] = "fold"
    python: str = ""
    statement: Path | None = None
    """Kind sql: the file with the statement."""
    command: tuple[str, ...] = ()
    """Kind process: the program and its arguments."""
    start: tuple[str, ...] = ()
    """Kind external: the program that has the application build its new version; left out: it is
    begun by hand.
    """
    built: tuple[str, ...] = ()
    """Kind external: the tables that the application builds, in the order of `tables`; left out:
    those with the number of `checkpoint`.
    """
    timeout: Duration | None = None
    """Kind process: how long the program may say nothing (60s); external: how long its checkpoint
    may stand still (10m).
    """
    events: tuple[str, ...] = ()
    category: str | None = None
    include_archived: bool = False
    tables: tuple[str, ...] = ()
    javascript: Path | None = None
    """Kind server: the query of the projection that runs inside the store."""
    emit: bool = False
    """Kind server: whether the query emits events, to streams that are tracked."""
    handover: tuple[str, ...] = ()
    """Kind server: the program that moves readers from one projection to another."""
    ddl: Path | None = None
    switch: Literal["view", "rename", "hook"] = "view"
    hooks: HookSettings = HookSettings()
    live: Literal["esops", "app"] = "esops"
    checkpoint: str | None = None
    """With `live = "app"` and kind external: the application's own processor, by the name that
    `esops status` shows.
    """
    readmodel: str | None = None
    on_error: Literal["stop", "dead-letter"] = "stop"
    cache_rows: int = Field(default=24_576, ge=2)
    """The most rows that a fold keeps in memory: the limit of its cache."""
    verify: VerifySettings = VerifySettings()
    versions: Mapping[str, VersionSettings] = {}

    @model_validator(mode="after")
    def _of_its_kind(self) -> ProjectionSettings:
        for key in _NEEDED[self.kind]:
            if not getattr(self, key):
                raise PydanticCustomError("of_kind", "this key is missing", {"key": key})
        for key in _OF_KINDS:
            if key not in (*_NEEDED[self.kind], *_ALLOWED[self.kind]) and getattr(self, key):
                raise PydanticCustomError(
                    "of_kind",
                    f"this key is not for a projection of kind {self.kind!r}",
                    {"key": key},
                )
        if self.kind == "fold" and len(self.tables) > 1:
            raise PydanticCustomError(
                "of_kind",
                "a fold has one table; kind 'handlers' writes to several",
                {"key": "tables"},
            )
        if (self.switch == "hook") != bool(self.hooks.switch) and self.kind != "server":
            raise PydanticCustomError(
                "of_kind", 'switch = "hook" and hooks.switch belong together', {"key": "switch"}
            )
        if self.kind == "external" and self.switch == "rename":
            raise PydanticCustomError(
                "of_kind",
                "the application's own tables keep their names: view or hook",
                {"key": "switch"},
            )
        if self.kind == "external" and self.built and len(self.built) != len(self.tables):
            raise PydanticCustomError(
                "of_kind", "names one table for each of `tables`", {"key": "built"}
            )
        if self.kind == "sql" and self.on_error != "stop":
            raise PydanticCustomError(
                "of_kind",
                "a statement over many events cannot pass one of them",
                {"key": "on_error"},
            )
        return self

    @property
    def filter(self) -> EventFilter:
        """Which events the projection is made of."""
        return EventFilter(self.events, self.category, archived=self.include_archived)


class BudgetSettings(Settings):
    """`[audit.budgets]`: what a category's streams may come to; a number alone is a length."""

    length: int | None = Field(default=None, ge=1)
    """Events a stream."""
    growth_per_day: float | None = Field(default=None, gt=0)
    """Events a stream and day, over the days that are looked at."""
    bytes: int | None = Field(default=None, ge=1)
    """Bytes of the events of a stream, as they are stored."""
    open_for: Duration | None = None
    """How old a stream may be whose last event does not close it; takes `closed_by`."""


def _budget(value: object) -> object:
    return {"length": value} if isinstance(value, int) and not isinstance(value, bool) else value


Budget = Annotated[BudgetSettings, BeforeValidator(_budget)]


class AuditSettings(Settings):
    """`[audit]`: budgets by category, what closes a stream, and which rules of modelling
    are asked.
    """

    budgets: Mapping[str, Budget] = {}
    """By category; `*` stands for anything. The most specific pattern that fits counts."""
    closed_by: tuple[str, ...] = ()
    """Types of events that end a stream's life."""
    rules: Mapping[str, bool | float] = {}
    """Rules of `audit modelling` by name: false switches one off, a number is its threshold."""


class TraceSettings(Settings):
    """`[trace]`: where events say what they belong to, where that is not by the field's
    conventions.
    """

    correlation: tuple[str, ...] = ()
    """Keys of the metadata that hold a correlation id."""
    causation: tuple[str, ...] = ()
    """Keys of the metadata that hold the id of the causing event."""
    scan_limit: int = Field(default=1_000_000, ge=0)
    """Up to so many events are scanned without a question, where no index answers."""
