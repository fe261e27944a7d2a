"""The JSON documents of an archive: the manifest that seals a run, and the hash in each document.

A sealed document carries the SHA-256 of itself without that key, so that a changed byte is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator

from esops.archive_format.schema import Damaged
from esops.errors import UsageError
from esops.moments import FarTime, Moment, parse_postgres
from esops.settings import StreamPortion

FORMAT = "esops-archive"
VERSION = 1


def _read_time(value: object) -> Moment:
    if isinstance(value, datetime | FarTime):
        return value
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return parse_postgres(str(value))


def _written_time(at: Moment) -> str:
    return at.isoformat().replace("+00:00", "Z")


ArchivedTime = Annotated[Moment, PlainValidator(_read_time), PlainSerializer(_written_time)]
"""ISO 8601, and what Postgres prints for a time that has no such form."""


class FileEntry(BaseModel):
    """One Parquet file of a run, as its manifest lists it."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Below the run's folder."""
    sha256: str
    """Of the stored bytes, encrypted where the archive is."""
    size: int
    """Stored bytes."""
    rows: int
    first: str
    last: str
    """The first and last stream in it."""


class Reseal(BaseModel):
    """That a run's files were rewritten, and why."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    reason: str
    esops: str
    """The version of esops that did it."""
    replaced: str
    """The SHA-256 of the manifest that was there before."""
    events: int
    """How many events were changed."""
    files: tuple[str, ...]
    """The files that counted before, and are deleted."""


class Manifest(BaseModel):
    """The seal of a run: what it holds, and which files count."""

    model_config = ConfigDict(frozen=True)

    format: str = FORMAT
    version: int = VERSION
    run: str
    policy: str
    store: str
    backend: str
    layout: str
    position_parts: int
    """How many integers a position of this store has: 1 or 2."""
    first_version: int
    """The version of a stream's first event in this store."""
    columns: tuple[str, ...]
    """The store's extra columns."""
    selected_at: datetime
    sealed_at: datetime
    esops: str
    """The version of esops that wrote it."""
    streams: int
    events: int
    bytes: int
    """Bytes of data and metadata."""
    first_position: str
    last_position: str
    first_at: ArchivedTime | None
    last_at: ArchivedTime | None
    event_files: tuple[FileEntry, ...]
    stream_files: tuple[FileEntry, ...]
    part: StreamPortion = "whole"
    """What the run holds of each stream: all that the store had, or the head of a stream that
    continues behind it.
    """
    categories: Literal["by name", "listed"] | None = None
    """Whether a stream's name tells its category, or the list of streams; None: not written down,
    by an earlier esops.
    """
    tenants: bool | None = None
    """Whether the streams have tenants; None: not written down, by an earlier esops."""
    log: dict[str, Any] | None = None
    """What tells the store's log up to `last_position` from any other, where the store can say."""
    reseals: tuple[Reseal, ...] = ()
    """Each time that files of the run were rewritten, the oldest first."""

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files that count."""
        return (*self.event_files, *self.stream_files)


def sealed(document: Mapping[str, Any]) -> bytes:
    """A document as JSON with its own SHA-256 in it."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps(
        {**body, "sha256": digest}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    )


def unsealed(name: str, content: bytes) -> dict[str, Any]:
    """Read what `sealed` wrote.

    Raises Damaged if a byte has changed, UsageError if another version of esops wrote it.
    """
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Damaged(f"{name} is not JSON: {error}") from None
    # Sealing again and comparing bytes also notices changes that leave the JSON's meaning alone.
    if not isinstance(document, dict) or sealed(document) != content:
        raise Damaged(f"{name} was changed after it was written: its SHA-256 does not match")
    if document.get("format") != FORMAT:
        raise Damaged(f"{name} is not a document of an esops archive")
    if document.get("version") != VERSION:
        raise UsageError(
            f"{name} has version {document.get('version')} of the archive format, and this esops "
            f"reads version {VERSION}",
            hint="Use the esops that wrote it, or a newer one.",
        )
    return document
