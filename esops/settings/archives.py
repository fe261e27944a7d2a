"""`[archives.NAME]` and the policies below it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from esops.settings.addresses import RepositoryAddress
from esops.settings.base import Duration, Settings

Removal = Literal["keep", "delete", "archive", "truncate", "tombstone"]


StreamPortion = Literal["whole", "head"]
"""What a run takes of each stream: all of it, or the head of a stream that continues."""


class PolicySettings(Settings):
    """`[archives.NAME.policies.NAME]`: which streams a run archives, and how it removes them from
    the store.
    """

    store: str | None = None
    category: str | None = None
    stream: str | None = None
    """A pattern of stream names: `*` for anything, `?` for one character."""
    tenant: str | None = None
    idle_for: Duration = timedelta(0)
    """The least time since the last event of a stream."""
    closed_by: tuple[str, ...] = ()
    """The last event must be of one of these types."""
    min_length: int = Field(default=1, ge=1)
    """The least number of events in a stream."""
    until: tuple[str, ...] = ()
    """Only the head of a stream: what lies before its newest event of one of these types."""
    keep_last: int = Field(default=0, ge=0)
    """Only the head of a stream: how many of its last events stay."""
    older_than: Duration = timedelta(0)
    """Only the head of a stream: its events of at least this age."""
    never_younger_than: Duration = timedelta(days=1)
    """The least age of the last event that a removal takes, by the store's clock."""
    remove: Removal = "keep"
    reuse: Literal["allow", "refuse"] = "allow"
    """Whether the name of a removed stream may begin another one, at the first version."""
    scavenge: bool = False
    """EventStoreDB: scavenge after the removal, and wait until it has ended."""
    batch: int = Field(default=1_000, ge=1)
    """The most events that one transaction removes."""
    max_rate: int | None = Field(default=None, ge=1)
    """The most events that are removed a second."""
    lock_timeout: Duration = timedelta(seconds=1)
    statement_timeout: Duration = timedelta(seconds=30)
    max_duration: Duration | None = None

    @field_validator("until", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def floor(self, removal: str) -> timedelta:
        """The least age of the last event of a stream, or of a head, that may leave the store."""
        return timedelta(0) if removal == "keep" else self.never_younger_than

    @property
    def part(self) -> StreamPortion:
        """What a run takes of each stream."""
        return "head" if self.until or self.keep_last or self.older_than else "whole"

    @model_validator(mode="after")
    def _names_streams(self) -> PolicySettings:
        if self.category is None and self.stream is None:
            raise ValueError('a policy needs `category`, or `stream` with a pattern such as "*"')
        return self


class ArchiveSettings(Settings):
    """`[archives.NAME]`: a repository, and the policies that archive streams to it."""

    repository: RepositoryAddress
    """A directory, or `s3://`, `gs://` or `az://` with a bucket and a prefix."""
    encrypt_to: tuple[str, ...] = ()
    """age recipients; without any, files are not encrypted."""
    identity: str | None = Field(default=None, repr=False)
    """The age identity that decrypts files, usually `${VARIABLE}`."""
    identity_file: Path | None = None
    file_size: int = Field(default=32 << 20, ge=1 << 16)
    """Bytes at which a file is closed and the next one started; a run holds as much in memory."""
    timeout: Duration = timedelta(seconds=60)
    """The longest time for one request to an object store."""
    policies: Mapping[str, PolicySettings] = {}
