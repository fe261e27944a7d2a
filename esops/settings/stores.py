"""`[stores.NAME]`: what every store has, and what each backend adds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from esops.settings.addresses import RepositoryAddress, Uri
from esops.settings.archives import ArchiveSettings
from esops.settings.base import Duration, Settings
from esops.settings.databases import DatabaseSettings


class TableSettings(Settings):
    """`[stores.NAME.table]`: a table of your own, by the names of its columns."""

    name: str
    """`table` or `schema.table`."""
    stream: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """A column, or several that name a stream together."""
    version: str
    position: str
    """The column that orders all events."""
    position_by: Literal["sequence", "max_plus_one"] = "sequence"
    """What fills it: a sequence; or the writer, who takes the highest number and one under a lock
    that keeps the others waiting.
    """
    type: str
    data: str
    metadata: str | None = None
    time: str | None = None
    id: str | None = None
    """Default: made of stream and version."""
    category: str | None = None
    """A column. Default: the first of several columns of `stream`; else the part of the stream's
    name before the first `-`.
    """
    correlation: str | None = None
    causation: str | None = None
    sequence: str | None = None
    """Default: the sequence in the default value of the position's column."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The columns that name a stream."""
        return (self.stream,) if isinstance(self.stream, str) else self.stream

    @model_validator(mode="after")
    def _consistent(self) -> TableSettings:
        if len(set(self.streams)) < len(self.streams):
            raise ValueError("`stream` names a column twice")
        if other := {self.version, self.position, self.type, self.data} & set(self.streams):
            raise ValueError(
                f"`stream` names column {min(other)!r}, which differs between events of one stream"
            )
        if self.position_by == "max_plus_one" and self.sequence is not None:
            raise ValueError('`sequence` is not for position_by = "max_plus_one"')
        return self


class StoreSettings(Settings):
    """`[stores.NAME]`: the keys that every store has. A backend derives its own model from it."""

    backend: str
    settle_timeout: Duration = timedelta(seconds=10)
    """How long a command waits for what was committed before it to settle."""
    archive: str | None = None
    """The archive that holds this store's old streams. They are read from there, joined with those
    in the store.
    """
    source_store: str | tuple[str, ...] | None = Field(default=None, alias="of")
    """The store whose events are read, where the archive holds those of several; or all names that
    one store had.
    """
    cold: ArchiveSettings | None = Field(default=None, exclude=True, repr=False)
    _sections: Mapping[str, bool] = PrivateAttr(default_factory=dict)

    @property
    def sections(self) -> Mapping[str, bool]:
        """The other stores of esops.toml by their names: whether each names the same place."""
        return self._sections

    def put_among(self, stores: Mapping[str, StoreSettings]) -> None:
        """Note the other stores of the same esops.toml."""
        self._sections = {
            name: self.place is not None and self.place == each.place
            for name, each in stores.items()
            if each is not self and each.backend != "archive"
        }

    def sources(self, name: str) -> tuple[str, ...]:
        """Under which names the archived runs of this store are sealed; `name` is its own."""
        if self.source_store is None:
            return (name,)
        return (self.source_store,) if isinstance(self.source_store, str) else self.source_store

    @property
    def place(self) -> tuple[object, ...] | None:
        """Where the events are: two sections with the same place name one store. None: unknown."""
        return (self.backend, self.address) if self.address else None

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


class PostgresSettings(StoreSettings, DatabaseSettings):
    """`[stores.NAME]` with `backend = "postgres"`, which may be left out."""

    backend: str = "postgres"
    """Any libpq string or URL; PG* variables, .pgpass and service files complete it."""
    layout: str | None = None
    """Default: detected from the catalogue."""
    db_schema: str | None = Field(default=None, alias="schema")
    """Default: the only schema that holds a layout."""
    application: str | None = None
    """Python's eventsourcing: which application, where a database holds several."""
    table: TableSettings | None = None
    """Layout custom: where the events are."""
    tenant: str | None = None
    """Only this tenant's events (Marten's tenant_id, Emmett's partition)."""
    append: Literal["auto", "quick"] = "auto"
    """Marten: `quick` promises that every writer draws its numbers inside its transaction, so that
    esops does not have to watch missing numbers.
    """
    ordering: Literal["native", "position"] = "native"
    """Emmett: `position` reads by global position instead of by transaction id."""
    processors: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """The types of events that processors of the application's handle, by their names, where the
    library does not tell: one that moves its checkpoint over these alone looks late for ever.
    """
    hole_threshold: Duration = timedelta(seconds=3)
    """How long ago a missing number must have been drawn before it counts as dead. Commands wait
    for this in addition to `settle_timeout`.
    """

    dead_after: Duration | None = None
    """After which time a missing number counts as dead though a session or the application may
    still hold it, where the sequence gives numbers in advance (CACHE or INCREMENT above 1).
    Default: never.
    """

    @property
    def address(self) -> str:
        """The DSN."""
        return self.dsn

    @property
    def place(self) -> tuple[object, ...] | None:
        """The DSN, and which events of that database."""
        which = (self.db_schema, self.application, self.table, self.tenant)
        return (self.backend, self.dsn, *which) if self.dsn else None

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
    uri: Uri = Field(repr=False)
    """Any `esdb://` connection string, with cluster, TLS, user and node preference."""

    @property
    def address(self) -> str:
        """The URI."""
        return self.uri


class ArchiveStoreSettings(StoreSettings):
    """`[stores.NAME]` with `backend = "archive"`: an archive that is read as a store."""

    backend: str = "archive"
    repository: RepositoryAddress | None = None
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
