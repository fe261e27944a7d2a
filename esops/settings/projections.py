"""`[projections.NAME]` and `[readmodels.NAME]`: what turns events into rows, and where those go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from esops.events import EventFilter
from esops.settings.base import Duration, Settings, Size
from esops.settings.databases import DatabaseSettings


class ReadModelSettings(DatabaseSettings):
    """`[readmodels.NAME]`: the Postgres database that projections write to."""

    db_schema: str | None = Field(default=None, alias="schema")
    """The schema of the read models' tables. Default: the role's current schema."""


class VerifySettings(Settings):
    """`verify.*` of a projection: what must hold before a switch."""

    assertions: tuple[str, ...] = ()
    """SQL that must return true; {table} stands for green's table."""
    ignore: tuple[str, ...] = ()
    """Columns, and paths into JSON columns (`data._version`), that are not compared."""
    expected: tuple[str, ...] = ()
    """Columns and paths that the new logic is meant to change: their differences are shown, but do
    not count.
    """
    json_equality: Literal["value", "text"] = Field(default="value", alias="json")
    """How JSON is compared: by value, where 553.80 is 553.8, or as the text that readers get."""


class HookSettings(Settings):
    """`hooks.*` of a projection: programs that a rebuild runs, each as a list of words."""

    before_catch_up: tuple[str, ...] = ()
    before_switch: tuple[str, ...] = ()
    switch: tuple[str, ...] = ()
    """With `switch = "hook"`: the program that moves the readers to the other version."""
    after_switch: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    timeout: Duration = timedelta(minutes=10)
    """The longest time for each hook."""


class VersionSettings(Settings):
    """`versions.N` of a projection: the code that keeps this version fresh."""

    python: str | None = None
    statement: Path | None = None
    command: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _names_one_program(self) -> VersionSettings:
        if sum(each is not None for each in (self.python, self.statement, self.command)) != 1:
            raise ValueError(
                "name the version's code with exactly one of `python`, `statement` and `command`"
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
    "fold": ("ddl", "events", "category", "begins_with"),
    "handlers": ("ddl", "events", "category", "begins_with"),
    "sql": ("ddl", "begins_with"),
    "process": ("ddl", "events", "category", "begins_with"),
    "external": ("start", "built", "begins_with"),
    "server": ("emit", "handover", "begins_with"),
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
    """Kind external: the program that makes the application build its new version. Default:
    somebody starts it by hand.
    """
    built: tuple[str, ...] = ()
    """Kind external: the tables that the application builds, in the order of `tables`. Default:
    `tables` with the number that is in `checkpoint`.
    """
    timeout: Duration | None = None
    """Kind process: the longest silence of the program (60s). Kind external: the longest time in
    which its checkpoint does not advance (10m).
    """
    events: tuple[str, ...] = ()
    category: str | None = None
    begins_with: tuple[str, ...] = ()
    """Event types that a stream without its first events may begin with: the code makes the state
    of them, as of a snapshot.
    """
    include_archived: bool = False
    tables: tuple[str, ...] = ()
    javascript: Path | None = None
    """Kind server: the file with the query that runs inside the store."""
    emit: bool = False
    """Kind server: whether the query emits events."""
    handover: tuple[str, ...] = ()
    """Kind server: the program that moves readers from one projection to the other."""
    ddl: Path | None = None
    switch: Literal["view", "rename", "hook"] = "view"
    grant_select_to: tuple[str, ...] = ()
    """Roles that may read what the names show after a switch; `public` is everybody."""
    hooks: HookSettings = HookSettings()
    live: Literal["esops", "app", "inline"] = "esops"
    """Who writes to the read model: esops; the application's own processor; or the application
    itself, in the transaction of each append.
    """
    checkpoint: str | None = None
    """With `live = "app"` or kind external: the application's own processor, by the name that
    `esops status` shows.
    """
    readmodel: str | None = None
    on_error: Literal["stop", "dead-letter"] = "stop"
    cache: Size = Field(default=256 << 20, ge=1 << 20)
    """The most memory, in bytes, for the rows that a fold keeps during the first load of a version,
    all its processes together; a version that follows gets a sixteenth of it.
    """
    isolate: bool = False
    """Whether `esops run` follows each version of it in a process of its own."""
    spill: Path | None = None
    """The directory in which a first load may write events where the rows do not fit into `cache`.
    Default: $TMPDIR, or /var/tmp.
    """
    spill_limit: Size = Field(default=20 << 30, ge=0)
    """The most bytes that it may write there; 0: none."""
    fingerprint: tuple[str, ...] = ()
    """Files, or patterns of files, that count as the projection's code, seen from esops.toml."""
    verify: VerifySettings = VerifySettings()
    versions: Mapping[str, VersionSettings] = {}

    @field_validator("events")
    @classmethod
    def _names_some(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        # It might mean none as well as all.
        if not events:
            raise ValueError("an empty list names no event type; leave it out for all of them")
        return events

    @field_validator("spill")
    @classmethod
    def _is_absolute(cls, directory: Path | None) -> Path | None:
        # Processes of one load have other working directories.
        if directory is not None and not directory.is_absolute():
            raise ValueError("give the whole path of the directory, from /")
        return directory

    @model_validator(mode="after")
    def _of_its_kind(self) -> ProjectionSettings:
        for key in _NEEDED[self.kind]:
            if not getattr(self, key):
                raise PydanticCustomError(
                    "of_kind", f"a projection of kind {self.kind!r} needs this key", {"key": key}
                )
        for key in _OF_KINDS:
            if key not in (*_NEEDED[self.kind], *_ALLOWED[self.kind]) and getattr(self, key):
                raise PydanticCustomError(
                    "of_kind",
                    f"a projection of kind {self.kind!r} does not have this key",
                    {"key": key},
                )
        if self.kind == "server":
            self._check_verify_inside()
        if self.kind == "fold" and len(self.tables) > 1:
            raise PydanticCustomError(
                "of_kind",
                "a fold writes to one table; use kind 'handlers' for several",
                {"key": "tables"},
            )
        if (self.switch == "hook") != bool(self.hooks.switch) and self.kind != "server":
            raise PydanticCustomError(
                "of_kind",
                'switch = "hook" needs hooks.switch, and hooks.switch needs switch = "hook"',
                {"key": "switch"},
            )
        if self.kind == "external" and self.switch == "rename":
            raise PydanticCustomError(
                "of_kind",
                "the application's own tables keep their names: use 'view' or 'hook'",
                {"key": "switch"},
            )
        if self.kind == "external" and self.built and len(self.built) != len(self.tables):
            raise PydanticCustomError(
                "of_kind", "name one table for each of `tables`", {"key": "built"}
            )
        if self.live == "inline":
            self._check_inline()
        if self.kind == "sql" and self.on_error != "stop":
            raise PydanticCustomError(
                "of_kind",
                "a statement cannot skip one of the events that it reads: leave on_error out",
                {"key": "on_error"},
            )
        return self

    def _check_inline(self) -> None:
        """The switch brings rows up to date under a lock, and takes the place of a table that the
        application writes to by its name.
        """
        inline = 'live = "inline"'
        rules = {
            "live": (
                self.kind == "fold",
                f"{inline} is for folds, since of no other kind can single rows be made again",
            ),
            "switch": (
                self.switch == "rename",
                f'{inline} needs "rename": the application writes with ON CONFLICT',
            ),
            "checkpoint": (
                self.checkpoint is None,
                f"{inline} has no checkpoint: rows are written with their events",
            ),
            "on_error": (
                self.on_error == "stop",
                f"{inline} needs each event in its row, since the application writes on from it",
            ),
        }
        for key, (fine, why) in rules.items():
            if not fine:
                raise PydanticCustomError("of_kind", why, {"key": key})

    def _check_verify_inside(self) -> None:
        """Of a projection in its store, results are compared: there is no table and no text."""
        for key, given in (
            ("assertions", bool(self.verify.assertions)),
            ("json", self.verify.json_equality != "value"),
        ):
            if given:
                raise PydanticCustomError(
                    "of_kind",
                    "a projection of kind 'server' has no table: esops compares its results, by "
                    "value",
                    {"key": f"verify.{key}"},
                )

    @property
    def spill_directory(self) -> Path:
        """Where a first load may write events that do not fit into memory."""
        # Many systems have /tmp in memory, which is what is short then.
        return self.spill or Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108

    @property
    def filter(self) -> EventFilter:
        """Which events the projection reads."""
        types = self.events and tuple(dict.fromkeys((*self.events, *self.begins_with)))
        return EventFilter(types, self.category, archived=self.include_archived)
